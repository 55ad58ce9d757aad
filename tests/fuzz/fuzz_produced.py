"""Fuzz target of the short way of Produce requests: what it gives is what the long way gives, and never more.

The input is a frame as a client would send it. Fails wherever the native part makes something of it that the Python
code would have refused or read otherwise.
"""

from __future__ import annotations

from types import ModuleType

from bytemq.protocol.api_keys import ApiKey
from bytemq.protocol.error_codes import ErrorCode
from bytemq.protocol.framing import parse_request_header
from bytemq.protocol.primitives import MalformedMessage
from bytemq.protocol.produce import decode_any
from bytemq.protocol.records.batch import InvalidBatch, RecordBatch, any_produced_batch, check_crc
from tests.fuzz import runner
from tests.fuzz.fuzz_protocol import request_frames
from tests.interop.batches import batch as record_batch
from tests.unit.records.native import native_part

VERSIONS = range(3, 14)
MOST_BYTES = 2_000
ACKS_TIMEOUT = b"\xff\xff\0\0\x75\x30"

NATIVE: ModuleType | None = native_part("produced")


def frame(data: bytes) -> None:
    whole = memoryview(data)
    if NATIVE is None:
        return
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


def seeds() -> list[bytes]:
    return [*plain_frames(), *(one for one in request_frames() if one[:2] == b"\0\0")]


if __name__ == "__main__":
    runner.main("fuzz_produced", frame, seeds())
