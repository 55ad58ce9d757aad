"""The short way of plain Produce requests: it is taken where it should be, and gives nothing else than the long one."""

from __future__ import annotations

import struct
from collections.abc import Callable
from types import ModuleType

import pytest

from bytemq.broker.log.results import AppendResult
from bytemq.protocol import plain_produce
from bytemq.protocol.error_codes import ErrorCode
from bytemq.protocol.framing import parse_request_header, response_prefix, split_request
from bytemq.protocol.produce import ProduceResult, decode_produce, encode_produce_response
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
    for name in ("header", "decode", "batch", "run", "whole", "answers"):
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


def with_size(frame: bytes) -> bytes:
    return len(frame).to_bytes(4, "big") + frame


@pytest.mark.skipif(NATIVE is None, reason="no compiler here: no runs")
@pytest.mark.parametrize("frame", fuzz_produced.plain_frames(), ids=lambda frame: f"v{frame[3]}")
def test_run__has_the_requests_in_a_row_in_memory_of_its_own(frame: bytes) -> None:
    assert NATIVE is not None
    data = b"before" + with_size(frame) * 5 + with_size(frame)[:-1]
    version, acks, timeout_ms, memory, requests = NATIVE.run(memoryview(data), 6, len(data), 10_000, 64)
    assert (version, acks, timeout_ms, bytes(memory)) == (frame[3], -1, 30_000, with_size(frame) * 5)
    for number, (correlation_id, name, topic_id, index, records, _, end) in enumerate(requests, 1):
        assert (correlation_id, index, bytes(records), end) == (7, 4, RECORDS, number * len(with_size(frame)))
        assert (name, topic_id) == ((None, bytes(range(16))) if version == 13 else ("topic", None))
    requests[3][4][0] = 0x55
    assert memory.count(b"\x55") == 1, "the batches are patched where they are"
    assert len(NATIVE.run(memoryview(data), 6, len(data), 10_000, 2)[4]) == 2
    assert NATIVE.run(memoryview(data), 6, 6 + len(frame), 10_000, 64) is None, "a cut request is none"
    assert NATIVE.run(memoryview(data), 6, len(data), len(frame) - 1, 64) is None, "one above the limit is none"


@pytest.mark.skipif(NATIVE is None, reason="no compiler here: no runs")
def test_run__ends_before_a_request_that_has_less_in_common() -> None:
    assert NATIVE is not None
    v9, v12 = fuzz_produced.plain_frames()[6], fuzz_produced.plain_frames()[9]
    other_acks = v9.replace(fuzz_produced.ACKS_TIMEOUT, b"\0\1" + fuzz_produced.ACKS_TIMEOUT[2:])
    other_timeout = v9.replace(fuzz_produced.ACKS_TIMEOUT, b"\xff\xff\0\0\0\1")
    for other in (v12, other_acks, other_timeout, b"\0\3\0\0" + v9[4:]):
        data = memoryview(with_size(v9) * 2 + with_size(other) + with_size(v9))
        assert len(NATIVE.run(data, 0, len(data), 10_000, 64)[4]) == 2


@pytest.mark.skipif(NATIVE is None, reason="no compiler here: no runs")
@pytest.mark.parametrize("attributes", [batches.TRANSACTIONAL_FLAG, batches.TIMESTAMP_TYPE_FLAG, batches.CONTROL_FLAG])
def test_run__leaves_transactions_and_times_of_the_broker_to_the_general_way(attributes: int) -> None:
    assert NATIVE is not None
    for frame in fuzz_produced.plain_frames():
        at = frame.index(RECORDS) + batches.ATTRIBUTES_POSITION
        unusual = frame[:at] + attributes.to_bytes(2, "big") + frame[at + 2 :]
        assert NATIVE.whole(bytearray(frame), len(frame)) is not None
        assert NATIVE.whole(bytearray(unusual), len(frame)) is None


@pytest.mark.skipif(NATIVE is None, reason="no compiler here: no runs")
@pytest.mark.parametrize("version", range(3, 14))
@pytest.mark.parametrize("name", ["t", "topic", "n" * 126, "n" * 127, "n" * 249])
def test_answers__are_those_of_the_general_way(version: int, name: str) -> None:
    assert NATIVE is not None
    topic_id = bytes(range(16))
    requests, results, expected = [], [], bytearray()
    for number in range(200):
        of_topic = (name, None) if version < 13 else (None, topic_id)
        result = AppendResult(ErrorCode.NONE, number * 2**50, number - 1, number * 3)
        requests.append((number - 100, *of_topic, number, memoryview(b""), (), 0))
        results.append(result)
        body = encode_produce_response(version, [(*of_topic, [ProduceResult(number, *result)])])
        expected += response_prefix(0, version, number - 100, len(body)) + body
    assert NATIVE.answers(version, requests, results) == expected
    results[150] = AppendResult(ErrorCode.KAFKA_STORAGE_ERROR)
    assert NATIVE.answers(version, requests, results) is None


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
