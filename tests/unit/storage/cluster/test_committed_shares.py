"""What is remembered of a session's flushes: where in their heads each share is."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence

import pytest

from bytemq.errors import Corrupt
from bytemq.storage.objects.committed_shares import CommittedShare, CommittedShares, share_at
from bytemq.storage.objects.session_log import FlushRef, IndexedFlush, checked_flush
from bytemq.storage.wal.format import (
    FLUSH_HEADER_BYTES,
    Reference,
    decode_shares,
    encode_head,
    share_places,
    shares_to_write,
)
from bytemq.types import PartitionId
from tests.unit.storage.cluster.cluster_bench import batch, pid

SESSION = 7


def flush_of(
    sequence: int, partitions: Sequence[PartitionId], *, count: int = 1, chunk_bytes: int = 300
) -> IndexedFlush:
    """So many batches of each partition, some in several chunks."""
    shares = []
    for partition in partitions:
        batches = [batch(sequence * count + number) for number in range(count)]
        shares += shares_to_write(partition, batches, chunk_bytes)
    head, crc = encode_head(SESSION, sequence, 0, 0, shares, {1: Reference("elsewhere", 5)})
    return checked_flush(FlushRef(sequence, sequence, 1 << 20, len(head), crc), SESSION, head)


def all_of(flushes: Sequence[IndexedFlush], partition: PartitionId) -> list[CommittedShare]:
    return [
        CommittedShare(flush.ref, flush.header.head_bytes, share)
        for flush in flushes
        for share in decode_shares(flush.head, flush.header)
        if share.partition == partition
    ]


def test_shares__are_those_that_the_heads_tell_of_until_they_are_released() -> None:
    partitions = [pid(number) for number in range(5)]
    flushes = [flush_of(sequence, partitions[sequence % 3 :], count=sequence % 4 + 1) for sequence in range(1, 13)]
    shares = CommittedShares()
    for flush in flushes:
        places = shares.add(flush)
        assert [share_at(flush, position).share for _, position in places] == decode_shares(flush.head, flush.header)
    for first in (0, 1, 2, 7, 12):
        shares.release_below(first)
        left = [flush for flush in flushes if flush.ref.sequence >= first]
        assert [shares.of(partition) for partition in partitions] == [all_of(left, each) for each in partitions]
    shares.add(flushes[-1])
    assert shares.of(partitions[4]) == all_of(flushes[-1:], partitions[4])
    shares.release_below(13)
    assert (len(shares), shares.of(partitions[4])) == (0, [])


def test_shares__of_a_head_that_contradicts_itself_are_refused_and_not_remembered() -> None:
    flush = flush_of(1, [pid(1), pid(2)])
    short = flush._replace(header=flush.header._replace(index_bytes=flush.header.index_bytes - 1))
    empty = flush._replace(header=flush.header._replace(share_count=3))
    shares = CommittedShares()
    for wrong in (short, empty):
        with pytest.raises(Corrupt):
            share_places(wrong.head, wrong.header)
        with pytest.raises(Corrupt):
            shares.add(wrong)
    assert len(shares) == 0
    assert share_places(flush.head, flush.header)[0] == (pid(1), FLUSH_HEADER_BYTES)


def test_shares__take_little_memory_beside_the_heads() -> None:
    partitions = [pid(number) for number in range(100)]
    flushes = [flush_of(sequence, partitions) for sequence in range(1, 101)]
    tracemalloc.start()
    shares = CommittedShares()
    for flush in flushes:
        shares.add(flush)
    bytes_, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert bytes_ / (len(partitions) * len(flushes)) < 30
