"""Checking every record of a batch: what the header alone cannot show.

Owns when a batch is opened and what Kafka answers to a bad record. Done where a config asks for it
(bytemq.validate.records), for compacted topics (every record needs a key), and where a header looks wrong. The work
is native where the package could be compiled.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from bytemq.protocol.error_codes import ErrorCode
from bytemq.protocol.records.batch import NO_TIMESTAMP, InvalidBatch, RecordBatch
from bytemq.protocol.records.compression import Bytes, Compression
from bytemq.protocol.records.walk_codes import MESSAGES, MISSING_KEY, OK
from bytemq.protocol.records.walk_pure import Parsed

try:
    from bytemq.protocol.records._walk import find, fold, parse, plain_records, walk

    IS_NATIVE = True
except ImportError:  # no compiler when the package was installed: the same, slower
    from bytemq.protocol.records.walk_pure import find, fold, parse, plain_records, walk

    IS_NATIVE = False

__all__ = ["IS_NATIVE", "Walk", "find", "fold", "parse", "plain_records", "records_at_fault", "walk", "walk_records"]


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
    longest_bytes: int
    """Of the longest record, without the number before it that says so."""
    lacks_keys: bool = False
    """Where every record needs a key: some have none."""


_PARSED_AT_ONCE: Final = 1_000


def walk_records(batch: RecordBatch, records: Bytes, *, require_keys: bool = False) -> Walk:
    """Check every record of a whole batch, of which `records` are the records decompressed.

    Raises InvalidBatch: INVALID_RECORD for a record that is malformed and for a record count that is not the header's.
    """
    code, index, newest, delta, dense, oldest, longest = walk(
        records, batch.record_count, batch.base_timestamp, require_keys
    )
    if code == OK:
        return Walk(newest, delta, dense, oldest, longest)
    if code == MISSING_KEY:  # it went no further
        return walk_records(batch, records)._replace(lacks_keys=True)
    compressed = "" if batch.compression == Compression.NONE else "compressed "
    message = f"Record {index} of {batch.record_count} in the {compressed}batch is malformed: {MESSAGES[code]}"
    raise InvalidBatch(ErrorCode.INVALID_RECORD, message)


def records_at_fault(
    batch: RecordBatch, records: Bytes, oldest_ms: int, newest_ms: int, *, require_keys: bool = False
) -> Iterator[tuple[int, int | None]]:
    """(index, timestamp) of each record that is older or newer, unless it has no timestamp; before that is asked, of
    each without a key where one is required: (index, None).
    """
    for index, record in _parsed(records, batch.record_count):
        if require_keys and record[2] is None:
            yield index, None
            continue
        timestamp = batch.base_timestamp + record[0]
        if timestamp != NO_TIMESTAMP and not oldest_ms <= timestamp <= newest_ms:
            yield index, timestamp


def _parsed(records: Bytes, count: int) -> Iterator[tuple[int, Parsed]]:
    """The records with their indexes, up to one that is malformed."""
    position = first = 0
    while first < count:
        code, position, parsed = parse(records, position, min(_PARSED_AT_ONCE, count - first))
        yield from enumerate(parsed, first)
        first += len(parsed)
        if code != OK:
            return
