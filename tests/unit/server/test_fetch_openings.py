"""A Fetch some of whose partitions take long to be opened: those that are open are read meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from bytemq.broker.fetching import pending_fetch
from bytemq.broker.fetching.pending_fetch import OPENING_PATIENCE_S
from bytemq.errors import Corrupt
from bytemq.protocol.error_codes import ErrorCode
from bytemq.protocol.messages.fetch import FetchRequest
from bytemq.types import PartitionId
from tests.unit.server.harness import Client, Cluster, batch, eventually, make_cluster, produce, serving
from tests.unit.server.test_fetch import LARGE, fetch, offsets, request

EARLY, LATE = 0, 1
A_MINUTE_MS = 60_000


@pytest.fixture(autouse=True, params=[256, 1], ids=["narrow", "wide"])
def slices(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pending_fetch, "SLICE_PARTITIONS", request.param)


class World:
    """Two partitions with a record each; LATE is ours again, and not opened before `open`."""

    def __init__(self, cluster: Cluster, reader: Client, writer: Client) -> None:
        self.cluster = cluster
        self.reader = reader
        self.writer = writer
        self._may_open = asyncio.Event()
        self._error: Exception | None = None

    async def make_late(self) -> None:
        topic = await self.cluster.add_topic("events", 2)
        for index in (EARLY, LATE):
            assert (await produce(self.writer, "events", b"first", partition=index)).error_code == 0
        pid = PartitionId(topic.topic_id, LATE)
        partitions = self.cluster.broker.partitions
        await partitions.release(pid)
        self.cluster.storage.wait = self._wait  # type: ignore[method-assign]
        await partitions.own(pid, "events", 1, self.cluster.config.topic_config({}))

    async def _wait(self) -> None:
        await self._may_open.wait()
        if self._error is not None:
            raise self._error

    def open(self, error: Exception | None = None) -> None:
        self._error = error
        self._may_open.set()


@asynccontextmanager
async def late_partition() -> AsyncIterator[World]:
    cluster = make_cluster()
    async with serving(cluster) as running:
        world = World(cluster, await running.connect(), await running.connect())
        await world.make_late()
        yield world
        world.open()
        await eventually(lambda: cluster.broker.response_memory.used_bytes == 0)


def both(early_offset: int = 0, **options: Any) -> FetchRequest:
    return request(partitions=[(EARLY, early_offset), (LATE, 0)], **options)


def told(response: Any) -> list[tuple[int, int]]:
    """Error and high watermark of each partition."""
    return [(one.error_code, one.high_watermark) for one in response.responses[0].partitions]


async def test_fetch__gives_what_is_open_when_the_rest_takes_long() -> None:
    async with late_partition() as world:
        answer = await asyncio.wait_for(fetch(world.reader, both(max_wait_ms=A_MINUTE_MS)), 30)
        assert offsets(answer) == [[0], []]
        assert told(answer) == [(0, 1), (0, -1)], "nothing is known of the other one, and that is no error"


async def test_fetch__that_waits_for_no_records_does_not_wait_for_openings_either() -> None:
    async with late_partition() as world:
        answer = await asyncio.wait_for(fetch(world.reader, both(1)), 30)
        assert (offsets(answer), told(answer)) == ([[], []], [(0, 1), (0, -1)])


async def test_fetch__that_waits_for_records_is_answered_when_a_partition_with_some_is_opened() -> None:
    async with late_partition() as world:
        waiting = asyncio.ensure_future(fetch(world.reader, both(1, max_wait_ms=A_MINUTE_MS, min_bytes=1)))
        await asyncio.sleep(OPENING_PATIENCE_S * 1.5)
        assert not waiting.done()
        world.open()
        assert offsets(await asyncio.wait_for(waiting, 30)) == [[], [0]]


async def test_fetch__that_waits_for_records_hears_of_those_that_come_to_a_partition_that_was_opened_late() -> None:
    async with late_partition() as world:
        asked = request(partitions=[(EARLY, 1), (LATE, 1)], max_wait_ms=A_MINUTE_MS, min_bytes=1)
        waiting = asyncio.ensure_future(fetch(world.reader, asked))
        await asyncio.sleep(OPENING_PATIENCE_S * 1.5)
        world.open()
        await eventually(lambda: sum(1 for _ in world.cluster.broker.partitions.open_partitions()) == 2)
        assert not waiting.done()
        assert (await produce(world.writer, "events", b"second", partition=LATE)).error_code == 0
        assert offsets(await asyncio.wait_for(waiting, 30)) == [[], [1]]


async def test_fetch__that_waits_for_much_counts_what_is_in_a_partition_that_was_opened_late() -> None:
    async with late_partition() as world:
        size_bytes = 2 * len(batch(b"first"))
        waiting = asyncio.ensure_future(fetch(world.reader, both(max_wait_ms=A_MINUTE_MS, min_bytes=size_bytes)))
        await asyncio.sleep(OPENING_PATIENCE_S * 1.5)
        assert not waiting.done()
        world.open()
        assert offsets(await asyncio.wait_for(waiting, 30)) == [[0], [0]]


async def test_fetch__that_waits_for_records_is_told_that_a_partition_cannot_be_opened() -> None:
    async with late_partition() as world:
        waiting = asyncio.ensure_future(fetch(world.reader, both(1, max_wait_ms=A_MINUTE_MS, min_bytes=1)))
        await asyncio.sleep(OPENING_PATIENCE_S * 1.5)
        world.open(Corrupt("bad bytes"))
        errors = [error for error, _ in told(await asyncio.wait_for(waiting, 30))]
        assert errors == [0, ErrorCode.KAFKA_STORAGE_ERROR]


async def test_fetch__in_a_session_mentions_a_partition_when_something_is_known_of_it() -> None:
    async with late_partition() as world:
        first = await fetch(world.reader, both(1, session_id=0, session_epoch=0))
        assert told(first) == [(0, 1), (0, -1)]
        again = FetchRequest(max_wait_ms=0, max_bytes=LARGE, session_id=first.session_id, session_epoch=1)
        assert (await fetch(world.reader, again)).responses == []
        world.open()
        again.session_epoch = 2
        [late] = (await fetch(world.reader, again)).responses[0].partitions
        assert (late.partition_index, late.high_watermark, bool(late.records)) == (LATE, 1, True)


@pytest.mark.parametrize("leaves_after_s", [OPENING_PATIENCE_S / 2, OPENING_PATIENCE_S * 1.5])
async def test_fetch__of_a_client_that_leaves_while_partitions_are_opened_leaves_nothing_behind(
    leaves_after_s: float,
) -> None:
    async with late_partition() as world:
        world.reader.send(both(1, max_wait_ms=A_MINUTE_MS, min_bytes=1), 12)
        await asyncio.sleep(leaves_after_s)
        await world.reader.close()
        world.open()
        partitions = world.cluster.broker.partitions
        await eventually(lambda: sum(1 for _ in partitions.open_partitions()) == 2)
        await eventually(lambda: not any(one.waiters.count for one in partitions.open_partitions()))


async def test_fetch__that_waits_for_records_is_answered_when_a_partition_has_come_while_others_were_opened() -> None:
    """The client could not ask for it meanwhile."""
    async with late_partition() as world:
        waiting = asyncio.ensure_future(fetch(world.reader, both(1, max_wait_ms=A_MINUTE_MS, min_bytes=1)))
        await asyncio.sleep(OPENING_PATIENCE_S / 4)
        topic = world.cluster.image.topics["events"]
        pid = PartitionId(topic.topic_id, LATE + 1)
        await world.cluster.broker.partitions.own(pid, "events", 1, world.cluster.config.topic_config({}))
        assert offsets(await asyncio.wait_for(waiting, 30)) == [[], []]
