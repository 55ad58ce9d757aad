"""Small batches in a row become one: what was committed record by record is read again by the thousand. Pure.

Owns: which batches may be merged, and the bytes of the one that they become. Must not: merge what a producer numbered,
or anything of a transaction.

A coordinator writes most of its records in batches of one; after a cleaning a million of them would be a million
headers, and reading those would take a coordinator longer than anything else at its start. Offsets and timestamps stay;
Kafka's batches may leave out offsets anyway.
"""

from __future__ import annotations

from typing import NamedTuple

from bytemq.protocol.records import offset_map
from bytemq.protocol.records.batch import CREATE_TIME, DELETE_HORIZON_FLAG, NO_PRODUCER_ID, RecordBatch
from bytemq.protocol.records.builder import with_records
from bytemq.protocol.records.compression import Bytes, compress

MAX_MERGED_BYTES = 32 * 1024
"""Of records, decompressed."""
MAX_OFFSETS = 1 << 30


class OpenBatch(NamedTuple):
    """A batch with its records decompressed."""

    batch: RecordBatch
    records: Bytes
    record_count: int
    max_timestamp: int


def can_be_merged(batch: RecordBatch) -> bool:
    is_numbered = batch.producer_id != NO_PRODUCER_ID or batch.is_transactional or batch.is_control
    return not is_numbered and batch.timestamp_type == CREATE_TIME and not batch.attributes & DELETE_HORIZON_FLAG


class Merger:
    """Batches that may be merged, in a row. `take` ends the row."""

    def __init__(self) -> None:
        self._row: list[OpenBatch] = []
        self._size_bytes = 0

    def admits(self, one: OpenBatch) -> bool:
        """Whether it goes into one batch with those that are in the row."""
        if not self._row:
            return True
        first = self._row[0].batch
        is_alike = (first.attributes, first.leader_epoch) == (one.batch.attributes, one.batch.leader_epoch)
        is_near = one.batch.last_offset - first.base_offset < MAX_OFFSETS
        return is_alike and is_near and self._size_bytes + len(memoryview(one.records)) <= MAX_MERGED_BYTES

    def add(self, one: OpenBatch) -> None:
        self._row.append(one)
        self._size_bytes += len(memoryview(one.records))

    def take(self) -> bytearray | None:
        """The row as one batch; None for a row of one, which stays as it is."""
        row, self._row, self._size_bytes = self._row, [], 0
        if len(row) == 1:
            return None
        first, last = row[0].batch, row[-1].batch
        records = bytearray(row[0].records)
        for one in row[1:]:
            timestamps = one.batch.base_timestamp - first.base_timestamp
            offsets = one.batch.base_offset - first.base_offset
            *_, moved = offset_map.shift(one.records, one.record_count, timestamps, offsets)
            records += one.records if moved is None else moved
        first.last_offset_delta = last.last_offset - first.base_offset
        return with_records(
            first,
            compress(first.compression, records),
            sum(one.record_count for one in row),
            base_timestamp=first.base_timestamp,
            max_timestamp=max(one.max_timestamp for one in row),
            attributes=first.attributes,
        )
