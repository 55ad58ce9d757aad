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


def walk_batch(batch: RecordBatch, *, max_decompressed_bytes: int, require_keys: bool = False) -> Walk:
    """Decompress and check every record of a whole batch.

    Raises KafkaError: INVALID_RECORD for a record that is malformed or, with `require_keys`, has no key, and for a
    record count that is not the header's; CORRUPT_MESSAGE or MESSAGE_TOO_LARGE when decompression fails or gives
    more than the limit.
    """
    data = decompress(batch.compression, batch.records, max_decompressed_bytes)
    code, index, max_timestamp, delta_of_max, dense = walk(data, batch.record_count, batch.base_timestamp, require_keys)
    if code == OK:
        return Walk(max_timestamp, delta_of_max, dense)
    if code == MISSING_KEY:
        raise InvalidBatch(ErrorCode.INVALID_RECORD, "Compacted topic cannot accept message without key")
    compressed = "" if batch.compression == Compression.NONE else "compressed "
    message = f"Record {index} of {batch.record_count} in the {compressed}batch is malformed: {MESSAGES[code]}"
    raise InvalidBatch(ErrorCode.INVALID_RECORD, message)
