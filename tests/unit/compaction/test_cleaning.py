"""What a cleaning leaves of a log, against a model; by hand for the rules, by chance for everything."""

from __future__ import annotations

import asyncio

import pytest
from crc32c import crc32c
from hypothesis import given, settings
from hypothesis import strategies as st

from bytemq.protocol.records import offset_map
from bytemq.protocol.records.batch import ATTRIBUTES_POSITION, CRC_POSITION, HEADER_BYTES
from bytemq.protocol.records.builder import Record
from bytemq.protocol.records.offset_map_pure import ENTRY_BYTES
from bytemq.storage.manifests.manifest import FileKind
from tests.support.compacted_log import CompactedLog

ROOM_FOR_FIVE = 6 * (24 if offset_map.IS_NATIVE else ENTRY_BYTES)


def values(*pairs: tuple[bytes, bytes | None]) -> list[Record]:
    return [Record(key, value) for key, value in pairs]


async def sealed(*batches: list[Record]) -> CompactedLog:
    log = CompactedLog()
    for batch in batches:
        log.append(batch)
    await log.seal()
    return log


async def test_newest_of_each_key__stays_at_its_offset() -> None:
    log = await sealed(values((b"a", b"1"), (b"b", b"1")), values((b"a", b"2"), (b"c", b"1")), values((b"c", b"2")))
    cleaned = await log.clean()
    assert {offset: record.value for offset, record in (await log.content()).items()} == {1: b"1", 2: b"2", 4: b"2"}
    assert (cleaned.stats.read_records, cleaned.stats.kept_records, cleaned.stats.keys) == (5, 3, 3)
    assert cleaned.stats.written_bytes < cleaned.stats.read_bytes
    assert await log.problems() == []


async def test_tombstone__stays_until_its_horizon_and_then_goes() -> None:
    log = await sealed(values((b"a", b"1")), values((b"a", None), (b"b", b"1")), values((b"z", b"1")))
    [info] = (await log.clean(delete_retention_ms=500)).written
    assert info.delete_horizon_ms == log.now_ms + 500
    content = await log.content()
    assert sorted(content) == [1, 2, 3]
    assert content[1].timestamp_ms == 500, "the horizon changes no timestamp"
    log.now_ms += 499
    [info] = (await log.clean(delete_retention_ms=0)).written
    assert (sorted(await log.content()), info.delete_horizon_ms) == ([1, 2, 3], log.now_ms + 1)
    log.now_ms += 1
    [info] = (await log.clean()).written
    assert (sorted(await log.content()), info.delete_horizon_ms) == ([2, 3], -1)


async def test_last_batch__stays_as_a_header_so_that_the_end_can_be_read() -> None:
    log = await sealed(values((b"a", b"1")), values((b"b", b"1")))
    log.append(values((b"a", b"2"), (b"b", b"2")))
    await log.seal()
    log.append(values((b"c", None)))
    await log.seal()
    await log.clean(delete_retention_ms=0)
    log.now_ms += 1
    await log.clean()
    assert sorted(await log.content()) == [2, 3]
    assert (log.segments[-1].last_offset, await log.problems()) == (4, [])


async def test_aborted_records__go_and_their_marker_stays_for_a_while() -> None:
    log = CompactedLog()
    log.append(values((b"a", b"committed")), producer_id=7, transactional=True)
    log.end_transaction(7, committed=True)
    log.append(values((b"a", b"aborted")), producer_id=7, transactional=True)
    log.end_transaction(7, committed=False)
    log.append(values((b"b", b"1")))
    await log.seal()
    await log.clean(delete_retention_ms=100)
    assert sorted(await log.content()) == [0, 4]
    assert await log.markers() == [1, 3], "their transactions had batches until now"
    await log.clean(delete_retention_ms=100)
    assert await log.markers() == [1, 3], "the second has none, but readers may know the transaction"
    log.now_ms += 100
    await log.clean()
    assert (await log.markers(), sorted(await log.content())) == ([1], [0, 4])


async def test_transaction_across_the_dirty_offset__is_aborted_on_both_sides() -> None:
    log = CompactedLog()
    log.append(values((b"a", b"1")))
    log.append(values((b"a", b"aborted")), producer_id=7, transactional=True)
    await log.seal()
    log.append(values((b"b", b"1")))
    log.append(values((b"b", b"aborted")), producer_id=7, transactional=True)
    log.end_transaction(7, committed=False)
    log.append(values((b"c", b"1")), producer_id=7, transactional=True)
    log.end_transaction(7, committed=True)
    await log.seal()
    await log.clean()
    assert sorted(await log.content()) == [0, 2, 5]


