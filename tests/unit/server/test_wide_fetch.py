"""A Fetch over many partitions: slices, and everything that may happen between two of them."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from bytemq.broker import wide_fetch
from bytemq.broker.handlers import fetch as fetch_handler
from bytemq.broker.wide_fetch import WideFetch
from bytemq.protocol.error_codes import ErrorCode
from bytemq.runtime.turns import Turns
from tests.unit.server.harness import Client, Cluster, eventually, make_cluster, produce, serving
from tests.unit.server.test_fetch import LARGE, fetch, filled, offsets, request

PARTITIONS = 10


@pytest.fixture(autouse=True)
def slices_of_three(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (wide_fetch, fetch_handler):
        monkeypatch.setattr(module, "SLICE_PARTITIONS", 3)


@pytest.fixture
def between_slices(monkeypatch: pytest.MonkeyPatch) -> "Pauses":
    return Pauses(monkeypatch)


class Pauses:
    """Stops every wide fetch in front of one partition, until the test lets it go on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.stop_at: int | None = None
        self.reached = asyncio.Event()
        self.go_on = asyncio.Event()
        read_one: Callable[..., Awaitable[None]] = WideFetch._read_one

        async def paused(fetching: WideFetch, wanted: Any) -> None:
            if wanted.index == self.stop_at:
                self.stop_at = None
                self.reached.set()
                await self.go_on.wait()
            await read_one(fetching, wanted)

        monkeypatch.setattr(WideFetch, "_read_one", paused)


def all_partitions(offset: int, **options: Any) -> Any:
    return request(partitions=[(index, offset) for index in range(PARTITIONS)], **options)


def waiters(cluster: Cluster) -> int:
    return sum(len(partition.waiters) for partition in cluster.broker.partitions.open_partitions())


async def nothing_is_left(cluster: Cluster) -> None:
    await eventually(lambda: cluster.broker.response_memory.used_bytes == 0 and not waiters(cluster))


async def produced(client: Client, index: int) -> None:
    assert (await produce(client, "events", b"news", partition=index)).error_code == 0


@pytest.mark.parametrize("limits", [{}, {"max_bytes": 4500}, {"limit": 2500}, {"max_bytes": 1}, {"isolation_level": 1}])
async def test_wide_fetch__answers_as_one_in_a_single_pass(
    limits: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = make_cluster()
    async with serving(cluster) as running:
        client = await running.connect()
        await filled(cluster, client, partitions=PARTITIONS)
        asked = all_partitions(1, **limits)
        asked.topics[0].partitions[4].fetch_offset = 99
        asked.topics[0].partitions[5].partition = 77
        sliced = await fetch(client, asked)
        monkeypatch.setattr(fetch_handler, "SLICE_PARTITIONS", 1000)
        assert sliced == await fetch(client, asked)
        assert any(offsets(sliced))
        await nothing_is_left(cluster)


async def test_wide_fetch__opens_few_partitions_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wide_fetch, "OPENINGS_PER_SLICE", 1)
    cluster = make_cluster()
    async with serving(cluster) as running:
        client = await running.connect()
        await cluster.add_topic("events", PARTITIONS)
        answer = asyncio.ensure_future(fetch(client, all_partitions(0)))
        opened, most = 0, 0
        while not answer.done():
            await asyncio.sleep(0)
            now = len(list(cluster.broker.partitions.open_partitions()))
            opened, most = now, max(most, now - opened)
        assert (opened, most) == (PARTITIONS, 1)
        assert {partition.error_code for partition in answer.result().responses[0].partitions} == {0}


@pytest.mark.parametrize("grown", [0, 5, 9])
async def test_wide_fetch__notices_what_is_committed_in_the_middle_of_a_pass(
    grown: int, between_slices: Pauses
) -> None:
    """Before, at or behind the place where the pass is: the client does not wait for the end of its time."""
    cluster = make_cluster()
    async with serving(cluster) as running:
        reader, writer = await running.connect(), await running.connect()
        await filled(cluster, writer, partitions=PARTITIONS)
        between_slices.stop_at = 5
        waiting = asyncio.ensure_future(fetch(reader, all_partitions(3, max_wait_ms=60_000, min_bytes=1)))
        await between_slices.reached.wait()
        await produced(writer, grown)
        between_slices.go_on.set()
        answer = await asyncio.wait_for(waiting, 5)
        assert offsets(answer) == [[3] if index == grown else [] for index in range(PARTITIONS)]
        await nothing_is_left(cluster)


