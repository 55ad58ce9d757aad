"""What goes into a Parquet file comes out again, whatever the log looks like."""

from __future__ import annotations

import os
import random
import re
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bytemq.errors import Corrupt
from bytemq.protocol.records.batch import parse_header
from bytemq.protocol.records.builder import Record, build_batch
from bytemq.storage.parquet.record_schema import SCHEMA
from bytemq.storage.parquet.settings import ParquetSettings
from bytemq.storage.parquet.sources import (
    CompanionFile,
    Input,
    ParquetInput,
    SegmentInput,
    segment_batches,
)
from bytemq.storage.parquet.writing import WrittenTable, write_table
from bytemq.storage.segments.segment_format import decode_footer
from bytemq.storage.tables.table_file import Codec
from tests.unit.storage.parquet.shapes import Log, fingerprint, identities, logs, parsed, restored

SHAPES = int(os.environ.get("BYTEMQ_SHAPES", "200"))
SHARES = int(os.environ.get("BYTEMQ_SHAPES_SHARES", "1"))
"""Of the processes that share the work: `make shapes` runs thousands."""
IN_MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
"""It is not the disk that is tested."""


def segment(folder: Path, name: str, batches: list[bytes], base_offset: int, next_offset: int) -> SegmentInput:
    data = b"".join(batches)
    path = folder / f"{name}.log"
    path.write_bytes(data + b"a footer")
    return SegmentInput(path, base_offset, next_offset, len(data))


def parquet(folder: Path, name: str) -> tuple[Path, Path]:
    return folder / f"{name}.parquet", folder / f"{name}.companion"


def read_back(files: tuple[Path, Path], batch_bytes: int = 500) -> bytes:
    """All units as one log, their indexes checked on the way."""
    companion = CompanionFile(files[1])
    data = b""
    for number, unit in enumerate(companion.units):
        pieces = restored(*files, number, batch_bytes)
        index, _ = decode_footer(bytes(pieces[-1]))
        assert index.next_offset == unit.next_offset
        assert index.end_position == sum(map(len, pieces[:-1]))
        data += b"".join(pieces[:-1])
    return data


@settings(max_examples=SHAPES)
@given(
    log=logs(),
    cuts=st.lists(st.integers(0, 12), max_size=2),
    stays=st.booleans(),
    row_group_bytes=st.sampled_from([1, 2_000, 2_000, 1 << 25, 1 << 25]),
    codec=st.sampled_from(["zstd", "snappy", "none"]),
)
@pytest.mark.parametrize("share", range(SHARES))
def test_conversion__no_record_changes_by_it_and_by_a_merge(
    share: int, log: Log, cuts: list[int], stays: bool, row_group_bytes: int, codec: Codec
) -> None:
    """The log is cut, each part converted, and what came of that made one file; `stays`: but for the last part, which
    is a segment until then.
    """
    chosen = ParquetSettings(row_group_bytes=row_group_bytes, codec=codec, max_decompressed_bytes=1 << 20)
    before = parsed(b"".join(log.batches))
    expected = fingerprint(before)
    with TemporaryDirectory(dir=IN_MEMORY) as name:
        folder = Path(name)

        def written(inputs: Sequence[Input], files: tuple[Path, Path]) -> WrittenTable:
            return write_table(inputs, *files, partition=3, aborted=log.aborted, settings=chosen)

        borders = sorted({0, len(log.batches), *(cut for cut in cuts if cut < len(log.batches))})
        inputs: list[Input] = []
        data = b""
        records = 0
        for first, end in pairwise(borders):
            next_offset = before[end].base_offset if end < len(before) else log.next_offset
            part = segment(folder, f"{first}", log.batches[first:end], before[first].base_offset, next_offset)
            files = parquet(folder, f"{first}")
            records += written([part], files).records
            data += read_back(files)
            is_merged = not (stays and end == len(log.batches))
            inputs.append(ParquetInput(*files, part.base_offset, next_offset) if is_merged else part)
        assert fingerprint(parsed(data)) == expected
        merged = parquet(folder, "merged")
        assert written(inputs, merged).records == records
        assert fingerprint(parsed(read_back(merged))) == expected
        assert pq.read_table(merged[0], columns=["offset"]).column(0).to_pylist() == committed_offsets(log)


