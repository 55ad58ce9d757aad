"""What real clients saw, on top of what `tests/simulation/broker/history.py` checks of any client.

Owns: the lock that lets many clients tell it, positions of consumers (a poll never goes back, and passes over nothing),
and what groups read. Must not: know of librdkafka.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.simulation.broker.history import BrokerHistory, Sent, TopicPartition


@dataclass
class ChaosHistory(BrokerHistory):
    """Clients are threads: all but the checks at the end is told within `told`."""

    positions: dict[tuple[str, TopicPartition], int] = field(default_factory=dict)
    """Of each consumer: the last offset that it was given since it began there."""
    polled: dict[tuple[str, TopicPartition], set[int]] = field(default_factory=dict)
    """By consumer."""
    processed: dict[tuple[str, TopicPartition], set[int]] = field(default_factory=dict)
    """By group."""
    acknowledged_count: int = 0
    progressed_at: float = 0.0
    """When somebody last got on, by `now`."""

    def __post_init__(self) -> None:
        self._lock = threading.RLock()

    @contextmanager
    def told(self) -> Iterator[ChaosHistory]:
        with self._lock:
            yield self

    def note(self, event: str) -> None:
        with self._lock:
            super().note(event)

    def acknowledged(self, batch: Sent, base_offset: int) -> None:
        self.acknowledged_count += 1
        self.progressed_at = self.now()
        super().acknowledged(batch, base_offset)

    def offset_committed(self, group: str, partition: int, offset: int) -> None:
        if offset > self.acknowledged_offsets.get((group, partition), -1):
            self.progressed_at = self.now()
        super().offset_committed(group, partition, offset)

    def high_watermark_told(self, partition: TopicPartition, offset: int, known: int) -> None:
        """`known` was told before the question was asked."""
        self.watermarks(partition, (0, offset), (0, known))

    def stable_offset_told(self, partition: TopicPartition, offset: int, known: int) -> None:
        self.watermarks(partition, (offset, max(offset, self.high_watermarks.get(partition, 0))), (known, 0))

    def began(self, consumer: str, partition: TopicPartition) -> None:
        """From here on its polls go forward; what it had before counts no more."""
        self.positions.pop((consumer, partition), None)

    def consumed(
        self, consumer: str, partition: TopicPartition, offset: int, value: bytes, *, committed_only: bool
    ) -> None:
        """One record of a poll."""
        key = consumer, partition
        if offset <= self.positions.get(key, -1):
            raise self.broken(f"{consumer}: {_name(partition)} went back from {self.positions[key]} to {offset}")
        self.positions[key] = offset
        self.polled.setdefault(key, set()).add(offset)
        bound = self.stable_offsets if committed_only else self.high_watermarks
        bound[partition] = max(bound.get(partition, 0), offset + 1)  # that it was served says so
        self.high_watermarks[partition] = max(self.high_watermarks.get(partition, 0), offset + 1)
        self.read(partition, offset, value, committed_only=committed_only)

    def group_processed(self, group: str, partition: TopicPartition, offsets: list[int]) -> None:
        """Before they are committed."""
        self.processed.setdefault((group, partition), set()).update(offsets)

    # -- at the end

    def check_reader(self, consumer: str, partition: TopicPartition, there: set[int]) -> None:
        """One that has read from the beginning: what is `there`, up to where it came."""
        end = self.positions.get((consumer, partition), -1)
        missed = {offset for offset in there if offset <= end} - self.polled.get((consumer, partition), set())
        if missed:
            raise self.broken(f"{consumer} came to {end} of {_name(partition)} and was not given {sorted(missed)[:20]}")

    def check_group(self, group: str, partition: TopicPartition, there: set[int]) -> None:
        """Whatever is below the committed offset was given to some member before."""
        committed = self.acknowledged_offsets.get((group, partition[1]), 0)
        missed = {offset for offset in there if offset < committed} - self.processed.get((group, partition), set())
        if missed:
            raise self.broken(f"{group} committed {committed} of {_name(partition)} and missed {sorted(missed)[:20]}")


def _name(partition: TopicPartition) -> str:
    return f"{partition[0]}-{partition[1]}"
