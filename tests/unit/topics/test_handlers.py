"""The handlers of topics and partitions against a broker whose storage is in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bytemq.broker.context import Broker
from bytemq.broker.handlers import (
    alter_partition_reassignments,
    alter_replica_log_dirs,
    create_partitions,
    create_topics,
    delete_records,
    delete_topics,
    describe_log_dirs,
    describe_producers,
    elect_leaders,
    init_producer_id,
    list_partition_reassignments,
)
from bytemq.broker.handlers.describe_configs import topic_entries
from bytemq.config.broker import BrokerConfig
from bytemq.metadata.topics import TopicSpec
from bytemq.protocol.codec import decode
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.protocol.messages.alter_partition_reassignments import (
    AlterPartitionReassignmentsRequest,
    ReassignablePartition,
    ReassignableTopic,
)
from bytemq.protocol.messages.alter_replica_log_dirs import (
    AlterReplicaLogDir,
    AlterReplicaLogDirsRequest,
    AlterReplicaLogDirTopic,
)
from bytemq.protocol.messages.create_partitions import CreatePartitionsRequest, CreatePartitionsTopic
from bytemq.protocol.messages.create_topics import (
    CreatableTopic,
    CreatableTopicConfig,
    CreatableTopicResult,
    CreateTopicsRequest,
    CreateTopicsResponse,
)
from bytemq.protocol.messages.delete_records import (
    DeleteRecordsPartition,
    DeleteRecordsRequest,
    DeleteRecordsTopic,
)
from bytemq.protocol.messages.delete_topics import DeleteTopicsRequest, DeleteTopicState
from bytemq.protocol.messages.describe_configs import DescribeConfigsResourceResult
from bytemq.protocol.messages.describe_log_dirs import DescribableLogDirTopic, DescribeLogDirsRequest
from bytemq.protocol.messages.describe_producers import DescribeProducersRequest, TopicRequest
from bytemq.protocol.messages.elect_leaders import ElectLeadersRequest, TopicPartitions
from bytemq.protocol.messages.init_producer_id import InitProducerIdRequest
from bytemq.protocol.messages.list_partition_reassignments import ListPartitionReassignmentsRequest
from bytemq.types import ZERO_TOPIC_ID, PartitionId
from tests.support.fake_log_storage import Disk
from tests.unit.log.harness import Answer, batch
from tests.unit.topics.world import World, session

Code = ErrorCode


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with session(tmp_path, Disk(), bytemq_data_dir=str(tmp_path)) as made:
        await made.topics.create([TopicSpec("t", 2), TopicSpec("compacted", 1, configs={"cleanup.policy": "compact"})])
        yield made


def creatable(name: str, partitions: int = 1, factor: int = 1, **configs: str | None) -> CreatableTopic:
    pairs = [CreatableTopicConfig(name.replace("_", "."), value) for name, value in configs.items()]
    return CreatableTopic(name=name, num_partitions=partitions, replication_factor=factor, configs=pairs)


async def created(world: World, request: CreateTopicsRequest) -> list[CreatableTopicResult]:
    """What CreateTopics v7 answers."""
    answer = await create_topics.handle(world.broker, world.context(7), request)
    return decode(CreateTopicsResponse, 7, answer).topics


async def test_create_topics__answers_id_sizes_and_configs(world: World) -> None:
    request = CreateTopicsRequest(topics=[creatable("new", 3, 3, retention_ms="5")])
    (result,) = await created(world, request)
    assert (result.error_code, result.num_partitions, result.replication_factor) == (0, 3, 3)
    assert result.topic_id == world.follower.image.topics["new"].topic_id
    configs = {config.name: config.value for config in result.configs or ()}
    assert configs["retention.ms"] == "5" and len(configs) > 30


@pytest.mark.parametrize(
    ("topics", "timeout_ms", "expected"),
    [
        ([creatable("x"), creatable("x"), creatable("y")], 1000, {"x": Code.INVALID_REQUEST, "y": Code.NONE}),
        ([creatable("x")], 0, {"x": Code.REQUEST_TIMED_OUT}),
        ([creatable("x")], -1, {"x": Code.REQUEST_TIMED_OUT}),
        ([creatable("x", retention_ms=None)], 1000, {"x": Code.INVALID_CONFIG}),
        ([creatable("x", 5001), creatable("y", 5000)], 1000, {"x": Code.POLICY_VIOLATION, "y": Code.POLICY_VIOLATION}),
        ([creatable("t")], 1000, {"t": Code.TOPIC_ALREADY_EXISTS}),
        ([creatable("x", segment_bytes="1048575")], 1000, {"x": Code.INVALID_CONFIG}),
    ],
)
async def test_create_topics__refuses_as_kafka_does(
    world: World, topics: list[CreatableTopic], timeout_ms: int, expected: dict[str, ErrorCode]
) -> None:
    request = CreateTopicsRequest(topics=topics, timeout_ms=timeout_ms)
    assert {result.name: result.error_code for result in await created(world, request)} == expected


async def test_create_topics__describes_the_configs_of_many_topics_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seventeen bytes ask for the forty configs of a topic: built for each of thousands, nobody else is served."""
    built: list[Mapping[str, str]] = []
    real = topic_entries

    def counted(broker: Broker, overrides: Mapping[str, str]) -> list[DescribeConfigsResourceResult]:
        built.append(overrides)
        return real(broker, overrides)

    monkeypatch.setattr(create_topics, "topic_entries", counted)
    topics = [creatable(f"t{number}") for number in range(40)] + [creatable("other", retention_ms="5")]
    request = CreateTopicsRequest(topics, timeout_ms=10_000, validate_only=True)
    results = await created(world, request)
    assert [result.error_code for result in results] == [0] * 41
    told = [{config.name: config.value for config in result.configs or ()} for result in results]
    assert told[0] == told[39] and told[40] == {**told[0], "retention.ms": "5"}
    assert len(built) == 2


