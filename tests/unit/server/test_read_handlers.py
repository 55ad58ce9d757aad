"""Handlers that only look: ApiVersions, Metadata, DescribeCluster, DescribeTopicPartitions, ListOffsets, telemetry."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from bytemq.broker.dispatch import HANDLERS
from bytemq.broker.partition_lookup import current_leader
from bytemq.metadata import keys
from bytemq.metadata.image import BrokerImage, PartitionImage
from bytemq.metadata.store import Event
from bytemq.metadata.values import NO_BROKER
from bytemq.protocol.api_versions import advertised
from bytemq.protocol.error_codes import ErrorCode
from bytemq.protocol.messages.api_versions import ApiVersionsRequest, ApiVersionsResponse
from bytemq.protocol.messages.describe_cluster import DescribeClusterRequest, DescribeClusterResponse
from bytemq.protocol.messages.describe_quorum import (
    DescribeQuorumRequest,
    DescribeQuorumRequestPartitionData,
    DescribeQuorumRequestTopicData,
    DescribeQuorumResponse,
)
from bytemq.protocol.messages.describe_topic_partitions import (
    Cursor,
    DescribeTopicPartitionsRequest,
    DescribeTopicPartitionsResponse,
    TopicRequest,
)
from bytemq.protocol.messages.get_telemetry_subscriptions import (
    GetTelemetrySubscriptionsRequest,
    GetTelemetrySubscriptionsResponse,
)
from bytemq.protocol.messages.list_offsets import (
    ListOffsetsPartition,
    ListOffsetsRequest,
    ListOffsetsResponse,
    ListOffsetsTopic,
)
from bytemq.protocol.messages.metadata import MetadataRequest, MetadataRequestTopic, MetadataResponse
from bytemq.protocol.messages.offset_for_leader_epoch import (
    OffsetForLeaderEpochRequest,
    OffsetForLeaderEpochResponse,
    OffsetForLeaderPartition,
    OffsetForLeaderTopic,
)
from bytemq.protocol.messages.push_telemetry import PushTelemetryRequest, PushTelemetryResponse
from tests.unit.server.harness import NODE_ID, Cluster, make_cluster, produce, serving


async def ask(cluster: Cluster, request: Any, version: int, response_class: type[Any]) -> Any:
    async with serving(cluster) as running:
        client = await running.connect()
        return await client.ask(request, version, response_class)


@pytest.mark.parametrize("version", range(6))
async def test_api_versions__lists_what_is_served(version: int) -> None:
    request = ApiVersionsRequest(client_software_name="tests", client_software_version="1.0")
    response = await ask(make_cluster(), request, version, ApiVersionsResponse)
    listed = [(api.api_key, api.min_version, api.max_version) for api in response.api_keys]
    assert listed == [(int(api.api_key), api.min_version, api.max_version) for api in advertised(HANDLERS)]
    assert (0, 0, 13) in listed
    assert 71 not in [key for key, _, _ in listed]


@pytest.mark.parametrize("version", range(3, 6))
async def test_api_versions__tells_features(version: int) -> None:
    cluster = make_cluster()
    cluster.image.apply([Event(keys.FEATURE_LEVEL, b"2", 77)])
    request = ApiVersionsRequest(client_software_name="tests", client_software_version="1.0")
    response = await ask(cluster, request, version, ApiVersionsResponse)
    assert {"bytemq.version", "metadata.version"} <= {feature.name for feature in response.supported_features}
    finalised = {feature.name: feature.max_version_level for feature in response.finalized_features}
    assert (finalised["bytemq.version"], finalised["transaction.version"]) == (2, 2)
    assert response.finalized_features_epoch == 77, "the same at each broker"


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (ApiVersionsRequest(client_software_name="", client_software_version="1"), ErrorCode.INVALID_REQUEST),
        (ApiVersionsRequest(client_software_name="a b", client_software_version="1"), ErrorCode.INVALID_REQUEST),
        (ApiVersionsRequest("a", "1", "another-cluster", 0), ErrorCode.REBOOTSTRAP_REQUIRED),
        (ApiVersionsRequest("a", "1", "test-cluster", 9), ErrorCode.REBOOTSTRAP_REQUIRED),
        (ApiVersionsRequest("a", "1", None, 9), ErrorCode.NONE),
        (ApiVersionsRequest("a", "1", "test-cluster", 0), ErrorCode.NONE),
    ],
)
async def test_api_versions__checks_what_the_client_says_of_itself(
    request_: ApiVersionsRequest, error: ErrorCode
) -> None:
    response = await ask(make_cluster(), request_, 5, ApiVersionsResponse)
    assert response.error_code == error
    assert bool(response.api_keys) == (error is ErrorCode.NONE)


def names(response: MetadataResponse) -> list[tuple[str | None, int]]:
    return [(topic.name, topic.error_code) for topic in response.topics]


@pytest.mark.parametrize("version", range(14))
async def test_metadata__describes_topics_in_every_version(version: int) -> None:
    cluster = make_cluster()
    await cluster.add_topic("events", 2)
    await cluster.add_topic("elsewhere", owner=-1)
    topics = [MetadataRequestTopic(name="events"), MetadataRequestTopic(name="elsewhere")]
    response = await ask(cluster, MetadataRequest(topics=topics), version, MetadataResponse)
    assert names(response) == [("events", 0), ("elsewhere", 0)]
    first = response.topics[0].partitions[1]
    assert (first.partition_index, first.leader_id, first.replica_nodes, first.isr_nodes) == (1, 0, [0], [0])
    without_leader = response.topics[1].partitions[0]
    assert (without_leader.error_code, without_leader.leader_id) == (ErrorCode.LEADER_NOT_AVAILABLE, -1)
    if version >= 2:
        assert response.cluster_id == "test-cluster"


@pytest.mark.parametrize(
    ("version", "topics", "count"), [(0, [], 2), (1, [], 0), (1, None, 2), (12, [], 0), (12, None, 2)]
)
async def test_metadata__all_or_none(version: int, topics: list[Any] | None, count: int) -> None:
    cluster = make_cluster()
    for name in ("b", "a"):
        await cluster.add_topic(name)
    response = await ask(cluster, MetadataRequest(topics=topics), version, MetadataResponse)
    assert [topic.name for topic in response.topics] == ["a", "b"][:count]


async def test_metadata__is_never_without_a_broker() -> None:
    """When all sessions have ended at once; librdkafka would forget all brokers for good."""
    cluster = make_cluster()
    await cluster.add_topic("events")
    cluster.image.brokers.clear()
    response = await ask(cluster, MetadataRequest(topics=None), 12, MetadataResponse)
    assert [(broker.node_id, broker.host, broker.port) for broker in response.brokers] == [(NODE_ID, "inside", 9092)]
    assert response.topics[0].partitions[0].leader_id == -1


async def test_metadata__creates_missing_topics_and_answers_them_at_once() -> None:
    cluster = make_cluster()
    topics = [MetadataRequestTopic(name=name) for name in ("new", "not valid!", "new")]
    response = await ask(cluster, MetadataRequest(topics=topics), 12, MetadataResponse)
    assert names(response) == [("new", 0), ("not valid!", ErrorCode.INVALID_TOPIC_EXCEPTION)]
    assert len(response.topics[0].partitions) == 1


@pytest.mark.parametrize(("client_allows", "broker_allows"), [(False, "true"), (True, "false")])
async def test_metadata__creates_only_where_client_and_broker_allow(client_allows: bool, broker_allows: str) -> None:
    cluster = make_cluster(auto_create_topics_enable=broker_allows)
    request = MetadataRequest(topics=[MetadataRequestTopic(name="new")], allow_auto_topic_creation=client_allows)
    response = await ask(cluster, request, 12, MetadataResponse)
    assert names(response) == [("new", ErrorCode.UNKNOWN_TOPIC_OR_PARTITION)]


async def test_metadata__by_topic_id() -> None:
    cluster = make_cluster()
    topic = await cluster.add_topic("events")
    topics = [MetadataRequestTopic(topic.topic_id, None), MetadataRequestTopic(b"?" * 16, None)]
    response = await ask(cluster, MetadataRequest(topics=topics), 12, MetadataResponse)
    assert names(response) == [("events", 0), (None, ErrorCode.UNKNOWN_TOPIC_ID)]
    response = await ask(cluster, MetadataRequest(topics=topics[:1]), 11, MetadataResponse)
    assert [topic.error_code for topic in response.topics] == [ErrorCode.INVALID_REQUEST]
    assert not response.brokers, "none is made up from what was asked"


async def test_metadata__answers_a_topic_that_is_asked_for_by_name_and_by_id_once() -> None:
    cluster = make_cluster()
    topic = await cluster.add_topic("events")
    topics = [MetadataRequestTopic(topic.topic_id, None), MetadataRequestTopic(name="events")]
    response = await ask(cluster, MetadataRequest(topics=topics), 12, MetadataResponse)
    assert names(response) == [("events", 0)]


async def test_metadata__authorized_operations_when_asked() -> None:
    cluster = make_cluster()
    await cluster.add_topic("events")
    request = MetadataRequest(topics=None)
    response = await ask(cluster, request, 8, MetadataResponse)
    assert response.topics[0].topic_authorized_operations == -(2**31)
    assert response.cluster_authorized_operations == -(2**31)
    request.include_topic_authorized_operations = request.include_cluster_authorized_operations = True
    response = await ask(cluster, request, 8, MetadataResponse)
    assert response.topics[0].topic_authorized_operations == 3576
    assert response.cluster_authorized_operations == 8096


async def test_metadata__replicas_are_live_brokers_up_to_the_factor() -> None:
    cluster = make_cluster()
    for other in (1, 2, 3):
        cluster.image.brokers[other] = BrokerImage(other, None, {"PLAINTEXT": (f"host{other}", 9092)}, 1)
    await cluster.add_topic("events", owner=2)
    response = await ask(cluster, MetadataRequest(topics=None), 12, MetadataResponse)
    replicas = response.topics[0].partitions[0].replica_nodes
    assert (replicas[0], len(replicas), len(set(replicas))) == (2, 3, 3)
    assert len(response.brokers) == 4


@pytest.mark.parametrize(
    ("endpoint_type", "error"),
    [(1, 0), (2, ErrorCode.MISMATCHED_ENDPOINT_TYPE), (9, ErrorCode.UNSUPPORTED_ENDPOINT_TYPE)],
)
async def test_describe_cluster__is_about_brokers(endpoint_type: int, error: int) -> None:
    request = DescribeClusterRequest(include_cluster_authorized_operations=True, endpoint_type=endpoint_type)
    response = await ask(make_cluster(), request, 1, DescribeClusterResponse)
    assert response.error_code == error
    if not error:
        assert (response.cluster_id, response.controller_id) == ("test-cluster", 0)
        assert [(node.broker_id, node.host, node.rack) for node in response.brokers] == [(0, "inside", "a")]
        assert response.cluster_authorized_operations == 8096


async def test_describe_quorum__the_controller_leads_and_the_rest_follows() -> None:
    cluster = make_cluster()
    cluster.image.revision = 7
    cluster.image.brokers[1] = BrokerImage(1, None, {"PLAINTEXT": ("host1", 9092)}, 1)
    request = DescribeQuorumRequest(
        [DescribeQuorumRequestTopicData("__cluster_metadata", [DescribeQuorumRequestPartitionData(0)])]
    )
    response = await ask(cluster, request, 2, DescribeQuorumResponse)
    [partition] = response.topics[0].partitions
    assert (partition.leader_id, partition.high_watermark) == (0, 7)
    assert [(each.replica_id, each.log_end_offset) for each in partition.current_voters] == [(0, 7)]
    assert [(each.replica_id, each.log_end_offset) for each in partition.observers] == [(1, -1)]
    assert [(node.node_id, [each.host for each in node.listeners]) for node in response.nodes] == [
        (0, ["outside", "inside"])
    ]
    cluster.image.controller_id = NO_BROKER
    response = await ask(cluster, request, 2, DescribeQuorumResponse)
    assert response.topics[0].partitions[0].error_code == ErrorCode.NOT_LEADER_OR_FOLLOWER


async def test_describe_topic_partitions__pages_through_everything_once() -> None:
    cluster = make_cluster()
    for name, count in (("b", 3), ("a", 2), ("c", 1)):
        await cluster.add_topic(name, count)
    seen = []
    async with serving(cluster) as running:
        client = await running.connect()
        cursor = None
        while True:
            request = DescribeTopicPartitionsRequest(response_partition_limit=2, cursor=cursor)
            response = await client.ask(request, 0, DescribeTopicPartitionsResponse)
            page = [(topic.name, one.partition_index) for topic in response.topics for one in topic.partitions]
            assert len(page) <= 2
            seen += page
            cursor = response.next_cursor
            if cursor is None:
                break
    assert seen == [("a", 0), ("a", 1), ("b", 0), ("b", 1), ("b", 2), ("c", 0)]


async def test_describe_topic_partitions__unknown_names_and_bad_cursors() -> None:
    cluster = make_cluster()
    await cluster.add_topic("events")
    topics = [TopicRequest(name=name) for name in ("nope", "events", "b!d", "events")]
    response = await ask(cluster, DescribeTopicPartitionsRequest(topics=topics), 0, DescribeTopicPartitionsResponse)
    assert [(topic.name, topic.error_code) for topic in response.topics] == [
        ("b!d", ErrorCode.INVALID_TOPIC_EXCEPTION),
        ("events", 0),
        ("nope", ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
    ]
    # A negative partition; a topic that is not asked about; one that is, but does not exist.
    for cursor, errors in (
        (Cursor("events", -1), [ErrorCode.INVALID_REQUEST] * 4),
        (Cursor("", 0), [ErrorCode.INVALID_REQUEST] * 4),
        (Cursor("other", 0), [ErrorCode.INVALID_REQUEST] * 4),
        (Cursor("nope", 0), [ErrorCode.UNKNOWN_TOPIC_OR_PARTITION]),
    ):
        request = DescribeTopicPartitionsRequest(topics=topics, cursor=cursor)
        response = await ask(cluster, request, 0, DescribeTopicPartitionsResponse)
        assert [topic.error_code for topic in response.topics] == errors, cursor


def listing(*asked: tuple[int, int], **options: Any) -> ListOffsetsRequest:
    """(partition, timestamp) of the topic "events"."""
    partitions = [ListOffsetsPartition(partition_index=index, timestamp=at) for index, at in asked]
    return ListOffsetsRequest(replica_id=-1, topics=[ListOffsetsTopic(name="events", partitions=partitions)], **options)


async def listed(cluster: Cluster, request: ListOffsetsRequest, version: int) -> list[tuple[int, int]]:
    async with serving(cluster) as running:
        client = await running.connect()
        if "events" not in cluster.image.topics:
            await cluster.add_topic("events", 2)
            for value in (b"1", b"2", b"3"):
                await produce(client, "events", value)
        response = await client.ask(request, version, ListOffsetsResponse)
        return [(one.error_code, one.offset) for topic in response.topics for one in topic.partitions]


async def test_list_offsets__answers_a_topic_once_and_one_without_partitions_not_at_all() -> None:
    first, second = (listing((index, -2)).topics[0] for index in (0, 1))
    nothing = ListOffsetsTopic(name="elsewhere", partitions=[])
    async with serving(cluster := make_cluster()) as running:
        await cluster.add_topic("events", 2)
        client = await running.connect()
        asked = ListOffsetsRequest(replica_id=-1, topics=[first, nothing, second])
        [topic] = (await client.ask(asked, 9, ListOffsetsResponse)).topics
        assert [(one.partition_index, one.error_code) for one in topic.partitions] == [(0, 0), (1, 0)]
        asked = ListOffsetsRequest(replica_id=-1, topics=[first, first])
        [topic] = (await client.ask(asked, 9, ListOffsetsResponse)).topics
        assert [(one.partition_index, one.error_code) for one in topic.partitions] == [(0, ErrorCode.INVALID_REQUEST)]


@pytest.mark.parametrize("version", range(1, 12))
async def test_list_offsets__ends_in_every_version(version: int) -> None:
    assert await listed(make_cluster(), listing((0, -1)), version) == [(0, 3)]
    assert await listed(make_cluster(), listing((0, -2)), version) == [(0, 0)]
    assert await listed(make_cluster(), listing((0, 0)), version) == [(0, 0)]
    assert await listed(make_cluster(), listing((0, 2**62)), version) == [(0, -1)]


@pytest.mark.parametrize(
    ("timestamp", "since", "answer"),
    [(-3, 7, None), (-4, 8, (0, 0)), (-5, 9, (0, -1)), (-6, 11, (0, -1)), (-7, 99, None), (-(2**63), 99, None)],
)
async def test_list_offsets__special_timestamps_from_their_version_on(
    timestamp: int, since: int, answer: tuple[int, int] | None
) -> None:
    for version in (6, 7, 8, 9, 10, 11):
        (found,) = await listed(make_cluster(), listing((0, timestamp)), version)
        if version < since:
            assert found == (ErrorCode.UNSUPPORTED_VERSION, -1)
        elif answer is not None:
            assert found == answer
        else:
            assert found[0] == 0
            assert found[1] >= 0


async def test_list_offsets__refusals() -> None:
    repeated = await listed(make_cluster(), listing((0, -1), (0, -2), (1, -1)), 7)
    assert repeated == [(ErrorCode.INVALID_REQUEST, -1), (0, 0)]
    assert await listed(make_cluster(), listing((5, -1)), 7) == [(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, -1)]
    assert await listed(make_cluster(), listing((0, -1), isolation_level=3), 7) == [(ErrorCode.INVALID_REQUEST, -1)]
    fenced = listing((0, -1))
    fenced.topics[0].partitions[0].current_leader_epoch = 9
    assert await listed(make_cluster(), fenced, 7) == [(ErrorCode.UNKNOWN_LEADER_EPOCH, -1)]


async def test_list_offsets__a_search_that_takes_too_long_times_out() -> None:
    cluster = make_cluster()

    async def stuck() -> None:
        if cluster.storage.opened == 2:
            await asyncio.sleep(60)

    async with serving(cluster) as running:
        client = await running.connect()
        await cluster.add_topic("events", 2)
        for partition in (0, 1):
            await produce(client, "events", b"v", partition=partition)
        cluster.storage.wait = stuck  # type: ignore[method-assign]
        response = await client.ask(listing((0, 5), (1, -1), timeout_ms=20), 10, ListOffsetsResponse)
        found = [(one.error_code, one.offset) for one in response.topics[0].partitions]
        assert found == [(ErrorCode.REQUEST_TIMED_OUT, -1), (0, 1)]


@pytest.mark.parametrize("version", [2, 3, 4])
async def test_offset_for_leader_epoch__says_where_epochs_end(version: int) -> None:
    cluster = make_cluster()
    async with serving(cluster) as running:
        client = await running.connect()
        await cluster.add_topic("events", epoch=5)
        await produce(client, "events", b"v")
        partitions = [
            OffsetForLeaderPartition(partition=index, leader_epoch=epoch, current_leader_epoch=current)
            for index, epoch, current in ((0, 5, -1), (0, 9, -1), (0, 5, 4), (3, 5, -1))
        ]
        request = OffsetForLeaderEpochRequest(topics=[OffsetForLeaderTopic(topic="events", partitions=partitions)])
        response = await client.ask(request, version, OffsetForLeaderEpochResponse)
        assert [(one.error_code, one.leader_epoch, one.end_offset) for one in response.topics[0].partitions] == [
            (0, 5, 1),
            (0, -1, -1),
            (ErrorCode.FENCED_LEADER_EPOCH, -1, -1),
            (ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, -1, -1),
        ]


async def test_telemetry__is_answered_and_dropped() -> None:
    async with serving(make_cluster()) as running:
        client = await running.connect()
        given = await client.ask(GetTelemetrySubscriptionsRequest(), 0, GetTelemetrySubscriptionsResponse)
        assert given.client_instance_id not in (bytes(16), bytes(15) + b"\1")
        assert (given.requested_metrics, given.push_interval_ms) == ([], 300_000)
        same = GetTelemetrySubscriptionsRequest(client_instance_id=given.client_instance_id)
        again = await client.ask(same, 0, GetTelemetrySubscriptionsResponse)
        assert again.subscription_id == given.subscription_id
        push = PushTelemetryRequest(given.client_instance_id, given.subscription_id, False, 0, b"metrics")
        wrong = {
            ErrorCode.NONE: {},
            ErrorCode.INVALID_REQUEST: {"client_instance_id": bytes(16)},
            ErrorCode.UNKNOWN_SUBSCRIPTION_ID: {"subscription_id": given.subscription_id ^ 1},
            ErrorCode.UNSUPPORTED_COMPRESSION_TYPE: {"compression_type": 9},
            ErrorCode.TELEMETRY_TOO_LARGE: {"metrics": bytes(1048577)},
        }
        for error, change in wrong.items():
            original = {name: getattr(push, name) for name in change}
            for name, value in change.items():
                setattr(push, name, value)
            assert (await client.ask(push, 0, PushTelemetryResponse)).error_code == error
            for name, value in original.items():
                setattr(push, name, value)


@pytest.mark.parametrize(
    ("owner", "assigned", "hint"),
    [
        (2, 2, (2, 5)),
        (-1, 2, (2, 6)),
        (NODE_ID, 2, (2, 6)),
        (-1, 99, (-1, 5)),
        (NODE_ID, NODE_ID, (NODE_ID, 5)),
    ],
)
async def test_hint__of_a_partition_between_two_owners_is_the_next_one(
    owner: int, assigned: int, hint: tuple[int, int]
) -> None:
    cluster = make_cluster()
    cluster.image.brokers[2] = BrokerImage(2, None, {"PLAINTEXT": ("two", 9092)}, 2)
    topic = await cluster.add_topic("t", owner=2, epoch=5)
    moved = replace(topic, partitions=(PartitionImage(owner, 5, 1, assigned),))
    cluster.image.topics["t"] = moved
    assert current_leader(cluster.broker, "t", None, 0) == hint
