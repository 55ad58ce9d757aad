"""Fetch as clients see it, over a socket: limits, long polls, sessions, epochs, memory."""

import asyncio
import gc
from collections.abc import Awaitable
from typing import Any

import pytest

from bytemq.broker.fetching import answer_memory, pending_fetch
from bytemq.broker.fetching.answer import FetchAnswer
from bytemq.broker.fetching.long_poll import LongPoll
from bytemq.broker.fetching.pending_fetch import PendingFetch
from bytemq.broker.limits import ServerLimits
from bytemq.errors import Corrupt
from bytemq.protocol.codec import encode
from bytemq.protocol.error_codes import ErrorCode
from bytemq.protocol.messages.fetch import FetchPartition, FetchRequest, FetchResponse, FetchTopic, ReplicaState
from bytemq.protocol.records.batch import parse_header
from bytemq.runtime.turns import Turns
from tests.unit.server.harness import Client, Cluster, eventually, make_cluster, produce, serving

LARGE = 2**31 - 1
LEFT_BEHIND = (PendingFetch, LongPoll, FetchAnswer)
"""What a fetch consists of."""


def request(topic: str = "events", *, partitions: Any = ((0, 0),), limit: int = LARGE, **options: Any) -> FetchRequest:
    """`partitions`: (index, offset)."""
    wanted = [FetchPartition(partition=index, fetch_offset=at, partition_max_bytes=limit) for index, at in partitions]
    settings = {"max_wait_ms": 0, "max_bytes": LARGE, **options}
    return FetchRequest(topics=[FetchTopic(topic=topic, partitions=wanted)], **settings)


async def fetch(client: Client, asked: FetchRequest, version: int = 12) -> Any:
    return await client.ask(asked, version, FetchResponse)


def offsets(response: FetchResponse) -> list[list[int]]:
    """Base offsets of the batches of each partition."""
    found = []
    for topic in response.responses:
        for partition in topic.partitions:
            bases, position, records = [], 0, memoryview(partition.records or b"")
            while position < len(records):
                header = parse_header(records, position)
                bases.append(header.base_offset)
                position += header.size_bytes
            found.append(bases)
    return found


async def filled(cluster: Cluster, client: Client, partitions: int = 1, batches: int = 3) -> None:
    await cluster.add_topic("events", partitions)
    for index in range(partitions):
        for _ in range(batches):
            assert (await produce(client, "events", b"x" * 1000, partition=index)).error_code == 0


@pytest.mark.parametrize("version", range(4, 19))
async def test_fetch__gives_records_in_every_version(version: int) -> None:
    cluster = make_cluster()
    async with serving(cluster) as running:
        client = await running.connect()
        await filled(cluster, client)
        asked = request()
        if version >= 13:
            asked.topics[0].topic_id, asked.topics[0].topic = cluster.image.topics["events"].topic_id, ""
        response = await fetch(client, asked, version)
        assert offsets(response) == [[0, 1, 2]]
        partition = response.responses[0].partitions[0]
        assert (partition.high_watermark, partition.last_stable_offset, partition.log_start_offset) == (
            3,
            3,
            0 if version >= 5 else -1,
        )
        assert partition.aborted_transactions is None


@pytest.mark.parametrize(
    ("limit", "max_bytes", "expected"),
    [
        (LARGE, LARGE, [[0, 1, 2], [0, 1, 2]]),
        (1, LARGE, [[0], []]),
        (LARGE, 1, [[0], []]),
        (0, 0, [[0], []]),
        (2500, LARGE, [[0, 1], [0, 1]]),
        (LARGE, 2500, [[0, 1], []]),
        (LARGE, 4500, [[0, 1, 2], [0]]),
    ],
)
async def test_fetch__first_batch_always_then_whole_batches_within_the_limits(
    limit: int, max_bytes: int, expected: list[list[int]]
) -> None:
    cluster = make_cluster()
    async with serving(cluster) as running:
        client = await running.connect()
        await filled(cluster, client, partitions=2)
        response = await fetch(client, request(partitions=((0, 0), (1, 0)), limit=limit, max_bytes=max_bytes))
        assert offsets(response) == expected


async def test_fetch__broker_limit_bounds_what_clients_ask() -> None:
    cluster = make_cluster(fetch_max_bytes="1100")
    async with serving(cluster) as running:
        client = await running.connect()
        await filled(cluster, client)
        assert offsets(await fetch(client, request())) == [[0]]


