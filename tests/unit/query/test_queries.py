"""Queries and their time, with a process that only pretends to be one."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from bytemq.errors import Invalid, Unavailable
from bytemq.query import queries
from bytemq.query.messages import Message
from bytemq.query.queries import Queries, Query, SqlLimits

TIMEOUT_S = 1.0


class EndlessProcess:
    """Gives rows until it is ended."""

    has_ended = False

    @classmethod
    async def start(cls) -> EndlessProcess:
        return cls()

    def __init__(self) -> None:
        self._told = False

    async def send(self, message: Message) -> None:
        pass

    async def receive(self) -> Message:
        await asyncio.sleep(0)
        if self.has_ended:
            raise Unavailable("the query's process ended")
        if self._told:
            return Message({"rows": 1}, b"row")
        self._told = True
        return Message({"content_type": "text/csv"})

    def end(self) -> None:
        self.has_ended = True

    async def kill(self) -> None:
        self.end()


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Queries:
    monkeypatch.setattr(queries, "_Process", EndlessProcess)
    topics: Any = object()
    return Queries(topics, str(tmp_path), tmp_path / "scratch", SqlLimits(1, TIMEOUT_S, 1, 1, 1, 1))


async def test_query__that_begins_in_one_task_and_goes_on_in_another_ends_in_time(made: Queries) -> None:
    """As over HTTP: the rows are taken by the task that sends them."""
    stack = AsyncExitStack()
    result = await asyncio.create_task(stack.enter_async_context(made.run(Query("select 1", "csv"))))

    async def take(parts: AsyncIterator[bytes]) -> None:
        async with stack:
            async for _ in parts:
                pass

    with pytest.raises(Invalid, match="longer than"):
        await asyncio.wait_for(asyncio.create_task(take(result.parts)), 60)
    async with made.run(Query("select 1", "csv")):  # its place is free
        pass
    await made.close()


async def test_query__whose_rows_nobody_takes_does_not_go_on(made: Queries) -> None:
    with pytest.raises(Invalid, match="longer than"):
        async with made.run(Query("select 1", "csv")) as result:
            assert await anext(aiter(result.parts)) == b"row"
            await asyncio.create_task(asyncio.sleep(1.5 * TIMEOUT_S))  # it is about the loop's own timers
            await anext(aiter(result.parts))
    await made.close()


async def test_query__that_broke_off_is_remembered_with_its_reason_for_a_while(made: Queries) -> None:
    for number in range(queries.BROKEN_OFF_KEPT + 1):
        with pytest.raises(Invalid):
            async with made.run(Query("select 1", "csv", name=f"{number}")):
                raise Invalid(f"reason {number}")
    assert made.why_broken_off("0") is None
    assert str(made.why_broken_off("1")) == "reason 1"
    async with made.run(Query("select 1", "csv", name="well")):
        pass
    assert made.why_broken_off("well") is None
    await made.close()


async def test_query__that_broke_off_is_remembered_without_what_was_in_memory_then(made: Queries) -> None:
    class Rows:
        pass

    async def break_off(rows: Rows) -> None:
        async with made.run(Query("select 1", "csv", name="long")):
            raise Invalid("the result is too long")

    rows = Rows()
    gone = weakref.ref(rows)
    try:
        await break_off(rows)
    except Invalid:
        del rows
    gc.collect()
    assert str(made.why_broken_off("long")) == "the result is too long"
    assert gone() is None
    await made.close()


async def test_process_that_was_kept_ready_and_died__is_let_go_of(
    made: Queries, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed: list[EndlessProcess] = []

    class Counting(EndlessProcess):
        async def kill(self) -> None:
            killed.append(self)

    monkeypatch.setattr(queries, "_Process", Counting)
    async with made.run(Query("select 1", "csv")):
        pass
    await asyncio.sleep(0)
    spare: Any = made._spare
    spare.has_ended = True
    async with made.run(Query("select 1", "csv")):
        assert killed[1:] == [spare]
    await made.close()


async def test_process__that_is_killed_leaves_no_files(made: Queries, monkeypatch: pytest.MonkeyPatch) -> None:
    folders: list[Path] = []

    class Spilling(EndlessProcess):
        async def send(self, message: Message) -> None:
            folders.append(Path(message.content["scratch"]))
            folders[-1].mkdir(parents=True)
            (folders[-1] / "tail-0.parquet").write_bytes(b"rows")

    monkeypatch.setattr(queries, "_Process", Spilling)
    async with made.run(Query("select 1", "csv")):
        assert folders[0].exists()
    assert not folders[0].exists()
    await made.close()


async def test_process__that_ended_before_it_was_told_something_is_told_of_as_such() -> None:
    process = await queries._Process.start()
    try:
        process.end()
        with pytest.raises(Unavailable, match="the query's process ended"):
            for _ in range(100):
                await process.send(Message({}, bytes(1 << 20)))
    finally:
        await process.kill()
