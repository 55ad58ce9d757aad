"""What names objects in pools: the tail record and indexes of a write-ahead log, and manifests."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bytemq.errors import Corrupt
from bytemq.metadata.pools import PoolUse, PoolValue, decode_pool, encode_pool
from bytemq.storage.manifests.manifest import Manifest, SegmentInfo
from bytemq.storage.manifests.manifest_codec import (
    StoredManifest,
    decode_manifest,
    directory_of,
    encode_manifest,
    names_of,
)
from bytemq.storage.objects.session_log import (
    FlushRef,
    IndexRef,
    SessionTail,
    decode_index,
    decode_tail,
    encode_index,
    encode_tail,
    flush_name,
    index_name,
    index_ref,
    pools_of_tail,
    session_of,
)
from bytemq.storage.wal.format import decode_header, encode_head
from tests.unit.storage.cluster.cluster_bench import pid

POOLS = st.sampled_from(["", "b", "pool-with-a-name-of-32-characters"[:32]])
NUMBERS = st.integers(0, (1 << 32) - 1)


@st.composite
def tails(draw: st.DrawFn) -> SessionTail:
    flushes = draw(st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS, NUMBERS, POOLS), max_size=40))
    last = draw(st.integers(len(flushes), 1 << 40))
    held = st.sets(POOLS, min_size=1).map(lambda pools: tuple(sorted(pools)))
    indexes = draw(st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS, NUMBERS, NUMBERS, POOLS, held), max_size=5))
    return SessionTail(
        broker_id=draw(st.integers(0, 1000)),
        session_id=draw(NUMBERS),
        first_sequence=1,
        last_sequence=last,
        last_crc=draw(NUMBERS),
        indexes=tuple(IndexRef(*index) for index in indexes),
        flushes=tuple(FlushRef(last - len(flushes) + 1 + n, *flush) for n, flush in enumerate(flushes)),
    )


@given(tails())
def test_tail__is_read_as_it_was_written(tail: SessionTail) -> None:
    assert decode_tail(encode_tail(tail)) == tail


@given(tails(), st.data())
def test_tail__that_was_damaged_is_refused(tail: SessionTail, data: st.DataObject) -> None:
    damaged = bytearray(encode_tail(tail))
    damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(Corrupt):
        decode_tail(bytes(damaged))


def test_tail__without_pools_is_what_it_was_before_there_were_any() -> None:
    tail = SessionTail(1, 7, 1, 3, 5, (IndexRef(1, 1, 2, 3, 4),), (FlushRef(2, 3, 4, 5, 6), FlushRef(3, 3, 4, 5, 6)))
    assert encode_tail(tail).hex() == (
        "0100000000000001000000000000000700000000000000010000000000000003000000050001000200000000000000010000000000"
        "00000100000000000000020000000300000004000000000000000300000004000000050000000600000000000000030000000400000"
        "00500000006cc400ffe"
    )


def flush(sequence: int, pool: str) -> tuple[FlushRef, bytes]:
    head, crc = encode_head(7, sequence, sequence - 1, 0, [])
    return FlushRef(sequence, sequence, 100, len(head), crc, pool), head


def test_index__knows_where_each_of_its_flushes_is_and_its_reference_says_in_which_pools() -> None:
    flushes = [flush(1, ""), flush(2, "b"), flush(3, "")]
    data = encode_index(7, flushes)
    assert [indexed.ref for indexed in decode_index(data, 7)] == [ref for ref, _ in flushes]
    assert index_ref(flushes, data, 1).holds == ("", "b")
    alone = encode_index(7, [flush(1, "")])
    assert (data[4], alone[4]) == (2, 1), "without pools it is what it was"
    assert decode_header(alone[-len(flush(1, "")[1]) - 4 :]).sequence == 1


def test_names__of_a_log_are_in_its_sessions_folder_in_any_pool() -> None:
    ref, _ = flush(2, "b")
    assert flush_name(7, ref) == f"@b/{flush_name(7, ref._replace(pool=''))}"
    index = IndexRef(1, 2, 3, 4, 5, "c", ("", "b"))
    assert [session_of(name) for name in (flush_name(7, ref), index_name(7, index))] == [7, 7]
    assert pools_of_tail(SessionTail(1, 7, indexes=(index,))) == {"", "b", "c"}


def segment(base: int, name: str) -> SegmentInfo:
    return SegmentInfo(base, base + 9, 100, 1, 1, name, sealed=True)


def test_manifest__names_segments_and_its_snapshot_in_pools() -> None:
    directory = directory_of(pid(1))
    names = [f"{directory}0-1-1.log", f"@b/{directory}1-1-2.log", "tables/t/x.parquet", f"@c/{directory}9.snapshot"]
    segments = tuple(segment(10 * number, name) for number, name in enumerate(names[:3]))
    stored = StoredManifest(Manifest(3, segments=segments, owner_session=5), 30, b"", names[3])
    data = encode_manifest(stored, directory)
    assert names_of(decode_manifest(data, directory)) == names
    assert decode_manifest(data, directory) == stored
    assert data[0] == 4, "who knows no pools refuses it, and misses no object"


def test_manifest__without_pools_is_what_it_was_before_there_were_any() -> None:
    directory = directory_of(pid(1))
    segments = (segment(0, f"{directory}0-1-1.log"),)
    for owner, version in ((0, 2), (5, 3)):
        stored = StoredManifest(Manifest(3, segments=segments, owner_session=owner))
        assert encode_manifest(stored, directory)[0] == version


def test_pool__is_read_as_it_was_written() -> None:
    for use in PoolUse:
        assert decode_pool(encode_pool(PoolValue("s3://b/p", use))) == PoolValue("s3://b/p", use)
    for damaged in (b"", b"{}", b'{"url":"x","use":"?"}', b"\xff"):
        with pytest.raises(Corrupt):
            decode_pool(damaged)
