"""The header of a v2 record batch: reading, checking and patching it in place.

Owns the 61 bytes before the records and the rules that a produced batch must meet as far as those bytes show. It
never looks at a single record: `walk` does that, where a config or a suspicious header asks for it.
"""

from __future__ import annotations

import struct

from crc32c import crc32c

from bytemq.protocol import plain_produce
from bytemq.protocol.error_codes import ErrorCode, KafkaError

HEADER_BYTES = 61
PREFIX_BYTES = 12
"""Base offset and length: the bytes that every message format starts with, not counted by the length itself."""

CURRENT_MAGIC = 2
NO_TIMESTAMP = -1
NO_PRODUCER_ID = -1
NO_PRODUCER_EPOCH = -1
NO_SEQUENCE = -1
NO_LEADER_EPOCH = -1

CREATE_TIME = 0
LOG_APPEND_TIME = 1

CODEC_MASK = 0x07
ZSTD = 4
TIMESTAMP_TYPE_FLAG = 0x08
TRANSACTIONAL_FLAG = 0x10
CONTROL_FLAG = 0x20
DELETE_HORIZON_FLAG = 0x40
KNOWN_ATTRIBUTES = 0x7F

CRC_POSITION = 17
ATTRIBUTES_POSITION = 21
"""The CRC covers the batch from here to its end."""
MAX_TIMESTAMP_POSITION = 35
PRODUCER_ID_POSITION = 43

_SMALLEST_MESSAGE_BYTES = 14
"""What a v0 message needs after the prefix; Kafka calls anything smaller corrupt before it knows the format."""
LEADER_EPOCH_POSITION = 12
MAGIC_POSITION = 16
_SEQUENCES = 1 << 31

_HEADER = struct.Struct(">qiibIhiqqqhii")
_LENGTH_AT = struct.Struct(">8xi")
_CRC = struct.Struct(">I")
_ATTRIBUTES = struct.Struct(">h")
_INT64 = struct.Struct(">q")
_PRODUCER = struct.Struct(">43xqh")
_PRODUCER_AND_SEQUENCE = struct.Struct(">43xqhi")


class InvalidBatch(KafkaError):
    """Bytes that are no acceptable record batch. `code` is what Kafka answers: CORRUPT_MESSAGE, ..."""


class RecordBatch(plain_produce.Fields):
    """A view on one v2 batch inside a buffer.

    `view` is the whole batch with its 12-byte prefix (or only its header, see `parse_header`); the numbers are
    copies of what the header said, kept in step by the patching functions below. `sent_crc` stays what it was when
    parsed: the checksum that tells a duplicate from another batch under the same sequence. Storage
    keeps it beside the header; for control batches, which nobody sends twice, the log puts a word of its own there.
    """

    __slots__ = ()

    @property
    def last_offset(self) -> int:
        return self.base_offset + self.last_offset_delta

    @property
    def compression(self) -> int:
        """0 none, 1 gzip, 2 snappy, 3 lz4, 4 zstd; 5 to 7 are unknown codecs."""
        return self.attributes & CODEC_MASK

    @property
    def is_transactional(self) -> bool:
        return bool(self.attributes & TRANSACTIONAL_FLAG)

    @property
    def is_control(self) -> bool:
        return bool(self.attributes & CONTROL_FLAG)

    @property
    def timestamp_type(self) -> int:
        """CREATE_TIME (0) or LOG_APPEND_TIME (1)."""
        return (self.attributes >> 3) & 1

    @property
    def delete_horizon_ms(self) -> int | None:
        """When the tombstones of a compacted batch may go (KIP-534); the base timestamp's field holds it."""
        return self.base_timestamp if self.attributes & DELETE_HORIZON_FLAG else None

    @property
    def has_producer(self) -> bool:
        return self.producer_id > NO_PRODUCER_ID

    @property
    def last_sequence(self) -> int:
        """Sequence of the last record; sequences wrap from 2^31 - 1 to 0. NO_SEQUENCE without a producer."""
        if self.base_sequence == NO_SEQUENCE:
            return NO_SEQUENCE
        return (self.base_sequence + self.last_offset_delta) % _SEQUENCES

    @property
    def records(self) -> memoryview:
        """The bytes after the header: records, compressed together when `compression` says so."""
        return self.view[HEADER_BYTES:]

    def __repr__(self) -> str:
        return (
            f"RecordBatch(offsets {self.base_offset}..{self.last_offset}, {self.record_count} records, "
            f"{self.size_bytes} bytes, producer {self.producer_id}/{self.producer_epoch} from {self.base_sequence})"
        )


