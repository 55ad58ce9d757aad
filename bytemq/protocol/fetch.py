"""Fetch v4-18 by hand: a request with thousands of partitions is normal, and a response carries record bytes.

Owns nothing but the form. A response comes out as a list of buffers in which the records are those that the log handed
over, never copied; write them with `writelines`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from struct import Struct
from typing import NamedTuple

from bytemq.protocol.leader_hints import LeaderIdAndEpoch, NodeEndpoint, write_endpoints_section, write_leader
from bytemq.protocol.primitives import Buffer, Reader, Writer
from bytemq.types import ZERO_TOPIC_ID

SESSIONS_FROM = 7
PREFERRED_REPLICA_FROM = 11
FLEXIBLE_FROM = 12
TOPIC_IDS_FROM = 13
REPLICA_STATE_FROM = 15
LEADER_HINTS_FROM = 16

_Limits = tuple[int, int, int, int]  # max wait, min bytes, max bytes, isolation level
_LIMITS = Struct(">iiib")
_SESSION = Struct(">ii")  # session id, session epoch
_PARTITION_V4 = Struct(">iqi")  # index, fetch offset, max bytes
_PARTITION_V5 = Struct(">iqqi")  # index, fetch offset, log start offset, max bytes
_PARTITION_V9 = Struct(">iiqqi")  # ... with the current leader epoch after the index
_PARTITION_V12 = Struct(">iiqiqi")  # ... and the last fetched epoch after the fetch offset
_PARTITION_V12_TAGLESS = Struct(">iiqiqix")  # ... and the number of tagged fields, none, behind it
_REPLICA_STATE = Struct(">iq")

_TAG_CLUSTER_ID = 0
_TAG_REPLICA_STATE = 1
_TAG_REPLICA_DIRECTORY_ID = 0
_TAG_HIGH_WATERMARK = 1


class FetchPartition(NamedTuple):
    """What is wanted of one partition; -1 for what the version does not say.

    The two tagged fields that only followers send, replica directory id and high watermark, are passed over.
    """

    partition: int
    current_leader_epoch: int
    fetch_offset: int
    last_fetched_epoch: int
    log_start_offset: int
    partition_max_bytes: int


_fetch_partition: Callable[[tuple[int, ...]], FetchPartition] = partial(tuple.__new__, FetchPartition)
"""As `FetchPartition._make`, in one call: there are thousands."""

FetchTopic = tuple[str | None, bytes | None, list[FetchPartition]]
"""(name, topic id, partitions): named up to v12, with an id from v13 on."""

ForgottenTopic = tuple[str | None, bytes | None, list[int]]
"""(name, topic id, partition indexes)."""


class FetchRequest(NamedTuple):
    """Without fields of the version or the client: no limit, no session, a consumer's replica id (-1)."""

    max_wait_ms: int
    min_bytes: int
    max_bytes: int
    isolation_level: int
    topics: list[FetchTopic]
    session_id: int = 0
    session_epoch: int = -1
    forgotten_topics: Sequence[ForgottenTopic] = ()
    rack_id: str = ""
    replica_id: int = -1
    replica_epoch: int = -1
    cluster_id: str | None = None


def decode_fetch(version: int, body: memoryview) -> FetchRequest:
    """Raises MalformedMessage. What follows the request is ignored."""
    reader = Reader(body)
    replica_id = reader.read_int32() if version < REPLICA_STATE_FROM else -1
    limits: _Limits = reader.read_fixed(_LIMITS)
    if version >= FLEXIBLE_FROM:
        return _decode_flexible(version, reader, replica_id, limits)
    session_id, session_epoch = reader.read_fixed(_SESSION) if version >= SESSIONS_FROM else (0, -1)
    topics: list[FetchTopic] = []
    for _ in range(reader.read_array_length()):
        name = reader.read_string()
        topics.append((name, None, [_read_partition(version, reader) for _ in range(reader.read_array_length())]))
    forgotten: list[ForgottenTopic] = []
    for _ in range(reader.read_array_length() if version >= SESSIONS_FROM else 0):
        name = reader.read_string()
        forgotten.append((name, None, [reader.read_int32() for _ in range(reader.read_array_length())]))
    rack_id = reader.read_string() if version >= 11 else ""
    return FetchRequest(*limits, topics, session_id, session_epoch, forgotten, rack_id, replica_id)


