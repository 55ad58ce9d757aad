"""Reading a coordinator's partition from its start to its high watermark. Fast: a million records must take seconds.

Hands out the loop between reads, so that a large partition holds up nobody else's requests for long.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from bytemq.broker.coordinator.outcome import Envelope
from bytemq.broker.log.partition import Partition
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.protocol.records.batch import RecordBatch, parse_header
from bytemq.protocol.records.compression import decompress
from bytemq.protocol.records.walk import parse, plain_records
from bytemq.protocol.records.walk_codes import MESSAGES, OK
from bytemq.runtime.clock import Clock
from bytemq.runtime.logging import get_logger

log = get_logger("broker.coordinator")

_READ_BYTES = 256 * 1024

KeyValue = tuple[bytes | None, bytes | None]
Replay = Callable[[Iterable[KeyValue], Envelope | None], None]


class LoadFailed(Exception):
    """The log could not be read now. Try again later."""


class UnreadableBatch(Exception):
    """Its records make no sense, however often they are read."""


class Loaded(NamedTuple):
    """How many records were replayed, and how many were in batches that cannot be read."""

    records: int
    unreadable: int


async def load(partition: Partition, replay: Replay, clock: Clock) -> Loaded:
    """Replays all committed records. What cannot be read is left out: the others are not lost with it, and it stays in
    the log as it is. Raises LoadFailed.
    """
    offset, end_offset, count, unreadable = partition.log_start_offset, partition.high_watermark, 0, 0
    while offset < end_offset:
        fetched = partition.read_cached(offset, _READ_BYTES, isolation=0, at_least_one=True)
        if fetched is None:
            fetched = await partition.read(offset, _READ_BYTES, isolation=0, at_least_one=True)
        if fetched.error is not ErrorCode.NONE:
            raise LoadFailed(f"offset {offset} of {partition.topic}-{partition.pid.index}: {fetched.error.name}")
        # A log of small writes comes in small pieces: one pass over all is cheaper than a call for each.
        data = memoryview(b"".join(fetched.buffers))
        next_offset, position = offset, 0
        while position < len(data):
            position, plain_end, records = plain_records(data, position)
            if plain_end >= 0:
                next_offset = plain_end
                count += len(records)
                replay(records, None)
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
            replay(records, envelope_of(batch))
        if next_offset <= offset:
            raise LoadFailed(f"nothing at offset {offset} of {partition.topic}-{partition.pid.index}")
        offset = next_offset
        await clock.sleep(0)
    return Loaded(count, unreadable)


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