async def test_create_topics__answers_an_id_of_what_was_only_validated(world: World) -> None:
    (result,) = await created(world, CreateTopicsRequest([creatable("new")], 10_000, validate_only=True))
    assert result.topic_id != ZERO_TOPIC_ID


async def test_create_topics__of_thousands_of_topics_stops_nobody(world: World) -> None:
    """Each is a few hundred bytes of configs to check and to tell of: in slices, with others served in between."""
    request = CreateTopicsRequest([creatable(f"t{number}") for number in range(2_000)], 10_000, validate_only=True)
    creating = asyncio.ensure_future(created(world, request))
    turns = 0
    while not creating.done():
        await asyncio.sleep(0)
        turns += 1
    assert len(await creating) == 2_000
    assert turns > 2 * 2_000 / create_topics.SLICE_TOPICS


async def test_create_partitions__answers_each_topic_once(world: World) -> None:
    asked = [CreatePartitionsTopic(name=name, count=3, assignments=None) for name in ("t", "nix", "twice", "twice")]
    request = CreatePartitionsRequest(topics=asked, timeout_ms=1000)
    response = await create_partitions.handle(world.broker, world.context(3), request)
    assert {result.name: result.error_code for result in response.results} == {
        "t": Code.NONE,
        "nix": Code.UNKNOWN_TOPIC_OR_PARTITION,
        "twice": Code.INVALID_REQUEST,
    }
    assert len(response.results) == 3
    assert len(world.follower.image.topics["t"].partitions) == 3


async def test_delete_topics__deletes_by_name_and_by_id(world: World) -> None:
    topic_id = world.follower.image.topics["compacted"].topic_id
    states = [DeleteTopicState(name="t"), DeleteTopicState(topic_id=topic_id)]
    response = await delete_topics.handle(
        world.broker, world.context(6), DeleteTopicsRequest(topics=states, timeout_ms=1000)
    )
    assert {(result.name, result.error_code) for result in response.responses} == {("t", 0), ("compacted", 0)}
    assert world.follower.image.topics == {}


