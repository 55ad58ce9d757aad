"""How fast an unmodified consumer reads history that is Parquet, and the same history before it was.

    python -m benchmarks.catch_up [--megabytes 1000] [--rounds 3] [--kind "page views"]

A topic of one partition is produced by librdkafka, read by a librdkafka consumer with its own defaults from offset 0 to
the end while it is segments, converted, and read again: the first time cold (no unit restored, no worker started), then
as it is when all units must be restored anew but the worker runs. What the segments gave is what this machine, broker
and client can do at all.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from confluent_kafka import Consumer, TopicPartition

from benchmarks import events
from benchmarks.filling import fill
from benchmarks.usage import children, peak_resident_mb, usage
from tests.support.node_process import NodeProcess

MB = 1_000_000
SAMPLE_BYTES = 50 * MB
"""What is generated; it is repeated, too far apart for any compression to notice."""
TOPIC = "history"


def enough(values: Sequence[tuple[bytes | None, bytes]], total_bytes: int) -> list[tuple[bytes | None, bytes]]:
    """The values over and over, until they have so many bytes."""
    source, records, produced = itertools.cycle(values), list[tuple[bytes | None, bytes]](), 0
    while produced < total_bytes:
        records.append(next(source))
        produced += len(records[-1][1])
    return records


def consume(node: NodeProcess, count: int) -> tuple[float, float, float]:
    """Seconds to the first record, to the last one, and of the client's CPU. kcat where it is installed."""
    return consume_by_kcat(node, count) if shutil.which("kcat") else consume_by_python(node, count)


def consume_by_kcat(node: NodeProcess, count: int) -> tuple[float, float, float]:
    """It prints offsets: all must be there, in order."""
    command = ["kcat", "-C", "-b", node.bootstrap, "-t", TOPIC, "-p", "0", "-o", "beginning", "-e", "-q", "-f", "%o\n"]
    before, started, first_s, lines = os.times(), time.monotonic(), 0.0, []
    with subprocess.Popen(command, stdout=subprocess.PIPE) as client:
        assert client.stdout is not None
        while part := client.stdout.read(1 << 16):
            first_s = first_s or time.monotonic() - started
            lines.append(part)
    took_s, after = time.monotonic() - started, os.times()
    assert b"".join(lines) == b"".join(b"%d\n" % number for number in range(count)), "not the records of the topic"
    return first_s, took_s, sum(after[2:4]) - sum(before[2:4])


def consume_by_python(node: NodeProcess, count: int) -> tuple[float, float, float]:
    consumer = Consumer({"bootstrap.servers": node.bootstrap, "group.id": "g", "enable.auto.commit": False})
    before, started = os.times(), time.monotonic()
    consumer.assign([TopicPartition(TOPIC, 0, 0)])
    got, first_s = 0, 0.0
    while got < count:
        messages = consumer.consume(min(10_000, count - got), 60)
        assert messages and messages[-1].error() is None, f"{got} of {count} records came"
        got += len(messages)
        first_s = first_s or time.monotonic() - started
    took_s, after = time.monotonic() - started, os.times()
    consumer.close()
    return first_s, took_s, sum(after[:2]) - sum(before[:2])


def read_again(node: NodeProcess, count: int, size_mb: float, what: str) -> float:
    """MB/s; says what it cost."""
    broker_s = usage(node.pid).cpu_s
    first_s, took_s, client_s = consume(node, count)
    broker_s = usage(node.pid).cpu_s - broker_s
    print(
        f"  {what:34} {size_mb / took_s:6.0f} MB/s, first record after {first_s:.2f} s; "
        f"CPU ms/MB: client {1000 * client_s / size_mb:.2f}, broker {1000 * broker_s / size_mb:.2f}",
        flush=True,
    )
    return size_mb / took_s


def measure(folder: Path, kind: events.Kind, total_bytes: int, rounds: int) -> None:
    values = [
        (record.key, record.value)
        for batch in events.batches(kind, min(SAMPLE_BYTES, total_bytes), per_second=20_000)
        for record in batch
    ]
    options = ["--durability", "page-cache", "--set", "bytemq.table.cache.bytes=134217728"]
    node = NodeProcess(folder / "data", options=options).start()
    try:
        records = enough(values, total_bytes)
        count = len(records)
        fill(node, TOPIC, records, linger_ms=5, queue_buffering_max_kbytes=262_144)
        size_mb = total_bytes / MB
        print(f"{kind.name}: {count} records of {total_bytes / count:.0f} B, {size_mb:.0f} MB of values", flush=True)
        plain = [read_again(node, count, size_mb, "segments") for _ in range(rounds)]
        started = time.monotonic()
        subprocess.run(
            [sys.executable, "-m", "bytemq", "table", "build", TOPIC, "--http", node.http_address],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        files = list((folder / "data/tables").rglob("*.parquet"))
        stored_mb = sum(path.stat().st_size for path in files) / MB
        print(f"  built in {time.monotonic() - started:.1f} s: {len(files)} files, {stored_mb:.1f} MB")
        tables = [read_again(node, count, size_mb, "Parquet, worker not running")]
        tables += [read_again(node, count, size_mb, "Parquet, units restored anew") for _ in range(rounds)]
        peaks = ", ".join(f"{peak_resident_mb(child):.0f}" for child in children(node.pid))
        ratio = median(tables) / median(plain)
        print(f"  median {median(tables):.0f} MB/s, {ratio:.2f} x segments; workers held {peaks} MB")
    finally:
        node.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kind", default=events.PAGE_VIEWS.name, choices=[kind.name for kind in events.KINDS])
    arguments = parser.parse_args()
    kind = next(kind for kind in events.KINDS if kind.name == arguments.kind)
    folder = Path(tempfile.mkdtemp(prefix="catch-up-"))
    print(f"load of the machine {os.getloadavg()[0]:.0f}")
    try:
        measure(folder, kind, arguments.megabytes * MB, arguments.rounds)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
