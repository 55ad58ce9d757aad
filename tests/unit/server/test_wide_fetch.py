"""A Fetch over many partitions: slices, and everything that may happen between two of them."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from bytemq.broker.fetching import answer_memory, pending_fetch
from bytemq.broker.fetching.pending_fetch import PendingFetch
from bytemq.protocol.error_codes import ErrorCode
from bytemq.runtime.turns import Turns
from bytemq.types import PartitionId
from tests.unit.server.harness import Client, Cluster, Serving, eventually, make_cluster, produce, serving
from tests.unit.server.test_fetch import LARGE, fetch, filled, offsets, request

PARTITIONS = 10


@pytest.fixture(autouse=True)
def slices_of_three(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pending_fetch, "SLICE_PARTITIONS", 3)


@pytest.fixture
def between_slices(monkeypatch: pytest.MonkeyPatch) -> "Pauses":
    return Pauses(monkeypatch)


class Pauses:
    """Stops every wide fetch in front of one partition, until the test lets it go on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.stop_at: int | None = None
        self.reached = asyncio.Event()
        self.go_on = asyncio.Event()
        read_one: Callable[..., Awaitable[None]] = PendingFetch._read_one

        async def paused(fetching: PendingFetch, wanted: Any) -> None:
            if wanted.index == self.stop_at:
                self.stop_at = None
                self.reached.set()
                await self.go_on.wait()
            await read_one(fetching, wanted)

        monkeypatch.setattr(PendingFetch, "_read_one", paused)


def all_partitions(offset: int, **options: Any) -> Any:
    return request(partitions=[(index, offset) for index in range(PARTITIONS)], **options)


def waiters(cluster: Cluster) -> int:
    return sum(partition.waiters.count for partition in cluster.broker.partitions.open_partitions())


async def nothing_is_left(cluster: Cluster) -> None:
    await eventually(lambda: cluster.broker.response_memory.used_bytes == 0 and not waiters(cluster))


async def in_the_middle(cluster: Cluster, running: Serving, between_slices: Pauses) -> asyncio.Future[Any]:
    """A fetch of one who has read everything, of which the pass stands still at partition 5."""
    reader, writer = await running.connect(), await running.connect()
    await filled(cluster, writer, partitions=PARTITIONS)
    between_slices.stop_at = 5
    waiting = asyncio.ensure_future(fetch(reader, all_partitions(3, max_wait_ms=60_000, min_bytes=1)))
    await between_slices.reached.wait()
    return waiting


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
        monkeypatch.setattr(pending_fetch, "SLICE_PARTITIONS", 1000)
        assert sliced == await fetch(client, asked)
        assert any(offsets(sliced))
        await nothing_is_left(cluster)


async def test_wide_fetch__opens_few_partitions_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pending_fetch, "OPENINGS_PER_SLICE", 1)
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


async def test_wide_fetch__goes_on_before_all_openings_were_begun_and_nothing_is_wrong_with_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pending_fetch, "OPENINGS_PER_SLICE", 1)
    monkeypatch.setattr(pending_fetch, "OPENING_PATIENCE_S", 0)
    cluster = make_cluster()
    async with serving(cluster) as running:
        client = await running.connect()
        await cluster.add_topic("events", PARTITIONS)
        answer = await fetch(client, all_partitions(0))
        assert {partition.error_code for partition in answer.responses[0].partitions} == {0}
        assert -1 in {partition.high_watermark for partition in answer.responses[0].partitions}
        await eventually(lambda: len(list(cluster.broker.partitions.open_partitions())) == PARTITIONS)


