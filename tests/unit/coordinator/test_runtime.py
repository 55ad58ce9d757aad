"""The runtime of a shard: one order for everything, answers after commits, and what happens when writes fail."""

from __future__ import annotations

import asyncio
import itertools
from typing import cast

import pytest

from bytemq.broker.coordinator.group.environment import GroupSettings, RequestOrigin
from bytemq.broker.coordinator.group.offset_store import OffsetStore
from bytemq.broker.coordinator.group.records import CommittedOffset, OffsetCommitRecord
from bytemq.broker.coordinator.group.shard import GroupShard
from bytemq.broker.coordinator.outcome import NOTHING, CoordinatorRecord, Outcome
from bytemq.broker.coordinator.runtime import ShardRuntime, ShardState
from bytemq.broker.log.partition import Partition
from bytemq.broker.log.results import AppendResult
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.protocol.messages.join_group import JoinGroupRequest, JoinGroupRequestProtocol, JoinGroupResponse
from bytemq.protocol.messages.offset_commit import (
    OffsetCommitRequest,
    OffsetCommitRequestPartition,
    OffsetCommitRequestTopic,
    OffsetCommitResponse,
)
from bytemq.protocol.messages.offset_fetch import OffsetFetchRequestGroup
from bytemq.protocol.messages.txn_offset_commit import (
    TxnOffsetCommitRequest,
    TxnOffsetCommitRequestPartition,
    TxnOffsetCommitRequestTopic,
    TxnOffsetCommitResponse,
)
from bytemq.protocol.records.batch import HEADER_BYTES, parse_header
from bytemq.protocol.records.builder import Record, build_batch
from bytemq.protocol.records.compression import Compression
from tests.support.virtual_time import LoopClock, run_virtual
from tests.unit.coordinator.fake_partition import FakePartition

ORIGIN = RequestOrigin("c", "/127.0.0.1", 9)
Runtime = ShardRuntime[GroupShard]


async def started(partition: FakePartition, settings: GroupSettings | None = None) -> Runtime:
    runtime = not_loaded(partition, settings)
    await runtime.load()
    return runtime


def not_loaded(partition: FakePartition, settings: GroupSettings | None = None) -> Runtime:
    clock, uuids = LoopClock(), itertools.count(1)
    return ShardRuntime(
        cast(Partition, partition),
        lambda timers: GroupShard(settings or GroupSettings(), timers, clock.wall_ms, lambda: str(next(uuids))),
        clock,
        commit_timeout_s=5.0,
    )


async def commit(runtime: Runtime, group_id: str, offset: int, partitions: int = 1) -> OffsetCommitResponse:
    offered = [OffsetCommitRequestPartition(index, offset, -1, "") for index in range(partitions)]
    request = OffsetCommitRequest(group_id=group_id, topics=[OffsetCommitRequestTopic("t", bytes(16), offered)])
    return await runtime.write(lambda machine: machine.offsets.commit(request, ORIGIN))


def committed(machine: GroupShard, group_id: str) -> list[int]:
    topics = machine.offsets.fetch(OffsetFetchRequestGroup(group_id=group_id, topics=None))
    return [partition.committed_offset for topic in topics for partition in topic.partitions]


def test_runtime__answers_a_commit_when_it_is_durable_and_shows_it_then() -> None:
    async def scenario() -> None:
        partition = FakePartition()
        runtime = await started(partition)
        partition.hold = True
        task = asyncio.create_task(commit(runtime, "g", 5))
        await asyncio.sleep(1)
        assert not task.done() and committed(runtime.machine, "g") == []
        partition.commit()
        assert committed(runtime.machine, "g") == [5]
        assert (await task).topics[0].partitions[0].error_code == ErrorCode.NONE

    run_virtual(scenario())


def test_runtime__puts_the_commits_of_one_loop_turn_into_one_batch() -> None:
    async def scenario() -> None:
        partition = FakePartition()
        runtime = await started(partition)
        await asyncio.gather(*(commit(runtime, f"g{number}", number) for number in range(500)))
        assert partition.append_count == 1
        assert partition.batches[0].record_count == 500

    run_virtual(scenario())


