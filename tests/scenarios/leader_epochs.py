"""What a client is told of leader epochs, and what it must be told."""

from __future__ import annotations

from collections import Counter
from itertools import accumulate
from typing import NamedTuple

from kafka.protocol.consumer import OffsetForLeaderEpochRequest

from tests.interop.differential import build
from tests.interop.wire import Wire
from tests.support import probe

FENCED, UNKNOWN = 74, 75


class End(NamedTuple):
    error: int
    epoch: int
    offset: int


def ask(wire: Wire, epoch: int, current: int = -1) -> End:
    row = {"partition": 0, "current_leader_epoch": current, "leader_epoch": epoch}
    fields = {"replica_id": -1, "topics": [{"topic": "topic", "partitions": [row]}]}
    [found] = wire.call(build(OffsetForLeaderEpochRequest, 4, fields)).topics[0].partitions
    return End(found.error_code, found.leader_epoch, found.end_offset)


def epochs_of_the_log(wire: Wire, end: int) -> list[int]:
    """The leader epoch of each record."""
    found: list[int] = []
    while len(found) < end:
        _, batches = probe.fetch(wire, "topic", len(found))
        found += [batch["leader_epoch"] for batch in batches]
    return found


def check_ends(wire: Wire, end: int) -> list[int]:
    """`topic` has so many records: each epoch ends where its last one is, and who asks never hears of truncation.
    Returns how many each leader wrote that wrote any.
    """
    written = epochs_of_the_log(wire, end)
    assert written == sorted(written)
    counts = Counter(written)
    ends = dict(zip(counts, accumulate(counts.values()), strict=True))
    first, last = written[0], written[-1]
    known = first
    for epoch in range(first, last + 1):
        known = epoch if epoch in ends else known  # one that wrote nothing ends with the one before it
        assert ask(wire, epoch) == End(0, known, ends[known])
    assert ask(wire, last + 1) == End(0, -1, -1)
    assert ask(wire, first, current=last) == End(0, first, ends[first])
    assert ask(wire, first, current=last - 1).error == FENCED
    assert ask(wire, first, current=last + 1).error == UNKNOWN
    return list(counts.values())
