"""Fuzz target of the short way of Produce requests: what it gives is what the long way gives, and never more.

The input is a frame as a client would send it, or several with their sizes. Fails wherever the native part makes
something of it that the Python code would have refused or read otherwise.
"""

from __future__ import annotations

from types import ModuleType

from crc32c import crc32c

from bytemq.broker.handlers.produce import without_repeated
from bytemq.protocol import plain_produce
from bytemq.protocol.api_keys import ApiKey
from bytemq.protocol.error_codes import ErrorCode
from bytemq.protocol.framing import parse_request_header, response_prefix
from bytemq.protocol.primitives import MalformedMessage
from bytemq.protocol.produce import ProduceResult, TopicResults, decode_any, encode_produce_response
from bytemq.protocol.records.batch import (
    CREATE_TIME,
    NO_TIMESTAMP,
    InvalidBatch,
    RecordBatch,
    any_produced_batch,
    check_crc,
)
from bytemq.protocol.records.fields_pure import Fields
from tests.fuzz import runner
from tests.fuzz.fuzz_protocol import request_frames
from tests.interop.batches import batch as record_batch
from tests.unit.records.native import native_part

VERSIONS = range(3, 14)
MOST_BYTES = 2_000
ACKS_TIMEOUT = b"\xff\xff\0\0\x75\x30"

BY_NAME = {"topic": {4: "by name", 5: "another"}, "others": {0: "others"}}
BY_ID = {bytes(range(16)): {4: "by id"}}
"""What the native part finds partitions in."""

NATIVE: ModuleType | None = native_part("produced")


def frame(data: bytes) -> None:
    if NATIVE is None:
        return
    whole = memoryview(data)
    row(bytearray(data))
    single = NATIVE.whole(memoryview(bytearray(data)), len(data), BY_NAME, BY_ID, RecordBatch)
    if single is not None:
        alike([whole], single)
    short = NATIVE.header(whole)
    if short is not None:
        assert short == tuple(parse_request_header(whole)), "a header is read otherwise"
    try:
        _, version, _, _, body_bytes = parse_request_header(whole)
    except MalformedMessage:
        return
    decoded = NATIVE.decode(version, body_bytes)
    if decoded is not None:
        assert decoded == tuple(decode_any(version, body_bytes)), "a request is read otherwise"
        payload(decoded[3][0][2][0][1])


def row(data: bytearray) -> None:
    """As far as it is one: the same requests as frame by frame."""
    assert NATIVE is not None
    sent = bytes(data)
    for most in (1, 3):
        found = NATIVE.take(memoryview(data), 0, len(data), MOST_BYTES, most, BY_NAME, BY_ID, RecordBatch)
        if found is None:
            continue
        assert found.count <= most
        frames, position = [], 0
        for _ in range(found.count):
            size = int.from_bytes(sent[position : position + 4], "big")
            assert size <= MOST_BYTES, "a frame above the limit is taken"
            frames.append(memoryview(sent)[position + 4 : position + 4 + size])
            position += 4 + size
        assert data == sent
        alike(frames, found)
        kept = found.count // 2 + 1
        found.keep(kept)
        assert found.end == sum(4 + len(one) for one in frames[:kept]), "a frame is cut otherwise"
        data[:] = sent


