"""The encodings: what was written comes back, and anything else is Corrupt, never another error."""

from __future__ import annotations

import pytest
from crc32c import crc32c
from hypothesis import given, settings
from hypothesis import strategies as st

from bytemq.errors import Corrupt
from bytemq.storage.manifests.manifest import AbortedTxn, Manifest, PartitionSnapshot, ProducerSnapshot, SegmentInfo
from bytemq.storage.manifests.manifest_codec import (
    StoredManifest,
    decode_manifest,
    decode_snapshot,
    directory_of,
    encode_manifest,
    encode_snapshot,
)
from bytemq.storage.segments.segment_format import decode_footer, encode_footer
from bytemq.storage.wal.extents import Chunk, SparseIndex
from bytemq.storage.wal.format import (
    FLUSH_HEADER_BYTES,
    check_head,
    decode_entries,
    decode_header,
    decode_shares,
    encode_head,
    payload_errors,
    shares_to_write,
)
from bytemq.storage.wal.wal_index import TailRecord, decode_index, decode_tail, encode_index, encode_tail
from tests.unit.storage.bench import batch_at, pid


def flush() -> tuple[bytes, bytes]:
    """Head and payload of a flush with two partitions, one of them in two chunks."""
    first = [batch_at(n, bytes(100 + n), producer_id=n) for n in range(3)]
    second = [batch_at(7, b"other")]
    shares = [*shares_to_write(pid(1), first, 400), *shares_to_write(pid(2), second, 400)]
    head, _ = encode_head(5, 9, 8, 1234, shares)
    return head, b"".join(bytes(batch.view) for batch in [*first, *second])


def test_flush__comes_back_as_it_was_written() -> None:
    head, payload = flush()
    header = decode_header(head)
    check_head(head, header)
    assert (header.session_id, header.sequence, header.durable_through, header.previous_crc) == (5, 9, 8, 1234)
    assert (header.head_bytes, header.payload_bytes, header.total_bytes % 8) == (len(head), len(payload), 0)
    shares = list(decode_shares(head, header))
    assert [(share.partition, share.base_offset, share.next_offset) for share in shares] == [
        (pid(1), 0, 2),
        (pid(1), 2, 3),
        (pid(2), 7, 8),
    ]
    assert [batch.producer_id for share in shares for batch in decode_entries(share.entries)] == [0, 1, 2, -1]
    for share in shares:
        assert payload_errors(share, memoryview(payload)[share.position : share.position + share.size_bytes]) is None


def test_flush__with_any_flipped_byte_is_found_out() -> None:
    head, payload = flush()
    shares = list(decode_shares(head, decode_header(head)))
    for position in range(len(head)):
        damaged = bytearray(head)
        damaged[position] ^= 0x40
        with pytest.raises(Corrupt):
            check_head(bytes(damaged), decode_header(bytes(damaged)))
    for position in range(len(payload)):
        damaged = bytearray(payload)
        damaged[position] ^= 0x01
        view = memoryview(damaged)
        problems = [payload_errors(share, view[share.position : share.position + share.size_bytes]) for share in shares]
        assert sum(problem is not None for problem in problems) == 1