def parse_header(view: memoryview, position: int = 0, *, header_only: bool = False) -> RecordBatch:
    """The batch at `position`, without checking its CRC.

    With `header_only` the bytes after the header need not be there, and `view` of the result holds the header alone.
    Raises InvalidBatch (CORRUPT_MESSAGE) where there is no whole v2 batch.
    """
    if len(view) - position < HEADER_BYTES:
        raise InvalidBatch(ErrorCode.CORRUPT_MESSAGE, "The buffer ends inside the header of a record batch.")
    header = _HEADER.unpack_from(view, position)
    size_bytes = header[1] + PREFIX_BYTES
    if header[3] != CURRENT_MAGIC:
        raise InvalidBatch(ErrorCode.CORRUPT_MESSAGE, f"Record batch with magic {header[3]} where only 2 can be.")
    if size_bytes < HEADER_BYTES:
        raise InvalidBatch(
            ErrorCode.CORRUPT_MESSAGE, f"Record batch of {size_bytes} bytes, less than its header takes."
        )
    if header_only:
        return RecordBatch(view[position : position + HEADER_BYTES], header)
    if len(view) - position < size_bytes:
        raise InvalidBatch(ErrorCode.CORRUPT_MESSAGE, f"The buffer ends inside a record batch of {size_bytes} bytes.")
    return RecordBatch(view[position : position + size_bytes], header)


def transactional_producer(view: memoryview) -> tuple[int, int] | None:
    """Producer id and epoch of the transactional data batch that `view` begins with; None for any other bytes."""
    if len(view) < HEADER_BYTES or view[MAGIC_POSITION] != CURRENT_MAGIC:
        return None
    attributes = _ATTRIBUTES.unpack_from(view, ATTRIBUTES_POSITION)[0]
    if attributes & (TRANSACTIONAL_FLAG | CONTROL_FLAG) != TRANSACTIONAL_FLAG:
        return None
    producer_id, producer_epoch = _PRODUCER.unpack_from(view)
    return producer_id, producer_epoch


def beginning_producer(view: memoryview) -> tuple[int, int] | None:
    """Producer id and epoch of the idempotent batch with sequence 0 that `view` begins with; None for other bytes."""
    if len(view) < HEADER_BYTES or view[MAGIC_POSITION] != CURRENT_MAGIC:
        return None
    producer_id, producer_epoch, sequence = _PRODUCER_AND_SEQUENCE.unpack_from(view)
    return (producer_id, producer_epoch) if producer_id >= 0 and sequence == 0 else None


def split_batches(view: memoryview) -> list[RecordBatch]:
    """All batches of stored data: whole batches in a row. Raises InvalidBatch if anything else is between or after
    them.
    """
    batches = []
    position = 0
    while position < len(view):
        batch = parse_header(view, position)
        batches.append(batch)
        position += batch.size_bytes
    return batches


def computed_crc(batch: RecordBatch) -> int:
    """The CRC-32C over the batch as its bytes are now."""
    return int(crc32c(batch.view[ATTRIBUTES_POSITION:]))


def check_crc(batch: RecordBatch) -> None:
    """Raise InvalidBatch (CORRUPT_MESSAGE) if the bytes are not those that the checksum was made from."""
    computed = computed_crc(batch)
    if computed != batch.crc:
        raise InvalidBatch(
            ErrorCode.CORRUPT_MESSAGE,
            f"Record is corrupt (stored crc = {batch.crc}, computed crc = {computed})",
        )


def produced_batch(
    payload: memoryview,
    *,
    max_message_bytes: int = _SEQUENCES - 1,
    zstd_allowed: bool = True,
    from_client: bool = True,
) -> RecordBatch:
    """The one batch of a produced payload, checked as Kafka checks it, as far as its header shows.

    Exactly one whole batch must be there; a cut one after it is dropped. `zstd_allowed` is whether the request is
    Produce v7 or later (KIP-110). `from_client=False` lets control batches pass (coordinators write markers). The
    codes, in Kafka's order: CORRUPT_MESSAGE, INVALID_RECORD, UNSUPPORTED_COMPRESSION_TYPE, MESSAGE_TOO_LARGE.
    Raises InvalidBatch.
    """
    header = plain_produce.batch(payload, max_message_bytes, zstd_allowed) if from_client else None
    if header is None:
        return any_produced_batch(payload, max_message_bytes, zstd_allowed, from_client)
    batch = RecordBatch(payload, header)
    check_crc(batch)
    return batch