def _read_partition(version: int, reader: Reader) -> FetchPartition:
    if version >= 9:
        index, leader_epoch, fetch_offset, log_start_offset, max_bytes = reader.read_fixed(_PARTITION_V9)
        return FetchPartition(index, leader_epoch, fetch_offset, -1, log_start_offset, max_bytes)
    if version >= 5:
        index, fetch_offset, log_start_offset, max_bytes = reader.read_fixed(_PARTITION_V5)
        return FetchPartition(index, -1, fetch_offset, -1, log_start_offset, max_bytes)
    index, fetch_offset, max_bytes = reader.read_fixed(_PARTITION_V4)
    return FetchPartition(index, -1, fetch_offset, -1, -1, max_bytes)


def _decode_flexible(version: int, reader: Reader, replica_id: int, limits: _Limits) -> FetchRequest:
    session_id, session_epoch = reader.read_fixed(_SESSION)
    topics: list[FetchTopic] = []
    for _ in range(reader.read_compact_array_length()):
        name, topic_id = _read_topic(version, reader)
        partitions = _read_flexible_partitions(version, reader)
        reader.skip_tagged_fields()
        topics.append((name, topic_id, partitions))
    forgotten: list[ForgottenTopic] = []
    for _ in range(reader.read_compact_array_length()):
        name, topic_id = _read_topic(version, reader)
        indexes = [reader.read_int32() for _ in range(reader.read_compact_array_length())]
        reader.skip_tagged_fields()
        forgotten.append((name, topic_id, indexes))
    rack_id = reader.read_compact_string()
    cluster_id, replica_id, replica_epoch = _read_request_tags(version, reader, replica_id)
    return FetchRequest(
        *limits, topics, session_id, session_epoch, forgotten, rack_id, replica_id, replica_epoch, cluster_id
    )


def _read_flexible_partitions(version: int, reader: Reader) -> list[FetchPartition]:
    count = reader.read_compact_array_length()
    row_bytes = _PARTITION_V12_TAGLESS.size
    end = reader.position + count * row_bytes
    if count and end <= len(reader.view):
        rows = reader.view[reader.position : end]
        if not any(rows[row_bytes - 1 :: row_bytes]):  # a consumer's: nothing in between
            reader.position = end
            return list(map(_fetch_partition, _PARTITION_V12_TAGLESS.iter_unpack(rows)))
    partitions = []
    for _ in range(count):
        partitions.append(FetchPartition._make(reader.read_fixed(_PARTITION_V12)))
        _pass_over_followers_tags(version, reader)
    return partitions


def _pass_over_followers_tags(version: int, reader: Reader) -> None:
    for _ in range(reader.read_tag_count()):
        tag = reader.read_unsigned_varint()
        size_bytes = reader.read_unsigned_varint()
        if tag == _TAG_REPLICA_DIRECTORY_ID and version >= 17:
            reader.read_uuid()
        elif tag == _TAG_HIGH_WATERMARK and version >= 18:
            reader.read_int64()
        else:
            reader.skip(size_bytes)


def _read_topic(version: int, reader: Reader) -> tuple[str | None, bytes | None]:
    if version >= TOPIC_IDS_FROM:
        return None, reader.read_uuid()
    return reader.read_compact_string(), None


