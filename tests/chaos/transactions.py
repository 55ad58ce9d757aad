"""Transactional producers: some write, some copy what they consume with their offsets (consume-transform-produce). Each
instance lives for some transactions, and then goes; some go in the middle of one, and come back as zombies.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from tests.chaos.client import REQUEST_TIMEOUT_MS, Client, bounded, bury
from tests.chaos.cluster import STRICT
from tests.simulation.broker.history import Attempt, Sent
from tests.simulation.broker.history import TopicPartition as Partition

if TYPE_CHECKING:
    from tests.chaos.run import Run

TIMEOUT_MS = 10_000
CALL_S = 30.0
OFFSETS_S = 15.0
"""For offsets, which have no use for longer than their transaction lives. librdkafka 2.16 looks at it only when it is
answered, and waits for ever for a group's coordinator that Metadata does not name any more (its issues 5456, 5511)."""


class MustAbort(Exception):
    """This transaction cannot commit any more."""


class Fenced(Exception):
    """This instance can do nothing any more."""


class Instance:
    """One producer under a transactional id. A call raises MustAbort, Fenced or, after `PATIENCE_S`, Violation."""

    def __init__(self, client: Client, name: str, transactional_id: str) -> None:
        self.name = name
        self._client = client
        self._history = client.history
        self._transactions = 0
        self._producer = Producer(
            client.config(
                transactional_id=transactional_id,
                transaction_timeout_ms=TIMEOUT_MS,
                request_timeout_ms=REQUEST_TIMEOUT_MS,
                linger_ms=2,
            )
        )
        self.attempt: Attempt

    def initialise(self) -> None:
        self._call("init_transactions", lambda: self._producer.init_transactions(CALL_S))

    def begin(self) -> None:
        self._transactions += 1
        self.attempt = Attempt(f"{self.name}.{self._transactions}")
        with self._history.told() as history:
            history.begin(self.attempt)
        self._call("begin_transaction", self._producer.begin_transaction)

    def send(self, partition: Partition, value: bytes) -> None:
        batch = Sent(self.name, partition, [value], self.attempt)
        with self._history.told() as history:
            history.sending(batch)

        def delivered(error: KafkaError | None, message: Message) -> None:
            if error is None:
                with self._history.told() as history:
                    history.acknowledged(batch, message.offset())

        self._call(
            "produce",
            lambda: self._producer.produce(partition[0], value, partition=partition[1], on_delivery=delivered),
        )

    def send_offsets(self, offsets: list[TopicPartition], metadata: Any) -> None:
        """Who does not come back from it is left behind, as by a program that is killed and started again: what it
        still sends is that of a zombie."""
        send = self._producer.send_offsets_to_transaction
        try:
            self._call("send_offsets", lambda: bounded(lambda: send(offsets, metadata, OFFSETS_S), CALL_S))
        except TimeoutError:
            self._client.hung.append(f"{self.name}: send_offsets")
            self._history.note(f"{self.name}: send_offsets does not come back")
            raise Fenced from None

    def flush(self) -> None:
        self._call("flush", lambda: self._producer.flush(CALL_S))

    def end(self, *, commit: bool) -> None:
        """Returns when somebody has said how it ended. Raises MustAbort if a commit failed so."""
        if commit:
            with self._history.told():
                self.attempt.asked_to_commit = True
            self._call("commit", lambda: self._producer.commit_transaction(CALL_S))
        else:
            self._call("abort", lambda: self._producer.abort_transaction(CALL_S))
        with self._history.told() as history:
            history.ended(self.attempt, committed=commit)

    def haunt(self) -> None:
        """Commits though it has a successor, whose coming has aborted what this one had begun. Raises Fenced."""
        try:
            self._call("commit of a zombie", lambda: self._producer.commit_transaction(CALL_S))
        except MustAbort:
            raise Fenced from None

    def bury(self) -> None:
        """It is not used any more."""
        grave = [self._producer]
        del self._producer
        bury(grave)

    def _call(self, what: str, call: Callable[[], Any]) -> None:
        try:
            self._client.patiently(f"{self.name}: {what}", call)
        except KafkaException as exception:
            if exception.args[0].fatal() or what in ("init_transactions", "abort"):
                raise Fenced from None
            raise MustAbort from None


