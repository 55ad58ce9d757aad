"""`make bench-table`: what tables cost and save, with the ratio to what this machine can do at all.

Conversion, reading back and look-ups run in this process, in one thread: rates are for each second of one core, so that
other work on the machine tells little. Then a node is read by an unmodified consumer (benchmarks/catch_up.py).
`--levels 3,6,9` and `--pages 1,4` compare settings of the Parquet files; by default both levels are measured that there
are, of small files and of those that stay.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import cramjam
import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import catch_up, events
from bytemq.compaction.restorer import BATCH_BYTES
from bytemq.compaction.table_planner import FAST_LEVEL
from bytemq.protocol.records.builder import Record
from bytemq.protocol.records.columns import IS_NATIVE
from bytemq.storage.parquet.restoring import restore_unit
from bytemq.storage.parquet.settings import ParquetSettings
from bytemq.storage.parquet.sources import SegmentInput
from bytemq.storage.parquet.units import opened_table
from bytemq.storage.parquet.writing import WrittenTable, write_table
from bytemq.storage.tables.table_columns import Formats, TableColumns

MB = 1_000_000
TRIES = 3
NO_CODEC = 0
RATES = (100, 1_000, 5_000, 20_000)
"""Events a second for one partition: what a batch has of them follows."""
PARTS = ("rates", "sizes", "typed", "look-ups", "scan", "catch-up")
SCANNED_FILES = 20
"""Of one content, so that a scan has some GB to go through: 10 GB of values with `--megabytes 500`."""
SCANNED = ("timestamp", '"offset"', "key", "value")


class Log:
    """A segment of batches, in one codec."""

    def __init__(self, path: Path, batches: Sequence[list[Record]], codec: int) -> None:
        with path.open("wb") as file:
            file.writelines(events.log_of(batches, codec))
        self.records = sum(map(len, batches))
        self.size_bytes = path.stat().st_size
        self.input = SegmentInput(path, 0, self.records, self.size_bytes)


class Bench:
    def __init__(self, folder: Path, megabytes: int, levels: Sequence[int], pages: Sequence[int]) -> None:
        self.folder = folder
        self.total_bytes = megabytes * MB
        self._parquet, self._companion = folder / "table.parquet", folder / "table.companion"
        self.all_settings = [
            ParquetSettings(codec_level=level, page_bytes=page << 20) for level in levels for page in pages
        ]

    def convert(self, log: Log, settings: ParquetSettings, columns: TableColumns, formats: Formats) -> WrittenTable:
        files = self._parquet, self._companion
        return write_table(
            [log.input], *files, partition=0, aborted=[], settings=settings, columns=columns, formats=formats
        )

    def batches(self, kind: events.Kind, per_second: float, total_bytes: int) -> tuple[list[list[Record]], int]:
        made = list(events.batches(kind, total_bytes, per_second))
        return made, sum(len(record.value or b"") for batch in made for record in batch)

    def rates(self, kind: events.Kind) -> None:
        batches, raw = self.batches(kind, 20_000, self.total_bytes)
        plain = Log(self.folder / "plain.log", batches, NO_CODEC)
        zstd = Log(self.folder / "zstd.log", batches, events.ZSTD)
        del batches
        print(f"{kind.name}: {raw / plain.records:.0f} bytes a record, {raw / MB:.0f} MB of values")
        data = plain.input.path.read_bytes()
        for settings in self.all_settings:
            compressing = seconds(lambda level=settings.codec_level: cramjam.zstd.compress(data, level=level))
            for name, log in (("", plain), (", of zstd batches", zstd)):
                took = seconds(lambda log=log, settings=settings: self.convert(log, settings, *RAW))
                rate, ratio = raw / MB / took, compressing / took
                print(f"  conversion{name:20} {rate:6.0f} MB/s of a core, {ratio:.2f} x {_named(settings)} alone")
            took = seconds(self._restore)
            print(f"  reading back {'':17} {plain.size_bytes / MB / took:6.0f} MB/s of a core", flush=True)

    def _restore(self) -> None:
        with opened_table(self._parquet, self._companion) as table:
            for unit in table.units:
                restore_unit(table, unit, BATCH_BYTES, lambda data: None)

    def sizes(self) -> None:
        print("size of the table to that of the log in zstd batches, by events a second for a partition (linger 5 ms)")
        print(f"  {'':16} {'zstd':>8} " + " ".join(f"{rate:>18,}" for rate in RATES))
        for kind in events.KINDS:
            found: dict[ParquetSettings, list[str]] = {settings: [] for settings in self.all_settings}
            for rate in RATES:
                batches, raw = self.batches(kind, rate, self.total_bytes // 4)
                log = Log(self.folder / "zstd.log", batches, events.ZSTD)
                in_batch = log.records / len(batches)
                for settings, row in found.items():
                    stored = self.convert(log, settings, *RAW).size_bytes
                    share = f"{stored / raw:.3f}/{log.size_bytes / raw:.3f}"
                    row.append(f"{stored / log.size_bytes:.2f} ({share}) {in_batch:3.0f}")
            for settings, row in found.items():
                print(f"  {kind.name:16} {_named(settings):>8} " + " ".join(f"{cell:>18}" for cell in row), flush=True)

    def typed(self, kind: events.Kind) -> None:
        batches, raw = self.batches(kind, 20_000, self.total_bytes // 2)
        log = Log(self.folder / "plain.log", batches, NO_CODEC)
        for settings in self.all_settings:
            stored = self.convert(log, settings, *RAW).size_bytes
            before = time.process_time()
            written = self.convert(log, settings, TableColumns(), Formats("json"))
            at_first = time.process_time() - before
            made = written.columns
            took = seconds(lambda settings=settings, made=made: self.convert(log, settings, made, Formats("json")))
            rate, first_rate, times = raw / MB / took, raw / MB / at_first, written.size_bytes / stored
            print(f"{kind.name} with json columns, {len(list(made.of_table()))} of them at the top, ", end="")
            print(f"{_named(settings)}: {rate:.0f} MB/s of a core, {first_rate:.0f} for the first file; ", end="")
            print(f"{times:.2f} x the size", flush=True)

    def look_ups(self, kind: events.Kind) -> None:
        batches, raw = self.batches(kind, 20_000, self.total_bytes)
        log = Log(self.folder / "plain.log", batches, NO_CODEC)
        newest_ms = batches[-1][-1].timestamp_ms or 0
        middle, middle_ms = log.records // 2, (events.FIRST_MS + newest_ms) // 2
        del batches
        for settings in self.all_settings:
            self.convert(log, settings, *RAW)
            connection = duckdb.connect()
            for what, where in (
                ("offset", f'"offset" = {middle}'),
                ("time range", f"timestamp between make_timestamp({middle_ms * 1000}) and "
                 f"make_timestamp({(middle_ms + 10) * 1000})"),
            ):  # fmt: skip
                query = f"select count(value) from '{self._parquet}' where {where}"
                taken_ms = []
                for _ in range(9):
                    before = time.perf_counter()
                    connection.sql(query).fetchall()
                    taken_ms.append(1000 * (time.perf_counter() - before))
                found_ms = median(taken_ms)
                print(f"look-up by {what} in {raw / MB:.0f} MB, {_named(settings)}: {found_ms:.1f} ms", flush=True)
        metadata = pq.read_metadata(self._parquet)
        groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
        for number in range(metadata.num_columns):
            taken = sum(group.column(number).total_compressed_size for group in groups)
            print(f"  {groups[0].column(number).path_in_schema:28} {taken / log.records:8.3f} bytes a record")

    def scan(self, kind: events.Kind) -> None:
        batches, raw = self.batches(kind, 20_000, self.total_bytes)
        plain = Log(self.folder / "plain.log", batches, NO_CODEC)
        zstd = Log(self.folder / "zstd.log", batches, events.ZSTD)
        del batches
        self.convert(zstd, self.all_settings[-1], *RAW)
        for number in range(SCANNED_FILES):
            os.link(self._parquet, self.folder / f"scanned-{number}.parquet")
        print(
            f"a column of {SCANNED_FILES * raw / 1e9:.1f} GB of {kind.name}, read by DuckDB; a consumer reads", end=""
        )
        print(
            f" {SCANNED_FILES * plain.size_bytes / 1e9:.2f} GB, or {SCANNED_FILES * zstd.size_bytes / 1e9:.2f} in zstd"
        )
        connection = duckdb.connect()
        for column in SCANNED:
            before, started = read_bytes(), time.perf_counter()
            connection.sql(f"select max({column}) from '{self.folder}/scanned-*.parquet'").fetchall()
            taken_s, taken = time.perf_counter() - started, (read_bytes() - before) / SCANNED_FILES
            of_plain, of_zstd = 100 * taken / plain.size_bytes, 100 * taken / zstd.size_bytes
            print(f"  max({column}) {of_plain:.3f} %, of the zstd log {of_zstd:.2f} %; {taken_s:.2f} s", flush=True)


RAW = TableColumns(), Formats()


def read_bytes() -> int:
    """That this process has read of files, cached or not."""
    return int(Path("/proc/self/io").read_text().split()[1])


def seconds(work: Callable[[], object]) -> float:
    """Of processor time; the best of some tries."""
    taken = []
    for _ in range(TRIES):
        before = time.process_time()
        work()
        taken.append(time.process_time() - before)
    return min(taken)


def _named(settings: ParquetSettings) -> str:
    return f"zstd -{settings.codec_level} {settings.page_bytes >> 20}M"


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def main() -> None:
    default = ParquetSettings()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=100, help="of values (default: 100)")
    parser.add_argument("--only", default=",".join(PARTS), help=f"of {', '.join(PARTS)}")
    parser.add_argument("--levels", type=_numbers, default=[FAST_LEVEL, default.codec_level])
    parser.add_argument("--pages", type=_numbers, default=[default.page_bytes >> 20], help="MiB")
    options = parser.parse_args()
    chosen = options.only.split(",")
    pa.set_cpu_count(1)
    print(f"native columns: {'yes' if IS_NATIVE else 'no, install a C compiler'}; load {os.getloadavg()[0]:.0f}")
    with tempfile.TemporaryDirectory(prefix="bytemq-bench-table-") as name:
        folder = Path(name)
        bench = Bench(folder, options.megabytes, options.levels, options.pages)
        if "rates" in chosen:
            for kind in (events.ORDERS, events.PAGE_VIEWS, events.MEASUREMENTS):
                bench.rates(kind)
        if "sizes" in chosen:
            bench.sizes()
        if "typed" in chosen:
            for kind in (events.ORDERS, events.PAGE_VIEWS, events.MEASUREMENTS):
                bench.typed(kind)
        if "look-ups" in chosen:
            bench.look_ups(events.PAGE_VIEWS)
        if "scan" in chosen:
            bench.scan(events.PAGE_VIEWS)
        if "catch-up" in chosen:
            catch_up.measure(folder, events.PAGE_VIEWS, 5 * bench.total_bytes, TRIES)


if __name__ == "__main__":
    main()