def test_commit__of_a_partition_that_is_named_again_and_again_writes_the_last_offset_once() -> None:
    """A request may name one as often as it has bytes; each record would be kept and taken off a list."""

    async def scenario() -> None:
        partition = FakePartition()
        runtime = await started(partition)
        offered = [OffsetCommitRequestPartition(0, offset, -1, "") for offset in range(1_000)]
        request = OffsetCommitRequest(group_id="g", topics=[OffsetCommitRequestTopic("t", bytes(16), offered)])
        response = await runtime.write(lambda machine: machine.offsets.commit(request, ORIGIN))
        assert [one.error_code for one in response.topics[0].partitions] == [ErrorCode.NONE] * 1_000
        assert [batch.record_count for batch in partition.batches] == [1]
        assert committed(runtime.machine, "g") == [999]
        in_transaction = [TxnOffsetCommitRequestPartition(0, offset) for offset in range(1_000)]
        topics = [TxnOffsetCommitRequestTopic("t", bytes(16), in_transaction)]
        transactional = TxnOffsetCommitRequest("app", "g", 7, 0, -1, "", None, topics)
        answer = await runtime.write(lambda machine: machine.transactional.commit(transactional, ORIGIN))
        assert len(answer.topics[0].partitions) == 1_000
        assert [batch.record_count for batch in partition.batches] == [1, 1]

    run_virtual(scenario())


def test_runtime__splits_what_the_topic_would_refuse() -> None:
    async def scenario() -> None:
        partition = FakePartition(max_message_bytes=10_000)
        runtime = await started(partition)
        partition.hold = True
        task = asyncio.create_task(commit(runtime, "g", 7, partitions=1_000))
        await asyncio.sleep(0.1)
        assert len(partition.held) > 5
        assert all(batch.size_bytes <= 10_000 for batch, _ in partition.held)
        partition.commit(len(partition.held) - 1)
        await asyncio.sleep(0.1)
        assert not task.done()
        partition.commit()
        await task
        assert committed(runtime.machine, "g") == [7] * 1_000

    run_virtual(scenario())


def test_runtime__refuses_a_record_that_never_fits_and_goes_on() -> None:
    async def scenario() -> None:
        partition = FakePartition(max_message_bytes=10_000)
        runtime = await started(partition, GroupSettings(initial_rebalance_delay_ms=0))
        answers: list[JoinGroupResponse] = []
        request = JoinGroupRequest(
            group_id="g" * 20_000,
            session_timeout_ms=10_000,
            protocol_type="consumer",
            protocols=[JoinGroupRequestProtocol("range", b"")],
        )
        runtime.run(lambda machine: machine.joining.join(request, RequestOrigin("c", "/h", 3), answers.append))
        assert [answer.error_code for answer in answers] == [ErrorCode.UNKNOWN_SERVER_ERROR]
        assert not runtime.machine.groups and not partition.append_count
        await commit(runtime, "g", 1)

    run_virtual(scenario())


def test_runtime__takes_back_everything_in_flight_when_a_write_fails() -> None:
    async def scenario() -> None:
        partition = FakePartition()
        runtime = await started(partition)
        await commit(runtime, "g", 1)
        partition.hold = True
        tasks = []
        for offset in (2, 3, 4):
            tasks.append(asyncio.create_task(commit(runtime, "g", offset)))
            await asyncio.sleep(0.01)
        assert len(partition.held) == 3
        partition.commit(1)
        partition.fail(ErrorCode.KAFKA_STORAGE_ERROR)
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [getattr(result, "code", None) for result in results] == [None, *[ErrorCode.NOT_COORDINATOR] * 2]
        assert committed(runtime.machine, "g") == [2]
        assert runtime.machine.store.latest("g", "t", 0) == runtime.machine.store.committed("g", "t", 0)
        partition.hold = False
        await commit(runtime, "g", 5)
        assert committed(runtime.machine, "g") == [5]

    run_virtual(scenario())


@pytest.mark.parametrize(
    ("append_error", "answered"),
    [
        (ErrorCode.NOT_LEADER_OR_FOLLOWER, ErrorCode.NOT_COORDINATOR),
        (ErrorCode.NOT_ENOUGH_REPLICAS, ErrorCode.COORDINATOR_NOT_AVAILABLE),
        (ErrorCode.REQUEST_TIMED_OUT, ErrorCode.COORDINATOR_NOT_AVAILABLE),
        (ErrorCode.MESSAGE_TOO_LARGE, ErrorCode.UNKNOWN_SERVER_ERROR),
    ],
)
def test_runtime__answers_a_refused_append_as_kafka(append_error: ErrorCode, answered: ErrorCode) -> None:
    async def scenario() -> None:
        partition = FakePartition()
        runtime = await started(partition)
        partition.refuse = append_error
        with pytest.raises(KafkaError) as caught:
            await commit(runtime, "g", 5)
        assert caught.value.code is answered
        assert not runtime.machine.groups

    run_virtual(scenario())


