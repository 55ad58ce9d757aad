"""Fuzz target of record batches.

`produced` takes its input as the records of a Produce request, as they are and under a right checksum. It fails on
anything but Kafka's error codes, on memory beyond the limits, and where the native and the Python walk disagree.
"""

from __future__ import annotations

import struct

from crc32c import crc32c

from bytemq.errors import Corrupt
from bytemq.protocol.error_codes import KafkaError
from bytemq.protocol.records.batch import HEADER_BYTES, RecordBatch, produced_batch, set_max_timestamp
from bytemq.protocol.records.builder import Record, build_batch
from bytemq.protocol.records.compression import decompress
from bytemq.protocol.records.reader import first_at_or_after, iter_records
from bytemq.protocol.records.walk import records_at_fault, walk_records
from tests.fuzz import runner
from tests.unit.records.native import implementations

MAX_DECOMPRESSED_BYTES = 64 * 1024
IMPLEMENTATIONS = implementations()

_RECORDS = [
    Record(b"key", b"value", (("header", b"x"), ("header", None)), 1000),
    Record(None, b"value" * 20, (), 900),
    Record(b"key", None, (), 1100),
]
SEEDS = [bytes(build_batch(_RECORDS, compression=compression)) for compression in range(5)]
SEEDS.append(bytes(build_batch(_RECORDS, producer_id=7, producer_epoch=1, base_sequence=5, transactional=True)))


def produced(data: bytes) -> None:
    _take(bytearray(data))
    if len(data) >= HEADER_BYTES:
        mended = bytearray(data)
        struct.pack_into(">i", mended, 8, len(mended) - 12)
        struct.pack_into(">I", mended, 17, crc32c(bytes(mended[21:])))
        _take(mended)


def _take(payload: bytearray) -> None:
    try:
        batch = produced_batch(memoryview(payload))
    except KafkaError:
        return
    assert batch.size_bytes <= len(payload)
    assert 1 <= batch.record_count == batch.last_offset_delta + 1
    _read(batch)
    set_max_timestamp(batch, 12345)
    assert produced_batch(memoryview(payload)).max_timestamp == 12345


def _read(batch: RecordBatch) -> None:
    for read in (_walk, _iterate, _find):
        try:
            read(batch)
        except (KafkaError, Corrupt):
            continue


def _walk(batch: RecordBatch) -> None:
    data = decompress(batch.compression, batch.records, MAX_DECOMPRESSED_BYTES)
    assert len(data) <= max(MAX_DECOMPRESSED_BYTES, len(batch.view))
    answers = [walker.walk(data, batch.record_count, batch.base_timestamp, False) for walker in IMPLEMENTATIONS]
    assert answers.count(answers[0]) == len(answers)
    for _ in records_at_fault(batch, data, 0, 1_000, require_keys=True):
        pass
    walk_records(batch, data, require_keys=True)


def _iterate(batch: RecordBatch) -> None:
    count = sum(1 for _ in iter_records(batch, max_decompressed_bytes=MAX_DECOMPRESSED_BYTES))
    assert count == batch.record_count


def _find(batch: RecordBatch) -> None:
    found = first_at_or_after(batch, 950, 1, max_decompressed_bytes=MAX_DECOMPRESSED_BYTES)
    assert found is None or found[1] >= 950


if __name__ == "__main__":
    runner.main("fuzz_records", produced, SEEDS)
