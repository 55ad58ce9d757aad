"""A broker that coordinates nothing: it says NOT_COORDINATOR, but of what is wrong whoever is asked it says what is."""

from collections.abc import Callable
from typing import Any

import pytest

from bytemq.broker.coordinator.group_coordinators import GroupCoordinators
from bytemq.broker.coordinator.transaction_coordinators import TransactionCoordinators
from bytemq.metadata.topic_names import OFFSETS_TOPIC, TRANSACTION_TOPIC
from bytemq.protocol.error_codes import ErrorCode
from bytemq.protocol.messages.add_offsets_to_txn import AddOffsetsToTxnRequest, AddOffsetsToTxnResponse
from bytemq.protocol.messages.add_partitions_to_txn import (
    AddPartitionsToTxnRequest,
    AddPartitionsToTxnResponse,
    AddPartitionsToTxnTopic,
    AddPartitionsToTxnTransaction,
)
from bytemq.protocol.messages.consumer_group_heartbeat import (
    ConsumerGroupHeartbeatRequest,
    ConsumerGroupHeartbeatResponse,
)
from bytemq.protocol.messages.describe_transactions import DescribeTransactionsRequest, DescribeTransactionsResponse
from bytemq.protocol.messages.end_txn import EndTxnRequest, EndTxnResponse
from bytemq.protocol.messages.heartbeat import HeartbeatRequest, HeartbeatResponse
from bytemq.protocol.messages.init_producer_id import InitProducerIdRequest, InitProducerIdResponse
from bytemq.protocol.messages.join_group import JoinGroupRequest, JoinGroupResponse
from bytemq.protocol.messages.leave_group import LeaveGroupRequest, LeaveGroupResponse
from bytemq.protocol.messages.list_groups import ListGroupsRequest, ListGroupsResponse
from bytemq.protocol.messages.list_transactions import ListTransactionsRequest, ListTransactionsResponse
from bytemq.protocol.messages.sync_group import SyncGroupRequest, SyncGroupResponse
from bytemq.protocol.messages.txn_offset_commit import (
    TxnOffsetCommitRequest,
    TxnOffsetCommitRequestPartition,
    TxnOffsetCommitRequestTopic,
    TxnOffsetCommitResponse,
)
from tests.unit.server.harness import Cluster, make_cluster, serving

NOT_COORDINATOR = ErrorCode.NOT_COORDINATOR
INVALID_GROUP_ID = ErrorCode.INVALID_GROUP_ID
INVALID_REQUEST = ErrorCode.INVALID_REQUEST


async def cluster_of_others() -> Cluster:
    """The topics of coordinators are there, and another broker owns them."""
    cluster = make_cluster()
    broker = cluster.broker
    parts: dict[str, Any] = {
        "broker_id": broker.node_id,
        "config": lambda: broker.config,
        "image": lambda: broker.image,
        "clock": broker.clock,
        "supervisor": broker.supervisor,
        "standing": broker.standing,
    }
    broker.groups = GroupCoordinators(**parts, random=broker.random)
    broker.transactions = TransactionCoordinators(
        **parts,
        producer_ids=broker.producer_ids,
        markers=lambda _: None,
    )
    for name in (OFFSETS_TOPIC, TRANSACTION_TOPIC):
        await cluster.add_topic(name, 3, owner=1)
    await cluster.add_topic("t")
    return cluster


def own_error(response: Any) -> int:
    return int(response.error_code)


def added(response: AddPartitionsToTxnResponse) -> int:
    [[partition]] = [
        topic.results_by_partition for row in response.results_by_transaction for topic in row.topic_results
    ]
    return partition.partition_error_code


def described(response: DescribeTransactionsResponse) -> int:
    return response.transaction_states[0].error_code


def committed(response: TxnOffsetCommitResponse) -> int:
    return response.topics[0].partitions[0].error_code


def join(group_id: str, session_timeout_ms: int = 10_000) -> JoinGroupRequest:
    return JoinGroupRequest(group_id=group_id, session_timeout_ms=session_timeout_ms, protocol_type="consumer")


def add(transactional_id: str, *, verify_only: bool) -> AddPartitionsToTxnRequest:
    topics = [AddPartitionsToTxnTopic("t", [0])]
    return AddPartitionsToTxnRequest([AddPartitionsToTxnTransaction(transactional_id, 1, 0, verify_only, topics)])


def heartbeat(group_id: str, member_id: str = "m", assignor: str | None = None) -> ConsumerGroupHeartbeatRequest:
    return ConsumerGroupHeartbeatRequest(
        group_id=group_id, member_id=member_id, member_epoch=3, server_assignor=assignor
    )


def commit(group_id: str) -> TxnOffsetCommitRequest:
    topics = [TxnOffsetCommitRequestTopic("t", partitions=[TxnOffsetCommitRequestPartition(0, 5)])]
    return TxnOffsetCommitRequest("tx", group_id, 1, 0, topics=topics)


