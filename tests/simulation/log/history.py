"""What clients of one log saw, and whether it can have been a correct log. Pure: no clock but what it is given.

The promises that are checked, as they happen or at the end:

    what is acknowledged is in the log at that offset, once, in the producer's order, unless deleted below the log start
    a retry is answered with the first offset; other content under a used sequence never with one
    an offset never holds two different records, and the log has no gap
    nothing is served that is not durable: high watermarks never go back, not even over a crash
    read_committed sees all of the committed transactions and nothing of the others
    once storage works again every producer gets on
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.simulation.transcript import Transcript


@dataclass(slots=True)
class SentBatch:
    """One batch of one producer. `values` are unique in the whole run."""

    producer: str
    number: int
    values: list[bytes]
    once: bool = True
    """Whether the producer is idempotent: its retries must not show."""
    transaction: str = ""
    base_offset: int = -1
    """As acknowledged; -1 before."""


@dataclass
class History(Transcript):
    batches: dict[bytes, SentBatch] = field(default_factory=dict)
    """By each of their values."""
    served: dict[int, bytes] = field(default_factory=dict)
    high_watermark: int = 0
    committed: set[str] = field(default_factory=set)
    """Transactions whose commit was decided."""
    markers: set[str] = field(default_factory=set)
    """Transactions whose end, either way, is durable."""
    seen_committed: set[bytes] = field(default_factory=set)

    def sent(self, batch: SentBatch) -> None:
        for value in batch.values:
            self.batches[value] = batch

    def acknowledged(self, batch: SentBatch, base_offset: int) -> None:
        self.note(f"{batch.producer} #{batch.number} acknowledged at {base_offset}")
        if batch.once and batch.base_offset >= 0 and batch.base_offset != base_offset:
            raise self.broken(f"{batch.producer} #{batch.number} was at {batch.base_offset}, now at {base_offset}")
        batch.base_offset = base_offset

    def impostor_answered(self, name: str, base_offset: int) -> None:
        if base_offset >= 0:
            raise self.broken(f"other content under a used sequence of {name} was given offset {base_offset}")

    def watermarks(self, log_start: int, last_stable: int, high_watermark: int) -> None:
        # DeleteRecords may move the log start into an open transaction, above the last stable offset.
        if not (last_stable <= high_watermark and log_start <= high_watermark):
            raise self.broken(f"watermarks {log_start}, {last_stable}, {high_watermark} contradict each other")
        if high_watermark < self.high_watermark:
            raise self.broken(f"high watermark went back from {self.high_watermark} to {high_watermark}")
        self.high_watermark = high_watermark

    def read(self, offset: int, value: bytes, *, committed_only: bool) -> None:
        before = self.served.setdefault(offset, value)
        if before != value:
            raise self.broken(f"offset {offset} held {before!r}, now {value!r}")
        if offset >= self.high_watermark:
            raise self.broken(f"offset {offset} was served, the high watermark is {self.high_watermark}")
        if value not in self.batches:
            return  # a control record
        batch = self.batches[value]
        if committed_only:
            if batch.transaction and batch.transaction not in self.committed:
                raise self.broken(f"read_committed was given {value!r} of {batch.transaction}, which did not commit")
            self.seen_committed.add(value)

    def check_log(self, records: list[tuple[int, bytes]], log_start: int, end: int) -> None:
        """At the end: `records` are all (offset, value) on the disk, control records included, from `log_start` to
        `end`.
        """
        offsets = [offset for offset, _ in records]
        expected = list(range(offsets[0], end)) if offsets else []
        if offsets != expected or (offsets and offsets[0] > log_start) or end < self.high_watermark:
            raise self.broken(f"the log is not dense from {log_start} to {end}: {offsets}")
        found = dict(records)
        for offset, value in self.served.items():
            if offset >= log_start and found.get(offset) != value:
                raise self.broken(f"offset {offset} was served as {value!r} and holds {found.get(offset)!r}")
        self._check_batches(found, log_start)

    def _check_batches(self, found: dict[int, bytes], log_start: int) -> None:
        places: dict[bytes, list[int]] = {}
        for offset, value in found.items():
            places.setdefault(value, []).append(offset)
        latest: dict[str, int] = {}
        for batch in {id(batch): batch for batch in self.batches.values()}.values():
            where = [places.get(value, []) for value in batch.values]
            if batch.once and any(len(offsets) > 1 for offsets in where):
                raise self.broken(f"{batch.producer} #{batch.number} is in the log more than once: {where}")
            if batch.base_offset >= 0:
                for delta, value in enumerate(batch.values):
                    offset = batch.base_offset + delta
                    if offset >= log_start and found.get(offset) != value:
                        raise self.broken(f"{value!r} was acknowledged at {offset}, where {found.get(offset)!r} is")
            if batch.once and where[0]:
                if where[0][0] < latest.get(batch.producer, -1):
                    raise self.broken(f"{batch.producer} #{batch.number} is before its predecessor")
                latest[batch.producer] = where[0][0]

    def check_committed(self, log_start: int) -> None:
        """At the end, after a read_committed reader has read all there is."""
        for value, batch in self.batches.items():
            visible = not batch.transaction or batch.transaction in self.committed & self.markers
            below = batch.base_offset + batch.values.index(value) < log_start
            if visible and batch.base_offset >= 0 and not below and value not in self.seen_committed:
                raise self.broken(f"read_committed was never given {value!r}, committed at {batch.base_offset}")