def _read_request_tags(version: int, reader: Reader, replica_id: int) -> tuple[str | None, int, int]:
    """Cluster id, replica id and replica epoch."""
    cluster_id, replica_epoch = None, -1
    for _ in range(reader.read_tag_count()):
        tag = reader.read_unsigned_varint()
        size_bytes = reader.read_unsigned_varint()
        if tag == _TAG_CLUSTER_ID:
            cluster_id = reader.read_compact_nullable_string()
        elif tag == _TAG_REPLICA_STATE and version >= REPLICA_STATE_FROM:
            replica_id, replica_epoch = reader.read_fixed(_REPLICA_STATE)
            reader.skip_tagged_fields()
        else:
            reader.skip(size_bytes)
    return cluster_id, replica_id, replica_epoch


class PartitionData(NamedTuple):
    """The answer for one partition. Fields that the version lacks are left out.

    `records` are consecutive buffers of whole batches; () is the empty set that goes with an error.
    """

    partition_index: int
    error_code: int
    high_watermark: int = -1
    last_stable_offset: int = -1
    log_start_offset: int = -1
    records: Sequence[Buffer] = ()
    aborted_transactions: Sequence[tuple[int, int]] | None = None
    """(producer id, first offset); None where the isolation level does not ask."""
    preferred_read_replica: int = -1
    diverging_epoch: tuple[int, int] | None = None
    """(epoch, end offset), when the last fetched epoch of the request shows that logs diverge (KIP-595)."""
    current_leader: LeaderIdAndEpoch | None = None


as_partition_data: Callable[[tuple[object, ...]], PartitionData] = partial(tuple.__new__, PartitionData)
"""As `PartitionData._make`, in one call of a function and not three: all fields, in their order."""

TopicData = tuple[str | None, bytes | None, Sequence[PartitionData]]
"""(name, topic id, partitions); of name and id the one that the version speaks is needed."""

_HEAD_V4 = Struct(">i")  # throttle time
_HEAD_V7 = Struct(">ihi")  # throttle time, error code, session id
_OFFSETS_V4 = Struct(">ihqq")  # index, error code, high watermark, last stable offset
_OFFSETS_V5 = Struct(">ihqqq")  # ... and the log start offset
_UNABORTED_V12 = Struct(">ihqqqbi")  # _OFFSETS_V5, no aborted transactions, preferred read replica
_PREFERRED = Struct(">i")
_ABORTED = Struct(">qq")
_ABORTED_FLEXIBLE = Struct(">qqb")
_DIVERGING_EPOCH = Struct(">bbiqb")  # tag, size, epoch, end offset, no tagged fields

_NO_RECORDS_NO_TAGS = b"\1\0"

_TAG_DIVERGING_EPOCH = 0
_TAG_CURRENT_LEADER = 1


class _Buffers:
    """A list of buffers, the last of which is still being written to."""

    __slots__ = ("done", "writer")

    def __init__(self) -> None:
        self.done: list[Buffer] = []
        self.writer = Writer()

    def add(self, records: Sequence[Buffer]) -> None:
        """Puts record bytes behind what was written, and a new writer behind them."""
        if records:
            self.done.append(self.writer.buffer)
            self.done += records
            self.writer = Writer()

    def finish(self) -> list[Buffer]:
        self.done.append(self.writer.buffer)
        return self.done


def encode_fetch_response(
    version: int,
    topics: Sequence[TopicData],
    *,
    throttle_time_ms: int = 0,
    error_code: int = 0,
    session_id: int = 0,
    node_endpoints: Sequence[NodeEndpoint] = (),
) -> list[Buffer]:
    """The response as buffers in order. Versions below 7 have no place for an error of the whole request."""
    buffers = _Buffers()
    head = _HEAD_V7.pack(throttle_time_ms, error_code, session_id)
    buffers.writer.buffer += head if version >= SESSIONS_FROM else head[: _HEAD_V4.size]
    if version >= FLEXIBLE_FROM:
        _encode_flexible(version, buffers, topics)
        write_endpoints_section(buffers.writer, node_endpoints if version >= LEADER_HINTS_FROM else ())
        return buffers.finish()
    buffers.writer.write_array_length(len(topics))
    for name, _, partitions in topics:
        buffers.writer.write_string(name or "")
        buffers.writer.write_array_length(len(partitions))
        for partition in partitions:
            _write_partition(version, buffers, partition)
    return buffers.finish()


