"""The short way of plain Produce requests: it is taken where it should be, and gives nothing else than the long one."""

from __future__ import annotations

import struct
from collections.abc import Callable
from types import ModuleType
from typing import Any

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
    for name in ("header", "decode", "batch", "take", "whole"):
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


needs_native = pytest.mark.skipif(NATIVE is None, reason="no compiler here: no runs")


def take(data: bytes | bytearray, position: int, end: int, most_bytes: int = 10_000, most: int = 64) -> Any:
    assert NATIVE is not None
    known = (fuzz_produced.BY_NAME, fuzz_produced.BY_ID, batches.RecordBatch)
    return NATIVE.take(memoryview(bytearray(data)), position, end, most_bytes, most, *known)


def whole(frame: bytes) -> Any:
    assert NATIVE is not None
    known = (fuzz_produced.BY_NAME, fuzz_produced.BY_ID, batches.RecordBatch)
    return NATIVE.whole(memoryview(bytearray(frame)), len(frame), *known)


@needs_native
@pytest.mark.parametrize("frame", fuzz_produced.plain_frames(), ids=lambda frame: f"v{frame[3]}")
def test_requests__in_a_row_are_taken_where_they_are(frame: bytes) -> None:
    data = b"before" + with_size(frame) * 5 + with_size(frame)[:-1]
    found = take(data, 6, len(data))
    assert (found.version, found.acks, found.timeout_ms, found.count) == (frame[3], -1, 30_000, 5)
    assert found.part_counts == b"\1" * 5
    topic = (None, bytes(range(16))) if frame[3] == 13 else ("topic", None)
    for number in range(5):
        assert found.request(number) == (7, [(*topic, [(4, RECORDS)])])
    assert found.entries == ["by id" if frame[3] == 13 else "by name"] * 5
    found.batches[3].view[0] = 0x55
    memory = found.batches[0].view.obj
    assert memory.count(b"\x55") == 1 and len(memory) == len(data), "the batches are patched where they are"
    found.keep(4)
    assert found.end == 6 + 4 * len(with_size(frame))
    assert (found.count, len(found.batches), len(found.entries)) == (4, 4, 4)
    assert take(data, 6, len(data), most=2).count == 2
    assert take(data, 6, 6 + len(frame)) is None, "a cut request is none"
    assert take(data, 6, len(data), most_bytes=len(frame) - 1) is None, "one above the limit is none"


@needs_native
def test_requests__hold_the_memory_that_they_are_in() -> None:
    data = bytearray(with_size(fuzz_produced.plain_frames()[6]))
    assert NATIVE is not None
    found = NATIVE.take(memoryview(data), 0, len(data), 10_000, 64, {}, {}, batches.RecordBatch)
    assert found.entries == [None]
    with pytest.raises(BufferError):
        data.append(0)
    del found
    data.append(0)


@needs_native
def test_requests__end_before_one_that_has_less_in_common() -> None:
    v9, v12 = fuzz_produced.plain_frames()[6], fuzz_produced.plain_frames()[9]
    other_acks = v9.replace(fuzz_produced.ACKS_TIMEOUT, b"\0\1" + fuzz_produced.ACKS_TIMEOUT[2:])
    other_timeout = v9.replace(fuzz_produced.ACKS_TIMEOUT, b"\xff\xff\0\0\0\1")
    for other in (v12, other_acks, other_timeout, b"\0\3\0\0" + v9[4:]):
        data = with_size(v9) * 2 + with_size(other) + with_size(v9)
        assert take(data, 0, len(data)).count == 2


@needs_native
@pytest.mark.parametrize("attributes", [batches.TRANSACTIONAL_FLAG, batches.TIMESTAMP_TYPE_FLAG, batches.CONTROL_FLAG])
def test_requests__of_transactions_and_times_of_the_broker_are_left_to_the_general_way(attributes: int) -> None:
    for frame in fuzz_produced.plain_frames():
        at = frame.index(RECORDS) + batches.ATTRIBUTES_POSITION
        unusual = frame[:at] + attributes.to_bytes(2, "big") + frame[at + 2 :]
        assert whole(frame) is not None
        assert whole(unusual) is None


@needs_native
@pytest.mark.parametrize("version", range(3, 14))
def test_requests__name_each_of_their_partitions_once(version: int) -> None:
    head = b"\0\0" + version.to_bytes(2, "big") + b"\0\0\0\7" + b"\0\3abc"
    several = whole(head + fuzz_produced.body(version, RECORDS, ([4, 5, 0], [0])))
    assert several.part_counts == b"\4"
    assert several.entries == (["by id", None, None, None] if version == 13 else ["by name", "another", None, "others"])
    fuzz_produced.alike([memoryview(head + fuzz_produced.body(version, RECORDS, ([4, 5, 0], [0])))], several)
    assert whole(head + fuzz_produced.body(version, RECORDS, ([4, 5, 4],))) is None
    assert whole(head + fuzz_produced.body(version, RECORDS, (list(range(100)),))).part_counts == b"\x64"
    row = with_size(head + fuzz_produced.body(version, RECORDS, (list(range(100)),))) * 2
    assert take(row, 0, len(row)).count == 1, "there is a limit of batches"


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
