"""Checking every record of a batch: what the header alone cannot show.

Owns when a batch is opened and what Kafka answers to a bad record. Done where a config asks for it
(bytemq.validate.records), for compacted topics (every record needs a key), and where a header looks wrong. The work
is native where the package could be compiled.
"""

from __future__ import annotations

from typing import NamedTuple

from bytemq.protocol.error_codes import ErrorCode
from bytemq.protocol.records.batch import InvalidBatch, RecordBatch
from bytemq.protocol.records.compression import Compression, decompress
from bytemq.protocol.records.walk_codes import MESSAGES, MISSING_KEY, OK

try:
    from bytemq.protocol.records._walk import find, parse, walk

    IS_NATIVE = True
except ImportError:  # no compiler when the package was installed: the same, slower
    from bytemq.protocol.records.walk_pure import find, parse, walk

    IS_NATIVE = False

__all__ = ["IS_NATIVE", "Walk", "find", "parse", "walk", "walk_batch"]


class Walk(NamedTuple):
    """What a walk over all records found."""

    max_timestamp: int
    """Largest record timestamp in ms, whatever the header says."""
    offset_delta_of_max: int
    """Of the first record that has it."""
    is_dense: bool
    """Offset deltas are 0, 1, 2, ...; Kafka takes produced batches where they are not."""
    min_timestamp: int
    """Smallest record timestamp in ms, leaving out records without one (-1); -1 when none has one."""


_MOST_RECORD_ERRORS = 1_000
_PARSED_AT_ONCE = 1_000


def walk_batch(batch: RecordBatch, *, max_decompressed_bytes: int, require_keys: bool = False) -> Walk:
    """Decompress and check every record of a whole batch.

    Raises KafkaError: INVALID_RECORD for a record that is malformed or, with `require_keys`, has no key, and for a
    record count that is not the header's; CORRUPT_MESSAGE or MESSAGE_TOO_LARGE when decompression fails or gives
    more than the limit.
    """
    data = decompress(batch.compression, batch.records, max_decompressed_bytes)
    code, index, newest, delta, dense, oldest = walk(data, batch.record_count, batch.base_timestamp, require_keys)
    if code == OK:
        return Walk(newest, delta, dense, oldest)
    if code == MISSING_KEY:
        text = "Compacted topic cannot accept message without key"
        record_errors = [(each, text) for each in _without_key(data, batch.record_count)]
        raise InvalidBatch(ErrorCode.INVALID_RECORD, text, record_errors)
    compressed = "" if batch.compression == Compression.NONE else "compressed "
    message = f"Record {index} of {batch.record_count} in the {compressed}batch is malformed: {MESSAGES[code]}"
    raise InvalidBatch(ErrorCode.INVALID_RECORD, message)


def _without_key(data: bytes | bytearray | memoryview, count: int) -> list[int]:
    """The first thousand records that have no key, up to one that is malformed."""
    found: list[int] = []
    position = first = 0
    while first < count and len(found) < _MOST_RECORD_ERRORS:
        code, position, records = parse(data, position, min(_PARSED_AT_ONCE, count - first))
        found += [first + index for index, record in enumerate(records) if record[2] is None]
        first += len(records)
        if code != OK:
            break
    return found[:_MOST_RECORD_ERRORS]
