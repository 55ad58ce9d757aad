"""One seed: clients at work, troubles, and then, with everything well again, whether all promises were kept.

Owns: the order of a run and the checks at its end.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

from confluent_kafka import KafkaException

from tests.chaos.client import PATIENCE_S, Client
from tests.chaos.cluster import STRICT, ChaosCluster
from tests.chaos.consumers import (
    CLASSIC,
    KIP_848,
    READ_COMMITTED,
    READ_UNCOMMITTED,
    Member,
    OffsetAuditor,
    Reader,
    WatermarkAuditor,
)
from tests.chaos.final_reading import MARKER, NotReadable, read_committed, read_raw
from tests.chaos.history import ChaosHistory
from tests.chaos.producers import PlainProducer
from tests.chaos.transactions import Processor, TransactionalWriter
from tests.chaos.troubles import Trouble, inflict
from tests.simulation.broker.history import TopicPartition as Partition
from tests.simulation.transcript import Violation

WARM_UP_S = 2.0


class Run:
    """`begin_s` is when it began, by the monotonic clock. `broken` is the first promise that was."""

    def __init__(self, cluster: ChaosCluster, seed: int, name: str) -> None:
        """`name` is that of its topics and groups: unique in the cluster's life."""
        random = Random(f"run {seed}")
        self._began = time.monotonic()
        self.cluster = cluster
        self.seed = seed
        self.partition_count = random.choice((2, 4))
        self.history = ChaosHistory(lambda: time.monotonic() - self._began)
        self.source, self.target, self.log = (f"{name}-{each}" for each in ("in", "out", "log"))
        self.processing = f"{name}-processing"
        self.processing_protocol = random.choice((CLASSIC, KIP_848))
        self.stopping = threading.Event()
        """Who writes on his own account comes to an end."""
        self.finished = threading.Event()
        """So does everybody else."""
        self.hurting = threading.Event()
        self.healed_at = 0.0
        self.broken: Violation | None = None
        self._writers: list[Client] = [
            PlainProducer(self, "feeder", self.source, idempotent=True, rate=60),
            PlainProducer(self, "idempotent", self.log, idempotent=True, rate=120),
            PlainProducer(self, "plain", self.log, idempotent=False, rate=40),
            TransactionalWriter(self, f"{name}-tx-0", [self.log]),
            TransactionalWriter(self, f"{name}-tx-1", [self.log]),
        ]
        self._groups = {f"{name}-classic": READ_UNCOMMITTED, f"{name}-kip-848": READ_COMMITTED}
        topics = [self.source, self.target, self.log]
        self._others: list[Client] = [
            *(Processor(self, f"{name}-proc-{number}", self.source, self.target) for number in range(2)),
            *(Reader(self, f"{name}-reader-{isolation}", topics, isolation) for isolation in self._isolations),
            *(WatermarkAuditor(self, topics, isolation) for isolation in self._isolations),
            OffsetAuditor(self, self.processing, self.source),
        ]
        for number, (group, isolation) in enumerate(self._groups.items()):
            self._others.append(OffsetAuditor(self, group, self.log))
            for each in "ab":
                member = Member(self, f"{group}-{each}", group, self.log, isolation, classic=number == 0)
                self._others.append(member)

    _isolations = (READ_UNCOMMITTED, READ_COMMITTED)

    @property
    def partitions(self) -> list[Partition]:
        return [
            (topic, index) for topic in (self.source, self.target, self.log) for index in range(self.partition_count)
        ]

    def give_up_at(self) -> float:
        """When whoever does not get on is stuck: not while brokers come and go, or anybody gets on, however slowly."""
        if self.hurting.is_set():
            return math.inf
        progressed_at = self._began + self.history.progressed_at
        return max(self.healed_at, self.cluster.restless_at, progressed_at) + PATIENCE_S

    def broke(self, violation: Violation) -> None:
        if self.broken is None:
            self.broken = violation
        self.stopping.set()
        self.finished.set()

    def go(self, troubles: Sequence[Trouble], seconds: float) -> Violation | None:
        """The first promise that was broken."""
        try:
            self._go(troubles, seconds)
        except Violation as violation:
            self.broke(violation)
        except NotReadable as error:
            self.broke(self.history.broken(f"a log cannot be read: {error}"))
        self.stopping.set()
        self.finished.set()
        for client in (*self._writers, *self._others):
            client.join(10.0 if self.broken else PATIENCE_S)
        return self.broken

    def _go(self, troubles: Sequence[Trouble], seconds: float) -> None:
        for topic in (self.source, self.target, self.log):
            self.cluster.way(STRICT).create_topic(topic, self.partition_count)
        for client in (*self._writers, *self._others):
            client.start()
        time.sleep(WARM_UP_S)
        self.hurting.set()
        inflict(self.cluster, list(troubles), seconds, self._note)
        self.history.note("all is well again")
        self.cluster.heal()
        self.healed_at = time.monotonic()
        self.hurting.clear()
        self.stopping.set()
        for writer in self._writers:
            self._until(lambda writer=writer: not writer.is_alive(), f"{writer.name} does not get on")
        self._check_the_end()

    def _note(self, event: str) -> None:
        self.history.note(event)
        if self.broken is not None:
            raise self.broken

    def _until(self, seen: Callable[[], bool], what: str) -> None:
        """Raises Violation with `what` when it does not come to that."""
        if not seen():
            self.history.note(f"so far: {what}")
        while not seen():
            if self.broken is not None:
                raise self.broken
            if time.monotonic() > self.give_up_at():
                raise self.history.broken(what)
            time.sleep(0.05)

    # The end.

    def _check_the_end(self) -> None:
        sources = [partition for partition in self.partitions if partition[0] == self.source]
        for partition in sources:
            _, end = read_raw(self.cluster, partition, self.give_up_at)
            self._until(
                lambda key=(self.processing, partition[1]), end=end: self._committed(key) == end,
                f"{self.processing} does not get on: {end} of {partition[0]}-{partition[1]} is not committed",
            )
        found = {partition: read_raw(self.cluster, partition, self.give_up_at) for partition in self.partitions}
        ends = {partition: end for partition, (_, end) in found.items()}
        visible = read_committed(self.cluster, ends, self.give_up_at)
        # Markers of transactions that ran into their time-out came since.
        found = {partition: read_raw(self.cluster, partition, self.give_up_at) for partition in self.partitions}
        written = {
            partition: {offset for offset, value in records.items() if value != MARKER}
            for partition, (records, _) in found.items()
        }
        shown = {partition: set(records) for partition, records in visible.items()}
        for isolation in self._isolations:
            for group in (name for name, of in self._groups.items() if of == isolation):
                self._await_group(group, written if isolation == READ_UNCOMMITTED else shown)
            self._await_reader(isolation, written if isolation == READ_UNCOMMITTED else shown)
        self.finished.set()
        for client in self._others:
            self._until(lambda client=client: not client.is_alive(), f"{client.name} does not end")
        history = self.history
        for partition, (records, end) in found.items():
            history.check_log(partition, records, end)
        history.check_visible(visible)
        for partition in self.partitions:
            for isolation, there in zip(self._isolations, (written, shown), strict=True):
                history.check_reader(self._reader(isolation), partition, there[partition])
                if partition[0] == self.log:
                    for group in (name for name, of in self._groups.items() if of == isolation):
                        history.check_group(group, partition, there[partition])
        inputs = {index: visible[topic, index] for topic, index in sources}
        outputs = Counter(
            value.rpartition(b"|")[0]
            for (topic, _), records in visible.items()
            if topic == self.target
            for value in records.values()
        )
        history.check_processed(
            inputs, outputs, {index: self._committed((self.processing, index)) for _, index in sources}
        )

    def _reader(self, isolation: str) -> str:
        return next(each.name for each in self._others if isinstance(each, Reader) and each.isolation == isolation)

    def _committed(self, key: tuple[str, int]) -> int:
        with self.history.told() as history:
            return history.acknowledged_offsets.get(key, 0)

    def _await_group(self, group: str, there: dict[Partition, set[int]]) -> None:
        for index in range(self.partition_count):
            end = max(there[self.log, index], default=-1) + 1
            self._until(
                lambda key=(group, index), end=end: self._committed(key) >= end,
                f"{group} does not get on: {end} of {self.log}-{index} is not committed",
            )

    def _await_reader(self, isolation: str, there: dict[Partition, set[int]]) -> None:
        reader = self._reader(isolation)
        for partition, offsets in there.items():
            last = max(offsets, default=-1)
            self._until(
                lambda key=(reader, partition), last=last: self.history.positions.get(key, -1) >= last,
                f"{reader} does not get on: {last} of {partition[0]}-{partition[1]}",
            )

    @property
    def errors(self) -> Counter[str]:
        """What clients met, by name."""
        errors = Counter[str]()
        for client in (*self._writers, *self._others):
            errors.update(client.errors)
        return errors

    def summary(self) -> str:
        attempts = self.history.attempts
        committed = sum(attempt.committed for attempt in attempts)
        met = ", ".join(f"{name} {count}" for name, count in self.errors.most_common(6))
        hung = [call for client in (*self._writers, *self._others) for call in client.hung]
        return (
            f"{self.history.acknowledged_count:,} acknowledged, {committed} of {len(attempts)} transactions committed"
            f"; clients met {met or 'no error'}{f', and left {hung} behind, which did not come back' if hung else ''}"
        )

    def note_groups(self) -> None:
        """How the groups are described now, for whoever looks why one does not get on."""
        names = [self.processing, *self._groups]
        admin = self.cluster.way(STRICT).admin()  # it must live until it has answered
        for name, described in admin.describe_consumer_groups(names).items():
            try:
                found = described.result(PATIENCE_S)
            except KafkaException as error:
                self.history.note(f"{name}: {error}")
                continue
            members = {
                member.member_id: [f"{each.topic}-{each.partition}" for each in member.assignment.topic_partitions]
                for member in found.members
            }
            self.history.note(f"{name} is {found.state.name}, coordinated by {found.coordinator.id}: {members}")

    def write_history(self, path: Path) -> None:
        with self.history.told() as history:
            path.write_text("\n".join(history.transcript) + "\n")
