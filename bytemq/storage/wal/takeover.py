"""What recovered flushes hold, put behind what is known of each log.

Owns: how extents, entries and gaps of a log come to be from shares, one by one or by the column. Must not: do I/O, or
decide which flush counts (`recovery` does).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable

from bytemq.storage.log_files import LogFiles
from bytemq.storage.stores.interface import AppendFile, Buffer
from bytemq.storage.wal.bulk import BulkFiles
from bytemq.storage.wal.extents import Chunk, Columns
from bytemq.storage.wal.format import Share
from bytemq.storage.wal.heads import ROW
from bytemq.storage.wal.wal_files import WalFile
from bytemq.types import PartitionId


class Takeover:
    """`log_of` gives the log of a partition of which something is in a file; None where it needs nothing of it."""

    def __init__(self, log_of: Callable[[PartitionId, WalFile], LogFiles | None], bulk: BulkFiles) -> None:
        self._log_of = log_of
        self._bulk = bulk

    def take_rows(
        self, file: WalFile, partition: PartitionId, rows: bytes | bytearray, entries: bytes | bytearray
    ) -> None:
        """Takes over what some recovered flushes in a row hold of a log."""
        files = self._log_of(partition, file)
        if files is None:
            return
        bases, nexts, newest, positions, sizes, checksums, entries_bytes = zip(*ROW.iter_unpack(rows), strict=True)
        if bases[1:] != nexts[:-1]:  # something is lost
            start = 0
            for number, end_offset in enumerate(nexts):
                chunk = Chunk(bases[number], end_offset, positions[number], sizes[number], newest[number])
                stop = start + entries_bytes[number]
                self._take_chunk(files, chunk, file.ordinal, checksums[number], entries[start:stop])
                start = stop
            return
        known = bisect_right(nexts, files.stored.snapshot_offset)
        if known < len(nexts):
            files.pending_entries.append(bytes(entries[sum(entries_bytes[:known]) :]))
        table = files.wal
        first = bisect_right(nexts, table.end_offset)
        if first < len(nexts):
            _report_gap(files, bases[first])
            columns = Columns(bases[first:], positions[first:], sizes[first:], newest[first:], checksums[first:])
            table.extend(columns, nexts[-1], file.ordinal)
            files.staged_end = files.end_offset

    def take_share(self, file: WalFile, payload_position: int, share: Share, bulk: AppendFile | None) -> None:
        """Takes over one recovered share. `bulk` is the file that it refers to."""
        files = self._log_of(share.partition, file)
        if files is None:
            return
        if not share.reference:
            self._take_chunk(files, share.chunk(payload_position), file.ordinal, share.checksum, share.entries)
            return
        _await_entries(files, share.next_offset, share.entries)
        if share.next_offset > files.wal.end_offset:
            _report_gap(files, share.base_offset)
            self._apply_reference(files, share, file.ordinal, bulk)
            files.staged_end = files.end_offset

    def _take_chunk(self, files: LogFiles, chunk: Chunk, ordinal: int, checksum: int, entries: Buffer) -> None:
        _await_entries(files, chunk.next_offset, entries)
        if chunk.next_offset > files.wal.end_offset:
            _report_gap(files, chunk.base_offset)
            files.wal.append(chunk, ordinal, checksum, verified=False)
            files.staged_end = files.end_offset

    def _apply_reference(self, files: LogFiles, share: Share, ordinal: int, file: AppendFile | None) -> None:
        if file is None:
            files.report_hole(share.base_offset, share.next_offset - 1)
            files.wal.end_offset = share.next_offset
            return
        bulk = self._bulk.adopted(file, files)
        chunk = share.chunk(0)
        files.wal.append(chunk, ordinal, share.checksum, verified=False, holder=bulk.ordinal)
        bulk.commit(chunk, share.checksum, 0)


def _await_entries(files: LogFiles, next_offset: int, entries: Buffer) -> None:
    if next_offset > files.stored.snapshot_offset:
        files.pending_entries.append(bytes(entries))


def _report_gap(files: LogFiles, base_offset: int) -> None:
    if base_offset > files.wal.end_offset:
        files.report_hole(files.wal.end_offset, base_offset - 1)