@settings(max_examples=100)
@given(data=st.data())
def test_decoders__raise_nothing_but_corrupt(data: st.DataObject) -> None:
    head, _ = flush()
    garbage = bytearray(data.draw(st.sampled_from([head, _MANIFEST, _FOOTER, _INDEX, bytes(200)])))
    for _ in range(data.draw(st.integers(1, 5))):
        garbage[data.draw(st.integers(0, len(garbage) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(garbage[: data.draw(st.integers(0, len(garbage)))])
    for decode in (_read_flush, _read_manifest, decode_snapshot, decode_footer, _read_index, decode_tail):
        try:
            decode(cut)
        except Corrupt:
            continue


def _read_flush(data: bytes) -> None:
    header = decode_header(data)
    for share in decode_shares(data[: header.head_bytes].ljust(header.head_bytes % 4096, b"\0"), header):
        assert share.size_bytes <= header.payload_bytes


def _read_manifest(data: bytes) -> None:
    decode_manifest(data, directory_of(pid(1)))


def _read_index(data: bytes) -> None:
    list(decode_index(data, 5, 1))


def sparse_index() -> SparseIndex:
    index = SparseIndex()
    index.append(Chunk(10, 20, 0, 100, 5), 77, verified=True)
    index.append(Chunk(20, 25, 100, 50, 9), 78, verified=True)
    return index


def test_footer__comes_back_and_any_flipped_byte_is_found_out() -> None:
    aborted = [AbortedTxn(1, 10, 12, 9)]
    footer = encode_footer(sparse_index(), aborted)
    index, transactions = decode_footer(footer + b"left by an earlier append")
    assert [index.chunk(0), index.chunk(1)] == [Chunk(10, 20, 0, 100, 5), Chunk(20, 25, 100, 50, 9)]
    assert (list(index.checksums), transactions) == ([77, 78], aborted)
    for position in range(len(footer)):
        damaged = bytearray(footer)
        damaged[position] ^= 0x02
        with pytest.raises(Corrupt):
            decode_footer(bytes(damaged))


def snapshot() -> PartitionSnapshot:
    batches = [(1, 2, 30, 31, 1000, 0xFFFFFFFF)] * 5
    producers = [ProducerSnapshot(1, 2, 3, 4, batches, None), ProducerSnapshot(5, 6, -1, 7, [], 40)]
    return PartitionSnapshot(50, [(0, 0), (3, 20)], producers, [AbortedTxn(1, 10, 12, 9)])


def test_snapshot__comes_back_as_it_was() -> None:
    assert decode_snapshot(encode_snapshot(snapshot())) == snapshot()


@pytest.mark.parametrize("where", ["inline", "object", "none"])
def test_manifest__comes_back_as_it_was(where: str) -> None:
    directory = directory_of(pid(1))
    segments = (
        SegmentInfo(3, 9, 100, 5, 6, directory + "a.log", True),
        SegmentInfo(10, 15, 9, 7, 8, directory + "b.log", True, True, 12345),
        SegmentInfo(16, 17, 9, 7, 8, "wal/elsewhere.log", True, details=b"what only its kind knows"),
        SegmentInfo(18, 18, 7, -1, 8, directory + "c.log"),
    )
    manifest = Manifest(4, 3, segments, None, ((5, 6),))
    stored = StoredManifest(manifest)
    if where == "inline":
        stored = StoredManifest(manifest, 50, encode_snapshot(snapshot()))
    if where == "object":
        stored = StoredManifest(manifest, 50, b"", directory + "x.snapshot")
    assert decode_manifest(encode_manifest(stored, directory), directory) == stored


def test_manifest_of_version_1__is_read_as_one_in_which_nothing_was_cleaned() -> None:
    written = bytes.fromhex(
        "01010400000003000000000000000100000001000000320000000000000002000000030000000000000009000000000000006400"
        "00000000000005000000000000000600000000000000010500612e6c6f67050000000000000006000000000000006869"
    )
    stored = decode_manifest(written + crc32c(written).to_bytes(4, "little"), "topics/x/0/")
    segment = SegmentInfo(3, 9, 100, 5, 6, "topics/x/0/a.log", True)
    assert stored == StoredManifest(Manifest(4, 3, (segment,), None, ((5, 6),)), 50, b"hi")


def test_manifest_with_a_kind_of_file_that_is_not_known__is_refused() -> None:
    info = SegmentInfo(3, 9, 100, 5, 6, "a.log", True, kind=99)  # type: ignore[arg-type]
    with pytest.raises(Corrupt, match="99"):
        decode_manifest(encode_manifest(StoredManifest(Manifest(4, 3, (info,))), "d/"), "d/")


def test_wal_index_and_tail_record__come_back_as_they_were() -> None:
    head, _ = flush()
    found = list(decode_index(b"".join(encode_index(5, 1, [(0, head), (4096, head)], 5000)), 5, 1))
    assert found == [(0, head), (4096, head)]
    with pytest.raises(Corrupt):
        list(decode_index(b"".join(encode_index(5, 1, [(0, head)], 5000)), 5, 2))
    tail = TailRecord(7, 3, 12, 99, 5, 20)
    assert decode_tail(encode_tail(tail)) == tail
    assert len(head) > FLUSH_HEADER_BYTES


_MANIFEST = encode_manifest(
    StoredManifest(Manifest(4, 3, (SegmentInfo(3, 9, 100, 5, 6, "a.log", True),)), 50, encode_snapshot(snapshot())),
    directory_of(pid(1)),
)
_FOOTER = encode_footer(sparse_index(), [])
_INDEX = b"".join(encode_index(5, 1, [(0, flush()[0])], 5000))
