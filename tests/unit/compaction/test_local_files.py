"""Copies of a remote store's files: what of them is here, and that no file is in memory as a whole."""

from __future__ import annotations

import random
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from bytemq.compaction import iceberg, restructurer
from bytemq.compaction.job import Workspace
from bytemq.compaction.local_files import LocalTable, local_input, open_table, own_file, remove_table
from bytemq.compaction.restructurer import restore
from bytemq.compaction.table_jobs import Restore
from bytemq.errors import Corrupt, NotFound
from bytemq.protocol.records.builder import Record, build_batch
from bytemq.runtime.clock import SystemClock
from bytemq.storage.manifests.manifest import FileKind, SegmentInfo
from bytemq.storage.parquet import partial_copy
from bytemq.storage.parquet.record_schema import KEY_COLUMNS
from bytemq.storage.parquet.settings import ParquetSettings
from bytemq.storage.parquet.sources import SegmentInput
from bytemq.storage.parquet.units import opened_table
from bytemq.storage.parquet.writing import write_table
from bytemq.storage.pools.opening import open_stores
from bytemq.storage.stores.local import LocalStore
from bytemq.storage.tables.companion import decode_companion
from bytemq.storage.tables.table_file import TableFile, encode_details
from tests.support.object_store import MemoryObjectStore
from tests.unit.storage.parquet.shapes import fingerprint, parsed

RECORDS = 200
PARQUET, COMPANION = "tables/t/x/0/a.parquet", "topics/x/0/a.companion"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MemoryObjectStore:
    """With a table of several row groups. Parts and footers are small, so that there are several of them, too."""
    monkeypatch.setattr(partial_copy, "PART_BYTES", 2_000)
    monkeypatch.setattr(partial_copy, "END_BYTES", 500)
    monkeypatch.setattr(partial_copy, "MAX_GAP_BYTES", 10)
    log = tmp_path / "a.log"
    log.write_bytes(b"".join(batches()))
    files = tmp_path / "a.parquet", tmp_path / "a.companion"
    source = SegmentInput(log, 0, RECORDS, log.stat().st_size)
    write_table([source], *files, partition=0, aborted=[], settings=ParquetSettings(row_group_bytes=50_000))
    made = MemoryObjectStore()
    made.objects = {PARQUET: files[0].read_bytes(), COMPANION: files[1].read_bytes()}
    assert pq.read_metadata(files[0]).num_row_groups > 3
    return made


def batches() -> list[bytes]:
    rng = random.Random(1)
    values = [(b"key-%d" % number, rng.randbytes(1000)) for number in range(RECORDS)]
    return [bytes(build_batch([Record(*pair, (), 5)], base_offset=offset)) for offset, pair in enumerate(values)]


async def opened(store: MemoryObjectStore, folder: Path) -> LocalTable:
    return await open_table(PARQUET, COMPANION, store, folder)


async def test_table__has_what_was_brought_and_fetches_no_more(store: MemoryObjectStore, tmp_path: Path) -> None:
    local = await opened(store, tmp_path)
    with opened_table(local.parquet, local.companion) as table:
        at_first = store.ranges_bytes
        await local.bring(table.units[1])
        brought = store.ranges_bytes - at_first
        assert 40_000 < brought < len(store.objects[PARQUET]) / 3
        await local.bring(table.units[1])
        assert store.ranges_bytes == at_first + brought
        assert len(table.read(table.units[1]).rows) > 40
        with pytest.raises(Corrupt):
            table.read(table.units[2])
    assert store.largest_read_bytes <= 2_000
    remove_table(local)
    assert not local.parquet.exists() and not local.companion.exists()


async def test_table__keys_are_read_without_values(store: MemoryObjectStore, tmp_path: Path) -> None:
    local = await opened(store, tmp_path)
    at_first = store.ranges_bytes
    keys = []
    with opened_table(local.parquet, local.companion) as table:
        for unit in table.units:
            await local.bring(unit, KEY_COLUMNS)
            keys += table.read(unit, KEY_COLUMNS).rows.column("key").to_pylist()
    assert keys == [b"key-%d" % number for number in range(RECORDS)]
    assert store.ranges_bytes - at_first < 20 * RECORDS


