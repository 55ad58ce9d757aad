"""Reading the records of a batch.

Owns turning bytes into `Record`s, a bounded number at a time, and finding one by its timestamp without building
any. For coordinators replaying their log and for tools: records as objects may take fifty times their bytes, so a
broker builds them only from what its own coordinators wrote.
"""

from __future__ import annotations

from collections.abc import Iterator

from bytemq.errors import Corrupt
from bytemq.protocol.records.batch import LOG_APPEND_TIME, RecordBatch
from bytemq.protocol.records.builder import Record
from bytemq.protocol.records.compression import MOST_DECOMPRESSED_BYTES, decompress
from bytemq.protocol.records.walk import find, parse
from bytemq.protocol.records.walk_codes import MESSAGES, OK

_RECORDS_AT_A_TIME = 512


def iter_records(batch: RecordBatch, *, max_decompressed_bytes: int = MOST_DECOMPRESSED_BYTES) -> Iterator[Record]:
    """The records with their offsets and timestamps, in order.

    In a LogAppendTime batch every record has the batch's maximum timestamp. Raises KafkaError when the batch does
    not decompress within the limit, Corrupt where a record is malformed (after those before it were given).
    """
    data = decompress(batch.compression, batch.records, max_decompressed_bytes)
    base_offset, base_timestamp = batch.base_offset, batch.base_timestamp
    fixed_timestamp = batch.max_timestamp if batch.timestamp_type == LOG_APPEND_TIME else None
    position, left = 0, batch.record_count
    while left > 0:
        code, position, parsed = parse(data, position, min(left, _RECORDS_AT_A_TIME))
        for timestamp_delta, offset_delta, key, value, headers in parsed:
            timestamp = base_timestamp + timestamp_delta if fixed_timestamp is None else fixed_timestamp
            yield Record(key, value, headers, timestamp, base_offset + offset_delta)
        left -= len(parsed)
        if code != OK:
            at = batch.record_count - left
            raise Corrupt(f"Record {at} of the batch at offset {base_offset} is malformed: {MESSAGES[code]}")


def first_at_or_after(
    batch: RecordBatch,
    timestamp_ms: int,
    least_offset: int,
    *,
    max_decompressed_bytes: int = MOST_DECOMPRESSED_BYTES,
) -> tuple[int, int] | None:
    """(offset, timestamp) of the first record at or above both, None if the batch has none. Raises as
    `iter_records`.
    """
    if batch.timestamp_type == LOG_APPEND_TIME:
        first_offset = max(batch.base_offset, least_offset)
        is_in = batch.max_timestamp >= timestamp_ms and first_offset <= batch.last_offset
        return (first_offset, batch.max_timestamp) if is_in else None
    data = decompress(batch.compression, batch.records, max_decompressed_bytes)
    least_delta = max(least_offset - batch.base_offset, 0)
    code, found = find(data, batch.record_count, batch.base_timestamp, timestamp_ms, least_delta)
    if code != OK:
        raise Corrupt(f"A record of the batch at offset {batch.base_offset} is malformed: {MESSAGES[code]}")
    return None if found is None else (batch.base_offset + found[0], found[1])
