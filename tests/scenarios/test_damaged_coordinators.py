"""Flipped bits in the logs of coordinators: nothing is forgotten unasked, others do not suffer, what to do is said."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable

import pytest
from kafka.protocol.metadata import FindCoordinatorRequest

from tests.interop.differential import build
from tests.interop.wire import Wire
from tests.scenarios.damage import commit, commit_of, committed, flip, initialise
from tests.support import probe
from tests.support.node_process import NodeProcess

MAKE = Callable[..., NodeProcess]
NONE, NOT_COORDINATOR = 0, 16
WITHIN_S = 30.0


def find(wire: Wire, key: str, key_type: int) -> int:
    return int(wire.call(build(FindCoordinatorRequest, 2, {"key": key, "key_type": key_type})).error_code)


def eventually(ask: Callable[[], object], expected: object) -> None:
    deadline = time.monotonic() + WITHIN_S
    while (answer := ask()) != expected:
        assert time.monotonic() < deadline, f"{answer} where {expected} should be"
        time.sleep(0.05)


def skip_damage(node: NodeProcess, topic: str) -> None:
    command = [sys.executable, "-m", "bytemq", "topic", "alter", topic, "--bootstrap-server", node.bootstrap]
    subprocess.run([*command, "--config", "bytemq.skip.damage=true"], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize("stop", [NodeProcess.terminate, NodeProcess.kill9], ids=["stopped", "killed"])
def test_damage__keeps_a_coordinator_back_until_it_may_go_on_without(
    make_node: MAKE, stop: Callable[[NodeProcess], object]
) -> None:
    node = make_node().start()
    with probe.connect(node.address) as wire:
        assert probe.create_topic(wire, "t") == NONE
        for name in ("damaged", "sound"):
            eventually(lambda name=name: find(wire, f"group-{name}", 0), NONE)
            eventually(lambda name=name: find(wire, f"id-{name}", 1), NONE)
            for offset in (1, 2, 3):
                eventually(lambda name=name, offset=offset: commit(wire, f"group-{name}", offset), NONE)
            eventually(lambda name=name: initialise(wire, f"id-{name}")[0], NONE)
    stop(node)
    flip(node.data_dir, commit_of("group-damaged", 3))
    flip(node.data_dir, b"id-damaged")
    node.restart()
    with probe.connect(node.address) as wire:
        eventually(lambda: committed(wire, "group-sound"), (NONE, 3))
        eventually(lambda: initialise(wire, "id-sound")[0], NONE)
        eventually(lambda: committed(wire, "group-damaged")[0], NOT_COORDINATOR)
        eventually(lambda: initialise(wire, "id-damaged")[0], NOT_COORDINATOR)
        assert commit(wire, "group-damaged", 4) == NOT_COORDINATOR
        assert node.metric("bytemq_coordinators_damaged") == 2
        assert "bytemq topic alter __consumer_offsets --config bytemq.skip.damage=true" in node.log()
        assert "bytemq topic alter __transaction_state --config bytemq.skip.damage=true" in node.log()

        skip_damage(node, "__consumer_offsets")
        eventually(lambda: committed(wire, "group-damaged"), (NONE, 2))
        assert commit(wire, "group-damaged", 9) == NONE
        assert initialise(wire, "id-damaged")[0] == NOT_COORDINATOR
        skip_damage(node, "__transaction_state")
        eventually(lambda: initialise(wire, "id-damaged")[0], NONE)
        assert node.metric("bytemq_coordinators_damaged") == 0
        assert node.metric("bytemq_group_damaged_records") == 1
    node.terminate()
    node.restart()
    with probe.connect(node.address) as wire:
        eventually(lambda: committed(wire, "group-damaged"), (NONE, 9))
