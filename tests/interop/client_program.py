"""Drives a client written in another language, and judges what it prints.

The contract with every program (Java, Go, Node): called as `PROGRAM BOOTSTRAP TOPIC GROUP COMPRESSION`, it reads
records from standard input (JSON lines), creates TOPIC with three partitions, produces the records to the partitions
given, reads the topic as GROUP until it has as many, commits, reads the committed offsets back, and prints JSON lines:

    {"kind": "produced", "partition": 0, "offset": 0}           one for each acknowledgement
    {"kind": "record", "partition", "offset", "key", "value", "headers", "timestamp_ms"}      bytes in base64, or null
    {"kind": "committed", "partition": 0, "offset": 100}
    {"kind": "check", "name": "...", "got": ...}                whatever else it looked at

It exits with 0, or says on standard error why not.
"""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.interop.sample import PARTITIONS, Sample, by_partition

TIMEOUT_S = 180.0


def encode(data: bytes | None) -> str | None:
    return None if data is None else base64.b64encode(data).decode()


def decode(text: str | None) -> bytes | None:
    return None if text is None else base64.b64decode(text)


def as_json(record: Sample) -> str:
    headers = [[name, encode(value)] for name, value in record.headers]
    fields = {"partition": record.partition, "key": encode(record.key), "value": encode(record.value)}
    return json.dumps({**fields, "headers": headers, "timestamp_ms": record.timestamp_ms})


def run(command: Sequence[str], records: Sequence[Sample], folder: Path | None = None) -> list[dict[str, Any]]:
    """The JSON lines that the program printed."""
    standard_input = "".join(as_json(record) + "\n" for record in records)
    done = subprocess.run(command, input=standard_input.encode(), capture_output=True, timeout=TIMEOUT_S, cwd=folder)
    assert done.returncode == 0, done.stderr.decode()[-4000:] + done.stdout.decode()[-2000:]
    return [json.loads(line) for line in done.stdout.decode().splitlines() if line.startswith("{")]


def check_round_trip(printed: Sequence[dict[str, Any]], sent: Sequence[Sample]) -> dict[str, Any]:
    """Content, order, offsets and commits are right. Returns the `check` lines by name for the caller to judge."""
    expected = by_partition(sent)
    lengths = {partition: len(records) for partition, records in expected.items()}
    produced: dict[int, list[int]] = {partition: [] for partition in range(PARTITIONS)}
    found: dict[int, list[tuple[int, Sample]]] = {partition: [] for partition in range(PARTITIONS)}
    committed: dict[int, int] = {}
    checks: dict[str, Any] = {}
    for line in printed:
        match line["kind"]:
            case "produced":
                produced[line["partition"]].append(line["offset"])
            case "record":
                found[line["partition"]].append((line["offset"], _as_sample(line)))
            case "committed":
                committed[line["partition"]] = line["offset"]
            case "check":
                checks[line["name"]] = line["got"]
    # Acknowledgements may be reported out of order by the program's callbacks; each offset comes once.
    assert {p: sorted(offsets) for p, offsets in produced.items()} == {p: list(range(n)) for p, n in lengths.items()}
    assert {p: [offset for offset, _ in records] for p, records in found.items()} == {
        p: list(range(n)) for p, n in lengths.items()
    }
    assert {p: [sample for _, sample in records] for p, records in found.items()} == expected
    assert committed == lengths
    return checks


def _as_sample(line: dict[str, Any]) -> Sample:
    headers = tuple((name, decode(value) or b"") for name, value in line["headers"])
    return Sample(line["partition"], decode(line["key"]), decode(line["value"]), headers, line["timestamp_ms"])
