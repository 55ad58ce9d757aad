"""The newest offset of each key within fixed memory, in Python: the twin of _offset_map.c where that was not compiled.

Owns what compaction asks of the records of a batch (decompressed), or of a table: which keys they have, which of them
stay. Kafka's SkimpyOffsetMap and the filter of its cleaner. A key is known by 128 bits of a hash under a secret, so
that nobody who writes keys can make two that are taken for one.
"""

from __future__ import annotations

import struct
from hashlib import blake2b
from itertools import pairwise

from bytemq.protocol.records.builder import write_varint
from bytemq.protocol.records.walk_codes import BAD_OFFSET_DELTA, OK, TRAILING_BYTES
from bytemq.protocol.records.walk_pure import Buffer, Parsed, parse

Selected = tuple[int, int, int, int, bytes | None]
"""Code, how many records stay, how many of those are tombstones, the greatest timestamp delta of those, and their
bytes: None when all stay as they are. With a code other than OK nothing else means anything."""

_CONTRADICTION = "the buffers of a column of keys contradict each other"
ENTRY_BYTES = 160
"""What an entry of a dict costs, roughly."""


class OffsetMap:
    """Filled with `put`, then asked with `select`: all records of a batch are checked before anything is done. For
    records that are columns there are `put_keys` and `newest`.
    """

    def __init__(self, memory_bytes: int, load_factor: float, secret: bytes) -> None:
        """`load_factor`: how much of the memory may be filled. `secret`: 16 random bytes."""
        if memory_bytes < 48 or not 0 < load_factor < 1 or len(secret) != 16:
            raise ValueError("an offset map needs room for two keys, a load factor below 1 and 16 secret bytes")
        self._limit = max(int(memory_bytes / ENTRY_BYTES * load_factor), 1)
        self._secret = secret
        self._offsets: dict[bytes, int] = {}

    def __len__(self) -> int:
        return len(self._offsets)

    def put(self, records: Buffer, count: int, base_offset: int, last_delta: int) -> tuple[int, bool]:
        """Remembers the offset of each key: (code, whether there was room for all).

        What was put in before the room ended stays. Records without a key are passed over.
        """
        code, parsed = _checked(records, count, last_delta)
        if code != OK:
            return code, False
        for _, offset_delta, key, *_ in parsed:
            if key is None:
                continue
            digest = self._digest(key)
            if digest not in self._offsets and len(self._offsets) == self._limit:
                return OK, False
            self._offsets[digest] = max(self._offsets.get(digest, -1), base_offset + offset_delta)
        return OK, True

    def select(
        self, records: Buffer, count: int, base_offset: int, last_delta: int, drop_tombstones: bool, shift: int
    ) -> Selected:
        """The records that are not older than the newest of their key.

        Those without a key go, and with `drop_tombstones` those without a value. `shift` is added to timestamp deltas.
        """
        code, parsed = _checked(records, count, last_delta)
        if code != OK:
            return code, 0, 0, 0, None
        keeps = [self._keeps(record, base_offset, drop_tombstones) for record in parsed]
        return _kept(records, parsed, keeps, shift, 0)

    def put_keys(
        self, validity: Buffer | None, key_ends: Buffer, key_data: Buffer, offsets: Buffer, first: int, stop: int
    ) -> int:
        """As `put`, of the rows [first, stop) of keys that are a column in Arrow's layout: the row before which the
        room ended, or `stop`. Raises ValueError for buffers that contradict each other.
        """
        for row, key, offset in _rows(validity, key_ends, key_data, offsets, first, stop):
            if key is None:
                continue
            digest = self._digest(key)
            if digest not in self._offsets and len(self._offsets) == self._limit:
                return row
            self._offsets[digest] = max(self._offsets.get(digest, -1), offset)
        return stop

    def newest(
        self, validity: Buffer | None, key_ends: Buffer, key_data: Buffer, offsets: Buffer, first: int, stop: int
    ) -> bytes:
        """A bitmap of these rows: set for those that have a key and are not older than the newest of it."""
        bits = bytearray((stop - first + 7) // 8 if stop > first else 0)
        for row, key, offset in _rows(validity, key_ends, key_data, offsets, first, stop):
            if key is not None and offset >= self._offsets.get(self._digest(key), -1):
                bits[(row - first) >> 3] |= 1 << (row - first & 7)
        return bytes(bits)

    def _keeps(self, record: Parsed, base_offset: int, drop_tombstones: bool) -> bool:
        _, offset_delta, key, value, _ = record
        if key is None or (value is None and drop_tombstones):
            return False
        return base_offset + offset_delta >= self._offsets.get(self._digest(key), -1)

    def _digest(self, key: bytes) -> bytes:
        return blake2b(key, digest_size=16, key=self._secret).digest()


def _rows(
    validity: Buffer | None, key_ends: Buffer, key_data: Buffer, offsets: Buffer, first: int, stop: int
) -> list[tuple[int, bytes | None, int]]:
    """(row, key, offset), checked."""
    ends, at = memoryview(key_ends).cast("B"), memoryview(offsets).cast("B")
    data, bits = memoryview(key_data).cast("B"), None if validity is None else memoryview(validity).cast("B")
    is_sound = 0 <= first <= stop < len(ends) // 4 and stop <= len(at) // 8
    if not is_sound or (bits is not None and len(bits) < (stop + 7) // 8):
        raise ValueError(_CONTRADICTION)
    count = stop - first
    borders = struct.unpack_from(f"={count + 1}i", ends, 4 * first)
    if borders[0] < 0 or borders[-1] > len(data) or any(start > end for start, end in pairwise(borders)):
        raise ValueError(_CONTRADICTION)
    found: list[tuple[int, bytes | None, int]] = []
    numbers = struct.unpack_from(f"={count}q", at, 8 * first)
    for row, (start, end), offset in zip(range(first, stop), pairwise(borders), numbers, strict=True):
        is_null = bits is not None and not bits[row >> 3] >> (row & 7) & 1
        found.append((row, None if is_null else bytes(data[start:end]), offset))
    return found


def shift(records: Buffer, count: int, timestamps: int, offsets: int) -> Selected:
    """All records, with these added to their timestamp and offset deltas."""
    code, parsed = _checked(records, count, 0x7FFFFFFF)
    return _kept(records, parsed, [True] * count, timestamps, offsets) if code == OK else (code, 0, 0, 0, None)


def _checked(records: Buffer, count: int, last_delta: int) -> tuple[int, list[Parsed]]:
    code, position, parsed = parse(records, 0, count)
    least_delta = 0
    for record in parsed:
        if not least_delta <= record[1] <= last_delta:
            return BAD_OFFSET_DELTA, parsed
        least_delta = record[1] + 1
    if code == OK and position != len(memoryview(records)):
        code = TRAILING_BYTES
    return code, parsed


def _kept(records: Buffer, parsed: list[Parsed], keeps: list[bool], timestamps: int, offsets: int) -> Selected:
    kept = [record for record, stays in zip(parsed, keeps, strict=True) if stays]
    deltas = [_signed_64(record[0] + timestamps) for record in kept]
    tombstones = sum(record[3] is None for record in kept)
    is_whole = len(kept) == len(parsed) and not timestamps and not offsets
    data = None if is_whole else _copied(records, keeps, timestamps, offsets)
    return OK, len(kept), tombstones, max(deltas, default=0), data


def _copied(records: Buffer, keeps: list[bool], timestamps: int, offsets: int) -> bytes:
    """The bytes of the records that stay."""
    view = memoryview(records)
    out = bytearray()
    start = 0
    for stays in keeps:
        _, end, [record] = parse(view, start, 1)
        if stays and not timestamps and not offsets:
            out += view[start:end]
        elif stays:
            body = bytearray(1)
            write_varint(body, _signed_64(record[0] + timestamps))
            write_varint(body, record[1] + offsets)
            body += view[_after_deltas(view, start) : end]
            write_varint(out, len(body))
            out += body
        start = end
    return bytes(out)


def _after_deltas(view: memoryview, position: int) -> int:
    """Where a record's key begins: from there on other deltas leave everything as it is."""
    position = _after_varint(view, position) + 1
    return _after_varint(view, _after_varint(view, position))


def _after_varint(view: memoryview, position: int) -> int:
    while view[position] & 0x80:
        position += 1
    return position + 1


def _signed_64(value: int) -> int:
    return ((value + (1 << 63)) & ((1 << 64) - 1)) - (1 << 63)
