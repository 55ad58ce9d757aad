"""The records of `__consumer_offsets` that classic groups write, in Kafka's formats.

Keys start with the record's type (int16), values with the version of their schema (int16). Offsets are by far the most
frequent, so their codec is written by hand; a replay of a million of them must take seconds. Group metadata uses the
generated codec. Those of consumer groups are in consumer/records.py; of other types (share and streams groups)
`decode` gives None.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from bytemq.broker.coordinator.group.consumer.records import ConsumerGroupRecord, decode_consumer_record
from bytemq.protocol.codec import decode_record, encode_record
from bytemq.protocol.messages.group_metadata_record import GroupMetadataValue, MemberMetadata
from bytemq.protocol.primitives import MalformedMessage
from bytemq.types import ZERO_TOPIC_ID

OFFSET_COMMIT_TYPES = (0, 1)  # 0 is the key of before Kafka 0.9, of the same shape
GROUP_METADATA_TYPE = 2
NO_TIMESTAMP = -1
NO_LEADER_EPOCH = -1

_INT16 = struct.Struct(">h")
_INT32 = struct.Struct(">i")
_INT64 = struct.Struct(">q")
_OFFSET_AND_EPOCH = struct.Struct(">hqi")
_TOPIC_ID_FIELD = b"\x01\x00\x10"  # one tagged field: tag 0, 16 bytes
_TOPIC_ID_TAG, _TOPIC_ID_BYTES = 0, 16
MAX_STRING_BYTES = 0x7FFF
HIGHEST_OFFSET_VALUE_VERSION = 4
_EXPIRING_VALUE_VERSION = 1
LEAST_OFFSET_VALUE_BYTES = 20


class CommittedOffset(NamedTuple):
    """What a group committed for one partition.

    `expire_timestamp_ms` is -1 unless the client set a retention of its own (OffsetCommit v2-4).
    """

    offset: int
    leader_epoch: int = NO_LEADER_EPOCH
    metadata: str = ""
    commit_timestamp_ms: int = NO_TIMESTAMP
    expire_timestamp_ms: int = NO_TIMESTAMP
    topic_id: bytes = ZERO_TOPIC_ID

    def encode(self) -> bytes:
        """OffsetCommitValue: version 1 with a retention of its own, else 4, as Kafka 4.4 writes them."""
        if self.expire_timestamp_ms != NO_TIMESTAMP:
            parts = (_INT16.pack(1), _INT64.pack(self.offset), encode_string(self.metadata))
            return b"".join((*parts, _INT64.pack(self.commit_timestamp_ms), _INT64.pack(self.expire_timestamp_ms)))
        tags = b"\x00" if self.topic_id == ZERO_TOPIC_ID else _TOPIC_ID_FIELD + self.topic_id
        head = _OFFSET_AND_EPOCH.pack(4, self.offset, self.leader_epoch)
        return b"".join((head, _compact_string(self.metadata), _INT64.pack(self.commit_timestamp_ms), tags))

    @classmethod
    def decode(cls, data: bytes) -> CommittedOffset:
        """The inverse, for every version that Kafka ever wrote. Raises MalformedMessage."""
        try:
            return _decode_committed_offset(data)
        except (struct.error, IndexError) as error:
            raise MalformedMessage("a truncated offset commit value") from error


class OffsetCommitRecord(NamedTuple):
    """The offset of one partition in one group; `encoded` is its value as stored, None deletes it.

    The value stays encoded until somebody asks for it: that halves both the memory and the replay of a million offsets.
    """

    group_id: str
    topic: str
    partition: int
    encoded: bytes | None

    def encode_key(self) -> bytes:
        return b"".join(
            (b"\x00\x01", encode_string(self.group_id), encode_string(self.topic), _INT32.pack(self.partition))
        )

    def encode_value(self) -> bytes | None:
        return self.encoded


class GroupMetadataRecord(NamedTuple):
    """A classic group's generation: its members with subscriptions and assignments; None removes the group."""

    group_id: str
    metadata: GroupMetadataValue | None

    def encode_key(self) -> bytes:
        return b"\x00\x02" + encode_string(self.group_id)

    def encode_value(self) -> bytes | None:
        return None if self.metadata is None else bytes(encode_record(self.metadata, 3))


GroupRecord = OffsetCommitRecord | GroupMetadataRecord | ConsumerGroupRecord