def test_runtime__lets_clients_go_after_the_commit_timeout_but_keeps_the_write() -> None:
    async def scenario() -> None:
        partition = FakePartition()
        runtime = await started(partition)
        partition.hold = True
        loop = asyncio.get_running_loop()
        start = loop.time()
        with pytest.raises(KafkaError) as caught:
            await commit(runtime, "g", 5)
        assert caught.value.code is ErrorCode.COORDINATOR_NOT_AVAILABLE
        assert 5.0 <= loop.time() - start < 5.1
        partition.commit()
        assert committed(runtime.machine, "g") == [5]

    run_virtual(scenario())


def test_runtime__a_stable_fetch_waits_for_what_is_on_its_way() -> None:
    async def scenario() -> None:
        partition = FakePartition()
        runtime = await started(partition)
        partition.hold = True
        task = asyncio.create_task(commit(runtime, "g", 5))
        await asyncio.sleep(0)
        fetch = asyncio.create_task(runtime.settled())
        await asyncio.sleep(1)
        assert not fetch.done()
        partition.commit()
        assert committed(await fetch, "g") == [5]
        await task
        assert await runtime.settled() is runtime.machine

    run_virtual(scenario())


def test_runtime__a_stable_fetch_waits_for_nothing_that_comes_after_it() -> None:
    """On a busy shard something is on its way at any moment."""

    async def scenario() -> None:
        partition = FakePartition()
        runtime = await started(partition)
        partition.hold = True
        before = asyncio.create_task(commit(runtime, "g", 5))
        await asyncio.sleep(0.1)
        fetch = asyncio.create_task(runtime.settled())
        await asyncio.sleep(0)
        after = asyncio.create_task(commit(runtime, "g", 6))
        await asyncio.sleep(0.1)
        partition.commit(1)
        assert committed(await asyncio.wait_for(fetch, 1), "g") == [5]
        partition.commit()
        await asyncio.gather(before, after)

    run_virtual(scenario())


def test_runtime__a_stable_fetch_does_not_take_a_commit_whose_client_gave_up_for_settled() -> None:
    async def scenario() -> None:
        partition = FakePartition()
        runtime = await started(partition)
        partition.hold = True
        task = asyncio.create_task(commit(runtime, "g", 5))
        await asyncio.sleep(0)
        fetch = asyncio.create_task(runtime.settled())
        await asyncio.sleep(6)  # offsets.commit.timeout.ms is over
        assert task.done() and not fetch.done()
        partition.commit()
        assert committed(await fetch, "g") == [5]
        task.exception()

    run_virtual(scenario())


def test_runtime__loads_what_an_earlier_one_wrote() -> None:
    async def scenario() -> None:
        partition = FakePartition()
        first = await started(partition)
        await asyncio.gather(*(commit(first, f"g{number}", number, partitions=3) for number in range(2_000)))
        await commit(first, "g1", 77)
        first.close()
        second = await started(partition)
        assert committed(second.machine, "g0") == [0, 0, 0]
        assert committed(second.machine, "g1") == [77, 1, 1]
        assert second.machine.store.count == 6_000

    run_virtual(scenario())


def test_runtime__does_not_serve_while_it_loads_and_tries_again_when_reading_fails() -> None:
    async def scenario() -> None:
        partition = FakePartition()
        first = await started(partition)
        await commit(first, "g", 3)
        partition.unreadable = 2
        runtime = not_loaded(partition)
        loading = asyncio.create_task(runtime.load())
        await asyncio.sleep(0.5)
        for ask in (runtime.serving_machine, lambda: runtime.run(lambda machine: pytest.fail("ran"))):
            with pytest.raises(KafkaError) as caught:
                ask()
            assert caught.value.code is ErrorCode.COORDINATOR_LOAD_IN_PROGRESS
        await loading
        assert committed(runtime.serving_machine(), "g") == [3]

    run_virtual(scenario())


