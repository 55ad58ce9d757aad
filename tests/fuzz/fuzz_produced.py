"""Fuzz target of the short way of Produce requests: what it gives is what the long way gives, and never more.

The input is a frame as a client would send it, or several with their sizes. Fails wherever the native part makes
something of it that the Python code would have refused or read otherwise.
"""

from __future__ import annotations

from types import ModuleType

from bytemq.protocol.api_keys import ApiKey
from bytemq.protocol.error_codes import ErrorCode
from bytemq.protocol.framing import parse_request_header
from bytemq.protocol.plain_produce import Run
from bytemq.protocol.primitives import MalformedMessage
from bytemq.protocol.produce import ProducedTopic, decode_any
from bytemq.protocol.records.batch import (
    CREATE_TIME,
    NO_TIMESTAMP,
    InvalidBatch,
    RecordBatch,
    any_produced_batch,
    check_crc,
)
from tests.fuzz import runner
from tests.fuzz.fuzz_protocol import request_frames
from tests.interop.batches import batch as record_batch
from tests.unit.records.native import native_part

VERSIONS = range(3, 14)
MOST_BYTES = 2_000
ACKS_TIMEOUT = b"\xff\xff\0\0\x75\x30"

NATIVE: ModuleType | None = native_part("produced")


def frame(data: bytes) -> None:
    if NATIVE is None:
        return
    whole = memoryview(data)
    run(whole)
    single = NATIVE.whole(bytearray(data), len(data))
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


def run(data: memoryview) -> None:
    """As far as it is one: the same requests as frame by frame."""
    assert NATIVE is not None
    for most in (1, 3):
        found = NATIVE.run(data, 0, len(data), MOST_BYTES, most)
        if found is None:
            continue
        frames, position = [], 0
        for *_, end in found[4]:
            size = int.from_bytes(data[position : position + 4], "big")
            assert end == position + 4 + size and size <= MOST_BYTES, "a frame is cut otherwise"
            frames.append(data[position + 4 : end])
            position = end
        assert len(frames) <= most
        assert found[3] == data[:position], "the memory of a run is not what came"
        alike(frames, found)


def alike(frames: list[memoryview], found: Run) -> None:
    """The requests of a run are what the general way makes of their frames, and of the kind that is promised."""
    version, acks, timeout_ms, _, requests = found
    for one, request in zip(frames, requests, strict=True):
        correlation_id, name, topic_id, index, records, header, _ = request
        api_key, *rest, body_bytes = parse_request_header(one)
        assert (api_key, *rest[:2]) == (ApiKey.PRODUCE, version, correlation_id), "a header is read otherwise"
        topics: list[ProducedTopic] = [(name, topic_id, [(index, records)])]
        assert decode_any(version, body_bytes) == (None, acks, timeout_ms, topics), "a request is read otherwise"
        assert acks in (-1, 0, 1) and not records.readonly
        batch = RecordBatch(records, header)
        assert not batch.is_transactional and not batch.is_control and batch.timestamp_type == CREATE_TIME
        assert batch.base_timestamp >= NO_TIMESTAMP
        try:
            long = any_produced_batch(records, len(records), version >= 7, True)
        except InvalidBatch as error:
            assert error.code is ErrorCode.CORRUPT_MESSAGE, "a batch is accepted that is refused"
            assert _is_corrupt(batch), "a batch is refused for more than its checksum"
        else:
            assert all(getattr(batch, field) == getattr(long, field) for field in RecordBatch.__slots__)


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
            assert all(getattr(short, name) == getattr(long, name) for name in RecordBatch.__slots__)


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


def body(version: int, records: bytes) -> bytes:
    if version < 9:
        before = b"\xff\xff" + ACKS_TIMEOUT + b"\0\0\0\1" + b"\0\5topic" + b"\0\0\0\1" + b"\0\0\0\4"
        return before + len(records).to_bytes(4, "big") + records
    topic = bytes(range(16)) if version >= 13 else b"\6topic"
    length = len(records) + 1
    compact = bytes([length & 0x7F | 0x80, length >> 7]) if length > 0x7F else bytes([length])
    return b"\0\0" + ACKS_TIMEOUT + b"\2" + topic + b"\2" + b"\0\0\0\4" + compact + records + b"\0\0\0"


def in_a_row() -> list[bytes]:
    """Several in one read, the last of them cut."""
    row = [len(one).to_bytes(4, "big") + one for one in plain_frames()]
    return [b"".join([one, one, one[:100]]) for one in row] + [b"".join(row[-3:])]


def seeds() -> list[bytes]:
    return [*plain_frames(), *in_a_row(), *(one for one in request_frames() if one[:2] == b"\0\0")]


if __name__ == "__main__":
    runner.main("fuzz_produced", frame, seeds())
