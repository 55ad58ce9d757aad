"""Queries and their time, with a process that only pretends to be one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from bytemq.errors import Invalid, Unavailable
from bytemq.query import queries
from bytemq.query.messages import Message
from bytemq.query.queries import Queries, Query, SqlLimits


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
    return Queries(topics, str(tmp_path), tmp_path / "scratch", SqlLimits(1, 0.2, 1, 1, 1, 1))


async def test_query__that_begins_in_one_task_and_goes_on_in_another_ends_in_time(made: Queries) -> None:
    """As over HTTP: the rows are taken by the task that sends them."""
    stack = AsyncExitStack()
    result = await asyncio.create_task(stack.enter_async_context(made.run(Query("select 1", "csv"))))

    async def take(parts: AsyncIterator[bytes]) -> None:
        async with stack:
            async for _ in parts:
                pass

    began = time.monotonic()
    with pytest.raises(Invalid, match="longer than"):
        await asyncio.wait_for(asyncio.create_task(take(result.parts)), 20)
    assert time.monotonic() - began < 10, "it ended by itself"
    async with made.run(Query("select 1", "csv")):  # its place is free
        pass
    await made.close()


async def test_query__whose_rows_nobody_takes_does_not_go_on(made: Queries) -> None:
    with pytest.raises(Invalid, match="longer than"):
        async with made.run(Query("select 1", "csv")) as result:
            assert await anext(aiter(result.parts)) == b"row"
            await asyncio.create_task(asyncio.sleep(0.5))  # it is about the loop's own timers
            await anext(aiter(result.parts))
    await made.close()