async def test_transaction_in_which_a_pass_ended__is_aborted_in_the_next_one_too() -> None:
    log = CompactedLog()
    log.append(values(*((b"%d" % n, b"1") for n in range(5))))
    log.append(values((b"0", b"aborted")), producer_id=7, transactional=True)
    log.append(values((b"5", b"1")))
    log.append(values((b"1", b"aborted")), producer_id=7, transactional=True)
    log.end_transaction(7, committed=False)
    await log.seal()
    assert (await log.clean(map_bytes=ROOM_FOR_FIVE)).first_dirty_offset == 6
    await log.clean(map_bytes=ROOM_FOR_FIVE)
    assert sorted(await log.content()) == [0, 1, 2, 3, 4, 6]


async def test_records_without_a_key__go_as_in_kafka() -> None:
    log = await sealed([Record(None, b"1"), Record(b"a", b"1")], [Record(None, b"2")], values((b"b", b"1")))
    await log.clean()
    assert sorted(await log.content()) == [1, 3]


@pytest.mark.parametrize("codec", range(5))
async def test_rewritten_batch__keeps_its_compression_and_everything_else(codec: int) -> None:
    log = CompactedLog()
    first = Record(b"a", b"x" * 50, (("h", b"1"),), 700)
    log.append([first, *values((b"b", b"y" * 50), (b"a", b"2"))], codec=codec, producer_id=3)
    await log.seal()
    before = await log.content()
    await log.clean()
    assert await log.content() == {1: before[1], 2: before[2]}
    assert await log.problems() == []


@pytest.mark.parametrize("codec", [0, 4])
async def test_small_batches__become_one(codec: int) -> None:
    log = CompactedLog()
    for n in range(40):
        log.append([Record(b"%d" % (n % 25), b"%d" % n, (("h", b"1"),), 700 - 3 * n)], codec=codec)
    await log.seal()
    before = await log.content()
    await log.clean()
    assert await log.content() == {offset: before[offset] for offset in range(15, 40)}
    assert await log.batches_left() == [(15, 39, 25)]
    assert await log.problems() == []


async def test_batches_with_sequences_or_tombstones__stay_their_own() -> None:
    log = CompactedLog()
    log.append(values((b"a", b"1")))
    log.append(values((b"b", b"1")), producer_id=5)
    log.append(values((b"c", None)))
    log.append(values((b"d", b"1")), producer_id=7, transactional=True)
    log.end_transaction(7, committed=True)
    log.append(values((b"e", b"1")), codec=1)
    log.append(values((b"f", b"1")))
    await log.seal()
    await log.clean()
    assert [count for _, _, count in await log.batches_left()] == [1] * 7


async def test_full_table__ends_the_dirty_part_in_the_middle_of_a_segment() -> None:
    log = await sealed(*(values((b"%d" % (n % 12), b"%d" % n)) for n in range(24)))
    passes = 0
    while log.first_dirty_offset < 24:
        before = log.first_dirty_offset
        await log.clean(map_bytes=ROOM_FOR_FIVE)
        assert before < log.first_dirty_offset
        newest = log.newest_below(log.first_dirty_offset)
        content = await log.content()
        assert {offset for offset in content if offset < log.first_dirty_offset} == set(newest.values())
        assert all(offset in content for offset in range(log.first_dirty_offset, 24))
        passes += 1
    assert passes == 5
    assert sorted(await log.content()) == list(range(12, 24))
    assert len(log.segments) == 1, "small cleaned segments are merged"


async def test_batch_with_more_keys_than_the_table_has_room_for__stays_as_it_is() -> None:
    log = await sealed(values(*((b"%d" % n, b"1") for n in range(9))), values((b"0", b"2")))
    cleaned = await log.clean(map_bytes=ROOM_FOR_FIVE)
    assert (cleaned.first_dirty_offset, cleaned.stats.raw_batches) == (9, 1)
    cleaned = await log.clean(map_bytes=ROOM_FOR_FIVE)
    assert cleaned.first_dirty_offset == 10
    assert sorted(await log.content()) == list(range(1, 10))


async def test_batch_that_cannot_be_understood__stays_as_it_is() -> None:
    log = CompactedLog()
    for batch in (values((b"a", b"1")), values((b"a", b"2"), (b"b", b"1")), values((b"a", b"3"))):
        log.append(batch)
    malformed = bytearray(log.batches[1])
    malformed[HEADER_BYTES] = 0x7E  # a record that claims to be longer than its batch, under a checksum that matches
    checksum = crc32c(malformed[ATTRIBUTES_POSITION:])
    malformed[CRC_POSITION:ATTRIBUTES_POSITION] = checksum.to_bytes(4, "big")
    log.batches[1] = bytes(malformed)
    await log.seal()
    for _ in range(2):
        cleaned = await log.clean()
        assert cleaned.stats.raw_batches == 1
        assert bytes(malformed) in log.store.objects[cleaned.written[0].name]
        assert await log.problems() == []