@pytest.mark.parametrize("compression", [Compression.NONE, Compression.ZSTD])
def test_runtime__loads_offsets_as_they_came_and_went(compression: Compression) -> None:
    """Whichever way they are read: all of a group and topic at once, or one by one."""

    async def scenario() -> None:
        partition = FakePartition()
        records = [OffsetCommitRecord(f"g{n % 3}", "t", n % 7, CommittedOffset(n).encode()) for n in range(60)]
        records[30] = OffsetCommitRecord("g0", "t", 4, None)
        records += [OffsetCommitRecord("g1", "t", index, None) for index in range(7)]
        records += [OffsetCommitRecord("g1", "t", 3, CommittedOffset(99).encode())]
        expected = OffsetStore()
        for record in records:
            expected.apply(record)
        for start in range(0, len(records), 9):
            pairs = [Record(each.encode_key(), each.encode_value()) for each in records[start : start + 9]]
            batch = parse_header(memoryview(build_batch(pairs, timestamp_ms=1, compression=compression)))
            batch.place(partition.high_watermark, 0)
            partition.batches.append(batch)
            partition.high_watermark = batch.next_offset
        store = (await started(partition)).machine.store
        assert store.count == expected.count == 15
        assert {g: store.committed_topics(g) for g in store.group_ids()} == {
            g: expected.committed_topics(g) for g in expected.group_ids()
        }

    run_virtual(scenario())


def test_runtime__leaves_damaged_records_out_and_counts_them() -> None:
    async def scenario() -> None:
        partition = FakePartition()
        damaged = [
            Record(b"\x00\x01\x00\x09g", b"x"),
            Record(None, b"x"),
            Record(b"\x00\x63", b"later"),
            Record(b"", None),
        ]
        batch = build_batch(damaged, timestamp_ms=1)
        partition.batches.append(parse_header(memoryview(batch)))
        partition.high_watermark = 4
        runtime = await started(partition)
        assert runtime.machine.damaged_records == 2
        await commit(runtime, "g", 1)

    run_virtual(scenario())


def test_runtime__leaves_an_unreadable_batch_out_and_serves_what_is_around_it() -> None:
    async def scenario() -> None:
        partition = FakePartition()
        first = await started(partition)
        await commit(first, "before", 1)
        unreadable = parse_header(memoryview(build_batch([Record(b"k", b"v"), Record(b"k", b"w")], timestamp_ms=1)))
        unreadable.view[HEADER_BYTES:] = b"\xff" * (len(unreadable.view) - HEADER_BYTES)
        unreadable.place(partition.high_watermark, 0)
        partition.batches.append(unreadable)
        partition.high_watermark += 2
        await commit(first, "after", 2)
        runtime = await started(partition)
        assert runtime.damaged_records == 2
        assert committed(runtime.machine, "before") == [1]
        assert committed(runtime.machine, "after") == [2]

    run_virtual(scenario())


async def with_damage_in_the_middle() -> FakePartition:
    partition = FakePartition()
    runtime = await started(partition)
    for group_id, offset in (("before", 1), ("lost", 2), ("after", 3)):
        await commit(runtime, group_id, offset)
    partition.damaged = {1}
    return partition


def test_runtime__refuses_all_groups_of_a_damaged_log_until_it_is_mended() -> None:
    async def scenario() -> None:
        partition = await with_damage_in_the_middle()
        runtime = not_loaded(partition)
        loading = asyncio.create_task(runtime.load())
        await asyncio.sleep(100)
        assert not loading.done() and runtime.state is ShardState.DAMAGED
        with pytest.raises(KafkaError) as caught:
            await commit(runtime, "after", 4)
        assert caught.value.code is ErrorCode.NOT_COORDINATOR
        partition.damaged = set()
        await loading
        assert [committed(runtime.machine, each) for each in ("before", "lost", "after")] == [[1], [2], [3]]
        assert runtime.damaged_records == 0

    run_virtual(scenario())


def test_runtime__goes_on_without_what_is_damaged_when_told_so() -> None:
    async def scenario() -> None:
        partition = await with_damage_in_the_middle()
        runtime = not_loaded(partition)
        loading = asyncio.create_task(runtime.load())
        await asyncio.sleep(1)
        partition.config.bytemq_skip_damage = True
        await loading
        assert [committed(runtime.machine, each) for each in ("before", "lost", "after")] == [[1], [], [3]]
        assert runtime.damaged_records == 1
        await commit(runtime, "lost", 5)
        assert committed((await started(partition)).machine, "lost") == [5]

    run_virtual(scenario())


def test_runtime__looks_behind_damage_again_when_the_store_was_down() -> None:
    async def scenario() -> None:
        partition = await with_damage_in_the_middle()
        partition.config.bytemq_skip_damage, partition.unseen = True, 2
        runtime = await started(partition)
        assert [committed(runtime.machine, each) for each in ("before", "lost", "after")] == [[1], [], [3]]

    run_virtual(scenario())


