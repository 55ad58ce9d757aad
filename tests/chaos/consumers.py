"""Consumers: readers of whole topics, members of groups that commit offsets, and auditors, who keep asking for both."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from tests.chaos.client import Client, bury
from tests.chaos.cluster import READING

if TYPE_CHECKING:
    from tests.chaos.run import Run

CALL_S = 5.0
CLASSIC: dict[str, object] = {"session_timeout_ms": 6_000}
KIP_848: dict[str, object] = {"group_protocol": "consumer"}
READ_COMMITTED, READ_UNCOMMITTED = "read_committed", "read_uncommitted"


class Reader(Client):
    """Reads topics from their beginning."""

    def __init__(self, run: Run, name: str, topics: list[str], isolation: str) -> None:
        super().__init__(run, name, READING)
        self.topics = topics
        self.isolation = isolation

    def work(self) -> None:
        consumer = Consumer(
            self.config(
                group_id=self.name,
                enable_auto_commit=False,
                auto_offset_reset="error",
                isolation_level=self.isolation,
                fetch_wait_max_ms=200,
            )
        )
        consumer.assign(
            [TopicPartition(topic, index, 0) for topic in self.topics for index in range(self.world.partition_count)]
        )
        while not self.world.finished.is_set():
            for message in consumer.consume(500, 0.3):
                self.took(message)
        grave = [consumer]
        del consumer
        bury(grave)

    def took(self, message: Message) -> None:
        error = message.error()
        if error is not None:
            self.met("poll", error)
            if error.code() in (error._AUTO_OFFSET_RESET, error.OFFSET_OUT_OF_RANGE):
                raise self.history.broken(f"{self.name}: {message.topic()}-{message.partition()}: {error}")
            return
        with self.history.told() as history:
            history.consumed(
                self.name,
                (message.topic(), message.partition()),
                message.offset(),
                message.value(),
                committed_only=self.isolation == READ_COMMITTED,
            )


class Member(Client):
    """One process after the other in a group: consumes, then commits what it has consumed."""

    def __init__(self, run: Run, name: str, group: str, topic: str, isolation: str, *, classic: bool) -> None:
        super().__init__(run, name, READING)
        self.group = group
        self.topic = topic
        self.isolation = isolation
        self.classic = classic
        self._instance = ""
        self._consumed: dict[int, list[int]] = {}

    def work(self) -> None:
        number = 0
        while not self.world.finished.is_set():
            number += 1
            self._instance = f"{self.name}.{number}"
            consumer = self._consumer()
            consumer.subscribe([self.topic], on_assign=self._rebalanced, on_revoke=self._rebalanced)
            polls = self.random.randint(20, 300)
            while (polls > 0 or self.stopping) and not self.world.finished.is_set():
                polls -= 1
                self._poll(consumer)
            if self.random.random() < 0.5:
                consumer.close()
            else:
                self.history.note(f"{self._instance} goes without a word")

    def _consumer(self) -> Consumer:
        protocol = CLASSIC if self.classic else KIP_848
        return Consumer(
            self.config(
                group_id=self.group,
                auto_offset_reset="earliest",
                enable_auto_commit=False,
                isolation_level=self.isolation,
                **protocol,
            )
        )

    def _rebalanced(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """What was consumed of these is not committed any more, and they begin anew."""
        for each in partitions:
            self._consumed.pop(each.partition, None)
            with self.history.told() as history:
                history.began(self._instance, (self.topic, each.partition))

    def _poll(self, consumer: Consumer) -> None:
        """One message at a time: a rebalance comes between two of them."""
        message = consumer.poll(0.2)
        for _ in range(50):
            if message is None:
                break
            self._took(message)
            message = consumer.poll(0)
        if message is not None:
            self._took(message)
        if self._consumed:
            self._commit(consumer)

    def _took(self, message: Message) -> None:
        error = message.error()
        if error is not None:
            self.met("poll", error)
            return
        self._consumed.setdefault(message.partition(), []).append(message.offset())
        with self.history.told() as history:
            history.consumed(
                self._instance,
                (self.topic, message.partition()),
                message.offset(),
                message.value(),
                committed_only=self.isolation == READ_COMMITTED,
            )

    def _commit(self, consumer: Consumer) -> None:
        consumed, self._consumed = self._consumed, {}
        offsets = {index: max(each) + 1 for index, each in consumed.items()}
        with self.history.told() as history:
            for index, each in consumed.items():
                history.group_processed(self.group, (self.topic, index), each)
                history.committing(self.group, index, offsets[index])
        given = [TopicPartition(self.topic, index, offset) for index, offset in offsets.items()]
        try:
            answered = consumer.commit(offsets=given, asynchronous=False)
        except KafkaException as exception:
            self.met("commit", exception.args[0])
            return
        for one in answered:
            if one.error is None:
                with self.history.told() as history:
                    history.note(f"{self._instance}: committed {one.offset} of {one.topic}-{one.partition}")
                    history.offset_committed(self.group, one.partition, one.offset)
            else:
                self.met("commit", one.error)


class OffsetAuditor(Client):
    """Keeps asking what a group has committed."""

    def __init__(self, run: Run, group: str, topic: str) -> None:
        super().__init__(run, f"auditor of {group}", READING)
        self.group = group
        self.topic = topic

    def work(self) -> None:
        consumer = Consumer(self.config(group_id=self.group, isolation_level=READ_COMMITTED))
        while not self.world.finished.is_set():
            self.ask(consumer)
            time.sleep(self.random.uniform(0.1, 0.5))
        grave = [consumer]
        del consumer
        bury(grave)

    def ask(self, consumer: Consumer) -> None:
        asked = [TopicPartition(self.topic, index) for index in range(self.world.partition_count)]
        with self.history.told() as history:
            known = {index: history.acknowledged_offsets.get((self.group, index), -1) for index in range(len(asked))}
        try:
            found = consumer.committed(asked, CALL_S)
        except KafkaException as exception:
            self.met("committed", exception.args[0])
            return
        given = {each.partition: max(each.offset, -1) for each in found if each.error is None}
        with self.history.told() as history:
            for index, offset in given.items():
                history.fetched_offset(self.group, index, offset, known[index])
                if offset >= 0:
                    history.offset_committed(self.group, index, offset)  # if only its own answer was lost


class WatermarkAuditor(Client):
    """Keeps asking where partitions end, for one isolation level."""

    def __init__(self, run: Run, topics: list[str], isolation: str) -> None:
        super().__init__(run, f"auditor of {isolation}", READING)
        self.topics = topics
        self.isolation = isolation

    def work(self) -> None:
        consumer = Consumer(self.config(group_id=self.name, isolation_level=self.isolation))
        is_stable = self.isolation == READ_COMMITTED
        while not self.world.finished.is_set():
            partition = self.random.choice(self.topics), self.random.randrange(self.world.partition_count)
            with self.history.told() as history:
                known = history.known_watermarks(partition)
            try:
                _, end = consumer.get_watermark_offsets(TopicPartition(*partition), CALL_S)
            except KafkaException as exception:
                self.met("offsets", exception.args[0])
                time.sleep(0.1)
                continue
            with self.history.told() as history:
                if is_stable:
                    history.stable_offset_told(partition, end, known[0])
                else:
                    history.high_watermark_told(partition, end, known[1])
            time.sleep(self.random.uniform(0.0, 0.05))
        grave = [consumer]
        del consumer
        bury(grave)