def _write_partition(version: int, buffers: _Buffers, partition: PartitionData) -> None:
    writer = buffers.writer
    writer.buffer += _OFFSETS_V5.pack(*partition[:5]) if version >= 5 else _OFFSETS_V4.pack(*partition[:4])
    aborted = partition.aborted_transactions
    writer.write_array_length(-1 if aborted is None else len(aborted))
    for transaction in aborted or ():
        writer.buffer += _ABORTED.pack(*transaction)
    if version >= 11:
        writer.write_int32(partition.preferred_read_replica)
    writer.write_int32(sum(map(len, partition.records)))
    buffers.add(partition.records)


def _encode_flexible(version: int, buffers: _Buffers, topics: Sequence[TopicData]) -> None:
    buffers.writer.write_compact_array_length(len(topics))
    for name, topic_id, partitions in topics:
        if version >= TOPIC_IDS_FROM:
            buffers.writer.write_uuid(topic_id or ZERO_TOPIC_ID)
        else:
            buffers.writer.write_compact_string(name or "")
        buffers.writer.write_compact_array_length(len(partitions))
        _write_flexible_partitions(buffers, partitions)
        buffers.writer.buffer.append(0)


def _write_flexible_partitions(buffers: _Buffers, partitions: Sequence[PartitionData]) -> None:
    """Most have records and nothing else to tell: those are written here, without a call for each field."""
    done, buffer = buffers.done, buffers.writer.buffer
    for partition in partitions:
        index, error_code, high_watermark, stable, log_start, records, aborted, preferred, diverging, leader = partition
        if aborted or diverging is not None or leader is not None:
            buffers.writer.buffer = buffer
            _write_unusual_partition(buffers, partition)
            buffer = buffers.writer.buffer
            continue
        none = 0 if aborted is None else 1  # null, or empty, as a compact length
        buffer += _UNABORTED_V12.pack(index, error_code, high_watermark, stable, log_start, none, preferred)
        if not records:
            buffer += _NO_RECORDS_NO_TAGS
            continue
        left = 1 + (len(records[0]) if len(records) == 1 else sum(map(len, records)))  # a varint
        while left > 0x7F:
            buffer.append(left & 0x7F | 0x80)
            left >>= 7
        buffer.append(left)
        done.append(buffer)
        done += records
        buffer = bytearray(b"\0")  # no tagged fields
    buffers.writer.buffer = buffer


def _write_unusual_partition(buffers: _Buffers, partition: PartitionData) -> None:
    index, error_code, high_watermark, stable, log_start, records, aborted, preferred, diverging, leader = partition
    buffer = buffers.writer.buffer
    if aborted:
        buffer += _OFFSETS_V5.pack(index, error_code, high_watermark, stable, log_start)
        buffers.writer.write_compact_array_length(len(aborted))
        for producer_id, first_offset in aborted:
            buffer += _ABORTED_FLEXIBLE.pack(producer_id, first_offset, 0)
        buffer += _PREFERRED.pack(preferred)
    else:
        none = 0 if aborted is None else 1  # null, or empty, as a compact length
        buffer += _UNABORTED_V12.pack(index, error_code, high_watermark, stable, log_start, none, preferred)
    if records:
        buffers.writer.write_unsigned_varint(sum(map(len, records)) + 1)
        buffers.add(records)
    else:
        buffer.append(1)
    writer = buffers.writer
    writer.buffer.append((diverging is not None) + (leader is not None))
    if diverging is not None:
        writer.buffer += _DIVERGING_EPOCH.pack(_TAG_DIVERGING_EPOCH, 4 + 8 + 1, *diverging, 0)
    if leader is not None:
        write_leader(writer, _TAG_CURRENT_LEADER, leader)
