"""The short way of plain Produce requests: it is taken where it should be, and gives nothing else than the long one."""

from __future__ import annotations

import struct
from collections.abc import Callable
from types import ModuleType

import pytest

from bytemq.protocol import plain_produce
from bytemq.protocol.framing import parse_request_header, split_request
from bytemq.protocol.produce import decode_produce
from bytemq.protocol.records import batch as batches
from bytemq.protocol.records.batch import InvalidBatch, any_produced_batch, produced_batch
from tests.fuzz import fuzz_produced, runner
from tests.interop.batches import batch as record_batch
from tests.unit.records.native import native_part

NATIVE = native_part("produced")
RECORDS = record_batch([b"value", b"another"])


@pytest.fixture(params=["native", "none"], autouse=True)
def short_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType | None:
    """With the native part, and as where the package could not be compiled."""
    native = NATIVE if request.param == "native" else None
    for name in ("header", "decode", "batch"):
        monkeypatch.setattr(plain_produce, name, getattr(native, name) if native else lambda *_: None)
    return native


@pytest.mark.parametrize("frame", fuzz_produced.plain_frames(), ids=lambda frame: f"v{frame[3]}")
def test_plain_request__is_read_the_same_on_both_ways(frame: bytes, short_way: ModuleType | None) -> None:
    api_key, version, correlation_id, client_id, body = split_request(memoryview(frame))
    request = decode_produce(version, body)

    assert (api_key, correlation_id, client_id) == (0, 7, "abc")
    assert (request.transactional_id, request.acks, request.timeout_ms) == (None, -1, 30_000)
    [(name, topic_id, [(index, records)])] = request.topics
    assert (name, topic_id, index) == ((None, bytes(range(16)), 4) if version == 13 else ("topic", None, 4))
    assert records == RECORDS
    assert produced_batch(records).record_count == 2
    if short_way is not None:
        assert short_way.header(memoryview(frame)) is not None
        assert short_way.decode(version, body) is not None
        assert short_way.batch(records, len(RECORDS), False) is not None


def test_plain_request__records_are_not_copied() -> None:
    frame = bytearray(fuzz_produced.plain_frames()[-1])
    [(_, _, [(_, records)])] = decode_produce(13, split_request(memoryview(frame))[4]).topics
    assert records is not None and not records.readonly
    records[0] = 0x55
    assert frame[frame.index(RECORDS[1:]) - 1] == 0x55


def test_frames__cut_anywhere_are_never_read_otherwise() -> None:
    for frame in fuzz_produced.seeds():
        for end in range(len(frame)):
            fuzz_produced.frame(frame[:end])


def test_frames__changed_anyhow_are_never_read_otherwise() -> None:
    assert runner.run(fuzz_produced.frame, fuzz_produced.seeds(), seed=4, rounds=12_000) == 12_000


def changed(position: int, form: str, value: int) -> bytes:
    data = bytearray(RECORDS)
    struct.pack_into(form, data, position, value)
    return bytes(data)


def compressed(codec: int) -> bytes:
    return changed(batches.ATTRIBUTES_POSITION, ">h", codec)


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (changed(0, ">q", 1), "baseOffset"),
        (changed(8, ">i", len(RECORDS) - 13), "exactly one|trailing|crc"),
        (changed(16, ">b", 3), "magic"),
        (changed(17, ">I", 1), "crc"),
        (compressed(5), "compression type"),
        (RECORDS + RECORDS, "exactly one"),
        (RECORDS[:60], "at least one"),
    ],
)
def test_batch__that_is_wrong_is_refused_with_the_reason(payload: bytes, message: str) -> None:
    with pytest.raises(InvalidBatch, match=f"(?i){message}"):
        produced_batch(memoryview(payload))


def with_crc(change: Callable[[bytearray], None]) -> memoryview:
    data = bytearray(RECORDS)
    change(data)
    data[17:21] = batches.computed_crc(batches.parse_header(memoryview(bytes(data)))).to_bytes(4, "big")
    return memoryview(data)


@pytest.mark.parametrize(
    ("position", "form", "value"),
    [
        (23, ">i", 5),  # the last offset is not that of the last record
        (23, ">i", 2**31 - 1),
        (57, ">i", 0),
        (57, ">i", -1),
        (21, ">h", batches.CONTROL_FLAG),
        (43, ">q", 7),  # a producer without a sequence
        (21, ">h", batches.ZSTD),
    ],
)
def test_batch__whose_header_makes_no_sense_is_refused_though_its_checksum_is_right(
    position: int, form: str, value: int
) -> None:
    payload = with_crc(lambda data: struct.pack_into(form, data, position, value))
    with pytest.raises(InvalidBatch) as short:
        produced_batch(payload, zstd_allowed=False)
    with pytest.raises(InvalidBatch) as long:
        any_produced_batch(payload, 2**31 - 1, False, True)
    assert (short.value.code, str(short.value)) == (long.value.code, str(long.value))


def test_batch__that_is_too_large_is_refused() -> None:
    assert produced_batch(memoryview(RECORDS), max_message_bytes=len(RECORDS)).size_bytes == len(RECORDS)
    with pytest.raises(InvalidBatch, match="exceeds"):
        produced_batch(memoryview(RECORDS), max_message_bytes=len(RECORDS) - 1)


def test_header__with_another_text_than_ascii_or_of_another_api_goes_the_long_way(short_way: ModuleType | None) -> None:
    named = b"\0\0\0\x09\0\0\0\1\0\2\xc3\xa9\0rest"
    fetch = b"\0\1\0\x0c\0\0\0\1\xff\xff\0rest"
    for frame in (named, fetch):
        assert split_request(memoryview(frame)) == tuple(parse_request_header(memoryview(frame)))
        assert short_way is None or short_way.header(memoryview(frame)) is None
