"""Supervised tasks in virtual time: crashes are counted, logged, answered for."""

import asyncio
from itertools import pairwise

import pytest

from bytemq.runtime.tasks import MAX_RESTART_DELAY_S, Supervisor
from tests.support.virtual_time import LoopClock, run_virtual


class Fatal:
    def __init__(self) -> None:
        self.calls: list[tuple[str, BaseException]] = []

    def __call__(self, name: str, error: BaseException) -> None:
        self.calls.append((name, error))


def test_supervisor__restarts_what_crashes_at_growing_intervals() -> None:
    async def run() -> list[float]:
        clock = LoopClock()
        supervisor = Supervisor(clock, Fatal())
        starts: list[float] = []

        async def work() -> None:
            starts.append(clock.monotonic())
            if len(starts) < 10:
                raise RuntimeError("crash")

        await supervisor.keep_running("work", work)
        assert supervisor.crashes == {"work": 9}
        return starts

    starts = run_virtual(run())
    pauses = [later - earlier for earlier, later in pairwise(starts)]
    assert pauses[0] == pytest.approx(0.1)
    assert pauses[1] == pytest.approx(0.2)
    assert pauses[-1] == pytest.approx(MAX_RESTART_DELAY_S)


def test_supervisor__an_essential_crash_is_the_nodes_end() -> None:
    async def run() -> None:
        fatal = Fatal()
        supervisor = Supervisor(LoopClock(), fatal)

        async def work() -> None:
            raise RuntimeError("crash")

        await supervisor.start_essential("session", work())
        assert [name for name, _ in fatal.calls] == ["session"]

    run_virtual(run())


def test_supervisor__a_crash_is_seen_by_who_awaits_the_task() -> None:
    async def run() -> None:
        supervisor = Supervisor(LoopClock(), Fatal())

        async def work() -> None:
            raise RuntimeError("crash")

        with pytest.raises(RuntimeError, match="crash"):
            await supervisor.start("once", work())
        assert supervisor.crashes == {"once": 1}

    run_virtual(run())


def test_supervisor__close_cancels_and_takes_no_more() -> None:
    async def run() -> None:
        supervisor = Supervisor(LoopClock(), Fatal())

        async def work() -> None:
            await asyncio.Event().wait()

        running = supervisor.start("runs", work())
        await asyncio.sleep(0)
        not_begun = supervisor.start("has not begun", work())
        await supervisor.close()
        assert running.cancelled()
        assert not_begun.cancelled()
        with pytest.raises(RuntimeError, match="after the supervisor was closed"):
            supervisor.start("late", work())

    run_virtual(run())
