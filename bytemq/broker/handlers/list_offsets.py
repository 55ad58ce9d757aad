"""ListOffsets v1-11: the offset at a time, and the ends of a log.

- Timestamps: -1 latest (with isolation level read_committed: the last stable offset), -2 earliest, -3 the first record
  with the largest timestamp (v7), -4 earliest local (v8), -5 latest tiered (v9) and -6 earliest pending upload (v11):
  nothing is tiered in Kafka's sense, so offset -1 without an error. Any other negative number, or one that the version
  does not know: UNSUPPORTED_VERSION.
- Each topic is answered once, without partitions not at all. A partition named twice: INVALID_REQUEST for it, once.
- v4+: the client's leader epoch is checked.
- Looking for a time may read from files, many partitions at a time; v10+: what is not found within `timeout_ms` gets
  REQUEST_TIMED_OUT.
"""

import asyncio
from collections import Counter

from bytemq.broker.context import Broker, RequestContext
from bytemq.broker.log.waiters import Awaited
from bytemq.broker.partition_lookup import locate
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.protocol.messages.list_offsets import (
    ListOffsetsPartition,
    ListOffsetsPartitionResponse,
    ListOffsetsRequest,
    ListOffsetsResponse,
    ListOffsetsTopicResponse,
)

MAX_TIMESTAMP = -3
EARLIEST_PENDING_UPLOAD = -6
KNOWN_FROM = {-1: 1, -2: 1, MAX_TIMESTAMP: 7, -4: 8, -5: 9, EARLIEST_PENDING_UPLOAD: 11}
"""Special timestamps and the first version that has them."""
ISOLATION_LEVELS = (0, 1)
LEADER_EPOCH_FROM = 4
TIMEOUT_FROM = 10
SEARCHES_AT_ONCE = 16
PARTITIONS_PER_TURN = 200
"""Answers from memory after which other clients get their turn."""


async def handle(broker: Broker, context: RequestContext, request: ListOffsetsRequest) -> ListOffsetsResponse:
    if request.isolation_level not in ISOLATION_LEVELS:
        raise KafkaError(ErrorCode.INVALID_REQUEST, f"Unknown isolation level {request.isolation_level}.")
    return await _Listing(broker, context.api_version, request).run()


class _Listing:
    """One request; answers are collected in place."""

    def __init__(self, broker: Broker, version: int, request: ListOffsetsRequest) -> None:
        self._broker = broker
        self._version = version
        self._request = request
        self._searches = asyncio.Semaphore(SEARCHES_AT_ONCE)

    async def run(self) -> ListOffsetsResponse:
        request = self._request
        named = Counter((topic.name, one.partition_index) for topic in request.topics for one in topic.partitions)
        answers: dict[str, dict[int, ListOffsetsPartitionResponse]] = {}
        searches: list[asyncio.Task[None]] = []
        listed = 0
        for topic in request.topics:
            for asked in topic.partitions:
                answer = ListOffsetsPartitionResponse(partition_index=asked.partition_index)
                answers.setdefault(topic.name, {})[asked.partition_index] = answer
                if named[(topic.name, asked.partition_index)] > 1:
                    answer.error_code = ErrorCode.INVALID_REQUEST
                elif not self._is_known(asked.timestamp):
                    answer.error_code = ErrorCode.UNSUPPORTED_VERSION
                elif asked.timestamp >= 0 or asked.timestamp == MAX_TIMESTAMP:
                    searches.append(asyncio.ensure_future(self._search(topic.name, asked, answer)))
                else:
                    await self._list(topic.name, asked, answer)
                listed += 1
                if listed % PARTITIONS_PER_TURN == 0:
                    await self._broker.clock.sleep(0)
        if searches:
            await self._finish(searches)
        topics = [ListOffsetsTopicResponse(name, partitions=list(found.values())) for name, found in answers.items()]
        return ListOffsetsResponse(topics=topics)

    def _is_known(self, timestamp: int) -> bool:
        return timestamp >= 0 or self._version >= KNOWN_FROM.get(timestamp, self._version + 1)

    async def _finish(self, searches: list[asyncio.Task[None]]) -> None:
        timeout_s = None
        if self._version >= TIMEOUT_FROM and self._request.timeout_ms > 0:
            timeout_s = self._request.timeout_ms / 1000
        try:
            finished, _ = await asyncio.wait(searches, timeout=timeout_s)
            for search in finished:
                search.result()  # a search that crashed is no time-out: it fails the request
        finally:
            for search in searches:
                search.cancel()

    async def _search(self, topic: str, asked: ListOffsetsPartition, answer: ListOffsetsPartitionResponse) -> None:
        answer.error_code = ErrorCode.REQUEST_TIMED_OUT  # until there is a better one
        async with self._searches:
            await self._list(topic, asked, answer)

    async def _list(self, topic: str, asked: ListOffsetsPartition, answer: ListOffsetsPartitionResponse) -> None:
        found = locate(self._broker, topic, None, asked.partition_index)
        try:
            if isinstance(found, Awaited):
                found = await self._broker.partitions.opened(found)
        except KafkaError as refusal:
            found = refusal.code
        if isinstance(found, ErrorCode):
            answer.error_code = found
            return
        error = found.check_leader_epoch(asked.current_leader_epoch)
        if error is not ErrorCode.NONE:
            answer.error_code = error
            return
        if asked.timestamp == EARLIEST_PENDING_UPLOAD:
            return
        listed = await found.list_offset(asked.timestamp, self._request.isolation_level)
        answer.error_code, answer.offset, answer.timestamp = listed.error, listed.offset, listed.timestamp_ms
        if self._version >= LEADER_EPOCH_FROM:
            answer.leader_epoch = listed.leader_epoch
