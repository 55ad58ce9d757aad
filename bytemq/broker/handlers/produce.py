"""Produce v3-13: appends record batches to partitions and answers when they are durable.

- acks=0 gets no answer; an error closes the connection, which is all the client can notice. acks=1 promises no less
  here than acks=all. Any other acks: INVALID_REQUIRED_ACKS.
- A partition named twice is appended to once, with the last of the two payloads, and answered once, as in Kafka.
- Null records, which Kafka leaves unanswered, get INVALID_REQUEST; clients may not write internal topics.
- When `timeout_ms` is over before the storage has answered, the client gets REQUEST_TIMED_OUT. The records may still
  become visible, in their order; the request's memory is kept until the storage is done with it.
- v10+: NOT_LEADER_OR_FOLLOWER carries the current leader (KIP-951). v13: topics by id, UNKNOWN_TOPIC_ID.
- Topics are never created here.
- Most requests do not come here: `produce_run` appends what is plain. It leaves to this module what needs a decision.
- Transactional batches (KIP-890): v12+ adds the partition to the transaction, before that it must have been added. If
  it was not: TRANSACTION_ABORTABLE (v11), INVALID_TXN_STATE (below).
"""

from collections.abc import Callable, Sequence
from functools import partial

from bytemq.broker.context import Broker
from bytemq.broker.coordinator.transaction.adding import Writer
from bytemq.broker.exchange import Exchange
from bytemq.broker.log.partition import Partition
from bytemq.broker.log.results import AppendResult
from bytemq.broker.log.waiters import Awaited
from bytemq.broker.partition_lookup import HINTED_ERRORS, current_leader, find_topic, locate, node_endpoints
from bytemq.broker.transaction_admission import Arrival, refusal
from bytemq.metadata.topic_names import INTERNAL_TOPICS
from bytemq.protocol.error_codes import ErrorCode
from bytemq.protocol.leader_hints import NodeEndpoint
from bytemq.protocol.produce import (
    LEADER_HINTS_FROM,
    ProducedTopic,
    ProduceRequest,
    ProduceResult,
    TopicResults,
    decode_produce,
    encode_produce_response,
)
from bytemq.protocol.records.batch import beginning_producer, transactional_producer
from bytemq.types import PartitionId

VALID_ACKS = (-1, 0, 1)
TRANSACTION_ABORTABLE_FROM = 11
ADDS_PARTITIONS_FROM = 12
ZSTD_FROM = 7

Done = Callable[[AppendResult], None]
Topics = list[ProducedTopic]
Asked = tuple[str | None, bytes | None, int, memoryview | None]
"""(topic name, topic id, partition, payload), of one partition."""


def begin(broker: Broker, exchange: Exchange) -> None:
    """Starts the appends of one request; the exchange is answered when the last of them is done."""
    request = decode_produce(exchange.api_version, exchange.body)
    RunningProduce(broker, exchange, request).start()


