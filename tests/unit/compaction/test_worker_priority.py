"""When a worker that hardly runs is given more, and when that is taken back."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys

import pytest

from bytemq.compaction.worker_priority import (
    IDLE,
    PriorityWatch,
    Range,
    Seen,
    next_niceness,
    niceness_of,
    seen_of,
    set_niceness,
)

ALLOWED = Range(lowest=IDLE, raised=0)
START = Seen(100.0, 50.0)


@pytest.mark.parametrize(
    ("ran_s", "waited_s", "expected"),
    [(0.1, 4.9, 10), (0.4, 4.6, 15), (2.6, 2.4, IDLE), (0.0, 0.4, IDLE), (0.0, 0.0, IDLE)],
    ids=["starving", "slow", "enough", "waits for a store", "idle"],
)
def test_niceness__follows_what_the_worker_gets_of_what_it_wants(ran_s: float, waited_s: float, expected: int) -> None:
    now = Seen(START.ran_s + ran_s, START.waited_s + waited_s)
    assert next_niceness(15, ALLOWED, START, now) == expected


@pytest.mark.parametrize(
    ("niceness", "raised", "expected"),
    [(IDLE, 0, 10), (10, 0, 5), (5, 0, 0), (0, 0, 0), (10, 8, 8), (IDLE, IDLE, IDLE)],
    ids=[
        "in the idle class",
        "beside two",
        "beside six",
        "one among many",
        "as the broker itself",
        "of an idle broker",
    ],
)
def test_niceness__is_raised_further_where_a_step_is_next_to_nothing(niceness: int, raised: int, expected: int) -> None:
    now = Seen(START.ran_s + 0.05, START.waited_s + 1.95)
    assert next_niceness(niceness, Range(IDLE, raised), START, now) == expected


@pytest.mark.parametrize(
    ("niceness", "share", "expected"),
    [
        (-15, 0.9, -10),
        (0, 0.3, 5),
        (5, 0.3, 10),
        (10, 0.3, 10),
        (10, 0.6, IDLE),
        (IDLE, 0.3, IDLE),
        (0, 0.2, 0),
        (5, 0.2, 5),
    ],
)
def test_niceness__goes_back_a_step_where_that_is_enough(niceness: int, share: float, expected: int) -> None:
    now = Seen(START.ran_s + 2 * share, START.waited_s + 2 * (1 - share))
    assert next_niceness(niceness, Range(IDLE, -15), START, now) == expected


def test_niceness__of_a_worker_with_little_to_do_goes_back_in_steps_as_well() -> None:
    assert [next_niceness(niceness, Range(IDLE, -15), START, START) for niceness in (-15, 3, 10, 15, IDLE)] == [
        -10,
        8,
        IDLE,
        IDLE,
        IDLE,
    ]


def test_watch__raises_the_priority_once_and_lowers_it_when_there_is_room() -> None:
    looks = [Seen(0, 0), Seen(0.1, 4.9), Seen(0.6, 9.4), Seen(1.1, 13.9), Seen(5.1, 14.9), Seen(10.1, 14.9)]
    found: list[int] = []
    watch = PriorityWatch(ALLOWED, iter(looks).__next__, found.append)
    assert all(watch.look() for _ in looks[1:])
    assert found == [IDLE, 10, IDLE]


def test_watch__that_may_not_says_so_and_leaves_it_at_that(caplog: pytest.LogCaptureFixture) -> None:
    def refuse(niceness: int) -> None:
        if niceness != IDLE:
            raise PermissionError

    watch = PriorityWatch(ALLOWED, iter([Seen(0, 0), Seen(0.1, 4.9)]).__next__, refuse)
    assert not watch.look()
    assert "CAP_SYS_NICE" in caplog.text


def test_watch__ends_where_the_kernel_does_not_count() -> None:
    assert not PriorityWatch(ALLOWED, lambda: None, lambda niceness: None).look()


def test_seen__grows_with_the_work_where_the_kernel_counts() -> None:
    before = seen_of(os.getpid())
    sum(range(2_000_000))
    now = seen_of(os.getpid())
    assert (before is not None) == os.path.exists("/proc/self/schedstat")
    assert before is None or (now is not None and now.ran_s > before.ran_s)


async def test_priority__is_that_of_all_threads_and_of_those_to_come() -> None:
    """A starving thread that syncs holds up the one that waits for it."""
    program = (
        "import sys, threading\n"
        "def started(): t = threading.Thread(target=threading.Event().wait, daemon=True); t.start()\n"
        "started(); print(1, flush=True); sys.stdin.readline(); started(); print(2, flush=True); sys.stdin.readline()"
    )
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        await child.stdout.readline()
        set_niceness(child.pid, IDLE)
        child.stdin.write(b"\n")
        await child.stdout.readline()
        threads = [int(name) for name in os.listdir(f"/proc/{child.pid}/task")]
        assert [os.sched_getscheduler(thread) for thread in threads] == [os.SCHED_IDLE] * 3
        assert niceness_of(child.pid) == IDLE
    finally:
        child.kill()
        await child.wait()


@pytest.mark.parametrize(
    ("broker", "by", "lowest"), [(0, IDLE, IDLE), (0, 10, 10), (15, 10, 19), (IDLE, IDLE, IDLE), (IDLE, 10, IDLE)]
)
def test_range__is_never_above_the_broker(broker: int, by: int, lowest: int) -> None:
    """Also of the worker that readers wait for, where all of the node is in the idle class."""
    assert Range.below(broker, by) == (lowest, broker)
