"""Keys that many ask for at the same time are one request."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from bytemq.errors import Unavailable
from bytemq.metadata.etcd.shared_reads import SharedReads
from bytemq.metadata.store import MAX_TXN_OPERATIONS, KeyValue


class Reader:
    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.values: dict[str, int] = {}
        self.error: Exception | None = None
        self.go = asyncio.Event()
        self.go.set()
        self.reads = SharedReads(self.read)

    async def read(self, keys: Sequence[str]) -> list[KeyValue | None]:
        self.asked.append(list(keys))
        await self.go.wait()
        if self.error is not None:
            raise self.error
        return [KeyValue(key, b"", self.values[key]) if key in self.values else None for key in keys]


async def test_reads__of_one_turn_are_one_request_within_the_limit() -> None:
    reader = Reader()
    names = [f"k{number}" for number in range(MAX_TXN_OPERATIONS + 2)]
    reader.values = {name: number for number, name in enumerate(names) if number % 2}
    found = await asyncio.gather(*map(reader.reads.get, names))
    assert [one.revision if one else None for one in found] == [n if n % 2 else None for n in range(len(names))]
    assert list(map(len, reader.asked)) == [MAX_TXN_OPERATIONS, 2]


async def test_read__that_comes_later_is_not_answered_with_what_was_read_before() -> None:
    reader = Reader()
    reader.go.clear()
    first = asyncio.ensure_future(reader.reads.get("a"))
    await asyncio.sleep(0.01)
    second = asyncio.ensure_future(reader.reads.get("a"))
    await asyncio.sleep(0.01)
    assert reader.asked == [["a"], ["a"]]
    reader.go.set()
    assert await first is None and await second is None


async def test_read__that_nobody_waits_for_any_more_keeps_the_others_going() -> None:
    reader = Reader()
    gone, stays = asyncio.ensure_future(reader.reads.get("a")), asyncio.ensure_future(reader.reads.get("b"))
    await asyncio.sleep(0)
    gone.cancel()
    assert await stays is None
    reader.error = Unavailable("no etcd")
    failing = await asyncio.gather(reader.reads.get("a"), reader.reads.get("b"), return_exceptions=True)
    assert all(isinstance(one, Unavailable) for one in failing)
    reader.error = None
    assert await reader.reads.get("a") is None


@pytest.mark.parametrize("count", [1, 3])
async def test_read__fails_with_what_reading_fails_with(count: int) -> None:
    reader = Reader()
    reader.error = Unavailable("no etcd")
    for one in await asyncio.gather(*(reader.reads.get("a") for _ in range(count)), return_exceptions=True):
        assert isinstance(one, Unavailable)
