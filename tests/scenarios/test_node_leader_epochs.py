"""Leader epochs over kills and clean stops of a node."""

from __future__ import annotations

from collections.abc import Callable
from itertools import zip_longest

from tests.scenarios.leader_epochs import check_ends
from tests.support import probe
from tests.support.node_process import NodeProcess


def test_leader_epochs__end_where_their_last_record_is(make_node: Callable[..., NodeProcess]) -> None:
    node = make_node().start()
    with probe.connect(node.address) as wire:
        assert probe.create_topic(wire, "topic") == 0
    counts = (3, 2, 0, 4, 1)
    stops: tuple[Callable[[], object], ...] = (node.kill9, node.terminate, node.kill9, node.terminate)
    for count, stop in zip_longest(counts, stops):
        with probe.connect(node.address) as wire:
            for _ in range(count):
                assert probe.produce(wire, "topic")[0] == 0
        if stop is not None:
            stop()
            node.restart()
    with probe.connect(node.address) as wire:
        assert check_ends(wire, sum(counts)) == [count for count in counts if count]