async def test_damage__is_kept_and_stays_damage() -> None:
    log = await sealed(*(values((b"%d" % n, b"x" * 100)) for n in range(12)))
    before = log.segments[0]
    data = bytearray(log.store.objects[before.name])
    start = data.index(bytes(7) + b"\x05")
    data[start + 90] ^= 1
    log.store.objects[before.name] = bytes(data)
    for _ in range(2):
        cleaned = await log.clean()
        assert cleaned.stats.raw_batches == 1
        assert sorted(await log.content()) == [0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11]
        assert len(await log.problems()) >= 1


async def test_table__is_cleaned_as_a_segment_is_and_stays_a_table() -> None:
    async def cleaned(*, as_table: bool) -> list[dict[int, Record]]:
        log = CompactedLog()
        log.append(values((b"a", b"1"), (b"b", None), (b"c", b"1")))
        log.append(values((b"d", b"1")), producer_id=7, transactional=True)
        log.end_transaction(7, committed=True)
        log.append(values((b"d", b"aborted"), (b"c", b"aborted")), producer_id=8, transactional=True)
        log.end_transaction(8, committed=False)
        log.append([Record(b"a", b"2", (("h", None),), 700), Record(None, b"no key")], codec=2)
        await log.seal()
        if as_table:
            await log.convert(0, 1)
        contents = []
        for _ in range(3):
            await log.clean(delete_retention_ms=100)
            contents.append(await log.content() | {-1 - offset: Record(None, None) for offset in await log.markers()})
            log.now_ms += 100
            assert await log.problems() == []
        assert {info.kind for info in log.segments} == {FileKind.PARQUET if as_table else FileKind.SEGMENT}
        return contents

    in_tables = await cleaned(as_table=True)
    assert in_tables == await cleaned(as_table=False)
    assert [sorted(offset for offset in one if offset >= 0) for one in in_tables] == [
        [1, 2, 3, 8],
        [2, 3, 8],
        [2, 3, 8],
    ]


async def test_tombstone_in_a_table__has_its_horizon_in_the_column() -> None:
    log = await sealed(values((b"a", b"1"), (b"b", None)))
    await log.convert(0, 1)
    [info] = (await log.clean(delete_retention_ms=500)).written
    assert info.delete_horizon_ms == log.now_ms + 500
    [unit] = await log.units(0)
    assert unit.rows.column("delete_horizon_ms").to_pylist() == [None, log.now_ms + 500]
    [info] = (await log.clean(delete_retention_ms=9999)).written
    assert info.delete_horizon_ms == log.now_ms + 500, "the first one counts"


async def test_small_tables__become_one_and_large_ones_several() -> None:
    log = await sealed(*(values((b"%d" % n, b"x" * 300)) for n in range(12)))
    await log.convert(0, 1)
    log.append(values((b"0", b"2")))
    await log.seal()
    await log.convert(1, 1)
    log.target_file_bytes = 1
    await log.clean()
    assert len(log.segments) > 5
    log.target_file_bytes = 1 << 20
    log.append(values((b"1", b"2")))
    await log.seal()
    await log.convert(len(log.segments) - 1, 1)
    await log.clean()
    assert len(log.segments) == 1
    assert sorted(await log.content()) == list(range(2, 14))


async def test_log_in_both_forms__keeps_each_and_the_newest_of_each_key() -> None:
    log = CompactedLog()
    for number in range(6):
        log.append(values((b"a", b"%d" % number), (b"%d" % number, b"1")))
        await log.seal()
    for position in (1, 3, 4):
        await log.convert(position, 1)
    await log.clean()
    segment, table = FileKind.SEGMENT, FileKind.PARQUET
    assert [info.kind for info in log.segments] == [segment, table, segment, table, segment]
    assert sorted(await log.content()) == [1, 3, 5, 7, 9, 10, 11]
    assert await log.problems() == []


async def test_full_table_of_keys__ends_the_dirty_part_in_the_middle_of_a_table() -> None:
    log = await sealed(*(values(*((b"%d" % ((n + m) % 12), b"%d" % n) for m in range(3))) for n in range(0, 24, 3)))
    await log.convert(0, 1)
    while log.first_dirty_offset < 24:
        before = log.first_dirty_offset
        await log.clean(map_bytes=ROOM_FOR_FIVE)
        assert before < log.first_dirty_offset
        content = await log.content()
        newest = set(log.newest_below(log.first_dirty_offset).values())
        assert {offset for offset in content if offset < log.first_dirty_offset} == newest
        assert all(offset in content for offset in range(log.first_dirty_offset, 24))
        assert await log.problems() == []
    assert sorted(await log.content()) == list(range(12, 24))


