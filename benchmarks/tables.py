"""`make bench-table`: what tables cost and save, with the ratio to what this machine can do at all.

One process, one thread: rates are for each second of one core, so that other work on the machine tells little. Sizes
are of JSON events as shops and sensors send them: names that repeat, values that do not.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import cramjam
import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from bytemq.protocol.records.builder import Record, build_batch
from bytemq.protocol.records.columns import IS_NATIVE
from bytemq.storage.parquet.restoring import restored
from bytemq.storage.parquet.settings import ParquetSettings
from bytemq.storage.parquet.sources import SegmentInput, read_companion
from bytemq.storage.parquet.writing import write_table
from bytemq.storage.tables.table_columns import Formats, TableColumns

MB = 1_000_000
BATCH_BYTES = 16_384
TRIES = 3
FIRST_MS = 1_700_000_000_000


def events(large: bool) -> Iterator[bytes]:
    """Of some 680 bytes, or of some 50."""
    rng = random.Random(1)
    number = 0
    while True:
        number += 1
        event: dict[str, object] = {"id": number, "user": f"user-{rng.randrange(50_000)}", "ms": FIRST_MS + 13 * number}
        if large:
            event |= {
                "kind": rng.choice(["view", "click", "basket", "order"]),
                "url": f"https://shop.example.com/products/{rng.randrange(10_000)}?from=mail",
                "agent": rng.choice(["Mozilla/5.0 (X11; Linux x86_64)", "Mozilla/5.0 (iPhone; CPU iPhone OS 17_0)"]),
                "session": f"{rng.getrandbits(64):016x}",
                "price": round(rng.random() * 1000, 2),
                "country": rng.choice(["DE", "FR", "IN", "US", "BR"]),
                "experiments": {f"experiment-{test}": rng.choice(["a", "b"]) for test in range(20)},
                "referrer": f"https://www.example.org/{rng.choice(['news', 'blog', 'shop'])}/{rng.randrange(500)}",
            }
        yield json.dumps(event, separators=(",", ":")).encode()


def write_log(path: Path, *, large: bool, total_bytes: int, codec: int) -> tuple[SegmentInput, int]:
    """A segment of so many bytes of records, and how many bytes of records they are."""
    source, offset, raw = events(large), 0, 0
    with path.open("wb") as file:
        while raw < total_bytes:
            records, size = [], 0
            while size < BATCH_BYTES:
                value = next(source)
                records.append(Record(b"user-%d" % (offset % 5000), value, (), FIRST_MS + offset + len(records)))
                size += len(value)
            raw += size
            file.write(build_batch(records, base_offset=offset, compression=codec))
            offset += len(records)
    return SegmentInput(path, 0, offset, path.stat().st_size), raw


def seconds(work: Callable[[], object]) -> float:
    """Of processor time; the best of some tries."""
    taken = []
    for _ in range(TRIES):
        before = time.process_time()
        work()
        taken.append(time.process_time() - before)
    return min(taken)


def measure(folder: Path, name: str, *, large: bool, total_bytes: int) -> None:
    plain, raw = write_log(folder / "plain.log", large=large, total_bytes=total_bytes, codec=0)
    zstd, _ = write_log(folder / "zstd.log", large=large, total_bytes=total_bytes, codec=4)
    target, companion = folder / "table.parquet", folder / "table.companion"

    def convert() -> None:
        write_table([plain], target, companion, partition=0, aborted=[], settings=ParquetSettings())

    converting = seconds(convert)
    data = plain.path.read_bytes()
    compressing = seconds(lambda: cramjam.zstd.compress(data, level=3))
    units = read_companion(companion)[0].units
    out = [0]

    def restore() -> None:
        out[0] = sum(len(piece) for unit in range(len(units)) for piece in restored(target, companion, unit, 65536))

    restoring = seconds(restore)
    metadata = pq.read_metadata(target)
    scanned = sum(metadata.row_group(g).column(3).total_compressed_size for g in range(metadata.num_row_groups))
    size = target.stat().st_size
    log_bytes = zstd.size_bytes
    print(f"{name}: {raw / plain.next_offset:.0f} bytes a record, {raw / MB:.0f} MB of values")
    rate, ratio = raw / MB / converting, compressing / converting
    print(f"  conversion        {rate:7.0f} MB/s of a core, {ratio:.2f} x zstd -3 alone")
    print(f"  reading back      {out[0] / MB / restoring:7.0f} MB/s of a core")
    print(f"  size              {size / MB:7.1f} MB, {size / log_bytes:.2f} x the zstd log, {size / raw:.2f} x raw")
    typed = folder / "typed.parquet"

    def convert_typed(columns: TableColumns) -> TableColumns:
        return write_table(
            [plain],
            typed,
            folder / "typed.companion",
            partition=0,
            aborted=[],
            settings=ParquetSettings(),
            columns=columns,
            formats=Formats("json"),
        ).columns

    before = time.process_time()
    columns = convert_typed(TableColumns())
    at_first = time.process_time() - before
    converting_typed = seconds(lambda: convert_typed(columns))
    print(f"  with json columns {raw / MB / converting_typed:7.0f} MB/s of a core, {raw / MB / at_first:.0f} at first")
    print(f"  their size        {(typed.stat().st_size - size) / MB:7.1f} MB more, {typed.stat().st_size / size:.2f} x")
    print(f"  one column        {100 * scanned / log_bytes:7.2f} % of what a consumer of the zstd log reads")
    connection = duckdb.connect()
    middle = plain.next_offset // 2
    for question, where in (
        ("look-up by offset", f'"offset" = {middle}'),
        (
            "look-up by time",
            f"timestamp between make_timestamp({(FIRST_MS + middle) * 1000}) and "
            f"make_timestamp({(FIRST_MS + middle + 100) * 1000})",
        ),
    ):
        query = f"select count(value) from '{target}' where {where}"
        taken = []
        for _ in range(9):
            before = time.perf_counter()
            connection.sql(query).fetchall()
            taken.append(1000 * (time.perf_counter() - before))
        print(f"  {question} {median(taken):7.1f} ms, median of {len(taken)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=200, help="of values (default: 200)")
    options = parser.parse_args()
    pa.set_cpu_count(1)
    print(f"native columns: {'yes' if IS_NATIVE else 'no, install a C compiler'}")
    with tempfile.TemporaryDirectory(prefix="bytemq-bench-table-") as name:
        folder = Path(name)
        measure(folder, "large events", large=True, total_bytes=options.megabytes * MB)
        measure(folder, "small events", large=False, total_bytes=options.megabytes * MB // 4)


if __name__ == "__main__":
    main()
