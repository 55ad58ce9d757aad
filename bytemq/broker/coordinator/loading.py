"""Reading a coordinator's partition from its start to its high watermark. Fast: a million records must take seconds.

Hands out the loop between reads, so that a large partition holds up nobody else's requests for long. What comes next is
asked for while what is there is replayed: on an object store each file would be waited for otherwise.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import NamedTuple, Protocol

from bytemq.broker.coordinator.outcome import Envelope, Replayed
from bytemq.broker.log.partition import Partition
from bytemq.errors import BytemqError
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.protocol.records.batch import RecordBatch, parse_header
from bytemq.protocol.records.compression import decompress
from bytemq.protocol.records.walk import parse
from bytemq.protocol.records.walk_codes import MESSAGES, OK
from bytemq.protocol.records.walk_pure import Buffer
from bytemq.runtime.clock import Clock
from bytemq.runtime.logging import get_logger

log = get_logger("broker.coordinator")

_READ_BYTES = 256 * 1024
_NEAR_BYTES = 16 * 1024 * 1024
"""So much of what follows is asked for at a time: as much memory, of a cache that is bounded."""

KeyValue = tuple[bytes | None, bytes | None]


class Replaying(Protocol):
    """What loading asks of a machine."""

    def replay(self, records: Iterable[KeyValue], envelope: Envelope | None = None) -> None:
        """Keys and values of one batch."""

    def replay_plain(self, data: Buffer, position: int) -> Replayed:
        """The batches from `position` on, as far as they are neither compressed nor control nor transactional batches
        and can be read.
        """


class LoadFailed(Exception):
    """The log could not be read now. Try again later."""


class LogDamaged(LoadFailed):
    """Stored bytes are not what was written. Unless they are mended, or it is said that what was lost does not matter,
    the next try fails as well.
    """


class UnreadableBatch(Exception):
    """Its records make no sense, however often they are read."""


class Loaded(NamedTuple):
    """How many records were replayed, and how many were left out: in batches that cannot be read, or damaged."""

    records: int
    unreadable: int


async def load(partition: Partition, machine: Replaying, clock: Clock) -> Loaded:
    """Replays all committed records. Batches that never made sense are left out. What was damaged since is left out
    only where the topic's bytemq.skip.damage says so: it may have been the last word of a group or a transaction. It
    stays in the log as it is. Raises LoadFailed.
    """
    near = _Near(partition)
    try:
        return await _replayed(partition, machine, clock, near)
    finally:
        near.close()


class _Near:
    """What follows the offset that is being read."""

    def __init__(self, partition: Partition) -> None:
        self._partition = partition
        self._task: asyncio.Task[int] | None = None

    def reached(self, offset: int) -> None:
        """Asks for more, if what was asked for has come and `offset` is in the last of it."""
        if self._task is None or (self._task.done() and self._task.result() <= offset):
            self._task = asyncio.ensure_future(self._partition.bring_near(offset, _NEAR_BYTES))

    def close(self) -> None:
        if self._task is not None:
            self._task.cancel()


async def _replayed(partition: Partition, machine: Replaying, clock: Clock, near: _Near) -> Loaded:
    offset, end_offset, count, unreadable = partition.log_start_offset, partition.high_watermark, 0, 0
    while offset < end_offset:
        near.reached(offset)
        fetched = partition.read_cached(offset, _READ_BYTES, isolation=0, at_least_one=True)
        if fetched is None:
            fetched = await partition.read(offset, _READ_BYTES, isolation=0, at_least_one=True)
        if fetched.error is ErrorCode.CORRUPT_MESSAGE:
            behind = await _behind_damage(partition, offset)
            unreadable += behind - offset
            offset = behind
            continue
        if fetched.error is not ErrorCode.NONE:
            raise LoadFailed(f"offset {offset}: {fetched.error.name}")
        # A log of small writes comes in small pieces: one pass over all is cheaper than a call for each.
        data = memoryview(b"".join(fetched.buffers))
        next_offset, position = offset, 0
        while position < len(data):
            replayed = machine.replay_plain(data, position)
            if replayed.next_offset >= 0:
                position, next_offset = replayed[:2]
                count += replayed.records
                continue
            batch = _batch_at(data, position)
            position += batch.size_bytes
            next_offset = batch.next_offset
            try:
                records = key_values(batch)
            except UnreadableBatch as error:
                log.error(
                    "coordinator leaves a batch out",
                    topic=partition.topic,
                    partition=partition.pid.index,
                    offset=batch.base_offset,
                    records=batch.record_count,
                    reason=str(error),
                )
                unreadable += batch.record_count
                continue
            count += len(records)
            machine.replay(records, envelope_of(batch))
        if next_offset <= offset:
            raise LoadFailed(f"nothing at offset {offset}")
        offset = next_offset
        await clock.sleep(0)
    return Loaded(count, unreadable)


async def _behind_damage(partition: Partition, offset: int) -> int:
    """Where to go on. Raises LogDamaged if nobody has said that it should, LoadFailed."""
    try:
        behind = min(await partition.behind_damage(offset), partition.high_watermark)
    except BytemqError as error:
        raise LoadFailed(f"offset {offset}: {error}") from error
    if not partition.config.bytemq_skip_damage:
        raise LogDamaged(f"offsets {offset} to {behind - 1} are not what was written")
    log.error(
        "coordinator leaves out what is damaged",
        topic=partition.topic,
        partition=partition.pid.index,
        first=offset,
        last=behind - 1,
    )
    return behind


def _batch_at(data: memoryview, position: int) -> RecordBatch:
    try:
        return parse_header(data, position)
    except KafkaError as error:
        raise LoadFailed(str(error)) from error


def envelope_of(batch: RecordBatch) -> Envelope | None:
    """The transaction that a batch belongs to; a control batch without one is nobody's marker, and still a control
    batch.
    """
    if not (batch.is_transactional or batch.is_control):
        return None
    return Envelope(batch.producer_id, batch.producer_epoch, batch.is_control)


def key_values(batch: RecordBatch) -> list[KeyValue]:
    """The keys and values of a batch, straight from the parser. Raises UnreadableBatch."""
    try:
        data = decompress(batch.compression, batch.records)
    except KafkaError as error:
        raise UnreadableBatch(str(error)) from error
    code, _, parsed = parse(data, 0, batch.record_count)
    if code != OK or len(parsed) != batch.record_count:
        raise UnreadableBatch(MESSAGES[code])
    return [(key, value) for _, _, key, value, _ in parsed]