Response = Callable[[Any], int]
CASES: list[tuple[Any, int, type[Any], Response, ErrorCode]] = [
    (join("g"), 9, JoinGroupResponse, own_error, NOT_COORDINATOR),
    (join(""), 9, JoinGroupResponse, own_error, INVALID_GROUP_ID),
    (join(""), 6, JoinGroupResponse, own_error, INVALID_GROUP_ID),
    (join("g", 1), 9, JoinGroupResponse, own_error, ErrorCode.INVALID_SESSION_TIMEOUT),
    (SyncGroupRequest(group_id="g"), 5, SyncGroupResponse, own_error, NOT_COORDINATOR),
    (SyncGroupRequest(group_id=""), 5, SyncGroupResponse, own_error, INVALID_GROUP_ID),
    (HeartbeatRequest(group_id="g"), 4, HeartbeatResponse, own_error, NOT_COORDINATOR),
    (HeartbeatRequest(group_id=""), 4, HeartbeatResponse, own_error, INVALID_GROUP_ID),
    (LeaveGroupRequest(group_id="g"), 5, LeaveGroupResponse, own_error, NOT_COORDINATOR),
    (LeaveGroupRequest(group_id=""), 5, LeaveGroupResponse, own_error, INVALID_GROUP_ID),
    (heartbeat("g"), 1, ConsumerGroupHeartbeatResponse, own_error, NOT_COORDINATOR),
    (heartbeat(""), 1, ConsumerGroupHeartbeatResponse, own_error, INVALID_REQUEST),
    (heartbeat("g", ""), 1, ConsumerGroupHeartbeatResponse, own_error, INVALID_REQUEST),
    (heartbeat("g", "m", "x"), 1, ConsumerGroupHeartbeatResponse, own_error, ErrorCode.UNSUPPORTED_ASSIGNOR),
    (commit("g"), 5, TxnOffsetCommitResponse, committed, NOT_COORDINATOR),
    (commit(""), 5, TxnOffsetCommitResponse, committed, INVALID_GROUP_ID),
    (InitProducerIdRequest("tx", 1_000), 5, InitProducerIdResponse, own_error, NOT_COORDINATOR),
    (InitProducerIdRequest("", 1_000), 5, InitProducerIdResponse, own_error, INVALID_REQUEST),
    (add("tx", verify_only=False), 5, AddPartitionsToTxnResponse, added, NOT_COORDINATOR),
    (add("", verify_only=False), 5, AddPartitionsToTxnResponse, added, INVALID_REQUEST),
    (add("", verify_only=True), 5, AddPartitionsToTxnResponse, added, INVALID_REQUEST),
    (AddOffsetsToTxnRequest("tx", 1, 0, "g"), 4, AddOffsetsToTxnResponse, own_error, NOT_COORDINATOR),
    (AddOffsetsToTxnRequest("", 1, 0, "g"), 4, AddOffsetsToTxnResponse, own_error, INVALID_REQUEST),
    (EndTxnRequest("tx", 1, 0, True), 5, EndTxnResponse, own_error, NOT_COORDINATOR),
    (EndTxnRequest("", 1, 0, True), 5, EndTxnResponse, own_error, INVALID_REQUEST),
    (DescribeTransactionsRequest(["tx"]), 0, DescribeTransactionsResponse, described, NOT_COORDINATOR),
    (DescribeTransactionsRequest([""]), 0, DescribeTransactionsResponse, described, INVALID_REQUEST),
]


@pytest.mark.parametrize(("request_", "version", "response_class", "code_of", "expected"), CASES)
async def test_wrong_coordinator__tells_what_is_wrong_whoever_is_asked(
    request_: Any, version: int, response_class: type[Any], code_of: Response, expected: ErrorCode
) -> None:
    async with serving(await cluster_of_others()) as running:
        response = await (await running.connect()).ask(request_, version, response_class)
    assert code_of(response) == expected


async def test_listings__of_who_may_have_lost_its_session_are_asked_for_again_and_not_empty() -> None:
    cluster = await cluster_of_others()
    shard: Any = None
    async with serving(cluster) as running:
        client = await running.connect()
        for coordinators, request, version, response in (
            (cluster.broker.groups, ListGroupsRequest(), 5, ListGroupsResponse),
            (cluster.broker.transactions, ListTransactionsRequest(), 2, ListTransactionsResponse),
        ):
            assert (await client.ask(request, version, response)).error_code == 0, "it coordinates nothing"
            coordinators._shards[0] = shard
        cluster.broker.standing.end()
        answers = [
            await client.ask(ListGroupsRequest(), 5, ListGroupsResponse),
            await client.ask(ListTransactionsRequest(), 2, ListTransactionsResponse),
        ]
        assert {answer.error_code for answer in answers} == {ErrorCode.COORDINATOR_LOAD_IN_PROGRESS}
        cluster.broker.groups._shards.clear()
        cluster.broker.transactions._shards.clear()