def test_runtime__that_is_closed_while_its_log_is_damaged_tries_no_more() -> None:
    async def scenario() -> None:
        runtime = not_loaded(await with_damage_in_the_middle())
        loading = asyncio.create_task(runtime.load())
        await asyncio.sleep(1)
        runtime.close()
        await asyncio.wait_for(loading, 60)
        assert runtime.state is ShardState.CLOSED

    run_virtual(scenario())


def test_runtime__that_is_closed_sends_everybody_away() -> None:
    async def scenario() -> None:
        partition = FakePartition()
        runtime = await started(partition)
        answers: list[JoinGroupResponse] = []
        request = JoinGroupRequest(
            group_id="g",
            session_timeout_ms=10_000,
            protocol_type="consumer",
            protocols=[JoinGroupRequestProtocol("range", b"")],
        )
        runtime.run(lambda machine: machine.joining.join(request, RequestOrigin("c", "/h", 3), answers.append))
        partition.hold = True
        task = asyncio.create_task(commit(runtime, "other", 5))
        await asyncio.sleep(0.1)
        runtime.close()
        with pytest.raises(KafkaError) as caught:
            await task
        assert caught.value.code is ErrorCode.NOT_COORDINATOR
        assert [answer.error_code for answer in answers] == [ErrorCode.NOT_COORDINATOR]
        with pytest.raises(KafkaError) as caught:
            runtime.serving_machine()
        assert caught.value.code is ErrorCode.NOT_COORDINATOR
        partition.commit()  # a late answer changes nothing
        assert not runtime.machine.groups

    run_virtual(scenario())


def test_runtime__expires_sessions_on_the_clock() -> None:
    async def scenario() -> None:
        partition = FakePartition()
        runtime = await started(partition)
        answers: list[JoinGroupResponse] = []
        request = JoinGroupRequest(
            group_id="g",
            session_timeout_ms=10_000,
            rebalance_timeout_ms=60_000,
            protocol_type="consumer",
            protocols=[JoinGroupRequestProtocol("range", b"")],
        )
        runtime.run(lambda machine: machine.joining.join(request, RequestOrigin("c", "/h", 3), answers.append))
        await asyncio.sleep(3.5)
        assert [answer.generation_id for answer in answers] == [1]
        assert list(runtime.machine.groups["g"].members) == [answers[0].member_id]
        await asyncio.sleep(10.5)
        assert not runtime.machine.groups["g"].members

    run_virtual(scenario())


def test_runtime__pushes_back_when_the_log_is_slower_than_its_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bytemq.broker.coordinator.runtime._MAX_WAITING_BYTES", 100_000)

    async def scenario() -> None:
        partition = FakePartition()
        runtime = await started(partition)
        partition.hold = True
        tasks = [asyncio.create_task(commit(runtime, "g", n, partitions=500)) for n in range(40)]
        await asyncio.sleep(1)
        refused = [task for task in tasks if task.done()]
        assert refused and all(cast(KafkaError, task.exception()).code for task in refused)
        partition.commit()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert {getattr(each, "code", None) for each in results} == {None, ErrorCode.COORDINATOR_NOT_AVAILABLE}

    run_virtual(scenario())


def test_runtime__a_mistake_in_one_group_stops_no_other() -> None:
    async def scenario() -> None:
        partition = FakePartition()
        runtime = await started(partition)

        def fail() -> Outcome[None]:
            raise AssertionError("a bug")

        fired: list[int] = []

        def succeed() -> Outcome[None]:
            fired.append(1)
            return NOTHING

        timers = runtime.machine.environment.timers
        runtime.call(lambda machine: timers.schedule("bug", 10, fail))
        runtime.call(lambda machine: timers.schedule("fine", 20, succeed))
        await asyncio.sleep(1)
        assert fired == [1]

    run_virtual(scenario())


class Unwritable:
    """A record that a mistake of ours keeps from being written."""

    def encode_key(self) -> bytes:
        raise AssertionError("a bug")

    def encode_value(self) -> bytes | None:
        return None


def writes(*records: CoordinatorRecord) -> Outcome[None]:
    return Outcome(None, records)


def offset_of(group_id: str) -> OffsetCommitRecord:
    return OffsetCommitRecord(group_id, "t", 0, CommittedOffset(1).encode())


