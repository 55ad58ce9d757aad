"""The records that every client sends and must read back: the same for all of them, chosen to hurt."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

PARTITIONS = 3


class Sample(NamedTuple):
    """One record. `partition` is chosen here, so that order can be checked without knowing a client's partitioner."""

    partition: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]
    timestamp_ms: int


def samples(count: int, start_ms: int = 1_700_000_000_000) -> list[Sample]:
    """`count` records: null and empty keys and values kept apart, text beyond ASCII, headers with duplicates, sizes
    from 0 to 60 KB.
    """
    return [_sample(number, start_ms + number) for number in range(count)]


def _sample(number: int, timestamp_ms: int) -> Sample:
    key: bytes | None = f"ключ-{number % 97}".encode()
    value: bytes | None = hashlib.sha256(str(number).encode()).hexdigest().encode() * (1 + number % 7)
    headers: tuple[tuple[str, bytes], ...] = ()
    if number % 11 == 0 and number % 13:  # not both null: some clients refuse to send that
        key = None
    if number % 13 == 0:
        value = None
    elif number % 17 == 0:
        value = b""
    if number % 5 == 0:
        headers = (("trace", str(number).encode()), ("trace", b""), ("größe", b"\x00\xff"))
    if number % 101 == 1:
        value = bytes(range(256)) * 240
    return Sample(number % PARTITIONS, key, value, headers, timestamp_ms)


def by_partition(records: Sequence[Sample]) -> dict[int, list[Sample]]:
    found: dict[int, list[Sample]] = {partition: [] for partition in range(PARTITIONS)}
    for record in records:
        found[record.partition].append(record)
    return found
