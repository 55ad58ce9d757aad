"""AddPartitionsToTxn v0-5: partitions that a transaction is going to write to.

- v0-3 one transaction, from clients; v4+ several, from brokers, each added or, with verify_only, just looked for.
- One unknown partition fails its transaction: that one is UNKNOWN_TOPIC_OR_PARTITION, the others
  OPERATION_NOT_ATTEMPTED, and nothing is added.
- v2+ PRODUCER_FENCED, INVALID_PRODUCER_EPOCH before. No transactions at all: INVALID_REQUEST (Kafka never answers).
"""

from __future__ import annotations

from collections.abc import Iterable

from bytemq.broker.context import Broker, RequestContext
from bytemq.broker.coordinator.transaction.adding import Writer
from bytemq.broker.coordinator.transaction.answers import answered
from bytemq.broker.coordinator.transaction.transaction import EPOCH_BUMP_VERSION, TopicPartition
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.protocol.messages.add_partitions_to_txn import (
    AddPartitionsToTxnPartitionResult,
    AddPartitionsToTxnRequest,
    AddPartitionsToTxnResponse,
    AddPartitionsToTxnResult,
    AddPartitionsToTxnTopic,
    AddPartitionsToTxnTopicResult,
    AddPartitionsToTxnTransaction,
)
from bytemq.runtime.turns import side_by_side

TRANSACTIONS_AT_ONCE = 200
_BATCH_VERSION = 4
_FENCED_VERSION = 2


async def handle(
    broker: Broker, context: RequestContext, request: AddPartitionsToTxnRequest
) -> AddPartitionsToTxnResponse:
    version = context.api_version
    if version >= _BATCH_VERSION:
        if not request.transactions:
            raise KafkaError(ErrorCode.INVALID_REQUEST)
        work = (_work_on(broker, each, version) for each in request.transactions)
        worked_on = await side_by_side(broker.turns, work, TRANSACTIONS_AT_ONCE)
        results = [
            AddPartitionsToTxnResult(each.transactional_id, topics)
            for each, topics in zip(request.transactions, worked_on, strict=True)
        ]
        return AddPartitionsToTxnResponse(results_by_transaction=results)
    transaction = AddPartitionsToTxnTransaction(
        request.v3_and_below_transactional_id,
        request.v3_and_below_producer_id,
        request.v3_and_below_producer_epoch,
        False,
        request.v3_and_below_topics,
    )
    return AddPartitionsToTxnResponse(results_by_topic_v3_and_below=await _work_on(broker, transaction, version))


def error_response(
    request: AddPartitionsToTxnRequest, version: int, code: ErrorCode, message: str | None
) -> AddPartitionsToTxnResponse:
    """The code for the whole request from v4 on, for each partition before."""
    if version >= _BATCH_VERSION:
        return AddPartitionsToTxnResponse(error_code=code)
    topics = request.v3_and_below_topics
    codes = {(topic.name, index): code for topic in topics for index in topic.partitions}
    return AddPartitionsToTxnResponse(results_by_topic_v3_and_below=_results(topics, codes))


async def _work_on(
    broker: Broker, transaction: AddPartitionsToTxnTransaction, version: int
) -> list[AddPartitionsToTxnTopicResult]:
    partitions = [(topic.name, index) for topic in transaction.topics for index in topic.partitions]
    unknown = {each for each in partitions if not _exists(broker, each)}
    if unknown:
        codes = {
            each: ErrorCode.UNKNOWN_TOPIC_OR_PARTITION if each in unknown else ErrorCode.OPERATION_NOT_ATTEMPTED
            for each in partitions
        }
        return _results(transaction.topics, codes)
    writer = Writer(transaction.transactional_id, transaction.producer_id, transaction.producer_epoch)
    try:
        if transaction.verify_only:
            shard = await broker.transactions.awaited_shard_of(writer.transactional_id)
            return _results(transaction.topics, shard.call(lambda machine: machine.adding.verify(writer, partitions)))
        client_version = EPOCH_BUMP_VERSION if version >= _BATCH_VERSION else 0
        await broker.transactions.write(
            writer.transactional_id, lambda machine, _: machine.adding.add(writer, partitions, client_version)
        )
        codes = dict.fromkeys(partitions, ErrorCode.NONE)
    except KafkaError as error:
        codes = dict.fromkeys(partitions, answered(error.code, version, _FENCED_VERSION))
    return _results(transaction.topics, codes)


def _exists(broker: Broker, partition: TopicPartition) -> bool:
    topic = broker.image.topics.get(partition[0])
    return topic is not None and 0 <= partition[1] < len(topic.partitions)


def _results(
    topics: Iterable[AddPartitionsToTxnTopic], codes: dict[TopicPartition, ErrorCode]
) -> list[AddPartitionsToTxnTopicResult]:
    return [
        AddPartitionsToTxnTopicResult(
            topic.name,
            [AddPartitionsToTxnPartitionResult(index, codes[topic.name, index]) for index in topic.partitions],
        )
        for topic in topics
    ]