async def test_delete_topics__named_twice_in_any_way_is_not_deleted(world: World) -> None:
    topic_id = world.follower.image.topics["t"].topic_id
    for states, codes in (
        ([DeleteTopicState(name="t"), DeleteTopicState(topic_id=topic_id)], [Code.INVALID_REQUEST]),
        ([DeleteTopicState(name="t"), DeleteTopicState(name="t")], [Code.INVALID_REQUEST]),
        ([DeleteTopicState(topic_id=topic_id), DeleteTopicState(topic_id=topic_id)], [Code.INVALID_REQUEST]),
        ([DeleteTopicState(name="t", topic_id=topic_id)], [Code.INVALID_REQUEST]),
        ([DeleteTopicState()], [Code.INVALID_REQUEST]),
        ([DeleteTopicState(topic_id=b"?" * 16)], [Code.UNKNOWN_TOPIC_ID]),
        ([DeleteTopicState(name="?")], [Code.UNKNOWN_TOPIC_OR_PARTITION]),
    ):
        request = DeleteTopicsRequest(topics=states, timeout_ms=1000)
        response = await delete_topics.handle(world.broker, world.context(6), request)
        assert [result.error_code for result in response.responses] == codes
    expired = DeleteTopicsRequest(topic_names=["t"], timeout_ms=0)
    (result,) = (await delete_topics.handle(world.broker, world.context(5), expired)).responses
    assert result.error_code == Code.REQUEST_TIMED_OUT
    assert "t" in world.follower.image.topics


async def append(world: World, count: int) -> None:
    partition = await world.partitions.open("t", 0)
    answer = Answer()
    partition.append(memoryview(batch(count, producer_id=7, producer_epoch=0, base_sequence=0)), answer)
    world.storage.settle()
    assert answer.result.error is Code.NONE


async def test_delete_records__moves_the_start_forward_only(world: World) -> None:
    await append(world, 10)

    async def delete(topic: str, index: int, offset: int) -> tuple[int, int]:
        partitions = [DeleteRecordsPartition(partition_index=index, offset=offset)]
        request = DeleteRecordsRequest(topics=[DeleteRecordsTopic(name=topic, partitions=partitions)], timeout_ms=1000)
        (result,) = (await delete_records.handle(world.broker, world.context(2), request)).topics[0].partitions
        return result.error_code, result.low_watermark

    assert await delete("t", 0, 4) == (Code.NONE, 4)
    assert await delete("t", 0, 2) == (Code.NONE, 4)
    assert await delete("t", 0, -1) == (Code.NONE, 10)
    assert await delete("t", 0, 11) == (Code.OFFSET_OUT_OF_RANGE, -1)
    assert await delete("t", 0, -2) == (Code.OFFSET_OUT_OF_RANGE, -1)
    assert await delete("t", 5, 0) == (Code.UNKNOWN_TOPIC_OR_PARTITION, -1)
    assert await delete("nix", 0, 0) == (Code.UNKNOWN_TOPIC_OR_PARTITION, -1)
    assert await delete("compacted", 0, 0) == (Code.POLICY_VIOLATION, -1)
    assert await delete("__consumer_offsets", 0, 0) == (Code.INVALID_TOPIC_EXCEPTION, -1)


async def test_delete_records__answers_nothing_about_a_topic_without_partitions(world: World) -> None:
    request = DeleteRecordsRequest(topics=[DeleteRecordsTopic(name="t", partitions=[])], timeout_ms=1000)
    assert (await delete_records.handle(world.broker, world.context(2), request)).topics == []


async def test_describe_producers__lists_who_wrote(world: World) -> None:
    await append(world, 10)
    request = DescribeProducersRequest(
        topics=[TopicRequest(name="t", partition_indexes=[0, 1, 9]), TopicRequest(name="a b", partition_indexes=[0])]
    )
    response = await describe_producers.handle(world.broker, world.context(0), request)
    written, empty, missing = response.topics[0].partitions
    assert [(one.producer_id, one.last_sequence) for one in written.active_producers] == [(7, 9)]
    assert (empty.error_code, empty.active_producers) == (Code.NONE, [])
    assert missing.error_code == Code.UNKNOWN_TOPIC_OR_PARTITION
    assert response.topics[1].partitions[0].error_code == Code.INVALID_TOPIC_EXCEPTION


