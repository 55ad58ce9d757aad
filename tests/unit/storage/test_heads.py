"""One suite for both readings of heads, and both against each other on rubbish."""

from __future__ import annotations

import random
from types import ModuleType

import pytest

from bytemq.storage.wal.format import Reference, decode_header, encode_head, shares_to_write
from bytemq.storage.wal.heads_pure import PARTITION, ROW, Head
from bytemq.types import PartitionId
from tests.unit.records.native import implementations
from tests.unit.storage.bench import batch_at, pid

IMPLEMENTATIONS = implementations("heads", "bytemq.storage.wal")
pytestmark = pytest.mark.parametrize("heads", IMPLEMENTATIONS, ids=lambda module: module.__name__)

SESSION = 7


def written(*flushes: list[tuple[PartitionId, int, bytes]], sequence: int = 1) -> tuple[bytes, list[Head]]:
    """A file of flushes, each of one batch for each (partition, offset, value); and their heads."""
    data, heads, link = b"", [], 0
    for number, flush in enumerate(flushes, sequence):
        batches = [batch_at(offset, value) for _, offset, value in flush]
        shares = [
            shares_to_write(partition, [batch], 1_000)[0] for (partition, *_), batch in zip(flush, batches, strict=True)
        ]
        head, link = encode_head(SESSION, number, number - 1, link, shares)
        heads.append((len(data), head))
        data += head + b"".join(bytes(batch.view) for batch in batches)
        data += bytes(-len(data) % 8)
    return data, heads


DATA, HEADS = written(
    [(pid(1), 0, b"first")],
    [(pid(1), 1, b"second"), (pid(2), 40, b"other")],
    [(pid(2), 41, bytes(300))],
    [(pid(1), 2, b"")],
)
LAST = decode_header(HEADS[-1][1])


def test_chained__finds_one_after_the_other(heads: ModuleType) -> None:
    assert heads.chained(b"xy" + DATA, 2, 100, SESSION, 0, 0, False) == (
        [(102 + position, head) for position, head in HEADS],
        2 + len(DATA),
        4,
        LAST.crc,
    )


def test_chained__finds_them_where_nothing_is_between(heads: ModuleType) -> None:
    packed = b"".join(head for _, head in HEADS)
    found, end, *last = heads.chained(packed, 0, 0, SESSION, 0, 0, True)
    assert ([head for _, head in found], end, last) == ([head for _, head in HEADS], len(packed), [4, LAST.crc])


@pytest.mark.parametrize(
    ("session_id", "sequence", "crc"), [(8, 0, 0), (SESSION, 1, 0), (SESSION, 0, 1)], ids=["session", "order", "link"]
)
def test_chained__takes_none_that_does_not_follow(heads: ModuleType, session_id: int, sequence: int, crc: int) -> None:
    assert heads.chained(DATA, 0, 0, session_id, sequence, crc, False) == ([], 0, sequence, crc)


def test_chained__goes_on_where_it_stopped(heads: ModuleType) -> None:
    for cut in range(len(DATA)):
        found, end, *last = heads.chained(DATA[:cut], 0, 0, SESSION, 0, 0, False)
        assert found == [(at, head) for at, head in HEADS if at + len(head) <= cut]
        rest, after, *_ = heads.chained(DATA, end, 0, SESSION, *last, False)
        assert (found + rest, after) == (HEADS, len(DATA))


def test_by_partition__says_where_the_batches_of_each_are(heads: ModuleType) -> None:
    taken, found = heads.by_partition(HEADS, 0, 100)
    assert (taken, found.keys()) == (4, {PARTITION.pack(*pid(1)), PARTITION.pack(*pid(2))})
    rows, entries = found[PARTITION.pack(*pid(2))]
    for (base, after, newest, position, size_bytes, _, entries_bytes), (offset, value) in zip(
        ROW.iter_unpack(rows), [(40, b"other"), (41, bytes(300))], strict=True
    ):
        batch = batch_at(offset, value)
        assert (base, after, newest, entries_bytes) == (offset, offset + 1, batch.max_timestamp, 65)
        assert DATA[position : position + size_bytes] == batch.view
    assert entries[65 : 65 + 61] == batch_at(41, bytes(300)).view[:61]
    assert heads.by_partition(HEADS, 3, 4)[1].keys() == {PARTITION.pack(*pid(1))}
    assert heads.by_partition(HEADS, 4, 9) == (4, {})


def test_by_partition__leaves_flushes_that_refer_to_other_files(heads: ModuleType) -> None:
    shares = shares_to_write(pid(1), [batch_at(3, b"bulk")], 1_000)
    bulk, _ = encode_head(SESSION, 5, 4, LAST.crc, shares, {0: Reference("topics/x", 9)})
    mixed = [*HEADS, (1_000, bulk), *HEADS]
    assert heads.by_partition(mixed, 0, 9)[0] == 4
    assert heads.by_partition(mixed, 4, 9) == (4, {})
    assert heads.by_partition(mixed, 5, 9) == (9, heads.by_partition(HEADS, 0, 4)[1])


def test_implementations__agree_on_damaged_files(heads: ModuleType) -> None:
    chance = random.Random(5)
    for _ in range(1_500):
        data = bytearray(DATA)
        for _ in range(chance.randint(1, 3)):
            data[chance.randrange(len(data))] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))
        head = bytearray(chance.choice(HEADS)[1])
        for _ in range(chance.randint(1, 3)):
            head[chance.randrange(len(head))] = chance.choice((0, 1, 2, 0x7F, 0xFF, chance.randrange(256)))
        del head[chance.randint(1, 2 * len(head)) :]
        for other in IMPLEMENTATIONS:
            arguments = (bytes(data), 0, 0, SESSION, 0, 0, chance.random() < 0.1)
            assert heads.chained(*arguments) == other.chained(*arguments)
            damaged = [HEADS[0], (chance.randrange(1 << 40), bytes(head)), HEADS[3]]
            assert heads.by_partition(damaged, 0, 3) == other.by_partition(damaged, 0, 3)