async def test_segment_of_which_only_its_end_is_left__is_a_table_that_says_so() -> None:
    log = await sealed(values((b"a", None)))
    await log.clean(delete_retention_ms=0)
    log.now_ms += 1
    await log.clean(delete_retention_ms=0)
    assert await log.batches_left() == [(0, 0, 0)]
    await log.convert(0, 1)
    assert (await log.batches_left(), await log.problems()) == ([(0, 0, 0)], [])


async def test_table_of_which_nothing_is_left__says_where_it_ends() -> None:
    log = await sealed(values((b"a", None)))
    await log.convert(0, 1)
    await log.clean(delete_retention_ms=0)
    log.now_ms += 1
    [info] = (await log.clean(delete_retention_ms=0)).written
    assert (info.base_offset, info.last_offset, await log.content()) == (0, 0, {})
    assert (await log.batches_left(), await log.problems()) == ([(0, 0, 0)], [])


KEYS = st.sampled_from([b"a", b"b", b"c", b"d", b"e", b"f", b"g", None])
RECORD = st.tuples(KEYS, st.none() | st.binary(min_size=1, max_size=60)).map(lambda pair: Record(*pair))
EVENT = st.one_of(
    st.tuples(st.just("append"), st.lists(RECORD, min_size=1, max_size=5), st.sampled_from([-1, 5]), st.integers(0, 4)),
    st.tuples(st.just("transactional"), st.lists(RECORD, min_size=1, max_size=3), st.sampled_from([7, 8]), st.just(0)),
    st.tuples(st.sampled_from(["commit", "abort"]), st.just([]), st.sampled_from([7, 8]), st.just(0)),
    st.tuples(st.sampled_from(["seal", "seal", "clean"]), st.just([]), st.just(0), st.just(0)),
    st.tuples(st.just("convert"), st.just([]), st.integers(0, 3), st.integers(1, 3)),
)


@settings(max_examples=120)
@given(
    events=st.lists(EVENT, min_size=1, max_size=40),
    map_bytes=st.sampled_from([ROOM_FOR_FIVE, 1 << 20]),
    segment_bytes=st.sampled_from([1, 700, 1 << 20]),
    delete_retention_ms=st.sampled_from([0, 150]),
    target_file_bytes=st.sampled_from([1, 1 << 20]),
)
def test_cleaned_log__is_what_the_model_allows(
    events: list[tuple[str, list[Record], int, int]],
    map_bytes: int,
    segment_bytes: int,
    delete_retention_ms: int,
    target_file_bytes: int,
) -> None:
    async def run() -> None:
        log = CompactedLog()
        log.target_file_bytes = target_file_bytes
        for kind, records, producer_id, codec in events:
            if kind == "append":
                log.append(records, producer_id=producer_id, codec=codec)
            elif kind == "transactional":
                log.append(records, producer_id=producer_id, transactional=True)
            elif kind in ("commit", "abort"):
                log.end_transaction(producer_id, committed=kind == "commit")
            elif kind == "convert":
                if producer_id < len(log.segments):
                    await log.convert(producer_id, codec)
            elif log.batches:
                log.end_all()  # nothing is cleaned while a transaction is open in it
                await log.seal()
                if kind == "clean":
                    await clean_and_check(log)
        log.end_all()
        if log.batches:
            await log.seal()
        if not log.segments:
            return
        while log.first_dirty_offset < log.end_offset:
            await clean_and_check(log)
        for _ in range(4):
            log.now_ms += 200
            await clean_and_check(log)
        newest = log.newest_below(log.end_offset)
        left = {offset for offset in newest.values() if log.records[offset].record.value is not None}
        assert set(await log.content()) == left, "tombstones are gone at last"

    async def clean_and_check(log: CompactedLog) -> None:
        before = set(await log.content())
        await log.clean(map_bytes=map_bytes, segment_bytes=segment_bytes, delete_retention_ms=delete_retention_ms)
        log.now_ms += 60
        dirty_from = log.first_dirty_offset
        content = await log.content()
        for offset, record in content.items():
            assert record == log.records[offset].record
        newest = log.newest_below(dirty_from)
        newest_of_all = log.newest_below(log.end_offset)
        for key, offset in newest.items():
            is_tombstone = log.records[offset].record.value is None
            assert offset in content or is_tombstone or newest_of_all[key] > offset
            # The value that a consumer has at last is that of the newest record.
            assert newest_of_all[key] in content or log.records[newest_of_all[key]].record.value is None
        assert {offset for offset in content if offset < dirty_from} <= set(newest.values())
        assert {offset for offset in before if offset >= dirty_from} == {o for o in content if o >= dirty_from}
        assert await log.problems() == []

    asyncio.run(run())