async def test_alter_replica_log_dirs__leaves_partitions_where_they_are(world: World, tmp_path: Path) -> None:
    here = AlterReplicaLogDir(str(tmp_path), [AlterReplicaLogDirTopic("t", [0, 7]), AlterReplicaLogDirTopic("x", [0])])
    elsewhere = AlterReplicaLogDir("/elsewhere", [AlterReplicaLogDirTopic("t", [1])])
    request = AlterReplicaLogDirsRequest([here, elsewhere])
    response = alter_replica_log_dirs.handle(world.broker, world.context(2), request)
    answers = {
        (topic.topic_name, each.partition_index): each.error_code
        for topic in response.results
        for each in topic.partitions
    }
    unknown = Code.UNKNOWN_TOPIC_OR_PARTITION
    assert answers == {("t", 0): 0, ("t", 7): unknown, ("x", 0): unknown, ("t", 1): Code.LOG_DIR_NOT_FOUND}


async def test_describe_log_dirs__is_one_directory_with_what_was_asked_for(world: World, tmp_path: Path) -> None:
    await append(world, 10)
    (everything,) = (
        await describe_log_dirs.handle(world.broker, world.context(5), DescribeLogDirsRequest(topics=None))
    ).results
    assert everything.log_dir == str(tmp_path)
    assert 0 < everything.usable_bytes <= everything.total_bytes
    assert {topic.name: len(topic.partitions) for topic in everything.topics} == {"t": 2, "compacted": 1}
    asked = DescribeLogDirsRequest(
        topics=[DescribableLogDirTopic(topic="t", partitions=[0, 0, 7]), DescribableLogDirTopic(topic="nix")]
    )
    (some,) = (await describe_log_dirs.handle(world.broker, world.context(5), asked)).results
    assert [(topic.name, [one.partition_index for one in topic.partitions]) for topic in some.topics] == [("t", [0])]
    assert some.topics[0].partitions[0].partition_size > 0


async def test_describe_log_dirs__opens_nothing_whose_size_is_known(world: World) -> None:
    """Programs that watch a cluster ask for all partitions again and again."""
    await append(world, 10)
    untouched = PartitionId(world.follower.image.topics["t"].topic_id, 1)
    ask = partial(describe_log_dirs.handle, world.broker, world.context(5), DescribeLogDirsRequest(topics=None))
    await ask()
    assert not world.partitions.is_open(untouched)
    world.partitions.services.storage.held_logs = {untouched}
    await ask()
    assert world.partitions.is_open(untouched)


async def test_log_dirs__are_the_storage_where_brokers_share_one(world: World) -> None:
    shared = "s3://bucket/records"
    world.broker.config = BrokerConfig({"bytemq.storage": shared, "bytemq.data.dir": "/not/there"})
    everything = DescribeLogDirsRequest(topics=None)
    (told,) = (await describe_log_dirs.handle(world.broker, world.context(5), everything)).results
    assert (told.error_code, told.log_dir, told.total_bytes, told.usable_bytes) == (Code.NONE, shared, -1, -1)
    assert {topic.name for topic in told.topics} == {"t", "compacted"}
    move = AlterReplicaLogDirsRequest([AlterReplicaLogDir(shared, [AlterReplicaLogDirTopic("t", [0])])])
    answer = alter_replica_log_dirs.handle(world.broker, world.context(2), move)
    assert answer.results[0].partitions[0].error_code == Code.NONE


