"""The disk fills up under a running node: producers are told to try again, nothing acknowledged is lost, and it
recovers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.interop.batches import batch
from tests.interop.wire import Wire
from tests.support import probe
from tests.support.killed_nodes import FIRST_MS, numbers_by_offset
from tests.support.node_process import NodeProcess
from tests.support.small_disk import Ballast, CannotMount, small_disk

MAKE = Callable[..., NodeProcess]
DISK_BYTES = 400 * 1024 * 1024
VALUE = bytes(500_000)
RETRIABLE = {5, 6, 7, 56}
"""LEADER_NOT_AVAILABLE, NOT_LEADER_OR_FOLLOWER, REQUEST_TIMED_OUT, KAFKA_STORAGE_ERROR: every client tries again."""
RECOVERY_LIMIT_S = 60.0


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    try:
        with small_disk(tmp_path / "disk", DISK_BYTES) as folder:
            yield folder
    except CannotMount as reason:
        pytest.fail(f"a small disk is needed: {reason}")


def numbered(number: int) -> bytes:
    return batch([VALUE], base_timestamp=FIRST_MS + number)


def fill_up(wire: Wire, first: int) -> tuple[dict[int, int], int]:
    """Produces until the node refuses. Returns what was acknowledged (offset -> number) and the error."""
    acknowledged: dict[int, int] = {}
    for number in range(first, first + 5_000):
        error, offset = probe.produce(wire, "topic", numbered(number))
        if error:
            return acknowledged, error
        acknowledged[offset] = number
    raise AssertionError("the disk never filled up")


def check_log(wire: Wire, acknowledged: dict[int, int]) -> None:
    """Every acknowledged batch is at its offset, nothing is there twice, offsets are dense."""
    found = numbers_by_offset(wire, "topic")
    assert acknowledged.items() <= found.items()
    assert len(set(found.values())) == len(found)


def test_node__refuses_with_a_retriable_error_while_the_disk_is_full(make_node: MAKE, disk: Path) -> None:
    node = make_node(disk / "data").start()
    with probe.connect(node.address) as wire:
        assert probe.create_topic(wire, "topic") == 0
        ballast = Ballast(disk, leave_bytes=150 * 1024 * 1024)
        acknowledged, error = fill_up(wire, 0)
        assert error in RETRIABLE, error
        assert probe.produce(wire, "topic", numbered(90_000))[0] in RETRIABLE
        assert node.is_running()
        error, batches = probe.fetch(wire, "topic", 0)
        assert error == 0 and batches, "reading goes on"
        check_log(wire, acknowledged)

        ballast.drop()
        deadline = time.monotonic() + RECOVERY_LIMIT_S
        while (answer := probe.produce(wire, "topic", numbered(100_000)))[0] != 0:
            assert answer[0] in RETRIABLE
            assert time.monotonic() < deadline, f"not recovered after {RECOVERY_LIMIT_S} s:\n{node.log()[-3000:]}"
            time.sleep(0.05)
        acknowledged[answer[1]] = 100_000
        check_log(wire, acknowledged)
    assert "Traceback" not in node.log()
    node.kill9()
    node.restart()
    with probe.connect(node.address) as wire:
        check_log(wire, acknowledged)


def test_node__killed_on_a_full_disk_starts_again_when_there_is_room(make_node: MAKE, disk: Path) -> None:
    node = make_node(disk / "data").start()
    with probe.connect(node.address) as wire:
        assert probe.create_topic(wire, "topic") == 0
        ballast = Ballast(disk, leave_bytes=150 * 1024 * 1024)
        acknowledged, _ = fill_up(wire, 0)
    node.kill9()
    ballast.drop()
    node.restart()
    with probe.connect(node.address) as wire:
        check_log(wire, acknowledged)
        assert probe.produce(wire, "topic", numbered(1))[0] == 0
