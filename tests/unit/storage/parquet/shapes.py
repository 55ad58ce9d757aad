"""Logs of every shape as Hypothesis draws them, and what of a log must never change."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from hypothesis import strategies as st

from bytemq.errors import Corrupt
from bytemq.protocol.error_codes import KafkaError
from bytemq.protocol.records.batch import (
    ATTRIBUTES_POSITION,
    DELETE_HORIZON_FLAG,
    HEADER_BYTES,
    RecordBatch,
    parse_header,
    split_batches,
)
from bytemq.protocol.records.builder import Record, assemble, build_batch, with_records
from bytemq.protocol.records.control import EndTransactionMarker, end_transaction_batch
from bytemq.protocol.records.reader import iter_records
from bytemq.storage.parquet.restoring import restore_unit
from bytemq.storage.parquet.units import opened_table

T = TypeVar("T")
TAPES = st.binary(min_size=300, max_size=1500)
"""Drawn as a whole, and read as choices: a draw of Hypothesis costs more than the conversion of a record."""
CODECS = 5
LARGE_BYTES = 40_000


class Tape:
    """Choices made of bytes. Smaller bytes are simpler choices; at the end of the tape come the simplest ones."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, size: int) -> bytes:
        taken = self._data[self._at : self._at + size]
        self._at += size
        return taken.ljust(size, b"\0")

    def below(self, limit: int) -> int:
        return self.take(1)[0] % limit

    def once_in(self, times: int) -> bool:
        return self.below(times) == times - 1

    def pick(self, options: Sequence[T]) -> T:
        return options[self.below(len(options))]

    def signed(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big", signed=True)


class Log(NamedTuple):
    batches: list[bytes]
    next_offset: int
    aborted: list[tuple[int, int, int]]


class _Writer:
    """Batches of producers with and without ids, transactions that commit and abort, markers between them, gaps as
    compaction leaves them, batches that nobody can decode, and everything twice.
    """

    def __init__(self, tape: Tape) -> None:
        self._tape = tape
        self._offset = tape.below(4) * 1000
        self._open_since: dict[int, int] = {}
        self._record = Record(None, None)
        self.log = Log([], 0, [])

    def write(self) -> Log:
        tape = self._tape
        for _ in range(1 + tape.below(12)):
            producer = tape.pick((-1, 1, 2, 3))
            if producer in self._open_since and tape.once_in(2):
                self._end(producer, commits=tape.once_in(2))
            elif self.log.batches and tape.once_in(8):
                self._append(bytearray(tape.pick(self.log.batches)))
            else:
                self._append(self._batch(producer))
                self._offset += tape.pick((0, 0, 2))
        for producer in list(self._open_since):
            self._end(producer, commits=False)
        return self.log._replace(next_offset=self._offset)

    def _append(self, built: bytearray) -> None:
        """As the next one, whatever its offset was when it was there before."""
        batch = parse_header(memoryview(built))
        if batch.is_control:  # of a transaction that has ended
            return
        batch.place(self._offset, batch.leader_epoch)
        if batch.is_transactional:
            self._open_since.setdefault(batch.producer_id, self._offset)
        self.log.batches.append(bytes(built))
        self._offset = batch.next_offset

    def _end(self, producer: int, *, commits: bool) -> None:
        first = self._open_since.pop(producer)
        if not commits:
            self.log.aborted.append((producer, first, self._offset))
        self.log.batches.append(marker(commits, self._offset, producer))
        self._offset += 1

    def _batch(self, producer: int) -> bytearray:
        tape = self._tape
        placed: list[Record] = []
        at = 0
        for _ in range(1 + tape.below(5) if not tape.once_in(16) else 0):
            placed.append(self._next_record()._replace(offset=at))
            at += 1 + tape.pick((0, 0, 0, 3))
        has_transaction = producer in self._open_since or producer == 3 or (producer == 2 and tape.once_in(2))
        built = build_batch(
            placed,
            timestamp_ms=self._timestamp(),
            compression=tape.below(CODECS),
            log_append_time=tape.once_in(2),
            leader_epoch=tape.below(3),
            producer_id=producer,
            producer_epoch=-1 if producer < 0 else tape.below(2),
            base_sequence=-1 if producer < 0 else tape.pick((0, 1, 5, (1 << 31) - 2)),
            transactional=has_transaction,
            last_offset=at + tape.pick((0, 0, 2)) if placed else tape.below(4),
        )
        if tape.once_in(16):
            built = damaged_inside(built)
        elif tape.once_in(8):
            built = with_delete_horizon(built)
        return built

    def _next_record(self) -> Record:
        """Or the last one again."""
        tape = self._tape
        if not tape.once_in(5):
            headers = [(tape.pick(("", "n", "n", "\u00e9\U0001f600")), self._bytes(6)) for _ in range(tape.below(4))]
            value = b"x" * LARGE_BYTES if tape.once_in(100) else self._bytes(40)
            self._record = Record(self._bytes(8), value, tuple(headers), self._timestamp())
        return self._record

    def _bytes(self, most: int) -> bytes | None:
        what = self._tape.below(4)
        return None if what == 0 else b"" if what == 1 else self._tape.take(self._tape.below(most))

    def _timestamp(self) -> int:
        """None at all, of our time, or anything that 63 bits can be."""
        what = self._tape.below(6)
        return -1 if what == 0 else self._tape.signed(8) >> 1 if what == 1 else 1_700_000_000_000 + self._tape.signed(2)


def logs() -> st.SearchStrategy[Log]:
    return TAPES.map(lambda data: _Writer(Tape(data)).write())


def marker(commits: bool, offset: int, producer: int) -> bytes:
    built = end_transaction_batch(
        EndTransactionMarker(commits, 1), producer_id=producer, producer_epoch=0, timestamp_ms=1_700_000_000_000
    )
    parse_header(memoryview(built)).place(offset, 2)
    return bytes(built)


def with_delete_horizon(built: bytearray) -> bytearray:
    """As the cleaner leaves a batch with tombstones."""
    batch = parse_header(memoryview(built))
    return with_records(
        batch,
        bytes(batch.records),
        batch.record_count,
        base_timestamp=batch.base_timestamp,
        max_timestamp=batch.max_timestamp,
        attributes=batch.attributes | DELETE_HORIZON_FLAG,
    )


def damaged_inside(built: bytearray) -> bytearray:
    """A batch whose header and CRC are right and whose records are not."""
    parsed = parse_header(memoryview(built))
    rubbish = b"\xff" * len(parsed.records)
    return assemble(parsed.base_offset, parsed.leader_epoch, bytes(built[ATTRIBUTES_POSITION:HEADER_BYTES]), rubbish)


def identities(batches: Iterable[RecordBatch]) -> list[tuple[object, ...]]:
    """Everything that a consumer or a broker may see of each record, in order."""
    found: list[tuple[object, ...]] = []
    for batch in batches:
        of_batch = (
            batch.timestamp_type,
            batch.producer_id,
            batch.producer_epoch,
            batch.is_transactional,
            batch.is_control,
            batch.leader_epoch,
            batch.delete_horizon_ms,
        )
        try:
            records = list(iter_records(batch))
        except (Corrupt, KafkaError):
            found.append((*of_batch, bytes(batch.view)))
            continue
        for record in records:
            delta = record.offset - batch.base_offset
            sequence = batch.base_sequence if batch.base_sequence < 0 else (batch.base_sequence + delta) % (1 << 31)
            found.append(
                (*of_batch, sequence, record.offset, record.timestamp_ms, record.key, record.value, *record.headers)
            )
    return found


def fingerprint(batches: Iterable[RecordBatch]) -> str:
    digest = hashlib.sha256()
    for identity in identities(batches):
        digest.update(repr(identity).encode())
    return digest.hexdigest()


def restored(parquet: Path, companion: Path, number: int, batch_bytes: int) -> list[bytes | bytearray | memoryview]:
    """The bytes of the segment that holds this unit, its footer last."""
    pieces: list[bytes | bytearray | memoryview] = []
    with opened_table(parquet, companion) as table:
        size_bytes = restore_unit(table, table.units[number], batch_bytes, pieces.append)
    assert size_bytes == sum(map(len, pieces[:-1]))
    return pieces


def parsed(data: bytes) -> list[RecordBatch]:
    return split_batches(memoryview(data))
