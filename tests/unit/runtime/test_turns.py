"""Long work shares the loop's turns."""

import asyncio

from bytemq.runtime.turns import Turns


async def test_turns__all_long_work_together_gets_one_slice_of_each_turn() -> None:
    turns, done = Turns(), []

    async def long_work(name: str) -> None:
        for number in range(3):
            await turns.next()
            done.append(f"{name}{number}")

    work = [asyncio.ensure_future(long_work(name)) for name in "abcd"]
    seen = 0
    while not all(task.done() for task in work):
        await asyncio.sleep(0)
        assert len(done) - seen <= 1
        seen = len(done)
    assert done == [f"{name}{number}" for number in range(3) for name in "abcd"]


async def test_turns__who_was_cancelled_holds_up_nobody() -> None:
    turns = Turns()
    cancelled = asyncio.ensure_future(turns.next())
    next_one = asyncio.ensure_future(turns.next())
    await asyncio.sleep(0)
    cancelled.cancel()
    await next_one


async def test_turns__work_that_goes_on_is_called_in_a_later_turn() -> None:
    turns, calls = Turns(), []
    turns.call(lambda: (calls.append(1), turns.call(lambda: calls.append(2))))
    for expected in ([1], [1, 2]):
        await asyncio.sleep(0)
        assert calls == expected
