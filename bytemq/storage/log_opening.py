"""What the owner of a log that is being opened rebuilds its state from.

Owns: refusing a log of which something is missing at its end, reading the stored snapshot, and the headers of all
batches after it. Must not: decide where the log ends, or publish.
"""

from __future__ import annotations

from collections.abc import Iterable

from bytemq.errors import Corrupt
from bytemq.protocol.error_codes import KafkaError
from bytemq.protocol.records.batch import (
    HEADER_BYTES,
    LEADER_EPOCH_POSITION,
    MAGIC_POSITION,
    PRODUCER_ID_POSITION,
    RecordBatch,
    parse_header,
)
from bytemq.protocol.records.control import EndTransactionMarker, marker_word, parse_end_transaction
from bytemq.protocol.records.reader import iter_records
from bytemq.runtime.logging import get_logger
from bytemq.storage.log_files import LogFiles, RecoveredLog
from bytemq.storage.manifests.manifest import PartitionSnapshot
from bytemq.storage.manifests.manifest_codec import decode_snapshot
from bytemq.storage.segments.batch_walk import walk
from bytemq.storage.stores.interface import Buffer, ObjectStore
from bytemq.storage.wal.format import BATCH_ENTRY_BYTES, decode_entries

log = get_logger("storage")

READ_BYTES = 1024 * 1024
NO_OFFSET = -1
NEGATIVE = 0x80
"""From this first byte on a number is below 0."""


def require_end(files: LogFiles, least_end_offset: int) -> None:
    """Raises Corrupt. Before anything is published: what is missing may be found where the manifest still leads to."""
    if files.end_offset < least_end_offset:
        raise Corrupt(
            f"the log ends at offset {files.end_offset}, but its last owner left it at {least_end_offset}: "
            "acknowledged records are missing from the storage"
        )


async def recovered_log(store: ObjectStore, files: LogFiles) -> RecoveredLog:
    """The log as its last owner left it. Its extents and `pending_entries` are those that were found."""
    stored = files.stored
    snapshot = None
    if stored.snapshot_name:
        snapshot = decode_snapshot(await store.read(stored.snapshot_name))
    elif stored.snapshot:
        snapshot = decode_snapshot(stored.snapshot)
    return as_recovered(files, snapshot, await headers_after(files, snapshot))


def as_recovered(files: LogFiles, snapshot: PartitionSnapshot | None, headers: list[RecordBatch]) -> RecoveredLog:
    epochs = list(snapshot.leader_epochs) if snapshot is not None else []
    first_dirty = files.manifest.first_dirty_offset
    return RecoveredLog(files.log_start_offset, files.end_offset, epochs, snapshot, headers, first_dirty)


async def headers_after(files: LogFiles, snapshot: PartitionSnapshot | None) -> list[RecordBatch]:
    """Headers of the batches from the snapshot's offset on: first what is in segments. Of those in the write-ahead log,
    where there may be a hundred thousand, only the ones that tell something new.
    """
    offset = max(snapshot.offset if snapshot is not None else 0, files.log_start_offset)
    known_from, entries = entries_after(files.pending_entries, offset, files.end_offset)
    headers: list[RecordBatch] = []
    while offset < known_from:
        try:
            read = await files.read(offset, READ_BYTES, known_from)
        except Corrupt as error:
            log.error("damaged batches are not in the rebuilt state", partition=files.partition, reason=str(error))
            offset = next((last + 1 for first, last in files.manifest.holes if first <= offset <= last), known_from)
            continue
        for buffer in read.buffers:
            view = memoryview(buffer)
            headers.extend(header_in_segment(view, batch.position) for batch in walk(view, verify=False))
        offset = read.next_offset
    headers.extend(entries)
    return headers


def header_in_segment(view: memoryview, position: int) -> RecordBatch:
    """A batch as the entries of the write-ahead log tell it. What a control batch says is in its record alone here."""
    header = parse_header(memoryview(bytes(view[position : position + HEADER_BYTES])), header_only=True)
    if header.is_control:
        header.sent_crc = marker_word(_marker_in(parse_header(view, position)))
    return header


def _marker_in(batch: RecordBatch) -> EndTransactionMarker | None:
    try:
        record = next(iter_records(batch), None)
    except (Corrupt, KafkaError):
        return None
    return None if record is None else parse_end_transaction(record)


def entries_after(shares: Iterable[Buffer], offset: int, end_offset: int) -> tuple[int, list[RecordBatch]]:
    """The offset from `offset` on at which the entries of these shares begin, `end_offset` if they do not, and the
    batches from there on that have a producer or another leader epoch than the one before.
    """
    known_from, told = end_offset, []
    epoch = b""
    for entries in shares:
        view = memoryview(entries)
        for position in range(0, len(view), BATCH_ENTRY_BYTES):
            has_producer = view[position + PRODUCER_ID_POSITION] < NEGATIVE
            its_epoch = view[position + LEADER_EPOCH_POSITION : position + MAGIC_POSITION]
            if not has_producer and its_epoch == epoch:
                continue
            [batch] = decode_entries(view[position : position + BATCH_ENTRY_BYTES])
            if batch.base_offset >= offset:
                known_from = min(known_from, batch.base_offset)
                told.append(batch)
                epoch = bytes(its_epoch)
    return known_from, told