@pytest.mark.parametrize(
    ("topic", "index", "offset", "error"),
    [
        ("events", 0, 4, ErrorCode.OFFSET_OUT_OF_RANGE),
        ("events", 0, -1, ErrorCode.OFFSET_OUT_OF_RANGE),
        ("events", 9, 0, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
        ("unknown", 0, 0, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
        ("elsewhere", 0, 0, ErrorCode.NOT_LEADER_OR_FOLLOWER),
    ],
)
async def test_fetch__errors_are_answered_at_once(topic: str, index: int, offset: int, error: ErrorCode) -> None:
    cluster = make_cluster()
    await cluster.add_topic("elsewhere", owner=5)
    async with serving(cluster) as running:
        client = await running.connect()
        await filled(cluster, client)
        response = await fetch(client, request(topic, partitions=((index, offset),), max_wait_ms=60_000, min_bytes=1))
        partition = response.responses[0].partitions[0]
        assert (partition.error_code, partition.high_watermark) == (error, -1)


async def test_fetch__waits_until_something_is_committed() -> None:
    cluster = make_cluster()
    async with serving(cluster) as running:
        reader, writer = await running.connect(), await running.connect()
        await filled(cluster, writer)
        waiting = asyncio.ensure_future(fetch(reader, request(partitions=((0, 3),), max_wait_ms=60_000, min_bytes=1)))
        await eventually(lambda: _waiters(cluster))
        await produce(writer, "events", b"news")
        assert offsets(await waiting) == [[3]]
        assert not _waiters(cluster)


async def test_fetch__waits_for_min_bytes_over_all_partitions() -> None:
    cluster = make_cluster()
    async with serving(cluster) as running:
        reader, writer = await running.connect(), await running.connect()
        await filled(cluster, writer, partitions=2)
        asked = request(partitions=((0, 3), (1, 3)), max_wait_ms=60_000, min_bytes=1800)
        waiting = asyncio.ensure_future(fetch(reader, asked))
        await eventually(lambda: _waiters(cluster))
        await produce(writer, "events", b"x" * 1000, partition=0)
        await asyncio.sleep(0.01)
        assert not waiting.done()
        await produce(writer, "events", b"x" * 1000, partition=1)
        assert offsets(await waiting) == [[3], [3]]


async def test_fetch__that_waits_for_more_reads_nothing_before(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = make_cluster()
    async with serving(cluster) as running:
        reader, writer = await running.connect(), await running.connect()
        await filled(cluster, writer, partitions=2)
        log: list[str] = []
        for partition in cluster.broker.partitions.open_partitions():
            _note_reads(partition._files, log, monkeypatch)
        asked = request(partitions=((0, 0), (1, 0)), max_wait_ms=60_000, min_bytes=7000)
        waiting = asyncio.ensure_future(fetch(reader, asked))
        await eventually(lambda: _waiters(cluster))
        assert cluster.broker.response_memory.used_bytes == 0, "what waits for records has no memory"
        await produce(writer, "events", b"x" * 1000, partition=1)
        assert offsets(await waiting) == [[0, 1, 2], [0, 1, 2, 3]]
        assert log == ["at once", "at once"]


async def test_fetch__an_error_does_not_wait_for_min_bytes() -> None:
    cluster = make_cluster()
    async with serving(cluster) as running:
        client = await running.connect()
        await filled(cluster, client, partitions=2)
        asked = request(partitions=((0, 0), (1, 9)), max_wait_ms=60_000, min_bytes=1_000_000)
        response = await asyncio.wait_for(fetch(client, asked), 30)
        errors = [partition.error_code for partition in response.responses[0].partitions]
        assert errors == [0, ErrorCode.OFFSET_OUT_OF_RANGE]


async def test_fetch__answers_what_there_is_when_the_time_is_up() -> None:
    cluster = make_cluster()
    async with serving(cluster) as running:
        client = await running.connect()
        await filled(cluster, client)
        response = await fetch(client, request(partitions=((0, 2),), max_wait_ms=5, min_bytes=100_000))
        assert offsets(response) == [[2]]
        response = await fetch(client, request(partitions=((0, 3),), max_wait_ms=5, min_bytes=1))
        assert response.responses[0].partitions[0].high_watermark == 3
        assert offsets(response) == [[]]


async def test_fetch__a_waiting_client_that_leaves_is_forgotten() -> None:
    cluster = make_cluster()
    async with serving(cluster) as running:
        reader, writer = await running.connect(), await running.connect()
        await filled(cluster, writer)
        reader.send(request(partitions=((0, 3),), max_wait_ms=60_000, min_bytes=1), 12)
        await eventually(lambda: _waiters(cluster))
        assert running.server.request_memory.budget.used_bytes == 0, "a long poll holds no frame"
        reader.writer.transport.abort()
        await eventually(lambda: not _waiters(cluster))
        await produce(writer, "events", b"nobody waits for this")


def _waiters(cluster: Cluster) -> int:
    return sum(partition.waiters.count for partition in cluster.broker.partitions.open_partitions())


async def test_fetch__sessions_need_not_repeat_themselves() -> None:
    cluster = make_cluster()
    async with serving(cluster) as running:
        client, other = await running.connect(), await running.connect()
        await filled(cluster, client, partitions=2)
        opened = await fetch(client, request(partitions=((0, 3), (1, 3)), session_id=0, session_epoch=0))
        assert opened.session_id
        assert len(offsets(opened)) == 2
        await produce(client, "events", b"news", partition=1)
        again = FetchRequest(max_wait_ms=0, max_bytes=LARGE, session_id=opened.session_id, session_epoch=1)
        response = await fetch(other, again)
        assert (offsets(response), response.session_id) == ([[3]], opened.session_id)
        again.session_epoch = 7
        response = await fetch(client, again)
        assert (response.error_code, response.session_id) == (ErrorCode.INVALID_FETCH_SESSION_EPOCH, 0)


@pytest.mark.parametrize(
    "wrong",
    [{"max_wait_ms": -1}, {"min_bytes": -1}, {"max_bytes": -1}, {"isolation_level": 2}, {"isolation_level": -1}],
)
async def test_fetch__refuses_limits_that_make_no_sense(wrong: dict[str, Any]) -> None:
    cluster = make_cluster()
    async with serving(cluster) as running:
        client = await running.connect()
        await filled(cluster, client)
        assert (await fetch(client, request(**wrong))).error_code == ErrorCode.INVALID_REQUEST
        old = await fetch(client, request(**wrong), 4)
        assert old.responses[0].partitions[0].error_code == ErrorCode.INVALID_REQUEST


async def test_fetch__only_known_replicas_may_follow() -> None:
    cluster = make_cluster()
    async with serving(cluster) as running:
        client = await running.connect()
        await filled(cluster, client)
        response = await fetch(client, request(replica_id=3), 12)
        assert response.responses[0].partitions[0].error_code == ErrorCode.NOT_LEADER_OR_FOLLOWER
        asked = request(replica_state=ReplicaState(replica_id=3))
        asked.topics[0].topic_id, asked.topics[0].topic = cluster.image.topics["events"].topic_id, ""
        response = await fetch(client, asked, 16)
        assert response.responses[0].partitions[0].error_code == ErrorCode.NOT_LEADER_OR_FOLLOWER
        assert [node.node_id for node in response.node_endpoints] == [0]


async def test_fetch__checks_leader_epochs() -> None:
    cluster = make_cluster()
    async with serving(cluster) as running:
        client = await running.connect()
        await cluster.add_topic("events", epoch=5)
        await produce(client, "events", b"v")
        for epoch, error in ((4, ErrorCode.FENCED_LEADER_EPOCH), (6, ErrorCode.UNKNOWN_LEADER_EPOCH), (5, 0)):
            asked = request()
            asked.topics[0].partitions[0].current_leader_epoch = epoch
            assert (await fetch(client, asked)).responses[0].partitions[0].error_code == error
        asked = request(partitions=((0, 1),))
        asked.topics[0].partitions[0].last_fetched_epoch = 3
        partition = (await fetch(client, asked)).responses[0].partitions[0]
        assert partition.error_code == ErrorCode.OFFSET_OUT_OF_RANGE or partition.diverging_epoch.end_offset <= 0


async def test_fetch__reads_from_files_where_memory_does_not_have_it() -> None:
    cluster = make_cluster()
    async with serving(cluster) as running:
        client = await running.connect()
        await filled(cluster, client, partitions=2)
        for partition in cluster.broker.partitions.open_partitions():
            partition._files.cached = False  # type: ignore[attr-defined]
        response = await fetch(client, request(partitions=((0, 1), (1, 0))))
        assert offsets(response) == [[1, 2], [0, 1, 2]]
        await eventually(lambda: cluster.broker.response_memory.used_bytes == 0)


async def test_fetch__notices_what_is_committed_before_its_task_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    """In front of the partition that has to be read from a file: a task begins a turn later than it is made."""
    begun, may_begin = asyncio.Event(), asyncio.Event()
    go_on_in_turns = PendingFetch._go_on_in_turns

    async def delayed(work: Awaitable[None]) -> None:
        begun.set()
        await may_begin.wait()
        await work

    monkeypatch.setattr(PendingFetch, "_go_on_in_turns", lambda self, work: go_on_in_turns(self, delayed(work)))
    cluster = make_cluster()
    async with serving(cluster) as running:
        reader, writer = await running.connect(), await running.connect()
        await filled(cluster, writer, partitions=2)
        for partition in cluster.broker.partitions.open_partitions():
            partition._files.cached = False  # type: ignore[attr-defined]
        asked = request(partitions=((0, 3), (1, 0)), limit=1, min_bytes=2000, max_wait_ms=60_000)
        waiting = asyncio.ensure_future(fetch(reader, asked))
        await begun.wait()
        assert (await produce(writer, "events", b"x" * 3000)).error_code == 0
        may_begin.set()
        assert offsets(await asyncio.wait_for(waiting, 30)) == [[3], []]


async def test_fetch__copies_little_in_one_turn_of_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the page cache has is read slice by slice: fifty megabytes at once would stop everybody else."""
    monkeypatch.setattr(pending_fetch, "SLICE_BYTES", 1500)
    cluster = make_cluster()
    async with serving(cluster) as running:
        client = await running.connect()
        await filled(cluster, client, partitions=2)
        log: list[str] = []
        next_turn = Turns.next

        async def watched_turn(turns: Turns) -> None:
            log.append("turn")
            await next_turn(turns)

        monkeypatch.setattr(Turns, "next", watched_turn)
        for partition in cluster.broker.partitions.open_partitions():
            _note_reads(partition._files, log, monkeypatch)
        assert offsets(await fetch(client, request(limit=1500))) == [[0]]
        assert log == ["at once"]
        log.clear()
        wanted = request(partitions=((0, 1), (1, 1)), limit=1500)
        assert offsets(await fetch(client, wanted)) == [[1], [1]]
        assert log == ["at once", "turn", "at once"]
        log.clear()
        assert offsets(await fetch(client, request())) == [[0, 1, 2]]  # one partition with more than a slice
        assert log == ["turn", "in a thread"]
        log.clear()
        for partition in cluster.broker.partitions.open_partitions():
            partition._files.in_memory = True  # type: ignore[attr-defined]
        assert offsets(await fetch(client, request(partitions=((0, 0), (1, 0))))) == [[0, 1, 2], [0, 1, 2]]
        assert not log, "what costs no copy needs no turn"


def _note_reads(files: Any, log: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    read_cached, read = files.read_cached, files.read

    def at_once(*args: Any, **options: Any) -> Any:
        log.append("at once")
        return read_cached(*args, **options)

    def in_a_thread(*args: Any, **options: Any) -> Any:
        log.append("in a thread")
        return read(*args, **options)

    monkeypatch.setattr(files, "read_cached", at_once)
    monkeypatch.setattr(files, "read", in_a_thread)


@pytest.mark.parametrize("waits", [False, True])
async def test_fetch__that_was_answered_is_freed_at_once(waits: bool) -> None:
    """Garbage is collected seldom: until then the memory of the records would not be used again, and every answer be
    read into fresh pages, which takes three times as long.
    """
    cluster = make_cluster()
    async with serving(cluster) as running:
        client = await running.connect()
        await filled(cluster, client)
        gc.collect()
        gc.disable()
        try:
            client.send(request(partitions=((0, 3 if waits else 0),), max_wait_ms=60_000, min_bytes=1), 12)
            if waits:
                await produce(await running.connect(), "events", b"more")
            await client.receive()
            for _ in range(10):  # what the loop still calls about it
                await asyncio.sleep(0)
            assert not [one for one in gc.get_objects() if isinstance(one, LEFT_BEHIND)]
        finally:
            gc.enable()


async def test_fetch__counts_what_it_answers_once() -> None:
    cluster = make_cluster()
    async with serving(cluster) as running:
        client = await running.connect()
        await filled(cluster, client, batches=1)
        at_once = await fetch(client, request(max_wait_ms=1000))
        batch_bytes = len(at_once.responses[0].partitions[0].records)
        assert cluster.broker.traffic.bytes_out["events"].value == batch_bytes
        waiting = asyncio.create_task(fetch(client, request(max_wait_ms=60_000, min_bytes=batch_bytes + 1)))
        writer = await running.connect()
        await asyncio.sleep(0)
        await produce(writer, "events", b"x" * 1000)
        assert offsets(await waiting) == [[0, 1]]
        assert cluster.broker.traffic.bytes_out["events"].value == 3 * batch_bytes


async def test_fetch__whose_reading_crashes_closes_the_connection_and_keeps_no_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster = make_cluster()
    async with serving(cluster) as running:
        client = await running.connect()
        await filled(cluster, client)
        files = next(cluster.broker.partitions.open_partitions())._files
        files.cached = False  # type: ignore[attr-defined]

        async def crash(*_: Any, **__: Any) -> Any:
            raise ZeroDivisionError

        monkeypatch.setattr(files, "read", crash)
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await fetch(client, request())
        await eventually(lambda: cluster.broker.response_memory.used_bytes == 0)
        assert cluster.broker.supervisor.crashes == {"fetch": 1}


async def test_fetch__that_crashes_at_once_keeps_no_memory_either(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few hundred of them, and nobody would be given anything any more."""
    cluster = make_cluster()
    async with serving(cluster) as running:
        client = await running.connect()
        await filled(cluster, client)
        files = next(cluster.broker.partitions.open_partitions())._files

        def crash(*_: Any, **__: Any) -> Any:
            raise KeyError(2608)

        monkeypatch.setattr(files, "read_in_memory", crash)
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await fetch(client, request())
        await eventually(lambda: cluster.broker.response_memory.used_bytes == 0)


async def test_fetch__unreadable_bytes_are_an_error_of_the_partition() -> None:
    cluster = make_cluster()
    async with serving(cluster) as running:
        client = await running.connect()
        await filled(cluster, client, partitions=2)
        first = next(cluster.broker.partitions.open_partitions())
        first._files.read_error = Corrupt("flipped bit")  # type: ignore[attr-defined]
        response = await fetch(client, request(partitions=((0, 0), (1, 0))))
        assert response.responses[0].partitions[0].error_code != 0
        assert offsets(response)[1] == [0, 1, 2]


async def test_fetch__slow_readers_share_the_response_memory() -> None:
    """Forty clients ask for 55 MB each and do not read; what is held for them stays within the budget."""
    cluster = make_cluster(bytemq_response_memory_bytes=str(4 * 1024 * 1024), message_max_bytes=str(2 * 1024 * 1024))
    async with serving(cluster, ServerLimits()) as running:
        writer = await running.connect()
        await cluster.add_topic("events")
        for _ in range(16):
            await produce(writer, "events", b"x" * 1_000_000)
        slow = [await running.connect() for _ in range(40)]
        body = bytes(encode(request(max_bytes=55_000_000, max_wait_ms=1), 12))
        for client in slow:
            client.reader._transport.pause_reading()  # type: ignore[attr-defined]
            for _ in range(10):
                client.send_raw(1, 12, body)
        memory = cluster.broker.response_memory
        await eventually(lambda: memory.waiting)
        await asyncio.sleep(0.05)
        assert memory.peak_bytes <= memory.limit_bytes + 2 * 1024 * 1024
        for client in slow:
            client.writer.transport.abort()
        await eventually(lambda: memory.used_bytes == 0)
        assert offsets(await fetch(writer, request(limit=1))) == [[0]]


async def test_fetch__that_waited_its_time_for_memory_does_not_wait_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer_memory, "LEAST_WAIT_S", 0.01)
    waits: list[object] = []
    monkeypatch.setattr(pending_fetch.PendingFetch, "_wait", waits.append)
    cluster = make_cluster()
    async with serving(cluster) as running:
        client = await running.connect()
        await filled(cluster, client)
        memory = cluster.broker.response_memory
        memory.reserve_anyway(memory.limit_bytes)
        fetching = asyncio.ensure_future(fetch(client, request(max_wait_ms=10, min_bytes=1)))
        await eventually(lambda: waits or fetching.done())
        assert not waits
        assert offsets(await fetching) == [[]]
        memory.release(memory.limit_bytes)
        assert memory.used_bytes == 0
