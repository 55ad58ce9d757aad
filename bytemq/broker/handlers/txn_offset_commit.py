"""TxnOffsetCommit v0-6: offsets of a group that count when the producer's transaction commits.

- v3+ generation and member (KIP-447); v4+ TRANSACTION_ABORTABLE, INVALID_TXN_STATE before; v6 topics by id.
- v5+ adds the group's partition of `__consumer_offsets` to the transaction (KIP-890); before, AddOffsetsToTxn must.
- Unknown topics and partitions fail by themselves, before the group is asked.
- Very many offsets are committed in slices, in turns of the loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from bytemq.broker.context import Broker, RequestContext
from bytemq.broker.coordinator.group.environment import RequestOrigin
from bytemq.broker.coordinator.group.shard import GroupShard
from bytemq.broker.coordinator.outcome import Outcome, answered_error
from bytemq.broker.coordinator.transaction.adding import Writer
from bytemq.broker.coordinator.transaction.transaction import TopicPartition
from bytemq.broker.offset_slices import slices
from bytemq.broker.transaction_admission import Arrival, refusal
from bytemq.metadata.image import ClusterImage
from bytemq.metadata.topic_names import OFFSETS_TOPIC
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.protocol.messages.txn_offset_commit import (
    TxnOffsetCommitRequest,
    TxnOffsetCommitRequestTopic,
    TxnOffsetCommitResponse,
    TxnOffsetCommitResponsePartition,
    TxnOffsetCommitResponseTopic,
)
from bytemq.types import TopicId

_ABORTABLE_VERSION = 4
_ADDS_PARTITION_VERSION = 5
_TOPIC_ID_VERSION = 6

_Key = tuple[str, bytes, int]
"""Topic name, topic id, partition."""


async def handle(broker: Broker, context: RequestContext, request: TxnOffsetCommitRequest) -> TxnOffsetCommitResponse:
    asked = request.topics
    codes, request.topics = _resolve(broker.image, asked, context.api_version >= _TOPIC_ID_VERSION)
    if request.topics or not asked:
        try:
            for topic in await _commit(broker, context, request):
                codes.update((_key(topic, each.partition_index), each.error_code) for each in topic.partitions)
        except KafkaError as error:
            for known in request.topics:
                codes.update((_key(known, each.partition_index), error.code) for each in known.partitions)
    return TxnOffsetCommitResponse(
        topics=[
            TxnOffsetCommitResponseTopic(
                topic.name,
                topic.topic_id,
                [
                    TxnOffsetCommitResponsePartition(each.partition_index, codes[_key(topic, each.partition_index)])
                    for each in topic.partitions
                ],
            )
            for topic in asked
        ]
    )


def _key(topic: TxnOffsetCommitRequestTopic | TxnOffsetCommitResponseTopic, index: int) -> _Key:
    return topic.name, topic.topic_id, index


def _resolve(
    image: ClusterImage, asked: list[TxnOffsetCommitRequestTopic], by_id: bool
) -> tuple[dict[_Key, int], list[TxnOffsetCommitRequestTopic]]:
    """Gives each topic its name and id. The codes of those that are not there, and the others."""
    codes: dict[_Key, int] = {}
    known: list[TxnOffsetCommitRequestTopic] = []
    for topic in asked:
        present = image.topics_by_id.get(TopicId(topic.topic_id)) if by_id else image.topics.get(topic.name)
        count = 0
        if present is not None:
            topic.name, topic.topic_id, count = present.name, present.topic_id, len(present.partitions)
        unknown = ErrorCode.UNKNOWN_TOPIC_ID if by_id and present is None else ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        here = [each for each in topic.partitions if 0 <= each.partition_index < count]
        codes.update((_key(topic, each.partition_index), unknown) for each in topic.partitions)
        if here:
            known.append(TxnOffsetCommitRequestTopic(topic.name, topic.topic_id, here))
    return codes, known


async def _commit(
    broker: Broker, context: RequestContext, request: TxnOffsetCommitRequest
) -> list[TxnOffsetCommitResponseTopic]:
    """What became of each. Raises KafkaError for what concerns all partitions: the transaction must not be committed
    then, whatever is written of it.
    """
    shard = await broker.groups.awaited_shard_of_named(request.group_id)
    shard.serving_machine()
    writer = Writer(request.transactional_id, request.producer_id, request.producer_epoch)
    partition = (OFFSETS_TOPIC, shard.partition.pid.index)
    version = context.api_version
    leave = await _enter(broker, writer, partition, version)
    origin = RequestOrigin(context.client_id or "", context.peer, version)

    def commit(part: TxnOffsetCommitRequest, machine: GroupShard) -> Outcome[TxnOffsetCommitResponse]:
        """The transaction may have ended since: a marker that is written by now must not be followed by offsets."""
        _check(broker.admission.is_inside((partition, writer.producer_id, writer.producer_epoch)), version)
        return machine.transactional.commit(part, origin)

    committed: list[TxnOffsetCommitResponseTopic] = []
    try:
        for _, topics in slices(request.topics):
            if committed:
                await broker.turns.next()
            committed += (await shard.write(partial(commit, replace(request, topics=topics)))).topics
    finally:
        leave()
    return committed


async def _enter(broker: Broker, writer: Writer, partition: TopicPartition, version: int) -> Callable[[], None]:
    """What to call when the offsets are written. Raises KafkaError unless the group's partition takes part in the
    writer's transaction.
    """
    answered: asyncio.Future[tuple[ErrorCode, Callable[[], None]]] = asyncio.get_running_loop().create_future()

    def enter(leave: Callable[[], None]) -> None:
        if answered.done():
            leave()
        else:
            answered.set_result((ErrorCode.NONE, leave))

    def refuse(code: ErrorCode) -> None:
        if not answered.done():
            answered.set_result((code, lambda: None))

    broker.admission.enter(Arrival(writer, partition, version >= _ADDS_PARTITION_VERSION, enter, refuse))
    code, leave = await answered
    _check(code, version)
    return leave


def _check(code: ErrorCode, version: int) -> None:
    implicit = version >= _ADDS_PARTITION_VERSION
    refused = refusal(code, implicit=implicit, knows_abortable=version >= _ABORTABLE_VERSION)
    if refused is not ErrorCode.NONE:
        raise KafkaError(answered_error(refused))
