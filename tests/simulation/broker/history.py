"""What the clients of a simulated broker saw, and whether a correct broker can have shown it. Pure: it knows Kafka's
promises and nothing of the implementation.

Checked as it happens:

    a retry of an idempotent batch is answered with its first offset
    an offset holds one record for ever; high watermarks and last stable offsets never go back, not even over a crash
    read_committed gives no record of a transaction that nobody asked to commit, or that was aborted
    a committed offset that was acknowledged is never lost, nor one given that was never committed
    within a generation, and by member epochs, a partition is given to one member

and at the end, when everything works again:

    every producer, processor and member got on
    what was acknowledged is in the log at its offset, once, in its producer's order
    a transaction shows all of its records or none: all if its commit was acknowledged, none if none was asked for
    the offset committed by a group of processors, and what they wrote, say the same: each record once
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.simulation.transcript import Transcript

TopicPartition = tuple[str, int]


@dataclass(slots=True, eq=False)
class Sent:
    """One batch. `values` are unique in the whole run, but for what two processors make of the same input."""

    producer: str
    partition: TopicPartition
    values: list[bytes]
    transaction: Attempt | None = None
    once: bool = True
    """Whether the producer is idempotent: its retries must not show."""
    base_offset: int = -1
    """As acknowledged; -1 before."""


@dataclass(slots=True, eq=False)
class Attempt:
    """One transaction of one producer. Its records carry its name."""

    name: str
    batches: list[Sent] = field(default_factory=list)
    offsets: dict[int, int] = field(default_factory=dict)
    """Next offsets of the input that it would commit."""
    asked_to_commit: bool = False
    committed: bool = False
    """Somebody was told so."""
    aborted: bool = False
    """Somebody was told so."""


@dataclass
class BrokerHistory(Transcript):
    sent: dict[bytes, Sent] = field(default_factory=dict)
    """By each of their values."""
    order: dict[tuple[str, TopicPartition], list[Sent]] = field(default_factory=dict)
    served: dict[TopicPartition, dict[int, bytes]] = field(default_factory=dict)
    high_watermarks: dict[TopicPartition, int] = field(default_factory=dict)
    stable_offsets: dict[TopicPartition, int] = field(default_factory=dict)
    attempts: list[Attempt] = field(default_factory=list)
    acknowledged_offsets: dict[tuple[str, int], int] = field(default_factory=dict)
    """By group and input partition: the largest that somebody was told is committed."""
    asked_offsets: dict[tuple[str, int], set[int]] = field(default_factory=dict)
    """All that somebody asked to commit."""
    generations: dict[tuple[str, int, TopicPartition], str] = field(default_factory=dict)
    holders: dict[tuple[str, TopicPartition], tuple[str, float]] = field(default_factory=dict)

    acknowledgements: int = 0
    first_acknowledged: Callable[[], None] = lambda: None
    """Called when it is."""

    # -- producing

    def sending(self, batch: Sent) -> None:
        for value in batch.values:
            self.sent[value] = batch
        self.order.setdefault((batch.producer, batch.partition), []).append(batch)
        if batch.transaction is not None:
            batch.transaction.batches.append(batch)

    def acknowledged(self, batch: Sent, base_offset: int) -> None:
        self.note(f"{batch.producer}: {batch.values[0]!r} acknowledged in {_name(batch.partition)} at {base_offset}")
        if batch.base_offset >= 0 and batch.base_offset != base_offset:
            raise self.broken(f"{batch.values[0]!r} was acknowledged at {batch.base_offset}, now at {base_offset}")
        batch.base_offset = base_offset
        self.acknowledgements += 1
        if self.acknowledgements == 1:
            self.first_acknowledged()

    def begin(self, attempt: Attempt) -> None:
        self.attempts.append(attempt)

    def ended(self, attempt: Attempt, *, committed: bool) -> None:
        """A client was told so."""
        self.note(f"{attempt.name} {'committed' if committed else 'aborted'}")
        if committed:
            attempt.committed = True
        else:
            attempt.aborted = True
        if attempt.aborted and attempt.committed:
            raise self.broken(f"{attempt.name} was said to be committed, and to be aborted")

    # -- reading

    def known_watermarks(self, partition: TopicPartition) -> tuple[int, int]:
        """Last stable offset and high watermark, as somebody was told before now."""
        return self.stable_offsets.get(partition, 0), self.high_watermarks.get(partition, 0)

    def watermarks(self, partition: TopicPartition, told: tuple[int, int], known: tuple[int, int]) -> None:
        """`told` is the answer to a question that was asked when `known` was known."""
        last_stable, high_watermark = told
        if last_stable > high_watermark:
            raise self.broken(f"{_name(partition)}: last stable offset {last_stable} above {high_watermark}")
        if last_stable < known[0]:
            raise self.broken(f"{_name(partition)}: last stable offset went back from {known[0]} to {last_stable}")
        if high_watermark < known[1]:
            raise self.broken(f"{_name(partition)}: high watermark went back from {known[1]} to {high_watermark}")
        self.stable_offsets[partition] = max(last_stable, self.stable_offsets.get(partition, 0))
        self.high_watermarks[partition] = max(high_watermark, self.high_watermarks.get(partition, 0))

    def read(self, partition: TopicPartition, offset: int, value: bytes, *, committed_only: bool) -> None:
        served = self.served.setdefault(partition, {})
        before = served.setdefault(offset, value)
        if before != value:
            raise self.broken(f"{_name(partition)}: offset {offset} held {before!r}, now {value!r}")
        bound = self.stable_offsets if committed_only else self.high_watermarks
        if offset >= bound.get(partition, 0):
            raise self.broken(f"{_name(partition)}: offset {offset} was served above {bound.get(partition, 0)}")
        batch = self.sent.get(value)
        if batch is None or batch.transaction is None or not committed_only:
            return
        attempt = batch.transaction
        if not attempt.asked_to_commit:
            raise self.broken(f"read_committed was given {value!r} of {attempt.name}, which nobody asked to commit")
        if attempt.aborted:
            raise self.broken(f"read_committed was given {value!r} of {attempt.name}, which was aborted")

    # -- groups

    def assigned(self, group: str, generation: int, member: str, partitions: set[TopicPartition]) -> None:
        """Classic: what a member was given in one generation."""
        for partition in partitions:
            holder = self.generations.setdefault((group, generation, partition), member)
            if holder != member:
                raise self.broken(f"{_name(partition)} was given to {holder} and {member} in generation {generation}")

    def took(self, group: str, member: str, partition: TopicPartition, now: float, until: float) -> None:
        """KIP-848: a member reads the partition from now on; without another word from the coordinator until `until`,
        after which the coordinator may believe it dead. An answer that comes later than that gives nothing: by then
        the partition may be another one's, and what the member commits that does not know it is refused.
        """
        if until <= now:
            return
        holder, held_until = self.holders.get((group, partition), ("", 0.0))
        if holder and holder != member and held_until > now:
            raise self.broken(f"{_name(partition)} was given to {member} while {holder} holds it")
        self.holders[group, partition] = (member, until)

    def gave_up(self, group: str, member: str, partition: TopicPartition) -> None:
        """Said, or about to be said, to the coordinator; or learnt from it."""
        if self.holders.get((group, partition), ("", 0.0))[0] == member:
            del self.holders[group, partition]

    def committing(self, group: str, partition: int, offset: int) -> None:
        self.asked_offsets.setdefault((group, partition), set()).add(offset)

    def offset_committed(self, group: str, partition: int, offset: int) -> None:
        """Somebody was told so."""
        key = group, partition
        self.acknowledged_offsets[key] = max(offset, self.acknowledged_offsets.get(key, -1))

    def fetched_offset(self, group: str, partition: int, offset: int, at_least: int) -> None:
        """A stable offset; `at_least` was acknowledged before it was asked for."""
        if offset < at_least:
            raise self.broken(f"{group}: offset {at_least} of partition {partition} was committed, and {offset} given")
        if offset >= 0 and offset not in self.asked_offsets.get((group, partition), set()):
            raise self.broken(f"{group}: nobody committed offset {offset} of partition {partition}")

    # -- at the end

    def check_log(self, partition: TopicPartition, found: dict[int, bytes], end: int) -> None:
        """`found` are all records of the log, control records included; their values."""
        if sorted(found) != list(range(end)):
            raise self.broken(f"{_name(partition)} is not dense up to {end}: {sorted(found)}")
        for offset, value in self.served.get(partition, {}).items():
            if found.get(offset) != value:
                raise self.broken(
                    f"{_name(partition)}: {value!r} was served at {offset}, {found.get(offset)!r} is there"
                )
        places: dict[bytes, list[int]] = {}
        for offset, value in found.items():
            places.setdefault(value, []).append(offset)
        for (_, sent_to), batches in self.order.items():
            if sent_to == partition:
                self._check_order(partition, batches, places)

    def _check_order(self, partition: TopicPartition, batches: list[Sent], places: dict[bytes, list[int]]) -> None:
        latest = -1
        for batch in batches:
            where = [places.get(value, []) for value in batch.values]
            if batch.base_offset >= 0 and any(
                batch.base_offset + delta not in offsets for delta, offsets in enumerate(where)
            ):
                raise self.broken(f"{batch.values!r} were acknowledged at {batch.base_offset}, they are at {where}")
            if not batch.once:
                continue
            if any(len(offsets) > 1 for offsets in where):
                raise self.broken(f"{batch.values!r} are in {_name(partition)} more than once: {where}")
            if where[0]:
                if where[0][0] < latest:
                    raise self.broken(f"{batch.values!r} are before their predecessor in {_name(partition)}")
                latest = where[0][0]

    def check_visible(self, visible: dict[TopicPartition, dict[int, bytes]]) -> None:
        """What a read_committed reader was given of each partition, from start to end."""
        seen = {value for records in visible.values() for value in records.values()}
        for batches in self.order.values():
            for batch in batches:
                if batch.transaction is None and batch.base_offset >= 0 and not seen.issuperset(batch.values):
                    raise self.broken(f"read_committed was never given {batch.values!r}")
        for attempt in self.attempts:
            values = [value for batch in attempt.batches for value in batch.values]
            shown = [value for value in values if value in seen]
            if shown and not attempt.asked_to_commit:
                raise self.broken(f"{attempt.name} shows {shown!r}, and nobody asked to commit it")
            if attempt.aborted and shown:
                raise self.broken(f"{attempt.name} was aborted and shows {shown!r}")
            if attempt.committed and len(shown) < len(values):
                raise self.broken(f"{attempt.name} was committed and shows {len(shown)} of {values!r}")
            if shown and len(shown) < len(values):
                raise self.broken(f"{attempt.name} is half committed: {shown!r} of {values!r}")

    def check_processed(
        self, inputs: dict[int, dict[int, bytes]], outputs: Counter[bytes], offsets: dict[int, int]
    ) -> None:
        """`inputs` by partition and offset, and `outputs`, as read_committed shows them; the group's offsets."""
        expected = Counter(
            value
            for partition, records in inputs.items()
            for offset, value in records.items()
            if offset < offsets.get(partition, 0)
        )
        if missing := expected - outputs:
            raise self.broken(f"offsets {offsets} were committed without the output of {sorted(missing)}")
        if surplus := outputs - expected:
            raise self.broken(f"output without its offset, or twice: {sorted(surplus.elements())}, offsets {offsets}")


def _name(partition: TopicPartition) -> str:
    return f"{partition[0]}-{partition[1]}"