@pytest.mark.parametrize(
    ("transactional_id", "timeout_ms", "producer", "code"),
    [
        (None, 0, (-1, -1), Code.NONE),
        (None, 0, (5, 0), Code.NONE),
        (None, 0, (5, -1), Code.INVALID_REQUEST),
        ("x", 1000, (-1, 0), Code.INVALID_REQUEST),
        ("", 1000, (-1, -1), Code.INVALID_REQUEST),
        ("x", 0, (-1, -1), Code.INVALID_TRANSACTION_TIMEOUT),
        ("x", 900_001, (-1, -1), Code.INVALID_TRANSACTION_TIMEOUT),
        ("x", 900_000, (-1, -1), Code.NOT_COORDINATOR),
    ],
)
async def test_init_producer_id__checks_in_kafkas_order(
    world: World, transactional_id: str | None, timeout_ms: int, producer: tuple[int, int], code: ErrorCode
) -> None:
    def not_here(transactional_id: str, operation: Any) -> None:
        raise KafkaError(Code.NOT_COORDINATOR)

    world.broker.transactions = SimpleNamespace(write=not_here)  # type: ignore[assignment]
    request = InitProducerIdRequest(transactional_id, timeout_ms, *producer)
    response = await init_producer_id.handle(world.broker, world.context(6), request)
    assert response.error_code == code
    assert (response.producer_id >= 0) == (response.producer_epoch == 0) == (code is Code.NONE)


def test_elect_leaders__needs_no_election(world: World) -> None:
    asked = [TopicPartitions(topic="t", partitions=[0, 9]), TopicPartitions(topic="nix", partitions=[0])]
    request = ElectLeadersRequest(election_type=0, topic_partitions=asked, timeout_ms=1000)
    response = elect_leaders.handle(world.broker, world.context(2), request)
    codes = [[one.error_code for one in result.partition_result] for result in response.replica_election_results]
    assert codes == [[Code.ELECTION_NOT_NEEDED, Code.UNKNOWN_TOPIC_OR_PARTITION], [Code.UNKNOWN_TOPIC_OR_PARTITION]]
    everything = ElectLeadersRequest(election_type=1, topic_partitions=None, timeout_ms=1000)
    results = elect_leaders.handle(world.broker, world.context(2), everything).replica_election_results
    assert [result.partition_result for result in results] == [[], []]
    with pytest.raises(KafkaError):
        elect_leaders.handle(world.broker, world.context(2), ElectLeadersRequest(election_type=7))


@pytest.mark.parametrize(
    ("topic", "index", "asked", "code"),
    [
        ("t", 0, [0], Code.NONE),
        ("t", 0, [1], Code.INVALID_REPLICA_ASSIGNMENT),
        ("t", 0, [0, 0], Code.INVALID_REPLICA_ASSIGNMENT),
        ("t", 0, [], Code.INVALID_REPLICA_ASSIGNMENT),
        ("t", 0, None, Code.NO_REASSIGNMENT_IN_PROGRESS),
        ("t", 9, [0], Code.UNKNOWN_TOPIC_OR_PARTITION),
        ("nix", 0, [0], Code.UNKNOWN_TOPIC_OR_PARTITION),
    ],
)
def test_alter_partition_reassignments__accepts_what_moves_nothing(
    world: World, topic: str, index: int, asked: list[int] | None, code: ErrorCode
) -> None:
    partitions = [ReassignablePartition(partition_index=index, replicas=asked)]
    request = AlterPartitionReassignmentsRequest(topics=[ReassignableTopic(name=topic, partitions=partitions)])
    response = alter_partition_reassignments.handle(world.broker, world.context(1), request)
    assert response.responses[0].partitions[0].error_code == code


def test_alter_partition_reassignments__without_time_says_so_of_each_partition(world: World) -> None:
    topic = ReassignableTopic("t", [ReassignablePartition(0, [1])])
    request = AlterPartitionReassignmentsRequest(timeout_ms=0, topics=[topic])
    with pytest.raises(KafkaError) as refusal:
        alter_partition_reassignments.handle(world.broker, world.context(1), request)
    response = alter_partition_reassignments.error_response(request, 1, refusal.value.code, None)
    assert response.error_code == response.responses[0].partitions[0].error_code == Code.REQUEST_TIMED_OUT
    nothing = AlterPartitionReassignmentsRequest(timeout_ms=0, topics=[])
    assert alter_partition_reassignments.handle(world.broker, world.context(1), nothing).error_code == Code.NONE


def test_list_partition_reassignments__has_none(world: World) -> None:
    request = ListPartitionReassignmentsRequest(topics=None)
    assert list_partition_reassignments.handle(world.broker, world.context(0), request).topics == []