async def test_wide_fetch__waits_like_any_other(between_slices: Pauses) -> None:
    cluster = make_cluster()
    async with serving(cluster) as running:
        reader, writer = await running.connect(), await running.connect()
        await filled(cluster, writer, partitions=PARTITIONS)
        waiting = asyncio.ensure_future(fetch(reader, all_partitions(3, max_wait_ms=60_000, min_bytes=1)))
        await eventually(lambda: waiters(cluster) == PARTITIONS)
        await eventually(lambda: cluster.broker.response_memory.used_bytes == 0)
        await produced(writer, 7)
        assert offsets(await waiting)[7] == [3]
        assert offsets(await fetch(reader, all_partitions(4, max_wait_ms=5, min_bytes=1))) == [[]] * PARTITIONS
        await nothing_is_left(cluster)


@pytest.mark.parametrize("stop_at", [0, 5, 9])
async def test_wide_fetch__a_client_that_leaves_in_the_middle_leaves_nothing_behind(
    stop_at: int, between_slices: Pauses
) -> None:
    cluster = make_cluster()
    async with serving(cluster) as running:
        reader, writer = await running.connect(), await running.connect()
        await filled(cluster, writer, partitions=PARTITIONS)
        between_slices.stop_at = stop_at
        reader.send(all_partitions(3, max_wait_ms=60_000, min_bytes=1), 12)
        await between_slices.reached.wait()
        assert waiters(cluster) == stop_at
        assert cluster.broker.response_memory.used_bytes > 0
        reader.writer.transport.abort()
        await eventually(lambda: running.server.connection_count == 1)
        between_slices.go_on.set()
        await nothing_is_left(cluster)
        await produced(writer, 0)


@pytest.mark.parametrize("lost", [0, 9])
async def test_wide_fetch__notices_a_partition_that_is_lost_in_the_middle(lost: int, between_slices: Pauses) -> None:
    cluster = make_cluster()
    async with serving(cluster) as running:
        reader, writer = await running.connect(), await running.connect()
        await filled(cluster, writer, partitions=PARTITIONS)
        between_slices.stop_at = 5
        waiting = asyncio.ensure_future(fetch(reader, all_partitions(3, max_wait_ms=60_000, min_bytes=1)))
        await between_slices.reached.wait()
        await cluster.move("events", lost, 7)
        between_slices.go_on.set()
        answer = await asyncio.wait_for(waiting, 5)
        errors = [partition.error_code for partition in answer.responses[0].partitions]
        assert errors == [ErrorCode.NOT_LEADER_OR_FOLLOWER if index == lost else 0 for index in range(PARTITIONS)]
        await nothing_is_left(cluster)


async def test_wide_fetch__takes_memory_as_it_reads(monkeypatch: pytest.MonkeyPatch, between_slices: Pauses) -> None:
    """Many of them wait for their turns with what they were granted: it must not be a quarter of all for each."""
    monkeypatch.setattr(wide_fetch, "LEAST_GRANT_BYTES", 2200)
    cluster = make_cluster()
    async with serving(cluster) as running:
        client = await running.connect()
        await filled(cluster, client, partitions=PARTITIONS, batches=1)
        between_slices.stop_at = 2
        waiting = asyncio.ensure_future(fetch(client, all_partitions(0)))
        await between_slices.reached.wait()
        assert 2000 < cluster.broker.response_memory.used_bytes <= 2 * 2200
        between_slices.go_on.set()
        assert offsets(await waiting) == [[0]] * PARTITIONS
        await nothing_is_left(cluster)


async def test_wide_fetch__reads_files_where_memory_does_not_have_them() -> None:
    cluster = make_cluster()
    async with serving(cluster) as running:
        client = await running.connect()
        await filled(cluster, client, partitions=PARTITIONS)
        for partition in cluster.broker.partitions.open_partitions():
            partition._files.cached = False  # type: ignore[attr-defined]
        answer = await fetch(client, all_partitions(1, max_wait_ms=5, min_bytes=LARGE))
        assert offsets(answer) == [[1, 2]] * PARTITIONS
        await nothing_is_left(cluster)


async def test_large_request__of_a_client_that_left_gives_its_memory_back(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = make_cluster()
    async with serving(cluster) as running:
        client, other = await running.connect(), await running.connect()
        await filled(cluster, other)
        held: list[Callable[[], object]] = []
        monkeypatch.setattr(Turns, "call", lambda _, slice_of_work: held.append(slice_of_work))
        client.send(request(partitions=[(index, 0) for index in range(2000)]), 12)
        await eventually(lambda: held)
        client.writer.transport.abort()
        await eventually(lambda: running.server.connection_count == 1)
        memory = running.server.request_memory.budget
        assert memory.used_bytes > 0
        held.pop()()
        assert memory.used_bytes == 0