class RunningProduce:
    """One Produce request until all its appends are done. No asyncio object: storage calls `_done`."""

    __slots__ = ("_acks", "_broker", "_exchange", "_missing", "_results", "_timeout_ms", "_topics", "_transactional_id")

    def __init__(self, broker: Broker, exchange: Exchange, request: ProduceRequest) -> None:
        self._broker = broker
        self._exchange = exchange
        self._acks = request.acks
        self._timeout_ms = request.timeout_ms
        self._transactional_id = request.transactional_id
        self._topics: Topics = request.topics
        self._results: list[ProduceResult | None] = []  # in the order of the request, flat
        self._missing = 1  # one for `start` itself, so that nothing is answered before all appends are begun

    def start(self) -> None:
        topics = self._topics
        if len(topics) > 1 or (topics and len(topics[0][2]) > 1):
            topics = self._topics = without_repeated(topics)
        position = 0
        for name, topic_id, partitions in topics:
            for index, records in partitions:
                self._results.append(None)
                self._missing += 1
                self._append(position, name, topic_id, index, records)
                position += 1
        self._missing -= 1
        if not self._missing:
            self._answer()
        elif self._acks != 0:
            self._broker.deadlines.add(self, max(self._timeout_ms, 0) / 1000)

    def expired(self) -> None:
        """The client's time-out is over."""
        for position, (_, _, index, _) in enumerate(_flat(self._topics)):
            if self._results[position] is None:
                self._results[position] = ProduceResult(index, ErrorCode.REQUEST_TIMED_OUT)
        self._respond(keep_frame=True)

    def _append(
        self, position: int, name: str | None, topic_id: bytes | None, index: int, records: memoryview | None
    ) -> None:
        done = partial(self._done, position, (name, topic_id, index, records))
        if self._acks not in VALID_ACKS:
            done(AppendResult(ErrorCode.INVALID_REQUIRED_ACKS))
        elif records is None:
            done(AppendResult(ErrorCode.INVALID_REQUEST, message="The request has no records."))
        else:
            found = locate(self._broker, name, topic_id, index)
            if isinstance(found, Awaited):
                found.then(partial(self._append_to, records, done))
            else:
                self._append_to(records, done, found)

    def _append_to(self, records: memoryview, done: Done, found: Partition | ErrorCode) -> None:
        if isinstance(found, ErrorCode):
            done(AppendResult(found))
        elif found.topic in INTERNAL_TOPICS:
            message = f"Cannot append to internal topic {found.topic}"
            done(AppendResult(ErrorCode.INVALID_TOPIC_EXCEPTION, message=message))
        else:
            self._broker.traffic.count_in(found.topic, len(records))
            if self._exchange.client.zone:
                found.traffic.count_zone(self._exchange.client.zone, len(records))
            zstd_allowed = self._exchange.api_version >= ZSTD_FROM
            producer = transactional_producer(records)
            if producer is not None and self._transactional_id is None:
                done(AppendResult(ErrorCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED))
            elif producer is not None and found.awaits_admission(*producer):
                append = partial(found.append, records, zstd_allowed=zstd_allowed)
                self._admit((found.topic, found.pid.index), producer, append, done)
            else:
                found.append(records, done, zstd_allowed=zstd_allowed)

    def _admit(
        self, partition: tuple[str, int], producer: tuple[int, int], append_with: Callable[[Done], None], done: Done
    ) -> None:
        """The batch may be the first of its transaction in this partition."""
        version = self._exchange.api_version
        implicit = version >= ADDS_PARTITIONS_FROM

        def append(ended: Callable[[], None]) -> None:
            def appended(result: AppendResult) -> None:
                ended()
                done(result)

            append_with(appended)

        def refuse(code: ErrorCode) -> None:
            knows_abortable = version >= TRANSACTION_ABORTABLE_FROM
            done(AppendResult(refusal(code, implicit=implicit, knows_abortable=knows_abortable)))

        writer = Writer(self._transactional_id or "", *producer)
        self._broker.admission.enter(Arrival(writer, partition, implicit, append, refuse))

    def _done(self, position: int, asked: Asked, result: AppendResult) -> None:
        """One append has its answer; called by the partition, maybe from within `append`."""
        if result.error.retriable:
            note_refused(self._broker, *asked)
        if self._results[position] is None:
            self._results[position] = ProduceResult(asked[2], *result)
        self._missing -= 1
        if not self._missing:
            self._answer()

    def _answer(self) -> None:
        self._broker.deadlines.discard(self)
        if self._exchange.answer is not None:
            self._exchange.release_frame()  # answered by `expired`
        else:
            self._respond()

    def _respond(self, *, keep_frame: bool = False) -> None:
        exchange = self._exchange
        results = [result for result in self._results if result is not None]
        if self._acks == 0:
            failed = next((result for result in results if result.error_code), None)
            if failed is None:
                exchange.finish_without_answer()
            else:
                exchange.hang_up(f"produce with acks=0 failed: error {failed.error_code}")
            return
        answer = encode_results(self._broker, exchange.api_version, exchange.listener, self._topics, results)
        exchange.respond(answer, keep_frame=keep_frame)


def note_refused(
    broker: Broker, name: str | None, topic_id: bytes | None, index: int, records: memoryview | None
) -> None:
    """An append failed, and will come again. If it was the first of its producer, nothing else begins for that."""
    producer = None if records is None else beginning_producer(records)
    topic = None if producer is None else find_topic(broker, name, topic_id)
    if producer is not None and topic is not None:
        broker.partitions.beginning_refused(PartitionId(topic.topic_id, index), *producer)


def encode_results(
    broker: Broker, version: int, listener: str, topics: Topics, results: list[ProduceResult]
) -> bytearray:
    """The response; it says who leads where this broker does not."""
    endpoints: Sequence[NodeEndpoint] = ()
    if version >= LEADER_HINTS_FROM and any(one.error_code in HINTED_ERRORS for one in results):
        hinted = []
        for (name, topic_id, index, _), result in zip(_flat(topics), results, strict=True):
            if result.error_code in HINTED_ERRORS:
                result = result._replace(current_leader=current_leader(broker, name, topic_id, index))
            hinted.append(result)
        results = hinted
        endpoints = node_endpoints(broker, listener, [one.current_leader for one in results])
    return encode_produce_response(version, group_results(topics, results), node_endpoints=endpoints)


def without_repeated(topics: Topics) -> Topics:
    """Each partition once, where it was named first, with the payload that was named last."""
    merged: dict[str | bytes, tuple[str | None, bytes | None, dict[int, memoryview | None]]] = {}
    for name, topic_id, partitions in topics:
        key = name if name is not None else topic_id or b""
        payloads = merged.setdefault(key, (name, topic_id, {}))[2]
        for index, records in partitions:
            payloads[index] = records
    return [(name, topic_id, list(payloads.items())) for name, topic_id, payloads in merged.values()]


def group_results(topics: Topics, results: Sequence[ProduceResult]) -> list[TopicResults]:
    """The flat results under their topics again; a topic without partitions is left out, as in Kafka."""
    if len(results) == 1 and len(topics) == 1:
        name, topic_id, _ = topics[0]
        return [(name, topic_id, results)]
    grouped: list[TopicResults] = []
    position = 0
    for name, topic_id, partitions in topics:
        if not partitions:
            continue
        grouped.append((name, topic_id, results[position : position + len(partitions)]))
        position += len(partitions)
    return grouped


def _flat(topics: Topics) -> list[Asked]:
    return [(name, topic_id, index, records) for name, topic_id, ones in topics for index, records in ones]
