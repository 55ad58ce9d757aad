"""Calls in threads: outcomes come back, as many at a time as there are threads, and an end waits for all."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from bytemq.runtime.call_threads import CallThreads


@pytest.fixture
def threads() -> Iterator[CallThreads]:
    threads = CallThreads(2, "test")
    yield threads
    threads.close()


async def test_call_threads__return_and_raise_what_the_call_does(threads: CallThreads) -> None:
    assert await threads.run(threading.current_thread) is not threading.current_thread()

    def fails() -> None:
        raise OSError(28, "no space")

    with pytest.raises(OSError, match="no space"):
        await threads.run(fails)
    assert await threads.run(lambda: 7) == 7, "a failure does not end a thread"


async def test_call_threads__one_is_used_again_before_another_is_started(threads: CallThreads) -> None:
    names = {(await threads.run(threading.current_thread)).name for _ in range(20)}
    assert names == {"test_0"}


async def test_call_threads__no_more_at_a_time_than_there_are_and_none_is_forgotten(threads: CallThreads) -> None:
    lock, both = threading.Lock(), threading.Event()
    running = most = 0

    def call() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
            if running == 2:
                both.set()
        assert both.wait(20), "the second thread never came"
        with lock:
            running -= 1

    await asyncio.gather(*(threads.run(call) for _ in range(10)))
    assert most == 2


async def test_call_threads__a_cancelled_call_is_made_all_the_same(threads: CallThreads) -> None:
    started, go, done = threading.Event(), threading.Event(), threading.Event()

    def call() -> None:
        started.set()
        go.wait(20)
        done.set()

    task = asyncio.ensure_future(threads.run(call))
    assert await asyncio.get_running_loop().run_in_executor(None, started.wait, 20)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go.set()
    assert await threads.run(lambda: done.wait(20))


async def test_call_threads__the_end_waits_for_what_was_asked_for() -> None:
    threads = CallThreads(1, "test")
    called: list[int] = []
    tasks = [asyncio.ensure_future(threads.run(lambda number=number: called.append(number))) for number in range(5)]
    await asyncio.sleep(0)
    await asyncio.get_running_loop().run_in_executor(None, threads.close)
    await asyncio.gather(*tasks)
    assert called == [0, 1, 2, 3, 4]
    with pytest.raises(RuntimeError):
        await threads.run(lambda: None)
