"""Rows of batches: what the native part says of them is what Python says."""

from __future__ import annotations

import struct
from random import Random
from typing import Any

import pytest
from crc32c import crc32c

from bytemq.protocol.records import rows_pure
from bytemq.protocol.records.batch import RecordBatch, produced_batch
from tests.interop.batches import batch
from tests.unit.records.native import native_part

NATIVE = native_part("produced")
needs_native = pytest.mark.skipif(NATIVE is None, reason="no compiler here")


def a_row(random: Random) -> list[RecordBatch]:
    row = []
    for _ in range(random.randrange(1, 9)):
        payload = bytearray(batch([random.randbytes(random.randrange(1, 3000)) for _ in range(random.randrange(1, 5))]))
        producer = random.choice([(-1, -1), (7, 0), (7, 0), (7, 1)])
        struct.pack_into(">qqqh", payload, 27, 1000, random.randrange(-1, 2**40), *producer)
        struct.pack_into(">I", payload, 17, crc32c(payload[21:]))
        row.append(produced_batch(memoryview(payload)) if producer[0] < 0 else sequenced(payload))
    return row


def sequenced(payload: bytearray) -> RecordBatch:
    struct.pack_into(">i", payload, 53, 0)
    struct.pack_into(">I", payload, 17, crc32c(payload[21:]))
    return produced_batch(memoryview(payload))


@needs_native
@pytest.mark.parametrize("seed", range(30))
def test_rows__native_and_python_say_the_same(seed: int) -> None:
    random = Random(seed)
    row: Any = a_row(random)
    as_given = random.choice([list, tuple])(row)
    assert NATIVE is not None
    assert NATIVE.survey(as_given) == rows_pure.survey(row)
    base, epoch = random.randrange(2**48), random.randrange(2**31)
    rows_pure.place(row, base, epoch)
    expected = [(bytes(one.view), one.base_offset, one.leader_epoch, one.next_offset) for one in row]
    rows_pure.place(row, 0, -1)
    NATIVE.place(as_given, base, epoch)
    assert [(bytes(one.view), one.base_offset, one.leader_epoch, one.next_offset) for one in row] == expected
    assert NATIVE.extent(as_given) == rows_pure.extent(row)
    for chunk_bytes in (1, 1000, 5000, 1 << 20):
        found = NATIVE.chunks(as_given, chunk_bytes)
        assert found == rows_pure.chunks(row, chunk_bytes)
        assert sum(count for count, *_ in found) == len(row)
    assert NATIVE.entries(as_given) == rows_pure.entries(row)
    random.choice(row).place(base + 10**6, epoch)
    assert NATIVE.extent(as_given) == rows_pure.extent(row)


@needs_native
def test_rows__of_none_are_nothing() -> None:
    assert NATIVE is not None
    assert NATIVE.survey([]) == rows_pure.survey([])
    assert NATIVE.extent(()) == rows_pure.extent(()) == (-1, -1, 0)
    assert NATIVE.chunks([], 1) == rows_pure.chunks([], 1) == []
    assert NATIVE.entries([]) == rows_pure.entries([]) == b""


@needs_native
@pytest.mark.parametrize("damage", [lambda one: object(), lambda one: cut(one)])
def test_rows__what_is_no_batch_or_cut_is_an_error_and_nothing_is_read(damage: Any) -> None:
    assert NATIVE is not None
    row: Any = [damage(one) for one in a_row(Random(1))]
    for call in (
        lambda: NATIVE.place(row, 0, 0),
        lambda: NATIVE.chunks(row, 1 << 20),
        lambda: NATIVE.entries(row),
    ):
        with pytest.raises((TypeError, ValueError)):
            call()
    with pytest.raises(TypeError):
        NATIVE.survey({})


def cut(one: RecordBatch) -> RecordBatch:
    one.view = one.view[:40]
    return one