@pytest.mark.parametrize("turns", [0, 6, 8, 10])
async def test_wide_fetch__hears_of_a_partition_that_somebody_else_has_opened_after_the_pass_came_by(
    turns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pending_fetch, "OPENINGS_PER_SLICE", 1)
    monkeypatch.setattr(pending_fetch, "OPENING_PATIENCE_S", 0)
    cluster = make_cluster()
    async with serving(cluster) as running:
        reader, writer = await running.connect(), await running.connect()
        topic = await cluster.add_topic("events", PARTITIONS)
        waiting = asyncio.ensure_future(fetch(reader, all_partitions(0, max_wait_ms=60_000, min_bytes=1)))
        await eventually(lambda: next(cluster.broker.partitions.open_partitions(), None) is not None)
        for _ in range(turns):
            await asyncio.sleep(0)
        await cluster.broker.partitions.open_by_id(topic.topic_id, PARTITIONS - 1)
        await eventually(lambda: len(list(cluster.broker.partitions.open_partitions())) == PARTITIONS)
        await produced(writer, PARTITIONS - 1)
        assert offsets(await asyncio.wait_for(waiting, 30))[-1] == [0]
        await nothing_is_left(cluster)


@pytest.mark.parametrize("grown", [0, 5, 9])
async def test_wide_fetch__notices_what_is_committed_in_the_middle_of_a_pass(
    grown: int, between_slices: Pauses
) -> None:
    """Before, at or behind the place where the pass is: the client does not wait for the end of its time."""
    cluster = make_cluster()
    async with serving(cluster) as running:
        waiting = await in_the_middle(cluster, running, between_slices)
        await produced(await running.connect(), grown)
        between_slices.go_on.set()
        answer = await asyncio.wait_for(waiting, 30)
        assert offsets(answer) == [[3] if index == grown else [] for index in range(PARTITIONS)]
        await nothing_is_left(cluster)


async def test_wide_fetch__notices_a_partition_that_comes_in_the_middle_of_a_pass(between_slices: Pauses) -> None:
    """The client could not ask for it meanwhile."""
    cluster = make_cluster()
    async with serving(cluster) as running:
        waiting = await in_the_middle(cluster, running, between_slices)
        new = PartitionId(cluster.image.topics["events"].topic_id, PARTITIONS)
        await cluster.broker.partitions.own(new, "events", 1, cluster.config.topic_config({}))
        await asyncio.sleep(0.01)
        between_slices.go_on.set()
        assert offsets(await asyncio.wait_for(waiting, 30)) == [[]] * PARTITIONS
        await nothing_is_left(cluster)
        assert cluster.broker.partitions.newcomers.count == 0


async def test_fetch__that_reads_files_notices_what_is_committed_meanwhile(between_slices: Pauses) -> None:
    """Few partitions, but a pass of several turns all the same. Each gives less than there seemed to be to read."""
    cluster = make_cluster()
    async with serving(cluster) as running:
        reader, writer = await running.connect(), await running.connect()
        await filled(cluster, writer, partitions=2)
        partition = cluster.broker.partitions.get("events", 1)
        partition._files.cached = False
        between_slices.stop_at = 1
        asked = request(partitions=[(0, 0), (1, 0)], limit=1100, max_wait_ms=60_000, min_bytes=2900)
        waiting = asyncio.ensure_future(fetch(reader, asked))
        await between_slices.reached.wait()
        await produced(writer, 0)
        between_slices.go_on.set()
        assert offsets(await asyncio.wait_for(waiting, 30)) == [[0], [0]]
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
        waiting = await in_the_middle(cluster, running, between_slices)
        await cluster.move("events", lost, 7)
        between_slices.go_on.set()
        answer = await asyncio.wait_for(waiting, 30)
        errors = [partition.error_code for partition in answer.responses[0].partitions]
        assert errors == [ErrorCode.NOT_LEADER_OR_FOLLOWER if index == lost else 0 for index in range(PARTITIONS)]
        await nothing_is_left(cluster)


async def test_wide_fetch__takes_memory_as_it_reads(monkeypatch: pytest.MonkeyPatch, between_slices: Pauses) -> None:
    """Many of them wait for their turns with what they were granted: it must not be a quarter of all for each."""
    monkeypatch.setattr(answer_memory, "LEAST_GRANT_BYTES", 2200)
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