def committed_offsets(log: Log) -> list[int]:
    """By a rule of its own: all records of data batches that can be read and that no abort marker covers."""
    found = []
    for batch in parsed(b"".join(log.batches)):
        covered = any(p == batch.producer_id and a <= batch.base_offset <= z for p, a, z in log.aborted)
        if batch.is_control or (batch.is_transactional and covered):
            continue
        found.extend(identity[8] for identity in identities([batch]) if len(identity) > 8)
    return [offset for offset in found if isinstance(offset, int)]


def test_shapes__are_worth_converting() -> None:
    """A guard for the property above: a change that loses a field of a record is seen by the fingerprint."""
    record = Record(b"k", b"v", (("a", b"1"), ("a", b"1")), 5)
    same = fingerprint(parsed(bytes(build_batch([record]))))
    for other in (
        record._replace(key=b""),
        record._replace(value=None),
        record._replace(headers=record.headers[:1]),
        record._replace(timestamp_ms=6),
    ):
        assert fingerprint(parsed(bytes(build_batch([other])))) != same
    for changed in ({"producer_id": 1}, {"leader_epoch": 1}, {"transactional": True}, {"base_offset": 1}):
        assert fingerprint(parsed(bytes(build_batch([record], **changed)))) != same


def write(folder: Path, *batches: bytes | bytearray, **changed: object) -> tuple[tuple[Path, Path], WrittenTable]:
    headers = [parse_header(memoryview(batch)) for batch in batches]
    source = segment(folder, "in", [bytes(b) for b in batches], headers[0].base_offset, headers[-1].next_offset)
    files = parquet(folder, "out")
    settings_ = ParquetSettings(**changed)  # type: ignore[arg-type]
    return files, write_table([source], *files, partition=0, aborted=[], settings=settings_)


def test_conversion__records_of_10_mb(tmp_path: Path) -> None:
    batches = [
        build_batch([Record(None, os.urandom(10_000_000), (), 7)], base_offset=i, compression=i) for i in range(3)
    ]
    files, written = write(tmp_path, *batches)
    assert written.records == 3
    assert fingerprint(parsed(read_back(files))) == fingerprint(parsed(b"".join(batches)))


def test_conversion__a_batch_that_decompresses_to_too_much_is_kept_as_it_is(tmp_path: Path) -> None:
    bomb = build_batch([Record(None, bytes(1_000_000))], compression=4)
    files, written = write(
        tmp_path, bomb, build_batch([Record(None, b"v")], base_offset=1), max_decompressed_bytes=5000
    )
    assert (written.records, written.kept_raw) == (1, 1)
    assert read_back(files)[: len(bomb)] == bomb


def test_conversion__a_batch_of_too_many_records_is_kept_as_it_is(tmp_path: Path) -> None:
    """A megabyte of zstd may be ten million of them, of seven bytes each, and 60 bytes each as columns."""
    many = build_batch([Record(None, None)] * 1000, compression=4)
    files, written = write(
        tmp_path, many, build_batch([Record(None, b"v")], base_offset=1000), max_decompressed_bytes=20_000
    )
    assert (written.records, written.kept_raw) == (1, 1)
    assert read_back(files)[: len(many)] == many


def test_conversion__what_is_no_row_is_in_units_that_are_no_larger_than_others(tmp_path: Path) -> None:
    """However much of it there is: of a unit it is in memory at once when that is read."""
    rng = random.Random(2)
    batches = [
        bytes(build_batch([Record(None, rng.randbytes(1000), (), o)], base_offset=o, producer_id=7, transactional=True))
        for o in range(100)
    ]
    source = segment(tmp_path, "in", batches, 0, 100)
    files = parquet(tmp_path, "out")
    small = ParquetSettings(row_group_bytes=10_000)
    write_table([source], *files, partition=0, aborted=[(7, 0, 99)], settings=small)
    companion = CompanionFile(files[1])
    sizes = [sum(batch.size_bytes for batch in companion.batches(unit)) for unit in companion.units]
    assert sum(sizes) == sum(map(len, batches))
    assert max(sizes) <= 10_000
    assert [unit.max_timestamp for unit in companion.units] == [unit.next_offset - 1 for unit in companion.units]
    assert read_back(files) == b"".join(batches)
    merged = parquet(tmp_path, "merged")
    write_table([ParquetInput(*files, 0, 100)], *merged, partition=0, aborted=[], settings=small)
    assert read_back(merged) == b"".join(batches)


