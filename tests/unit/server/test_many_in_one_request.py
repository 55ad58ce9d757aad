"""A request may name a hundred thousand things: others have their turn between them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest

from bytemq.broker.context import ClientInfo, RequestContext
from bytemq.broker.handlers import (
    add_partitions_to_txn,
    alter_configs,
    create_partitions,
    delete_groups,
    delete_records,
    describe_groups,
    describe_transactions,
    find_coordinator,
    incremental_alter_configs,
    leave_group,
    offset_fetch,
    offset_for_leader_epoch,
)
from bytemq.config import BrokerConfig
from bytemq.metadata.image import ClusterImage
from bytemq.protocol.codec import decode, encode
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.protocol.messages import alter_configs as alter
from bytemq.protocol.messages import incremental_alter_configs as incremental
from bytemq.protocol.messages import offset_fetch as offsets
from bytemq.protocol.messages import offset_for_leader_epoch as epochs
from bytemq.protocol.messages.add_partitions_to_txn import AddPartitionsToTxnRequest, AddPartitionsToTxnTransaction
from bytemq.protocol.messages.create_partitions import CreatePartitionsRequest, CreatePartitionsTopic
from bytemq.protocol.messages.delete_groups import DeleteGroupsRequest
from bytemq.protocol.messages.delete_records import DeleteRecordsPartition, DeleteRecordsRequest, DeleteRecordsTopic
from bytemq.protocol.messages.describe_groups import DescribedGroup, DescribeGroupsRequest, DescribeGroupsResponse
from bytemq.protocol.messages.describe_transactions import DescribeTransactionsRequest, DescribeTransactionsResponse
from bytemq.protocol.messages.find_coordinator import FindCoordinatorRequest
from bytemq.protocol.messages.leave_group import LeaveGroupRequest, LeaveGroupResponse, MemberIdentity, MemberResponse
from tests.support.turns import CountedTurns

COUNT = 2_000
NAMES = [f"n{number}" for number in range(COUNT)]
TOPIC = 2
"""Of the types of resources."""


class Nobody:
    """Coordinates nothing, owns nothing, and creates nothing."""

    def shard_of(self, key: str) -> Any:
        raise KafkaError(ErrorCode.NOT_COORDINATOR)

    async def awaited_shard_of(self, key: str) -> Any:
        raise KafkaError(ErrorCode.NOT_COORDINATOR)

    async def write(self, key: str, operation: object) -> Any:
        return await self.awaited_shard_of(key)

    async def auto_create(self, name: str) -> Any:
        raise KafkaError(ErrorCode.POLICY_VIOLATION)

    async def create_partitions(self, *args: object, **options: object) -> None:
        raise KafkaError(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION)

    def get(self, topic: str, index: int) -> None:
        return None


async def epochs_asked(broker: Any, context: Any) -> int:
    partitions = [epochs.OffsetForLeaderPartition(index, -1, 0) for index in range(COUNT)]
    request = epochs.OffsetForLeaderEpochRequest(topics=[epochs.OffsetForLeaderTopic("t", partitions)])
    answer = await offset_for_leader_epoch.handle(broker, context(4), request)
    return sum(len(topic.partitions) for topic in answer.topics)


async def coordinators_looked_for(broker: Any, context: Any) -> int:
    request = FindCoordinatorRequest(key_type=0, coordinator_keys=NAMES)
    return len((await find_coordinator.handle(broker, context(4), request)).coordinators)


async def groups_described(broker: Any, context: Any) -> int:
    answer = await describe_groups.handle(broker, context(6), DescribeGroupsRequest(NAMES))
    return len(decode(DescribeGroupsResponse, 6, answer).groups)


async def transactions_described(broker: Any, context: Any) -> int:
    answer = await describe_transactions.handle(broker, context(0), DescribeTransactionsRequest(NAMES))
    return len(decode(DescribeTransactionsResponse, 0, answer).transaction_states)


async def partitions_added(broker: Any, context: Any) -> int:
    transactions = [AddPartitionsToTxnTransaction(name, 1, 0, False, []) for name in NAMES]
    request = AddPartitionsToTxnRequest(transactions=transactions)
    return len((await add_partitions_to_txn.handle(broker, context(4), request)).results_by_transaction)


async def groups_deleted(broker: Any, context: Any) -> int:
    return len((await delete_groups.handle(broker, context(2), DeleteGroupsRequest(NAMES))).results)


async def records_deleted(broker: Any, context: Any) -> int:
    partitions = [DeleteRecordsPartition(index, 0) for index in range(COUNT // 2)]
    request = DeleteRecordsRequest(topics=[DeleteRecordsTopic(name, partitions) for name in ("t", "u")])
    answer = await delete_records.handle(broker, context(2), request)
    return sum(len(topic.partitions) for topic in answer.topics)


async def partitions_created(broker: Any, context: Any) -> int:
    topics = [CreatePartitionsTopic(name, 2, None) for name in NAMES]
    request = CreatePartitionsRequest(topics=topics, timeout_ms=1_000)
    return len((await create_partitions.handle(broker, context(3), request)).results)


async def offsets_fetched(broker: Any, context: Any) -> int:
    groups = [offsets.OffsetFetchRequestGroup(group_id=name, topics=[]) for name in NAMES]
    answer = await offset_fetch.handle(broker, context(8), offsets.OffsetFetchRequest(groups=groups))
    return len(decode(offsets.OffsetFetchResponse, 8, answer).groups)


async def configs_replaced(broker: Any, context: Any) -> int:
    request = alter.AlterConfigsRequest(resources=[alter.AlterConfigsResource(TOPIC, name, []) for name in NAMES])
    return len((await alter_configs.handle(broker, context(2), request)).responses)


async def configs_altered(broker: Any, context: Any) -> int:
    resources = [incremental.AlterConfigsResource(TOPIC, name, []) for name in NAMES]
    request = incremental.IncrementalAlterConfigsRequest(resources=resources)
    return len((await incremental_alter_configs.handle(broker, context(1), request)).responses)


@pytest.mark.parametrize(
    "ask",
    [
        epochs_asked,
        coordinators_looked_for,
        groups_described,
        transactions_described,
        partitions_added,
        groups_deleted,
        records_deleted,
        partitions_created,
        offsets_fetched,
        configs_replaced,
        configs_altered,
    ],
)
async def test_request__for_thousands_lets_others_have_their_turn(ask: Callable[[Any, Any], Awaitable[int]]) -> None:
    turns, nobody = CountedTurns(), Nobody()
    broker = SimpleNamespace(
        turns=turns,
        image=ClusterImage(),
        config=BrokerConfig({}),
        groups=nobody,
        transactions=nobody,
        topics=nobody,
        partitions=nobody,
        node_id=0,
    )

    def context(version: int) -> RequestContext:
        return RequestContext(0, version, 1, "test", ClientInfo("c", "PLAINTEXT", "127.0.0.1", 1))

    assert await ask(broker, context) == COUNT
    assert turns.taken >= 3


async def test_leave__of_very_many_members_is_made_in_slices_and_answered_as_one() -> None:
    sizes: list[int] = []

    class Group:
        async def awaited_shard_of_named(self, group_id: str) -> Group:
            return self

        async def write(self, change: Any) -> LeaveGroupResponse:
            request = change(SimpleNamespace(leaving=SimpleNamespace(leave=lambda request: request)))
            sizes.append(len(request.members))
            return LeaveGroupResponse(members=[MemberResponse(one.member_id, None, 0) for one in request.members])

    turns, most = CountedTurns(), leave_group.SLICE_MEMBERS
    broker: Any = SimpleNamespace(groups=Group(), turns=turns)
    context: Any = SimpleNamespace(api_version=5)
    names = [f"m{number}" for number in range(2 * most + 1)]
    request = LeaveGroupRequest(group_id="g", members=[MemberIdentity(name, None, None) for name in names])
    answer = await leave_group.handle(broker, context, request)
    assert [member.member_id for member in answer.members] == names
    assert (sizes, turns.taken) == ([most, most, 1], 2)
    assert (await leave_group.handle(broker, context, LeaveGroupRequest(group_id="g", members=[]))).members == []


@pytest.mark.parametrize("version", range(7))
async def test_describe_groups__is_encoded_in_slices_as_it_would_be_as_a_whole(version: int) -> None:
    broker: Any = SimpleNamespace(turns=CountedTurns(), groups=Nobody())
    context: Any = SimpleNamespace(api_version=version)
    groups = [DescribedGroup(ErrorCode.NOT_COORDINATOR, group_id=name) for name in NAMES]
    answer = await describe_groups.handle(broker, context, DescribeGroupsRequest([*NAMES, *NAMES]))
    assert answer == bytes(encode(DescribeGroupsResponse(groups=groups), version))
