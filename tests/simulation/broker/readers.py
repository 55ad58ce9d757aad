"""Reading through Fetch, at both isolation levels, as consumers do; and committed offsets through OffsetFetch."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

from bytemq.metadata.topic_names import OFFSETS_TOPIC
from bytemq.protocol.error_codes import ErrorCode
from bytemq.protocol.messages.fetch import FetchPartition, FetchRequest, FetchResponse, FetchTopic
from bytemq.protocol.messages.offset_fetch import (
    OffsetFetchRequest,
    OffsetFetchRequestGroup,
    OffsetFetchRequestTopics,
    OffsetFetchResponse,
)
from bytemq.protocol.records.batch import split_batches
from bytemq.protocol.records.control import parse_end_transaction
from bytemq.protocol.records.reader import iter_records
from tests.simulation.broker.client import Client
from tests.simulation.broker.history import TopicPartition
from tests.simulation.broker.network import Disconnected

if TYPE_CHECKING:
    from tests.simulation.broker.world import World

READ_UNCOMMITTED, READ_COMMITTED = 0, 1
_VERSION = 11


class Records(NamedTuple):
    """`values` without what was aborted; `next_offset` is behind them all."""

    values: list[tuple[int, bytes]]
    control_offsets: list[int]
    next_offset: int
    last_stable_offset: int
    high_watermark: int


async def fetch(
    client: Client, partition: TopicPartition, offset: int, isolation: int, *, max_bytes: int = 10_000, wait_ms: int = 0
) -> Records | None:
    """What one Fetch gives; None when nobody answers for the partition now."""
    wanted = FetchPartition(partition[1], fetch_offset=offset, partition_max_bytes=max_bytes)
    request = FetchRequest(
        max_wait_ms=wait_ms,
        min_bytes=1,
        max_bytes=max_bytes,
        isolation_level=isolation,
        topics=[FetchTopic(topic=partition[0], partitions=[wanted])],
    )
    known = client.history.known_watermarks(partition)
    try:
        answer = await client.ask(request, _VERSION, FetchResponse, at=partition)
    except Disconnected:
        return None
    (data,) = answer.responses[0].partitions
    code = ErrorCode(data.error_code)
    history = client.history
    if code is ErrorCode.OFFSET_OUT_OF_RANGE:
        raise history.broken(f"{client.name} at {offset} of {partition} is beyond the log, at {data.high_watermark}")
    if code is not ErrorCode.NONE or data.high_watermark < 0:  # it is being opened
        return None
    history.watermarks(partition, (data.last_stable_offset, data.high_watermark), known)
    aborted = sorted((each.first_offset, each.producer_id) for each in data.aborted_transactions or ())
    aborting: set[int] = set()
    values: list[tuple[int, bytes]] = []
    control_offsets: list[int] = []
    next_offset = offset
    for batch in split_batches(memoryview(bytearray(data.records or b""))):
        while aborted and aborted[0][0] <= batch.last_offset:
            aborting.add(aborted.pop(0)[1])
        for record in iter_records(batch):
            if batch.is_control:
                marker = parse_end_transaction(record)
                if marker is not None and not marker.committed:
                    aborting.discard(batch.producer_id)
                history.read(partition, record.offset, b"", committed_only=False)
                control_offsets.append(record.offset)
            elif record.offset >= offset and not (batch.is_transactional and batch.producer_id in aborting):
                value = record.value or b""
                history.read(partition, record.offset, value, committed_only=isolation == READ_COMMITTED)
                values.append((record.offset, value))
        next_offset = max(next_offset, batch.next_offset)
    return Records(values, control_offsets, next_offset, data.last_stable_offset, data.high_watermark)


async def high_watermark(client: Client, partition: TopicPartition) -> int | None:
    """None when nobody answers for the partition now."""
    records = await fetch(client, partition, 0, READ_UNCOMMITTED, max_bytes=1)
    return None if records is None else records.high_watermark


class Reader(Client):
    """Reads one partition from its start on, for ever."""

    def __init__(
        self, world: World, name: str, partition: TopicPartition, isolation: int, *, at_once: bool = False
    ) -> None:
        """`at_once`: it asks for as much as there is."""
        super().__init__(world, name)
        self.partition = partition
        self.isolation = isolation
        self._sizes_bytes = (10_000,) if at_once else (1, 300, 10_000)
        self.position = 0
        self.values: dict[int, bytes] = {}
        self.control_offsets: list[int] = []

    async def run(self) -> None:
        idle = 0
        while True:
            position = self.position
            await self.read_once()
            idle = min(idle + 1, 4) if self.world.is_well and self.position == position else 0
            await asyncio.sleep(self.random.choice((0.05, 0.2, 0.5)) * (1 + idle))

    async def read_once(self) -> Records | None:
        max_bytes = self.random.choice(self._sizes_bytes)
        records = await fetch(
            self,
            self.partition,
            self.position,
            self.isolation,
            max_bytes=max_bytes,
            wait_ms=self.random.choice((0, 100, 400)),
        )
        if records is not None:
            self.values.update(records.values)
            self.control_offsets += records.control_offsets
            self.position = records.next_offset
        return records

    async def read_to_the_end(self) -> None:
        """Until there is nothing above what it has; the partition must serve."""
        while True:
            records = await self.read_once()
            if records is None:
                await self.pause()
            elif self.position >= records.high_watermark:
                return
            elif not records.values and records.last_stable_offset <= self.position:
                await asyncio.sleep(0.2)  # an open transaction: its time will be over


async def stable_offsets(client: Client, group: str, topic: str, partitions: list[int]) -> dict[int, int]:
    """The group's committed offsets, of those partitions whose offsets no open transaction may change."""
    history = client.history
    known = {index: history.acknowledged_offsets.get((group, index), -1) for index in partitions}
    topics = [OffsetFetchRequestTopics(name=topic, partition_indexes=partitions)]
    request = OffsetFetchRequest(groups=[OffsetFetchRequestGroup(group, topics=topics)], require_stable=True)
    try:
        answer = await client.ask(request, 9, OffsetFetchResponse, at=client.world.place_of(OFFSETS_TOPIC, group))
    except Disconnected:
        return {}
    of_group = answer.groups[0]
    if of_group.error_code:
        return {}
    found: dict[int, int] = {}
    for each in of_group.topics[0].partitions:
        if each.error_code == ErrorCode.NONE:
            history.fetched_offset(group, each.partition_index, each.committed_offset, known[each.partition_index])
            if each.committed_offset >= 0:
                history.offset_committed(group, each.partition_index, each.committed_offset)
            found[each.partition_index] = each.committed_offset
    return found