class TransactionalWriter(Client):
    """Writes several values into several partitions in each transaction; aborts some."""

    def __init__(self, run: Run, name: str, topics: list[str]) -> None:
        super().__init__(run, name, STRICT)
        self.topics = topics
        self._zombie: Instance | None = None

    def work(self) -> None:
        number = 0
        while not self.stopping:
            number += 1
            instance = Instance(self, f"{self.name}.{number}", self.name)
            try:
                instance.initialise()
                self._haunt()
                for _ in range(self.random.randint(1, 12)):
                    if self.stopping:
                        break
                    self._transact(instance)
                    self.idle(0.1)
                if not self.stopping and self.random.random() < 0.5:
                    self._write(instance)
                    self._zombie = instance
            except (Fenced, MustAbort):
                self.history.note(f"{instance.name} is fenced")
            if self._zombie is not instance:
                instance.bury()
        if self._zombie is not None:
            self._zombie.bury()

    def _transact(self, instance: Instance) -> None:
        try:
            self._write(instance)
            instance.end(commit=self.random.random() < 0.8)
        except MustAbort:
            abort(instance)

    def _write(self, instance: Instance) -> None:
        instance.begin()
        for number in range(self.random.randint(1, 8)):
            partition = self.random.choice(self.topics), self.random.randrange(self.world.partition_count)
            instance.send(partition, f"{instance.attempt.name}:{number}".encode())
            if self.random.random() < 0.1:
                time.sleep(0.05)
        if self.random.random() < 0.3:
            instance.flush()

    def _haunt(self) -> None:
        """An instance that was left in the middle of a transaction goes on: in vain, for it has a successor."""
        zombie, self._zombie = self._zombie, None
        if zombie is None:
            return
        try:
            zombie.haunt()
        except Fenced:
            return
        finally:
            zombie.bury()
        if zombie.attempt.batches:
            raise self.history.broken(f"{zombie.name} committed behind its successor's back")


class Processor(Client):
    """Copies a topic to another one, each value once, in a group."""

    def __init__(self, run: Run, name: str, source: str, target: str) -> None:
        super().__init__(run, name, STRICT)
        self.source, self.target = source, target
        self._group = run.processing
        self._polled: list[Message] = []

    def work(self) -> None:
        number = 0
        while not self.world.finished.is_set():
            number += 1
            consumer = self._consumer()
            consumer.subscribe([self.source], on_assign=self._rebalanced, on_revoke=self._rebalanced)
            instance = Instance(self, f"{self.name}.{number}", self.name)
            try:
                instance.initialise()
                lives = self.random.randint(5, 60)
                while (lives > 0 or self.stopping) and not self.world.finished.is_set():
                    lives -= self._step(consumer, instance)
            except Fenced:
                self.history.note(f"{instance.name} goes")
            instance.bury()
            self._polled.clear()
            consumer.close()  # one that is only dropped may stay in the group for minutes, and keep its partitions

    def _consumer(self) -> Consumer:
        return Consumer(
            self.config(
                group_id=self._group,
                auto_offset_reset="earliest",
                enable_auto_commit=False,
                isolation_level="read_committed",
                **self.world.processing_protocol,
            )
        )

    def _rebalanced(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """What was polled and not processed yet is somebody else's, or comes again."""
        given = {each.partition for each in partitions}
        self._polled = [message for message in self._polled if message.partition() not in given]

    def _poll(self, consumer: Consumer) -> None:
        self._polled.clear()
        message = consumer.poll(0.3)
        while message is not None:
            if message.error() is None:
                self._polled.append(message)
            message = consumer.poll(0) if len(self._polled) < 20 else None

    def _step(self, consumer: Consumer, instance: Instance) -> bool:
        """One transaction; whether there was anything to do. Raises Fenced."""
        self._poll(consumer)
        if not self._polled:
            return False
        metadata = consumer.consumer_group_metadata()
        if not consumer.memberid():
            raise Fenced  # out of the group: its offsets would be taken for those of somebody without one
        messages, offsets = self._polled, {each.partition(): each.offset() + 1 for each in self._polled}
        try:
            instance.begin()
            for message in messages:
                place = self.target, self.random.randrange(self.world.partition_count)
                instance.send(place, message.value() + b"|" + instance.attempt.name.encode())
            with self.history.told() as history:
                for index, offset in offsets.items():
                    history.committing(self._group, index, offset)
            given = [TopicPartition(self.source, index, offset) for index, offset in offsets.items()]
            instance.send_offsets(given, metadata)
            if self.random.random() < 0.05:
                raise MustAbort  # the program itself has changed its mind
            instance.end(commit=True)
        except MustAbort:
            abort(instance)
            self._rewind(consumer)
            return True
        with self.history.told() as history:
            for index, offset in offsets.items():
                history.offset_committed(self._group, index, offset)
        return True

    def _rewind(self, consumer: Consumer) -> None:
        """To the committed offsets of what is assigned. Raises Fenced where that cannot be done."""
        assigned = consumer.assignment()
        with self.history.told() as history:
            known = {
                each.partition: history.acknowledged_offsets.get((self._group, each.partition), -1) for each in assigned
            }
        try:
            for each in consumer.committed(assigned, CALL_S) if assigned else ():
                if each.error is not None:
                    raise Fenced
                with self.history.told() as history:
                    history.fetched_offset(self._group, each.partition, max(each.offset, -1), known[each.partition])
                consumer.seek(TopicPartition(each.topic, each.partition, max(each.offset, 0)))
        except KafkaException as exception:  # among others for a partition that is just being given or taken
            self.met("rewind", exception.args[0])
            raise Fenced from None


def abort(instance: Instance) -> None:
    """Raises Fenced when that cannot be done either."""
    try:
        instance.end(commit=False)
    except MustAbort:
        raise Fenced from None
