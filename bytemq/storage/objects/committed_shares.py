"""What a session has committed of each partition, found in the heads of its flushes; and what becomes of it in a log.
Pure.

Owns: where in which head each share is told of, a few bytes for each. A thousand flushes tell of hundreds of partitions
each; most of that nobody asks for, and it would take fifty times the memory when it is decoded. Must not: read
anything, or decide which flushes count.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import NamedTuple

from bytemq.storage.log_files import LogFiles
from bytemq.storage.objects.session_log import FlushRef, IndexedFlush
from bytemq.storage.wal.format import Share, decode_share, share_places
from bytemq.types import PartitionId


class CommittedShare(NamedTuple):
    """A chunk of one partition in a committed flush."""

    ref: FlushRef
    payload_position: int
    share: Share


def share_at(flush: IndexedFlush, position: int) -> CommittedShare:
    """`position`: as `share_places` says. Raises Corrupt."""
    ref, header, head = flush
    share, _ = decode_share(head, header, position)
    return CommittedShare(ref, header.head_bytes, share)


class CommittedShares:
    """Flushes are added in the order of the log."""

    def __init__(self) -> None:
        self._flushes: dict[int, IndexedFlush] = {}
        """By sequence."""
        self._places: dict[PartitionId, _Places] = {}

    def __len__(self) -> int:
        """How many partitions something is known of."""
        return len(self._places)

    def add(self, flush: IndexedFlush) -> Sequence[tuple[PartitionId, int]]:
        """The places of its shares. One that is known already changes nothing. Raises Corrupt; nor does that."""
        sequence, found = flush.ref.sequence, share_places(flush.head, flush.header)
        if sequence not in self._flushes:
            self._flushes[sequence] = flush
            for partition, position in found:
                places = self._places.get(partition)
                if places is None:
                    places = self._places[partition] = _Places()
                places.sequences.append(sequence)
                places.positions.append(position)
        return found

    def of(self, partition: PartitionId) -> list[CommittedShare]:
        """In order. Raises Corrupt."""
        places = self._places.get(partition)
        if places is None:
            return []
        flushes = map(self._flushes.__getitem__, places.sequences)
        return [share_at(flush, position) for flush, position in zip(flushes, places.positions, strict=True)]

    def release_below(self, sequence: int) -> None:
        """Nobody needs what is below."""
        released = list(takewhile(lambda one: one < sequence, self._flushes))
        if not released:
            return
        for one in released:
            del self._flushes[one]
        for partition, places in list(self._places.items()):
            count = bisect_left(places.sequences, sequence)
            if count == len(places.sequences):
                del self._places[partition]
            elif count:
                del places.sequences[:count], places.positions[:count]


class _Places:
    __slots__ = ("positions", "sequences")

    def __init__(self) -> None:
        self.sequences = array("Q")
        """Of the flushes."""
        self.positions = array("I")
        """In their heads."""


def attach_shares(
    files: LogFiles,
    session_id: int,
    shares: Sequence[CommittedShare],
    ordinal_of: Callable[[int, FlushRef], int],
    next_offset: int | None = None,
) -> list[tuple[int, int]]:
    """Puts the extents that follow what is known of a log behind it, up to `next_offset`.

    Returns the (first, last) offsets that are nowhere: lost, or written behind and released since the manifest was
    read.
    """
    missing: list[tuple[int, int]] = []
    for ref, payload_position, share in shares:
        if next_offset is not None and share.base_offset >= next_offset:
            break
        if share.next_offset > files.stored.snapshot_offset:
            files.pending_entries.append(share.entries)
        if share.next_offset <= files.end_offset:
            continue
        if share.base_offset > files.end_offset:
            missing.append((files.end_offset, share.base_offset - 1))
        ordinal = ordinal_of(session_id, ref)
        files.wal.append(share.chunk(payload_position), ordinal, share.checksum, verified=False)
    if next_offset is not None and files.end_offset < next_offset:
        missing.append((files.end_offset, next_offset - 1))
        files.drop_wal_below(next_offset)
    files.staged_end = files.end_offset
    return missing