def test_runtime__what_follows_a_timer_and_cannot_be_written_stops_no_other() -> None:
    async def scenario() -> None:
        partition = FakePartition()
        runtime = await started(partition)
        timers = runtime.machine.environment.timers
        for number, record in enumerate((Unwritable(), offset_of("same turn"))):
            runtime.call(lambda machine, n=number, r=record: timers.schedule(n, 10, lambda: writes(r)))
        runtime.call(lambda machine: timers.schedule("later", 20, lambda: writes(offset_of("later"))))
        await asyncio.sleep(1)
        assert committed(runtime.machine, "same turn") == committed(runtime.machine, "later") == [1]

    run_virtual(scenario())


def test_runtime__what_follows_a_commit_and_cannot_be_written_stops_no_other() -> None:
    async def scenario() -> None:
        partition = FakePartition()
        runtime = await started(partition)
        for record in (Unwritable(), offset_of("follows")):
            outcome = Outcome(None, [offset_of("g")], lambda code, r=record: writes(r))
            runtime.run(lambda machine, o=outcome: o)
        await commit(runtime, "behind", 1)
        await runtime.drained()
        assert committed(runtime.machine, "follows") == [1]

    run_virtual(scenario())


def test_runtime__what_loading_left_to_do_and_cannot_be_written_stops_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        runtime = not_loaded(FakePartition())
        left = [writes(Unwritable()), writes(offset_of("left to do"))]
        monkeypatch.setattr(GroupShard, "loaded", lambda machine: left)
        await runtime.load()
        await runtime.drained()
        assert committed(runtime.serving_machine(), "left to do") == [1]

    run_virtual(scenario())


def test_write__without_records_is_answered_behind_what_it_saw() -> None:
    async def scenario() -> None:
        partition = FakePartition()
        runtime = await started(partition)
        partition.hold = True
        first = asyncio.create_task(commit(runtime, "g", 1))
        await asyncio.sleep(0)
        second = asyncio.create_task(runtime.write(lambda machine: Outcome("seen")))
        await asyncio.sleep(0.1)
        assert not first.done() and not second.done()
        partition.commit()
        await first
        assert await second == "seen"
        assert await runtime.write(lambda machine: Outcome("nothing in flight")) == "nothing in flight"

    run_virtual(scenario())


def test_write__without_records_fails_with_what_it_saw() -> None:
    async def scenario() -> None:
        partition = FakePartition()
        runtime = await started(partition)
        partition.hold = True
        first = asyncio.create_task(commit(runtime, "g", 1))
        await asyncio.sleep(0)
        second = asyncio.create_task(runtime.write(lambda machine: Outcome("seen")))
        await asyncio.sleep(0.1)
        partition.fail(ErrorCode.KAFKA_STORAGE_ERROR)
        for refused in (first, second):
            with pytest.raises(KafkaError):
                await refused

    run_virtual(scenario())


async def commit_in_transaction(runtime: Runtime, group_id: str, offset: int) -> TxnOffsetCommitResponse:
    offered = [TxnOffsetCommitRequestTopic("t", bytes(16), [TxnOffsetCommitRequestPartition(0, offset)])]
    request = TxnOffsetCommitRequest("app", group_id, 7, 0, -1, "", None, offered)
    return await runtime.write(lambda machine: machine.transactional.commit(request, ORIGIN))


@pytest.mark.parametrize("is_first", [True, False])
def test_write__without_records_goes_on_when_what_it_saw_is_refused(is_first: bool) -> None:
    """As when a transaction ends while offsets of it are on their way: it concerns that producer alone."""

    async def scenario() -> None:
        partition = FakePartition()
        runtime = await started(partition)
        partition.hold = True
        before = None if is_first else asyncio.create_task(commit(runtime, "g", 1))
        await asyncio.sleep(0.1)
        refused = asyncio.create_task(commit_in_transaction(runtime, "txn", 2))
        await asyncio.sleep(0)
        seen = asyncio.create_task(runtime.write(lambda machine: Outcome("seen")))
        await asyncio.sleep(0.1)
        _, done = partition.held.pop()
        done(AppendResult(ErrorCode.INVALID_TXN_STATE))
        with pytest.raises(KafkaError) as refusal:
            await refused
        assert refusal.value.code is ErrorCode.INVALID_TXN_STATE
        await asyncio.sleep(0.1)
        assert seen.done() is is_first
        partition.commit()
        assert await seen == "seen"
        if before is not None:
            await before
        partition.hold = False
        await commit(runtime, "g", 3)
        await runtime.drained()
        assert committed(runtime.machine, "g") == [3] and committed(runtime.machine, "txn") == []

    run_virtual(scenario())
