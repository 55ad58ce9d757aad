"""Building v2 record batches: for the coordinators' own records, control batches, tools and tests.

The broker never rebuilds what clients send; their bytes pass through. So clarity counts more than speed here.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from crc32c import crc32c

from bytemq.protocol.records import batch as header
from bytemq.protocol.records.compression import Bytes, compress

Header = tuple[str, bytes | None]
_AFTER_CRC = struct.Struct(">hiqqqhii")
_BEFORE_CRC = struct.Struct(">qiibI")


class Record(NamedTuple):
    """One record. To build: `offset` -1 means "next in order", `timestamp_ms` -1 means "that of the batch".

    Header keys that are not UTF-8 hold surrogate escapes, so that reading and building again gives the same bytes.
    """

    key: bytes | None
    value: bytes | None
    headers: Sequence[Header] = ()
    timestamp_ms: int = header.NO_TIMESTAMP
    offset: int = -1


def write_varint(out: bytearray, value: int) -> None:
    """Append a zigzag variable-length integer of at most 64 bits."""
    unsigned = (value << 1) ^ (value >> 63)
    while unsigned > 0x7F:
        out.append((unsigned & 0x7F) | 0x80)
        unsigned >>= 7
    out.append(unsigned)


def build_batch(
    records: Iterable[Record],
    *,
    base_offset: int = 0,
    timestamp_ms: int = header.NO_TIMESTAMP,
    compression: int = 0,
    log_append_time: bool = False,
    leader_epoch: int = header.NO_LEADER_EPOCH,
    producer_id: int = header.NO_PRODUCER_ID,
    producer_epoch: int = header.NO_PRODUCER_EPOCH,
    base_sequence: int = header.NO_SEQUENCE,
    transactional: bool = False,
    control: bool = False,
    last_offset: int | None = None,
) -> bytearray:
    """A whole batch with its CRC.

    `timestamp_ms` is for records that carry none; with `log_append_time` it is the batch's. `last_offset` may be
    above that of the last record, as compaction leaves it; a batch without records needs it.
    """
    body = bytearray()
    base_timestamp: int | None = None
    max_timestamp = header.NO_TIMESTAMP
    next_offset = base_offset
    count = 0
    for record in records:
        record_timestamp = timestamp_ms if record.timestamp_ms == header.NO_TIMESTAMP else record.timestamp_ms
        if base_timestamp is None:
            base_timestamp = max_timestamp = record_timestamp
        max_timestamp = max(max_timestamp, record_timestamp)
        offset = next_offset if record.offset < 0 else record.offset
        _write_record(body, record, record_timestamp - base_timestamp, offset - base_offset)
        next_offset = offset + 1
        count += 1
    if log_append_time:
        max_timestamp = timestamp_ms
    attributes = (
        compression
        | (header.TIMESTAMP_TYPE_FLAG if log_append_time else 0)
        | (header.TRANSACTIONAL_FLAG if transactional else 0)
        | (header.CONTROL_FLAG if control else 0)
    )
    after_crc = _AFTER_CRC.pack(
        attributes,
        (next_offset - 1 if last_offset is None else last_offset) - base_offset,
        timestamp_ms if base_timestamp is None else base_timestamp,
        max_timestamp,
        producer_id,
        producer_epoch,
        base_sequence,
        count,
    )
    return assemble(base_offset, leader_epoch, after_crc, compress(compression, body))


def assemble(base_offset: int, leader_epoch: int, after_crc: bytes, records: Bytes) -> bytearray:
    """A batch out of the header's fields that the CRC covers and the (compressed) records; length and CRC are
    computed.
    """
    crc = crc32c(records, crc32c(after_crc))
    length = header.HEADER_BYTES - header.PREFIX_BYTES + len(records)
    built = bytearray(_BEFORE_CRC.pack(base_offset, length, leader_epoch, header.CURRENT_MAGIC, crc))
    built += after_crc
    built += records
    return built


def with_records(
    batch: header.RecordBatch,
    records: Bytes,
    record_count: int,
    *,
    base_timestamp: int,
    max_timestamp: int,
    attributes: int,
) -> bytearray:
    """`batch` with other records, compressed as `attributes` say: what compaction leaves of it.

    Offsets, sequences and all else stay, the last offset although its record may be gone.
    """
    after_crc = _AFTER_CRC.pack(
        attributes,
        batch.last_offset_delta,
        base_timestamp,
        max_timestamp,
        batch.producer_id,
        batch.producer_epoch,
        batch.base_sequence,
        record_count,
    )
    return assemble(batch.base_offset, batch.leader_epoch, after_crc, records)


def _write_record(out: bytearray, record: Record, timestamp_delta: int, offset_delta: int) -> None:
    body = bytearray(1)  # attributes: unused in v2
    write_varint(body, timestamp_delta)
    write_varint(body, offset_delta)
    write_bytes(body, record.key)
    write_bytes(body, record.value)
    write_varint(body, len(record.headers))
    for key, value in record.headers:
        write_bytes(body, key.encode("utf-8", "surrogateescape"))
        write_bytes(body, value)
    write_varint(out, len(body))
    out += body


def write_bytes(out: bytearray, value: bytes | None) -> None:
    """As a record has its key, value and headers: with the length in front, -1 for None."""
    if value is None:
        write_varint(out, -1)
    else:
        write_varint(out, len(value))
        out += value
