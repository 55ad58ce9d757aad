"""How much memory and time the cleaner takes for many keys: `python -m benchmarks.compaction --keys 20000000`.

Owns the log that it makes in a temporary folder: every key once, then every tenth again. The worker process may
allocate 256 MiB in all, and is killed by its limit if that is not enough. With `--tables` the log is Parquet when it is
cleaned, and the limit is that of a node: 512 MiB.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import tempfile
import time
from pathlib import Path

from bytemq.compaction.clean_log import CleanLog, TableForm
from bytemq.compaction.table_jobs import Convert
from bytemq.compaction.worker import Worker
from bytemq.config import BrokerConfig
from bytemq.node.settings import worker_memory_bytes
from bytemq.protocol.records.batch import parse_header
from bytemq.protocol.records.builder import Record, build_batch, with_records
from bytemq.storage.manifests.manifest import Manifest, SegmentInfo
from bytemq.storage.segments.batch_walk import batch_at
from bytemq.storage.segments.segment_builder import SegmentBuilder
from bytemq.storage.stores.local import LocalStore
from bytemq.storage.tables.table_columns import TableColumns
from bytemq.storage.tables.table_file import NewNames, objects_of

MIB = 1024 * 1024
MEMORY_BYTES = 256 * MIB
MAP_BYTES = 128 * MIB
SEGMENT_BYTES = 64 * MIB
CHUNK_BYTES = 64 * 1024
BATCH_RECORDS = 1000
DIRECTORY = "topics/keys/0/"
TABLES = "tables/keys/x/0/"
TABLE_BYTES = 128 * MIB
ROW_GROUP_BYTES = 32 * MIB


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keys", type=int, default=20_000_000)
    parser.add_argument("--tables", action="store_true")
    arguments = parser.parse_args()
    folder = tempfile.mkdtemp(prefix="bytemq-compaction-")
    try:
        asyncio.run(_run(Path(folder), arguments.keys, as_tables=arguments.tables))
    finally:
        shutil.rmtree(folder)


async def _run(folder: Path, keys: int, *, as_tables: bool) -> None:
    store = LocalStore(folder)
    segments = await _make(store, keys)
    print(f"{keys} keys in {sum(one.size_bytes for one in segments) // MIB} MiB, {len(segments)} segments")
    memory_bytes = worker_memory_bytes(BrokerConfig({})) if as_tables else MEMORY_BYTES
    worker = Worker("benchmark", f"file://{folder}", memory_bytes=memory_bytes)
    if as_tables:
        segments = await _converted(store, worker, segments)
        print(f"as tables {sum(one.size_bytes for one in segments) // MIB} MiB in {len(segments)} files")
        await worker.close()
        worker = Worker("benchmark", f"file://{folder}", memory_bytes=memory_bytes)
    passes = 0
    started = time.monotonic()
    while (first_dirty := Manifest(0, 0, tuple(segments)).first_dirty_offset) <= segments[-1].last_offset:
        passes += 1
        began = time.monotonic()
        cleaned = await worker.run(_job(segments, first_dirty, passes))
        segments[: len(cleaned.replaced)] = cleaned.written
        await store.delete([name for one in cleaned.replaced for name in objects_of(one)])
        peak = _peak_bytes(worker.process_id or 0) // MIB
        print(
            f"pass {passes}: {cleaned.stats.keys} keys, {cleaned.stats.read_records} records read, "
            f"{cleaned.stats.kept_records} kept, {time.monotonic() - began:.1f} s, at most {peak} MiB resident"
        )
    left = sum(one.size_bytes for one in segments) // MIB
    print(f"{passes} passes in {time.monotonic() - started:.1f} s; {left} MiB in {len(segments)} files are left")
    await worker.close()
    await store.close()


def _job(segments: list[SegmentInfo], first_dirty: int, number: int) -> CleanLog:
    return CleanLog(
        segments=tuple(segments),
        first_dirty_offset=first_dirty,
        aborted=(),
        now_ms=0,
        delete_retention_ms=0,
        map_bytes=MAP_BYTES,
        load_factor=0.9,
        segment_bytes=SEGMENT_BYTES,
        chunk_bytes=CHUNK_BYTES,
        directory=DIRECTORY,
        suffix=f"-1-c{number}",
        tables=TableForm(TABLES, 0, TABLE_BYTES, ROW_GROUP_BYTES, "zstd", TableColumns()),
    )


async def _converted(store: LocalStore, worker: Worker, segments: list[SegmentInfo]) -> list[SegmentInfo]:
    """Four segments to a file."""
    tables = []
    for position in range(0, len(segments), 4):
        files = tuple(segments[position : position + 4])
        stem = f"{files[0].base_offset:020d}-1-t1"
        names = NewNames(f"{TABLES}{stem}.parquet", f"{DIRECTORY}{stem}.companion")
        tables.append((await worker.run(Convert(files, 0, names, (), ROW_GROUP_BYTES, "zstd"))).file)
        await store.delete([one.name for one in files])
    return tables


async def _make(store: LocalStore, keys: int) -> list[SegmentInfo]:
    segments: list[SegmentInfo] = []
    builder, base = SegmentBuilder(CHUNK_BYTES), 0
    template = parse_header(memoryview(build_batch([Record(b"%016d" % 0, b"v")] * BATCH_RECORDS)))
    record_bytes = bytes(template.records)
    cuts = [record_bytes.index(b"0" * 16)]
    while (found := record_bytes.find(b"0" * 16, cuts[-1] + 16)) >= 0:
        cuts.append(found)
    between = [record_bytes[a + 16 : b] for a, b in zip([-16, *cuts], [*cuts, len(record_bytes)], strict=True)]
    numbers = [*range(0, keys, BATCH_RECORDS), *range(0, keys // 10, BATCH_RECORDS)]
    for position, first in enumerate(numbers):
        parts = [b"%s%016d" % (between[n], first + n) for n in range(BATCH_RECORDS)]
        data = b"".join([*parts, between[-1]])
        template.base_offset = position * BATCH_RECORDS
        times = {"base_timestamp": 0, "max_timestamp": 0}
        batch = with_records(template, data, BATCH_RECORDS, attributes=template.attributes, **times)
        if builder.size_bytes + len(batch) > SEGMENT_BYTES:
            segments.append(await _finish(store, builder, base))
            builder, base = SegmentBuilder(CHUNK_BYTES), segments[-1].last_offset + 1
        stored = batch_at(memoryview(batch), 0)
        assert stored is not None
        builder.add(stored, batch)
    return [*segments, await _finish(store, builder, base)]


async def _finish(store: LocalStore, builder: SegmentBuilder, base: int) -> SegmentInfo:
    info, data = builder.finish(f"{DIRECTORY}{base:020d}.log", base, created_ms=0, is_cleaned=False)
    await store.create(info.name, data)
    return info


def _peak_bytes(process_id: int) -> int:
    for line in Path(f"/proc/{process_id}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


if __name__ == "__main__":
    main()
