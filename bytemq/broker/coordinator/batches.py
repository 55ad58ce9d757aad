"""The writes of a coordinator on their way into the log: gathered into batches, in order, and what becomes of them.
Pure.

The writes of one loop turn share a batch, so a thousand clients that commit at once cost one append. A batch is bounded
by what the topic accepts; a write with more records than fit goes over several batches and is answered with the last.
A write with an envelope shares its batches with no other, so that it can be refused alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from bytemq.broker.coordinator.outcome import CoordinatorRecord, Envelope, Outcome
from bytemq.protocol.error_codes import ErrorCode
from bytemq.protocol.records.builder import Record
from bytemq.runtime.clock import TimerHandle

Answer = Callable[[ErrorCode], None]
_GATHERED_BYTES = 1024 * 1024
"""Batches are closed at this size, unless one record alone is larger."""
_RECORD_OVERHEAD_BYTES = 40
"""More than a record's lengths, deltas and attributes take."""


class Write:
    """One operation's records. `answer` is called once: with NONE when all are committed, else with the error."""

    __slots__ = ("answer", "on_appended", "sequence", "staged")

    def __init__(self, sequence: int, outcome: Outcome[Any], answer: Answer | None) -> None:
        self.sequence = sequence
        self.on_appended = outcome.on_appended
        self.answer = answer
        self.staged: deque[CoordinatorRecord] = deque(outcome.records)


class _Part(NamedTuple):
    write: Write
    record_count: int


class Batch:
    """Records that go into the log together. `timer` rings when the clients have waited long enough.

    `failed` is set when it was given up before its own answer came.
    """

    __slots__ = ("envelope", "failed", "parts", "records", "size_bytes", "timer")

    def __init__(self, envelope: Envelope | None) -> None:
        self.envelope = envelope
        self.records: list[Record] = []
        self.parts: list[_Part] = []
        self.size_bytes = 0
        self.failed = False
        self.timer: TimerHandle | None = None


def _size_bytes(record: Record) -> int:
    return len(record.key or b"") + len(record.value or b"") + _RECORD_OVERHEAD_BYTES


def _takes(batch: Batch, write: Write, envelope: Envelope | None, size_bytes: int, max_batch_bytes: int) -> bool:
    """Whether the last unsent batch has room for a record of `write`."""
    if batch.records and batch.size_bytes + size_bytes > max_batch_bytes:
        return False
    if envelope is None and batch.envelope is None:
        return True
    return bool(batch.parts) and batch.parts[-1].write is write


class WriteQueue:
    """Batches not sent yet, and those in flight, oldest first."""

    __slots__ = ("_in_flight", "_sequence", "_unsent", "size_bytes")

    def __init__(self) -> None:
        self._unsent: deque[Batch] = deque()
        self._in_flight: deque[Batch] = deque()
        self._sequence = 0
        self.size_bytes = 0
        """Of everything that is not committed yet."""

    def __bool__(self) -> bool:
        return bool(self._unsent or self._in_flight)

    def add(self, outcome: Outcome[Any], answer: Answer | None, max_record_bytes: int) -> Write | None:
        """Puts an operation's records, of which there is at least one, behind all others. None: one of them is too
        large for the topic.
        """
        encoded_records = [Record(record.encode_key(), record.encode_value()) for record in outcome.records]
        if max(map(_size_bytes, encoded_records)) > max_record_bytes:
            return None
        max_batch_bytes = min(max_record_bytes, _GATHERED_BYTES)
        self._sequence += 1
        write = Write(self._sequence, outcome, answer)
        for encoded in encoded_records:
            size_bytes = _size_bytes(encoded)
            batch = self._unsent[-1] if self._unsent else None
            if batch is None or not _takes(batch, write, outcome.envelope, size_bytes, max_batch_bytes):
                batch = Batch(outcome.envelope)
                self._unsent.append(batch)
            if batch.parts and batch.parts[-1].write is write:
                batch.parts[-1] = _Part(write, batch.parts[-1].record_count + 1)
            else:
                batch.parts.append(_Part(write, 1))
            batch.records.append(encoded)
            batch.size_bytes += size_bytes
            self.size_bytes += size_bytes
        return write

    def follow(self, outcome: Outcome[Any], answer: Answer | None) -> bool:
        """An operation without records saw what is on its way: it ends with that. False: nothing is."""
        waiting = self._unsent or self._in_flight
        if not waiting:
            return False
        self._sequence += 1
        waiting[-1].parts.append(_Part(Write(self._sequence, outcome, answer), 0))
        return True

    def send(self) -> Batch | None:
        """The next batch to append; it counts as in flight from now on."""
        if not self._unsent:
            return None
        batch = self._unsent.popleft()
        self._in_flight.append(batch)
        return batch

    def committed(self, batch: Batch) -> list[tuple[Write, Sequence[CoordinatorRecord], bool]]:
        """The oldest batch in flight is durable: for each write in it the records, in order, and whether these were
        its last.
        """
        if self._in_flight[0] is not batch:
            raise AssertionError("batches are committed in the order in which they were appended")
        self._in_flight.popleft()
        self.size_bytes -= batch.size_bytes
        done: list[tuple[Write, Sequence[CoordinatorRecord], bool]] = []
        for write, count in batch.parts:
            records = [write.staged.popleft() for _ in range(count)]
            done.append((write, records, not write.staged))
        return done

    def fail_from(self, batch: Batch) -> list[Write]:
        """A batch was refused or failed, and with it everything that was decided after it. The writes, newest first."""
        return self._give_up(self._in_flight.index(batch))

    def refuse(self, batch: Batch) -> tuple[Write, list[Write]]:
        """The log refused a batch with an envelope, while it took and will take the others. The write that it is of,
        and those without records that ended with it: what else they saw is committed.
        """
        refused = batch.parts[0].write
        given_up = [batch, *(unsent for unsent in self._unsent if unsent.parts[0].write is refused)]
        followers = [part for each in given_up for part in each.parts[1:]]
        for each in given_up:
            each.failed = True
            self.size_bytes -= each.size_bytes
        place = self._in_flight.index(batch)
        del self._in_flight[place]
        self._unsent = deque(unsent for unsent in self._unsent if not unsent.failed)
        if place:
            self._in_flight[place - 1].parts += followers
            return refused, []
        return refused, [part.write for part in followers]

    def fail_all(self) -> list[Write]:
        """Nothing that is not committed ever will be. The writes, newest first."""
        return self._give_up(0)

    def _give_up(self, first: int) -> list[Write]:
        given_up = list(self._in_flight)[first:] + list(self._unsent)
        while len(self._in_flight) > first:
            self._in_flight.pop()
        self._unsent.clear()
        writes: dict[int, Write] = {}
        for batch in given_up:
            batch.failed = True
            self.size_bytes -= batch.size_bytes
            for write, _ in batch.parts:
                writes[write.sequence] = write
        return sorted(writes.values(), key=lambda write: -write.sequence)