def any_produced_batch(
    payload: memoryview, max_message_bytes: int, zstd_allowed: bool, from_client: bool
) -> RecordBatch:
    """The long way of `produced_batch`, which says of every payload what is wrong with it."""
    size_bytes = _whole_message_bytes(payload, 0)
    if size_bytes == 0:
        raise InvalidBatch(ErrorCode.INVALID_RECORD, "A produced partition must have at least one record batch.")
    if payload[MAGIC_POSITION] != CURRENT_MAGIC:
        raise InvalidBatch(
            ErrorCode.INVALID_RECORD, "Produced data may only contain record batches with magic version 2."
        )
    batch = parse_header(payload)
    if batch.compression > ZSTD:
        raise InvalidBatch(ErrorCode.INVALID_RECORD, f"Unknown compression type id: {batch.compression}")
    if batch.compression == ZSTD and not zstd_allowed:
        message = "Produce requests below version 7 are not allowed to use ZStandard compression."
        raise InvalidBatch(ErrorCode.UNSUPPORTED_COMPRESSION_TYPE, message)
    if len(payload) > size_bytes and _whole_message_bytes(payload, size_bytes):
        raise InvalidBatch(ErrorCode.INVALID_RECORD, "A produced partition must have exactly one record batch.")
    if batch.base_offset != 0:
        message = f"The baseOffset of the record batch should be 0, but it is {batch.base_offset}"
        raise InvalidBatch(ErrorCode.INVALID_RECORD, message)
    if size_bytes > max_message_bytes:
        message = (
            f"The record batch size in the append is {size_bytes} bytes "
            f"which exceeds the maximum configured value of {max_message_bytes}."
        )
        raise InvalidBatch(ErrorCode.MESSAGE_TOO_LARGE, message)
    check_crc(batch)
    _check_consistency(batch, from_client)
    return batch


def _whole_message_bytes(payload: memoryview, position: int) -> int:
    """Size of the message of any format at `position`; 0 when it is cut. Raises InvalidBatch when it cannot be one."""
    remaining = len(payload) - position
    if remaining < PREFIX_BYTES:
        return 0
    (length,) = _LENGTH_AT.unpack_from(payload, position)
    if length < _SMALLEST_MESSAGE_BYTES:
        message = f"Record size {length} is less than the minimum record overhead ({_SMALLEST_MESSAGE_BYTES})"
        raise InvalidBatch(ErrorCode.CORRUPT_MESSAGE, message)
    if remaining <= MAGIC_POSITION:
        return 0
    magic = payload[position + MAGIC_POSITION]
    if magic > CURRENT_MAGIC:
        raise InvalidBatch(ErrorCode.CORRUPT_MESSAGE, f"Invalid magic found in record: {magic}")
    size_bytes = int(length) + PREFIX_BYTES
    return size_bytes if remaining >= size_bytes else 0


def _check_consistency(batch: RecordBatch, from_client: bool) -> None:
    """Header fields against each other (Kafka's LogValidator.validateBatch)."""
    offsets = batch.last_offset_delta + 1
    if offsets <= 0:
        message = f"Batch has an invalid offset range: [{batch.base_offset}, {batch.last_offset}]"
        raise InvalidBatch(ErrorCode.INVALID_RECORD, message)
    if batch.record_count <= 0:
        raise InvalidBatch(ErrorCode.INVALID_RECORD, f"Invalid reported count for record batch: {batch.record_count}")
    if offsets != batch.record_count:
        message = (
            f"Inconsistent batch offset range [{batch.base_offset}, {batch.last_offset}] "
            f"and count of records {batch.record_count}"
        )
        raise InvalidBatch(ErrorCode.INVALID_RECORD, message)
    if from_client and batch.producer_id > NO_PRODUCER_ID and batch.base_sequence < 0:
        message = f"Invalid sequence number {batch.base_sequence} in record batch with producerId {batch.producer_id}"
        raise InvalidBatch(ErrorCode.INVALID_RECORD, message)
    if from_client and batch.attributes & CONTROL_FLAG:
        raise InvalidBatch(ErrorCode.INVALID_RECORD, "Clients are not allowed to write control records")


def set_max_timestamp(batch: RecordBatch, max_timestamp_ms: int, timestamp_type: int = CREATE_TIME) -> None:
    """Make the header say this timestamp type and maximum, as Kafka does after walking the records.

    Unused attribute bits go with it. The CRC is recomputed; nothing is touched when the header says so already.
    """
    if batch.max_timestamp == max_timestamp_ms and batch.timestamp_type == timestamp_type:
        return
    attributes = (batch.attributes & KNOWN_ATTRIBUTES & ~TIMESTAMP_TYPE_FLAG) | (timestamp_type << 3)
    _ATTRIBUTES.pack_into(batch.view, ATTRIBUTES_POSITION, attributes)
    _INT64.pack_into(batch.view, MAX_TIMESTAMP_POSITION, max_timestamp_ms)
    batch.attributes = attributes
    batch.max_timestamp = max_timestamp_ms
    batch.crc = computed_crc(batch)
    _CRC.pack_into(batch.view, CRC_POSITION, batch.crc)


def set_log_append_time(batch: RecordBatch, append_time_ms: int) -> None:
    """Stamp the batch with the broker's time (message.timestamp.type=LogAppendTime): it then holds for every
    record.
    """
    set_max_timestamp(batch, append_time_ms, LOG_APPEND_TIME)