def decode(key: bytes, value: bytes | None) -> GroupRecord | None:
    """A stored record; None for a type that this version does not know. Raises MalformedMessage."""
    try:
        (record_type,) = _INT16.unpack_from(key)
        if record_type in OFFSET_COMMIT_TYPES:
            return _decode_offset_commit(key, value)
        if record_type != GROUP_METADATA_TYPE:
            return decode_consumer_record(key, value)
        group_id, _ = _read_string(key, 2)
    except (struct.error, IndexError) as error:
        raise MalformedMessage("a truncated key in the offsets topic") from error
    return GroupMetadataRecord(group_id, None if value is None else decode_record(GroupMetadataValue, value))


def is_offset_value(value: bytes) -> bool:
    """Whether this can be an offset commit value, as far as version and size show."""
    return len(value) >= LEAST_OFFSET_VALUE_BYTES and value[0] == 0 and value[1] <= HIGHEST_OFFSET_VALUE_VERSION


def has_own_retention(encoded: bytes) -> bool:
    """Whether an offset expires at a time of its own (OffsetCommit v2-4), told without decoding it."""
    return encoded[1] == _EXPIRING_VALUE_VERSION


def member_metadata(value: GroupMetadataValue) -> list[MemberMetadata]:
    """The members of a stored generation; version 0 has no rebalance timeout: the session's holds for both."""
    for member in value.members:
        if member.rebalance_timeout == -1:
            member.rebalance_timeout = member.session_timeout
    return value.members


def encode_string(text: str) -> bytes:
    """int16 length and UTF-8. Callers keep `text` within `fits_a_string`."""
    encoded = text.encode("utf-8", "surrogatepass")
    return _INT16.pack(len(encoded)) + encoded


def fits_a_string(text: str) -> bool:
    """Whether the stored form has room for it."""
    return len(text) <= MAX_STRING_BYTES // 3 or len(text.encode("utf-8", "surrogatepass")) <= MAX_STRING_BYTES


def _decode_offset_commit(key: bytes, value: bytes | None) -> OffsetCommitRecord:
    group_id, position = _read_string(key, 2)
    topic, position = _read_string(key, position)
    (partition,) = _INT32.unpack_from(key, position)
    if value is not None and not is_offset_value(value):
        raise MalformedMessage("an offset commit value of an unknown version")
    return OffsetCommitRecord(group_id, topic, partition, value)


def _decode_committed_offset(data: bytes) -> CommittedOffset:
    version, offset = struct.unpack_from(">hq", data)
    position = 10
    leader_epoch, expire_timestamp, topic_id = NO_LEADER_EPOCH, NO_TIMESTAMP, bytes(ZERO_TOPIC_ID)
    if version >= 3:
        (leader_epoch,) = _INT32.unpack_from(data, position)
        position += 4
    read = _read_compact_string if version >= 4 else _read_string
    metadata, position = read(data, position)
    (commit_timestamp,) = _INT64.unpack_from(data, position)
    if version == 1:
        (expire_timestamp,) = _INT64.unpack_from(data, position + 8)
    elif version >= 4:
        topic_id = _read_topic_id(data, position + 8)
    return CommittedOffset(offset, leader_epoch, metadata, commit_timestamp, expire_timestamp, topic_id)


def _read_string(data: bytes, position: int) -> tuple[str, int]:
    (size,) = _INT16.unpack_from(data, position)
    return _read_text(data, position + 2, size)


def _read_compact_string(data: bytes, position: int) -> tuple[str, int]:
    size, position = _read_unsigned(data, position)
    return _read_text(data, position, size - 1)


def _read_topic_id(data: bytes, position: int) -> bytes:
    """The topic id among the tagged fields, if it is there; fields of later versions are passed over."""
    topic_id = bytes(ZERO_TOPIC_ID)
    count, position = _read_unsigned(data, position)
    for _ in range(count):
        tag, position = _read_unsigned(data, position)
        size, position = _read_unsigned(data, position)
        if position + size > len(data) or (tag == _TOPIC_ID_TAG and size != _TOPIC_ID_BYTES):
            raise IndexError("tagged field")
        if tag == _TOPIC_ID_TAG:
            topic_id = data[position : position + size]
        position += size
    return topic_id


def _read_unsigned(data: bytes, position: int) -> tuple[int, int]:
    value, shift = 0, 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 28:
            raise IndexError("variable-length integer")


def _read_text(data: bytes, position: int, size: int) -> tuple[str, int]:
    end = position + size
    if size < 0 or end > len(data):
        raise IndexError("string")
    return data[position:end].decode("utf-8", "replace"), end


def _compact_string(text: str) -> bytes:
    encoded = text.encode("utf-8", "surrogatepass")
    size = len(encoded) + 1
    length = bytearray()
    while size > 0x7F:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    length.append(size)
    return bytes(length) + encoded
