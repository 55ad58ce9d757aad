"""Produce v3-13 by hand: the request that is read and the response that is written most often.

Owns nothing but the form. The records stay a view on the request; what is in them is for `records` and the log.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from struct import Struct
from typing import NamedTuple

from bytemq.protocol import plain_produce
from bytemq.protocol.leader_hints import LeaderIdAndEpoch, NodeEndpoint, write_endpoints_section, write_leader
from bytemq.protocol.primitives import Reader, Writer
from bytemq.types import ZERO_TOPIC_ID

FLEXIBLE_FROM = 9
LEADER_HINTS_FROM = 10
TOPIC_IDS_FROM = 13

_ACKS_AND_TIMEOUT = Struct(">hi")
_RESULT_V3 = Struct(">ihqq")  # index, error code, base offset, log append time
_RESULT_V5 = Struct(">ihqqq")  # ... and the log start offset
_NOTHING_TO_ADD = (None, (), None)
_RESULT_V9_PLAIN = Struct(">ihqqqbbb")  # ... and no record errors, no message, no tagged fields
_ONLY_RESULT_V9 = Struct(">bihqqqbbbbib")  # the one of its topic, which is the only one, and no throttling


ProducedTopic = tuple[str | None, bytes | None, list[tuple[int, memoryview | None]]]
"""(name, topic id, [(partition index, records)])"""


class ProduceRequest(NamedTuple):
    """Topics are named up to v12 and have an id from v13 on; records may be missing."""

    transactional_id: str | None
    acks: int
    timeout_ms: int
    topics: list[ProducedTopic]


class ProduceResult(NamedTuple):
    """The answer for one partition. Fields that the version lacks are left out."""

    index: int  # type: ignore[assignment]  # shadows tuple.index
    error_code: int
    base_offset: int = -1
    log_append_time_ms: int = -1
    log_start_offset: int = -1
    error_message: str | None = None
    record_errors: Sequence[tuple[int, str | None]] = ()
    """(index of the record in its batch, what is wrong with it): KIP-467."""
    current_leader: LeaderIdAndEpoch | None = None


TopicResults = tuple[str | None, bytes | None, Sequence[ProduceResult]]
"""(name, topic id, results); of name and id the one that the version speaks is needed."""


def decode_produce(version: int, body: memoryview) -> ProduceRequest:
    """Raises MalformedMessage. What follows the request is ignored."""
    plain = plain_produce.decode(version, body)
    return decode_any(version, body) if plain is None else ProduceRequest._make(plain)


def decode_any(version: int, body: memoryview) -> ProduceRequest:
    """The long way, which knows every request."""
    if version >= FLEXIBLE_FROM:
        return _decode_flexible(version, Reader(body))
    reader = Reader(body)
    transactional_id = reader.read_nullable_string()
    acks, timeout_ms = reader.read_fixed(_ACKS_AND_TIMEOUT)
    topics: list[ProducedTopic] = []
    for _ in range(reader.read_array_length()):
        name = reader.read_string()
        count = reader.read_array_length()
        topics.append((name, None, [(reader.read_int32(), reader.read_nullable_bytes()) for _ in range(count)]))
    return ProduceRequest(transactional_id, acks, timeout_ms, topics)


def _decode_flexible(version: int, reader: Reader) -> ProduceRequest:
    transactional_id = reader.read_compact_nullable_string()
    acks, timeout_ms = reader.read_fixed(_ACKS_AND_TIMEOUT)
    topics: list[ProducedTopic] = []
    for _ in range(reader.read_compact_array_length()):
        name = reader.read_compact_string() if version < TOPIC_IDS_FROM else None
        topic_id = reader.read_uuid() if version >= TOPIC_IDS_FROM else None
        partitions = []
        for _ in range(reader.read_compact_array_length()):
            partitions.append((reader.read_int32(), reader.read_compact_nullable_bytes()))
            reader.skip_tagged_fields()
        topics.append((name, topic_id, partitions))
        reader.skip_tagged_fields()
    reader.skip_tagged_fields()
    return ProduceRequest(transactional_id, acks, timeout_ms, topics)


def encode_produce_response(
    version: int,
    topics: Sequence[TopicResults],
    *,
    throttle_time_ms: int = 0,
    node_endpoints: Sequence[NodeEndpoint] = (),
) -> bytearray:
    """`node_endpoints`: the addresses of the leaders named in the results. Versions below 10 have no place for them."""
    if len(topics) == 1 and version >= FLEXIBLE_FROM and not throttle_time_ms and not node_endpoints:
        name, topic_id, results = topics[0]
        if len(results) == 1 and results[0][5:] == _NOTHING_TO_ADD:
            only = _ONLY_RESULT_V9.pack(2, *results[0][:5], 1, 0, 0, 0, 0, 0)
            if version >= TOPIC_IDS_FROM:
                return bytearray(b"\x02" + (topic_id or ZERO_TOPIC_ID) + only)
            return _only_topic(name or "") + only
    writer = Writer()
    if version >= FLEXIBLE_FROM:
        _encode_flexible(version, writer, topics)
        writer.write_int32(throttle_time_ms)
        write_endpoints_section(writer, node_endpoints if version >= LEADER_HINTS_FROM else ())
        return writer.buffer
    writer.write_array_length(len(topics))
    for name, _, results in topics:
        writer.write_string(name or "")
        writer.write_array_length(len(results))
        for result in results:
            _write_result(version, writer, result)
    writer.write_int32(throttle_time_ms)
    return writer.buffer


@lru_cache(maxsize=256)
def _only_topic(name: str) -> bytearray:
    writer = Writer()
    writer.write_compact_array_length(1)
    writer.write_compact_string(name)
    return writer.buffer


def _write_result(version: int, writer: Writer, result: ProduceResult) -> None:
    if version < 5:
        writer.buffer += _RESULT_V3.pack(*result[:4])
        return
    writer.buffer += _RESULT_V5.pack(*result[:5])
    if version < 8:
        return
    writer.write_array_length(len(result.record_errors))
    for batch_index, message in result.record_errors:
        writer.write_int32(batch_index)
        writer.write_nullable_string(message)
    writer.write_nullable_string(result.error_message)


def _encode_flexible(version: int, writer: Writer, topics: Sequence[TopicResults]) -> None:
    writer.write_compact_array_length(len(topics))
    for name, topic_id, results in topics:
        if version >= TOPIC_IDS_FROM:
            writer.write_uuid(topic_id or ZERO_TOPIC_ID)
        else:
            writer.write_compact_string(name or "")
        writer.write_compact_array_length(len(results))
        for result in results:
            if result[5:] == _NOTHING_TO_ADD:
                writer.buffer += _RESULT_V9_PLAIN.pack(*result[:5], 1, 0, 0)
            else:
                _write_flexible_result(version, writer, result)
        writer.buffer.append(0)


def _write_flexible_result(version: int, writer: Writer, result: ProduceResult) -> None:
    writer.buffer += _RESULT_V5.pack(*result[:5])
    writer.write_compact_array_length(len(result.record_errors))
    for batch_index, message in result.record_errors:
        writer.write_int32(batch_index)
        writer.write_compact_nullable_string(message)
        writer.write_unsigned_varint(0)
    writer.write_compact_nullable_string(result.error_message)
    if result.current_leader is None or version < LEADER_HINTS_FROM:
        writer.write_unsigned_varint(0)
    else:
        writer.write_unsigned_varint(1)
        write_leader(writer, 0, result.current_leader)