@pytest.mark.skipif(sys.platform != "linux", reason="it is the kernel that says")
def test_companion__that_is_large_is_in_memory_in_part_only(tmp_path: Path) -> None:
    batches = [bytes(build_batch([Record(None, bytes(1_000_000))], base_offset=o, control=True)) for o in range(64)]
    files, _ = write(tmp_path, *batches, row_group_bytes=2_000_000)
    companion = CompanionFile(files[1])
    assert _resident_kib(files[1]) < 16 * 1024
    assert [len(companion.batches(unit)) for unit in companion.units] == [1] * 64


def test_conversion__a_higher_level_makes_smaller_files_of_the_same_records(tmp_path: Path) -> None:
    rng = random.Random(1)
    words = [rng.randbytes(rng.randrange(3, 9)) for _ in range(300)]
    batch = build_batch([Record(None, b" ".join(rng.choices(words, k=30)), (), 7) for _ in range(2000)])
    sizes = []
    for level in (1, 9):
        files, written = write(tmp_path, batch, codec_level=level)
        sizes.append(written.size_bytes)
        assert fingerprint(parsed(read_back(files))) == fingerprint(parsed(bytes(batch)))
    assert sizes[1] < 0.95 * sizes[0]


@pytest.mark.skipif(sys.platform != "linux", reason="it is the kernel that says")
def test_segment__that_is_large_is_in_memory_in_part_only(tmp_path: Path) -> None:
    batches = [bytes(build_batch([Record(None, bytes(1_000_000))], base_offset=offset)) for offset in range(64)]
    source = segment(tmp_path, "large", batches, 0, 64)
    resident_kib = []
    for found in segment_batches(source):
        assert bytes(found.view) == batches[found.base_offset]
        resident_kib.append(_resident_kib(source.path))
    assert len(resident_kib) == 64
    assert 0 < max(resident_kib) < 16 * 1024


def _resident_kib(path: Path) -> int:
    """Of a file, in the memory of this process."""
    maps = Path("/proc/self/smaps").read_text()
    _, _, of_file = maps.partition(str(path))
    found = re.search(r"Rss: +(\d+) kB", of_file)
    assert found is not None
    return int(found[1])


def test_conversion__a_damaged_segment_is_refused(tmp_path: Path) -> None:
    damaged = build_batch([Record(None, b"v" * 100)])
    damaged[-20] ^= 1
    with pytest.raises(Corrupt, match="offset 0"):
        write(tmp_path, damaged)


def test_conversion__timestamps_that_are_none_or_out_of_range_are_null_and_kept_raw(tmp_path: Path) -> None:
    times = [-1, 0, -2, 1 << 60, -(1 << 60), 1_700_000_000_123]
    files, _ = write(tmp_path, build_batch([Record(None, None, (), time) for time in times], timestamp_ms=-1))
    table = pq.read_table(files[0])
    assert table.column("timestamp_ms").to_pylist() == times
    assert [None if t is None else t.timestamp() * 1000 for t in table.column("timestamp").to_pylist()] == [
        None,
        0,
        -2,
        None,
        None,
        1_700_000_000_123,
    ]


def test_conversion__files_say_what_iceberg_and_readers_that_prune_need(tmp_path: Path) -> None:
    files, _ = write(tmp_path, build_batch([Record(None, b"v", (), 5), Record(None, b"v", (), 9)], base_offset=7))
    metadata = pq.read_metadata(files[0])
    offset = metadata.row_group(0).column(0)
    assert (offset.statistics.min, offset.statistics.max) == (7, 8)
    assert pq.read_schema(files[0]).equals(SCHEMA)
    assert {f.name: f.metadata[b"PARQUET:field_id"] for f in pq.read_schema(files[0])}["value"] == b"7"


def test_restoring__notices_every_damaged_page(tmp_path: Path) -> None:
    files, _ = write(tmp_path, build_batch([Record(b"k", os.urandom(1000), (), 7) for _ in range(20)]))
    sound = files[0].read_bytes()
    for position in range(4, len(sound) - 8, len(sound) // 50):
        files[0].write_bytes(sound[:position] + bytes([sound[position] ^ 0x55]) + sound[position + 1 :])
        before = identities(parsed(b"".join(map(bytes, _restored_or_nothing(files)))))
        files[0].write_bytes(sound)
        assert before in ([], identities(parsed(b"".join(map(bytes, _restored_or_nothing(files))))))


def _restored_or_nothing(files: tuple[Path, Path]) -> list[bytes | bytearray | memoryview]:
    try:
        return restored(*files, 0, 1000)[:-1]
    except Corrupt:
        return []
