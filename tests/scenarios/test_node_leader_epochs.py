"""Leader epochs over kills and clean stops: a client that asks where an epoch ended never hears of truncation."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from kafka.protocol.consumer import OffsetForLeaderEpochRequest

from tests.interop.differential import build
from tests.interop.wire import Wire
from tests.support import probe
from tests.support.node_process import NodeProcess

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


def test_leader_epochs__end_where_their_last_record_is(make_node: Callable[..., NodeProcess]) -> None:
    node = make_node().start()
    with probe.connect(node.address) as wire:
        assert probe.create_topic(wire, "topic") == 0
    counts = (3, 2, 0, 4, 1)
    stops = (node.kill9, node.terminate, node.kill9, node.terminate)
    for count, stop in zip(counts, (*stops, None), strict=True):
        with probe.connect(node.address) as wire:
            for _ in range(count):
                assert probe.produce(wire, "topic")[0] == 0
        if stop is not None:
            stop()
            node.restart()
    with probe.connect(node.address) as wire:
        written = epochs_of_the_log(wire, sum(counts))
        first, second, fourth, last = sorted(set(written))
        assert written == [first] * 3 + [second] * 2 + [fourth] * 4 + [last]
        ends = {first: 3, second: 5, fourth: 9, last: 10}
        known = None
        for epoch in range(first, last + 1):
            known = epoch if epoch in ends else known  # one that wrote nothing ends with the one before it
            assert known is not None and ask(wire, epoch) == End(0, known, ends[known])
        assert ask(wire, last + 1) == End(0, -1, -1)
        assert ask(wire, first, current=last) == End(0, first, 3)
        assert ask(wire, first, current=last - 1).error == FENCED
        assert ask(wire, first, current=last + 1).error == UNKNOWN
