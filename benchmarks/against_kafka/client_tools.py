"""Load from what users have: Kafka's own performance tools and librdkafka, by kcat. Their own cost limits much."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
import time
from functools import partial

from benchmarks.against_kafka import topics
from benchmarks.against_kafka.contenders import Contender
from benchmarks.against_kafka.measures import Figures, Measure, Pace, quiet
from benchmarks.loader import BENCH, LoadFailed
from benchmarks.usage import settle, usage
from tests.interop.kafka_process import INTEROP
from tests.support.java import fetch_jars

PARTITIONS = 16
TOOLS = "org.apache.kafka.tools"
ACKNOWLEDGED = re.compile(r"^(\d+) records sent, ([\d.]+) records/sec \(([\d.]+) MB/sec\)")
RATE_GUESS_MB_S = 60.0
MIB = 1 << 20


def has_kcat() -> bool:
    return shutil.which("kcat") is not None


def perf_test_produce(record_bytes: int) -> Measure:
    return partial(_perf_test_produce, record_bytes)


def perf_test_consume() -> Measure:
    return _perf_test_consume


def kcat_produce(record_bytes: int) -> Measure:
    return partial(_kcat_produce, record_bytes)


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise LoadFailed(f"{command[0]}: {done.stderr[-2000:]}")
    return done.stdout


def _perf_tool(tool: str, *arguments: str) -> str:
    return _run(
        ["java", "-Xms512m", "-Xmx512m", "-cp", fetch_jars(INTEROP / "kafka-tools"), f"{TOOLS}.{tool}", *arguments]
    )


def _producer(contender: Contender, topic: str, count: int, record_bytes: int) -> tuple[float, float]:
    """(MB/s, records/s)"""
    printed = _perf_tool(
        "ProducerPerformance",
        *("--bootstrap-server", f"127.0.0.1:{contender.address[1]}", "--topic", topic, "--throughput", "-1"),
        *("--num-records", str(count), "--record-size", str(record_bytes)),
        *("--warmup-records", str(count // 4)),
        *("--command-property", "acks=all"),
    )
    last = [match for match in map(ACKNOWLEDGED.match, printed.splitlines()) if match][-1]
    return float(last[3]) * MIB / 1e6, float(last[2])


def _perf_test_produce(record_bytes: int, contender: Contender, pace: Pace) -> Figures:
    count = int(RATE_GUESS_MB_S * 1e6 * (pace.seconds + pace.warmup_s) / record_bytes)
    with topics.fresh_topic(contender, PARTITIONS, "page-cache") as topic:
        quiet(contender)
        before = usage(contender.pid)
        mb_s, records_s = _producer(contender, topic, count, record_bytes)
        settle(contender.pid)
        used = usage(contender.pid).since(before)
    return {"MB/s": mb_s, "records/s": records_s, "CPU s/GB": used.cpu_s / (count * record_bytes / 1e9)}


def _perf_test_consume(contender: Contender, pace: Pace) -> Figures:
    count = int(RATE_GUESS_MB_S * 1e6 * 2 * pace.seconds / 1024)
    with topics.fresh_topic(contender, PARTITIONS, "page-cache") as topic:
        _producer(contender, topic, count, 1024)
        quiet(contender)
        before = usage(contender.pid)
        printed = _perf_tool(
            "ConsumerPerformance",
            *("--bootstrap-server", f"127.0.0.1:{contender.address[1]}", "--topic", topic, "--hide-header"),
            *("--num-records", str(count), "--timeout", "60000"),
        )
        used = usage(contender.pid).since(before)
    row = next(line for line in printed.splitlines() if line.count(",") >= 9).split(",")
    if int(row[4]) < count:
        raise LoadFailed(f"{row[4].strip()} of {count} records were consumed before the tool gave up")
    return {
        "MB/s": float(row[8]) * MIB / 1e6,
        "records/s": float(row[9]),
        "CPU s/GB": used.cpu_s / (count * 1024 / 1e9),
    }


def _kcat_produce(record_bytes: int, contender: Contender, pace: Pace) -> Figures:
    size_bytes = int(RATE_GUESS_MB_S * 1e6 * (pace.seconds + pace.warmup_s))
    lines = BENCH / f"lines-{record_bytes}"
    if not lines.exists() or lines.stat().st_size < size_bytes:
        symbols = bytes(byte for byte in range(256) if byte != 0x0A)
        block = b"".join(bytes(random.choices(symbols, k=record_bytes - 1)) + b"\n" for _ in range(MIB // record_bytes))
        lines.write_bytes(block * (size_bytes // len(block) + 1))
    with topics.fresh_topic(contender, PARTITIONS, "page-cache") as topic:
        quiet(contender)
        before = usage(contender.pid)
        settings = [part for one in ("acks=all", "linger.ms=5", "batch.size=16384") for part in ("-X", one)]
        started = time.monotonic()
        _run(["kcat", "-P", "-b", f"127.0.0.1:{contender.address[1]}", "-t", topic, *settings, "-l", str(lines)])
        took_s = time.monotonic() - started
        settle(contender.pid)
        used = usage(contender.pid).since(before)
    sent_bytes = lines.stat().st_size
    return {
        "MB/s": sent_bytes / 1e6 / took_s,
        "records/s": sent_bytes / record_bytes / took_s,
        "CPU s/GB": used.cpu_s / (sent_bytes / 1e9),
    }
