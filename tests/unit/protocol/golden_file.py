"""The golden file: the bytes that Kafka 4.4.0's own Java code writes for the messages of `samples`.

How to make it anew is told in golden/GoldenMessages.java.
"""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.unit.protocol import samples

PATH = Path(__file__).parent / "golden" / "messages.tsv"


def load() -> dict[tuple[str, int, str], bytes]:
    """(class name, version, "full" or "bare") -> the message."""
    golden = {}
    for line in PATH.read_text().splitlines():
        name, version, kind, data = line.split("\t")
        golden[name, int(version), kind] = base64.b64decode(data)
    return golden


def describe() -> Iterator[str]:
    """One line for each sample, as input for the Java program."""
    for cls, version in samples.cases():
        for message in (samples.full(cls, version), samples.bare(cls, version)):
            described = json.dumps(samples.as_json(message, version), ensure_ascii=False, separators=(",", ":"))
            yield f"{cls.__name__}\t{version}\t{described}"


def write(lines: Iterator[str]) -> None:
    """Takes what the Java program prints, in the order of `describe`."""
    kinds = iter(["full", "bare"] * sum(1 for _ in samples.cases()))
    with PATH.open("w") as out:
        for line, kind in zip(lines, kinds, strict=True):
            name, version, data = line.rstrip("\n").split("\t")
            if data != "-":
                out.write(f"{name}\t{version}\t{kind}\t{data}\n")


if __name__ == "__main__":
    if sys.argv[1] == "describe":
        print("\n".join(describe()))
    else:
        write(iter(sys.stdin))