def alike(frames: list[memoryview], found: plain_produce.Requests) -> None:
    """The requests of a row are what the general way makes of their frames, and of the kind that is promised."""
    expected, offset = bytearray(), 0
    left = list(zip(found.entries, found.batches, strict=True))
    assert found.count == len(frames) and sum(found.part_counts) == len(left)
    for number, one in enumerate(frames):
        api_key, *rest, body_bytes = parse_request_header(one)
        correlation_id, topics = found.request(number)
        assert (api_key, *rest[:2]) == (ApiKey.PRODUCE, found.version, correlation_id), "a header is read otherwise"
        decoded = decode_any(found.version, body_bytes)
        assert decoded == (None, found.acks, found.timeout_ms, topics), "a request is read otherwise"
        assert found.acks in (-1, 0, 1)
        assert without_repeated(topics) == topics, "what is named twice is not plain"
        assert found.part_counts[number] == sum(len(partitions) for _, _, partitions in topics)
        results: list[TopicResults] = []
        for name, topic_id, partitions in topics:
            known = BY_ID.get(topic_id, {}) if name is None else BY_NAME.get(name, {})
            durable = []
            for index, records in partitions:
                entry, batch = left.pop(0)
                assert entry == known.get(index), "another partition is found"
                assert batch.view is records and not records.readonly
                plain_batch(batch, found.version)
                batch.place(offset, 5)
                durable.append(ProduceResult(index, ErrorCode.NONE, offset, NO_TIMESTAMP, offset // 2))
                offset += 2**50 + 3
            results.append((name, topic_id, durable))
        answer = encode_produce_response(found.version, results)
        expected += response_prefix(ApiKey.PRODUCE, found.version, correlation_id, len(answer)) + answer
    starts = [batch.base_offset // 2 for batch in found.batches]
    assert found.answers(starts) == expected, "an answer is written otherwise"


def plain_batch(batch: RecordBatch, version: int) -> None:
    assert not batch.is_transactional and not batch.is_control and batch.timestamp_type == CREATE_TIME
    assert batch.base_timestamp >= NO_TIMESTAMP
    try:
        long = any_produced_batch(batch.view, len(batch.view), version >= 7, True)
    except InvalidBatch as error:
        assert error.code is ErrorCode.CORRUPT_MESSAGE, "a batch is accepted that is refused"
        assert _is_corrupt(batch), "a batch is refused for more than its checksum"
    else:
        assert all(getattr(batch, field) == getattr(long, field) for field in Fields.__slots__)
        assert batch.checksum(batch.crc) == crc32c(batch.view, batch.crc), "a checksum is put together wrongly"


def payload(records: memoryview) -> None:
    assert NATIVE is not None
    for zstd_allowed in (False, True):
        header = NATIVE.batch(records, MOST_BYTES, zstd_allowed)
        if header is None:
            continue
        short = RecordBatch(records, header)
        try:
            long = any_produced_batch(records, MOST_BYTES, zstd_allowed, True)
        except InvalidBatch as error:
            assert error.code is ErrorCode.CORRUPT_MESSAGE, "a batch is accepted that is refused"
            assert _is_corrupt(short), "a batch is refused for more than its checksum"
        else:
            assert all(getattr(short, name) == getattr(long, name) for name in Fields.__slots__)


def _is_corrupt(batch: RecordBatch) -> bool:
    try:
        check_crc(batch)
    except InvalidBatch:
        return True
    return False


def plain_frames() -> list[bytes]:
    """What the short way is for, in every version."""
    records = record_batch([b"value", b"another"])
    frames = []
    for version in VERSIONS:
        head = ApiKey.PRODUCE.to_bytes(2, "big") + version.to_bytes(2, "big") + b"\0\0\0\7" + b"\0\3abc"
        frames.append(head + body(version, records))
    return frames


def several_partitions() -> list[bytes]:
    """Frames with batches for several partitions, some of them named twice."""
    records = record_batch([b"value"])
    frames = []
    for version in VERSIONS:
        head = ApiKey.PRODUCE.to_bytes(2, "big") + version.to_bytes(2, "big") + b"\0\0\0\7" + b"\0\3abc"
        for named in ([4, 5, 6], [4, 5, 4]):
            frames.append(head + body(version, records, (named, [4])))
            frames.append(head + body(version, records, (named,)))
    return frames


def body(version: int, records: bytes, topics: tuple[list[int], ...] = ([4],)) -> bytes:
    """Of one topic for each of `topics`, which say what partitions; with the tagged fields of the header in front."""
    is_flexible = version >= 9
    tags = b"\0" if is_flexible else b""

    def count(number: int) -> bytes:
        return bytes([number + 1]) if is_flexible else number.to_bytes(4, "big")

    length = len(records) + 1
    compact = bytes([length & 0x7F | 0x80, length >> 7]) if length > 0x7F else bytes([length])
    data = (b"\0\0" if is_flexible else b"\xff\xff") + ACKS_TIMEOUT + count(len(topics))
    for number, indexes in enumerate(topics):
        name = (b"topic", b"others")[number]
        data += bytes(range(number, number + 16)) if version >= 13 else (count(len(name))[-2 + is_flexible :] + name)
        data += count(len(indexes))
        for index in indexes:
            data += (
                index.to_bytes(4, "big")
                + (compact if is_flexible else len(records).to_bytes(4, "big"))
                + records
                + tags
            )
        data += tags
    return data + tags


def in_a_row() -> list[bytes]:
    """Several in one read, the last of them cut."""
    row = [len(one).to_bytes(4, "big") + one for one in plain_frames()]
    return [b"".join([one, one, one[:100]]) for one in row] + [b"".join(row[-3:])]


def seeds() -> list[bytes]:
    return [
        *plain_frames(),
        *several_partitions(),
        *in_a_row(),
        *(one for one in request_frames() if one[:2] == b"\0\0"),
    ]


if __name__ == "__main__":
    runner.main("fuzz_produced", frame, seeds())