async def test_table__a_part_that_could_not_be_had_is_asked_for_again(store: MemoryObjectStore, tmp_path: Path) -> None:
    local = await opened(store, tmp_path)
    with opened_table(local.parquet, local.companion) as table:
        whole, store.objects = store.objects, {}
        with pytest.raises(NotFound):
            await local.bring(table.units[0])
        store.objects = whole
        await local.bring(table.units[0])
        assert len(table.read(table.units[0]).rows) > 40


@pytest.mark.parametrize("rubbish", [b"", b"PAR1", b"x" * 300, b"x" * 5_000 + b"\xff\xff\xff\x7fPAR1"])
async def test_table__what_is_no_parquet_file_is_corrupt(
    store: MemoryObjectStore, tmp_path: Path, rubbish: bytes
) -> None:
    store.objects[PARQUET] = rubbish
    with pytest.raises(Corrupt):
        await opened(store, tmp_path)


async def test_input__is_copied_in_parts(store: MemoryObjectStore, tmp_path: Path) -> None:
    details = encode_details(TableFile(COMPANION, RECORDS, len(store.objects[PARQUET]), 0))
    info = SegmentInfo(0, RECORDS - 1, 1, 5, 5, PARQUET, sealed=True, kind=FileKind.PARQUET, details=details)
    source = await local_input(info, store, tmp_path)
    assert source.path.read_bytes() == store.objects[PARQUET]
    assert store.largest_read_bytes <= 2_000


async def test_footer__is_all_that_iceberg_wants(store: MemoryObjectStore) -> None:
    footer = await iceberg._footer(PARQUET, store)
    assert footer.num_rows == RECORDS
    assert 0 < store.ranges_bytes < len(store.objects[PARQUET]) / 3


async def test_files_of_this_machine__are_read_where_they_are(store: MemoryObjectStore, tmp_path: Path) -> None:
    """As a worker process has them: with or without pools."""
    root, other = tmp_path / "store", tmp_path / "pool"
    files = await open_stores(f"file://{root}", [("b", f"file://{other}")], SystemClock(), random.Random(1))
    for name, data in store.objects.items():
        await files.create(name, [data])
    await files.create("@b/topics/x/0/a.log", [b"a segment"])
    segment = SegmentInfo(0, 0, 1, 5, 9, "@b/topics/x/0/a.log", sealed=True)
    copies = tmp_path / "copies"  # which nobody makes
    assert await open_table(PARQUET, COMPANION, files, copies) == LocalTable(root / PARQUET, root / COMPANION, None)
    assert (await local_input(segment, files, copies)).path == other / "topics/x/0/a.log"
    assert await own_file(PARQUET, LocalStore(root)) == root / PARQUET
    await files.close()


async def test_restore__fetches_the_row_group_of_a_unit(
    store: MemoryObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = restructurer._Tables(most=1)
    monkeypatch.setattr(restructurer, "_tables", tables)
    space = Workspace(store, 1 << 30, lambda name: None)
    units = decode_companion(store.objects[COMPANION]).units
    at_first, read = store.ranges_bytes, b""
    for number in range(len(units)):
        made = await restore(Restore(PARQUET, COMPANION, number, str(tmp_path), f"{number}.restored", 500), space)
        if not number:
            assert store.ranges_bytes - at_first < len(store.objects[PARQUET]) / 2
        read += (tmp_path / made.name).read_bytes()[: made.size_bytes]
    assert store.ranges_bytes - at_first < 1.1 * len(store.objects[PARQUET])
    assert fingerprint(parsed(read)) == fingerprint(parsed(b"".join(batches())))
    assert tables._folder is not None
    tables._folder.cleanup()
