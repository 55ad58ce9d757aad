"""The cache of blocks: one read for many readers, bounded, and read ahead."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random

import pytest

from bytemq.errors import NotFound, Unavailable
from bytemq.storage.cache import block_cache
from bytemq.storage.cache.block_cache import BlockCache, CachedFile
from bytemq.storage.cache.scratch import ScratchBlocks
from bytemq.storage.stores.remote import RemoteStore, RetryPolicy
from tests.support.failing_driver import FailingDriver
from tests.support.virtual_time import LoopClock, run_virtual

BLOCK = 100
DATA = bytes(Random(1).randbytes(1050))


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_cache, "BLOCK_BYTES", BLOCK)


class Bench:
    def __init__(self, capacity_bytes: int = 500) -> None:
        self.driver = FailingDriver(objects={"a": (DATA, ""), "b": (DATA[::-1], "")})
        self.store = RemoteStore(self.driver, LoopClock(), Random(1), RetryPolicy(attempts=1))
        self.cache = BlockCache(self.store, capacity_bytes)

    @property
    def reads(self) -> int:
        return sum(operation == "get" for operation, _ in self.driver.calls)


def run(test: Callable[[Bench], Awaitable[None]], bench: Bench | None = None) -> None:
    async def main() -> None:
        await test(bench or Bench())

    run_virtual(main())


def test_read__is_what_is_in_the_object_wherever_it_starts_and_ends() -> None:
    async def test(bench: Bench) -> None:
        chance = Random(2)
        for _ in range(300):
            position, size = chance.randrange(1100), chance.randrange(400)
            assert bytes(await bench.cache.read("a", position, size)) == DATA[position : position + size]
            peeked = bench.cache.peek("a", position, size) if size else None
            assert peeked is None or bytes(peeked) == DATA[position : position + size]

    run(test)


def test_read_beginning__reads_a_small_block_where_that_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_cache, "BEGINNING_BYTES", 30)

    async def test(bench: Bench) -> None:
        cache = bench.cache
        reads = await asyncio.gather(cache.read_beginning("a", 0, 10), cache.read_beginning("a", 25, 5))
        assert [bytes(read) for read in reads] == [DATA[:10], DATA[25:30]]
        assert (bench.reads, cache.size_bytes) == (1, 30)
        assert cache.peek("a", 5, 25) == DATA[5:30]
        assert cache.peek("a", 5, 26) is None
        assert bytes(await cache.read_beginning("a", 25, 6)) == DATA[25:31], "of the whole block"
        assert bytes(await cache.read_beginning("a", 150, 10)) == DATA[150:160]
        assert bytes(await cache.read_beginning("b", 20, 500)) == DATA[::-1][20:520]
        before = bench.reads
        assert bytes(await cache.read_beginning("b", 0, 5)) == DATA[::-1][:5], "what is there is used"
        assert bench.reads == before
        cache.forget("a")
        cache.forget("b")
        assert cache.size_bytes == 0

    run(test, Bench(5000))


def test_readers_of_one_block__share_one_read() -> None:
    async def test(bench: Bench) -> None:
        found = await asyncio.gather(*(bench.cache.read("a", start, 10) for start in range(20, 60)))
        assert [bytes(part) for part in found] == [DATA[start : start + 10] for start in range(20, 60)]
        assert bench.reads == 1

    run(test)


def test_reader_that_goes_away__does_not_take_the_read_from_the_others() -> None:
    async def test(bench: Bench) -> None:
        first = asyncio.ensure_future(bench.cache.read("a", 0, 10))
        second = asyncio.ensure_future(bench.cache.read("a", 0, 10))
        await asyncio.sleep(0)
        first.cancel()
        assert bytes(await second) == DATA[:10]
        assert bench.reads == 1

    run(test)


def test_sequential_reader__finds_the_next_block_there() -> None:
    async def test(bench: Bench) -> None:
        await bench.cache.read("a", 0, 50)
        assert bench.reads == 1, "a lone read reads nothing ahead"
        for start in range(100, 1000, 50):
            await bench.cache.read("a", start, 50)
            await LoopClock().sleep(0.1)
            if start < 900:
                assert bench.cache.peek("a", (start // BLOCK + 1) * BLOCK, 50) is not None
        assert bench.reads <= 11

    run(test)


def test_memory__is_bounded_and_what_was_used_last_stays() -> None:
    async def test(bench: Bench) -> None:
        await bench.cache.read("b", 0, 10)
        for start in range(0, 1000, 200):
            await bench.cache.read("a", start, 10)
            await bench.cache.read("b", 0, 10)
        assert bench.cache.size_bytes <= 500
        reads = bench.reads
        await bench.cache.read("b", 0, 10)
        assert bench.reads == reads
        await bench.cache.read("a", 0, 10)
        assert bench.reads == reads + 1

    run(test)


def test_failure__is_told_to_who_reads_and_forgotten() -> None:
    async def test(bench: Bench) -> None:
        bench.driver.fault = lambda operation, name: "refused"
        outcomes = await asyncio.gather(*(bench.cache.read("a", 0, 10) for _ in range(3)), return_exceptions=True)
        assert all(isinstance(outcome, Unavailable) for outcome in outcomes)
        bench.driver.fault = lambda operation, name: None
        assert bytes(await bench.cache.read("a", 0, 10)) == DATA[:10]
        with pytest.raises(NotFound):
            await CachedFile(bench.cache, "nothing").read(0, 1)

    run(test)


async def until_kept(cold: ScratchBlocks, size_bytes: int) -> None:
    for _ in range(6000):
        if cold.size_bytes >= size_bytes:
            return
        await asyncio.sleep(0.005)
    raise AssertionError("nothing comes to the scratch disk")


async def test_blocks_without_room__go_to_scratch_and_come_back(tmp_path: Path) -> None:
    bench = Bench()
    cold = ScratchBlocks(tmp_path / "scratch", 500)
    cache = BlockCache(bench.store, 300, cold)
    for start in (0, 200, 400, 600):
        await cache.read("a", start, 10)
    await until_kept(cold, 100)
    reads = bench.reads
    assert bytes(await cache.read("a", 0, 10)) == DATA[:10]
    assert bench.reads == reads
    await until_kept(cold, 200)
    cache.forget("a")
    assert cold.size_bytes == cache.size_bytes == 0
    assert bytes(await cache.read("a", 0, 10)) == DATA[:10]
    assert bench.reads == reads + 1
    await cold.close()
    assert not (tmp_path / "scratch").exists()


async def test_scratch__may_be_lost_or_changed_at_any_time_and_is_bounded(tmp_path: Path) -> None:
    bench = Bench()
    folder = tmp_path / "scratch"
    cold = ScratchBlocks(folder, 300)
    cache = BlockCache(bench.store, 100, cold)
    for _ in range(3):
        for start in range(0, 1000, 200):
            assert bytes(await cache.read("a", start, 10)) == DATA[start : start + 10]
            await asyncio.sleep(0.01)
            assert cold.size_bytes <= 300
            for number, path in enumerate(sorted(folder.glob("*"))):
                if number % 2:
                    path.unlink(missing_ok=True)  # on a busy machine what was given up is being deleted
                else:
                    path.write_bytes(b"x" * 100)
    await cold.close()


async def test_scratch__that_cannot_be_written_costs_nothing(tmp_path: Path) -> None:
    errors: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
    bench = Bench()
    (tmp_path / "file").write_bytes(b"")
    cold = ScratchBlocks(tmp_path / "file" / "scratch", 300)
    cache = BlockCache(bench.store, 100, cold)
    for start in (0, 200, 400, 0):
        assert bytes(await cache.read("a", start, 10)) == DATA[start : start + 10]
        await asyncio.sleep(0.01)
    assert cold.size_bytes == 0
    await cold.close()
    await asyncio.sleep(0)
    assert not errors
