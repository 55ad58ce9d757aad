"""Unmodified clients: writers that say what was acknowledged, readers and groups that say what they were given.

Owns: threads over librdkafka, and what may befall a client when brokers die, which is no finding. Must not: do anything
to the cluster.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from tests.chaos.client import CONNECTION, bounded, bury
from tests.churn.ledger import Ledger
from tests.churn.topics import Topic

PATIENCE_S = 180.0
CALL_S = 30.0
VALUE_BYTES = 2_000
KEYS = 300
TRANSACTION_S = 5.0
COMMITTED = 0.8
"""Of the transactions."""
GONE = {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION}


class Findings:
    """What must not be, told at once; and what clients met on the way, which may be."""

    def __init__(self) -> None:
        self.all: list[str] = []
        self.met: Counter[str] = Counter()

    def add(self, what: str) -> None:
        self.all.append(what)
        print(f"WRONG: {what}", flush=True)

    def meet(self, error: KafkaError) -> None:
        self.met[str(error.name() or error.code())] += 1


class Client(threading.Thread):
    """`work` until it is stopped."""

    def __init__(self, name: str, bootstrap: str, findings: Findings) -> None:
        super().__init__(name=name, daemon=True)
        self.findings = findings
        self.random = random.Random(name)
        self.fatal: KafkaError | None = None
        self._addresses = bootstrap
        self._stopping = threading.Event()

    @property
    def stopping(self) -> bool:
        return self._stopping.is_set()

    @property
    def topic_is_gone(self) -> bool:
        """What is asked of it may be refused for good."""
        return False

    def stop(self) -> None:
        self._stopping.set()

    def config(self, **more: Any) -> dict[str, Any]:
        named = {name.replace("_", "."): value for name, value in more.items()}
        return {**CONNECTION, "bootstrap.servers": self._addresses, "error_cb": self._met, **named}

    def _met(self, error: KafkaError) -> None:
        self.findings.meet(error)
        if error.fatal():
            self.fatal = error

    def run(self) -> None:
        try:
            self.work()
        except Exception as error:
            self.findings.add(f"{self.name} ended: {type(error).__name__}: {error}")

    def work(self) -> None:
        raise NotImplementedError


class Writer(Client):
    """Numbered documents at a steady rate; keys are few where the topic is compacted."""

    def __init__(self, topic: Topic, bytes_per_s: float, bootstrap: str, findings: Findings) -> None:
        super().__init__(f"writer of {topic.name}", bootstrap, findings)
        self.topic = topic
        self._interval_s = VALUE_BYTES / bytes_per_s
        self._number = 0
        self._due = time.monotonic()

    def work(self) -> None:
        producer = Producer(self.config(enable_idempotence=True, linger_ms=20, message_timeout_ms=300_000))
        while not self.stopping:
            if self.is_due():
                self.produce(producer, self._delivered)
            producer.poll(self.wait_s())
            if self.fatal is not None:
                self.findings.add(f"{self.name} was shut out: {self.fatal}")
                return
        give_up_at = time.monotonic() + PATIENCE_S
        while (left := producer.flush(1.0)) and not self.topic_is_gone:
            if time.monotonic() > give_up_at:
                self.findings.add(f"{self.name}: {left} records are not acknowledged")
                return

    @property
    def topic_is_gone(self) -> bool:
        return self.topic.is_gone

    def is_due(self) -> bool:
        return self._due <= time.monotonic()

    def wait_s(self) -> float:
        return min(0.1, max(0.0, self._due - time.monotonic()))

    def produce(self, producer: Producer, delivered: Callable[[bytes, int, KafkaError | None, Message], None]) -> None:
        """The next record, where there is room for it."""
        key = b"%d" % (self._number if self.topic.newest is None else self.random.randrange(KEYS))
        number = self._number
        partition = int(key) % self.topic.partitions
        try:
            producer.produce(
                self.topic.name,
                _document(number, self.random),
                key,
                partition,
                on_delivery=lambda error, message: delivered(key, number, error, message),
            )
        except BufferError:
            return
        except KafkaException:
            if not self.topic_is_gone:
                raise
            self.stop()
            return
        self._number += 1
        self._due = max(self._due + self._interval_s, time.monotonic() - 1.0)

    def _delivered(self, key: bytes, number: int, error: KafkaError | None, message: Message) -> None:
        if error is None:
            self.topic.acknowledged(message.partition(), message.offset(), key, number, VALUE_BYTES)
            return
        self.topic.uncertain(key, number)
        self._met(error)
        if error.code() in GONE and self.topic_is_gone:
            self.stop()


class TransactionalWriter(Writer):
    """The same in transactions of a few records, some of which are aborted."""

    def work(self) -> None:
        while not self.stopping:
            self.fatal = None
            grave = [
                Producer(self.config(transactional_id=self.topic.name, linger_ms=20, transaction_timeout_ms=20_000))
            ]
            try:
                _patiently(self, lambda grave=grave: grave[0].init_transactions(CALL_S))
                while not self.stopping:
                    self._transaction(grave[0])
            except KafkaException as error:  # the next producer is its successor
                self._met(error.args[0])
                if error.args[0].code() in GONE and self.topic_is_gone:
                    self.stop()
            bury(grave)

    def _transaction(self, producer: Producer) -> None:
        """Raises KafkaException when this producer is at its end."""
        delivered: list[tuple[int, int, bytes, int]] = []
        asked: list[tuple[bytes, int]] = []

        def note(key: bytes, number: int, error: KafkaError | None, message: Message) -> None:
            if error is None:
                delivered.append((message.partition(), message.offset(), key, number))
            elif error.code() in GONE and self.topic_is_gone:
                self.stop()

        producer.begin_transaction()
        count = self.random.randint(5, 60)
        ends_at = time.monotonic() + TRANSACTION_S
        while len(asked) < count and time.monotonic() < ends_at and not self.stopping:
            if self.is_due():
                before = self._number
                self.produce(producer, note)
                asked += [(b"", number) for number in range(before, self._number)]
            producer.poll(self.wait_s())
        commits = self.random.random() < COMMITTED
        try:
            if commits:
                _patiently(self, lambda: producer.commit_transaction(CALL_S))
            else:
                _patiently(self, lambda: producer.abort_transaction(CALL_S))
        except KafkaException as error:
            if error.args[0].txn_requires_abort():
                self._met(error.args[0])
                _patiently(self, lambda: producer.abort_transaction(CALL_S))
                return
            for key, number in asked if commits else ():
                self.topic.uncertain(key, number)
            raise
        for partition, offset, key, number in delivered if commits else ():
            self.topic.acknowledged(partition, offset, key, number, VALUE_BYTES)


class Reader(Client):
    """Reads all of a topic from its beginning, and waits for more."""

    def __init__(self, topic: Topic, ledger: Ledger, bootstrap: str, findings: Findings) -> None:
        super().__init__(f"reader of {topic.name}", bootstrap, findings)
        self._topic, self._ledger = topic, ledger

    @property
    def topic_is_gone(self) -> bool:
        return self._topic.is_gone

    def work(self) -> None:
        consumer = Consumer(
            self.config(
                group_id=self.name,
                enable_auto_commit=False,
                auto_offset_reset="earliest",
                enable_partition_eof=True,
                fetch_wait_max_ms=200,
            )
        )
        consumer.assign([TopicPartition(self._topic.name, index, 0) for index in range(self._topic.partitions)])
        try:
            while not self.stopping:
                for message in consumer.consume(500, 0.3):
                    self._took(consumer, message)
        except KafkaException:
            if not self._topic.is_gone:
                raise
        grave = [consumer]
        del consumer
        bury(grave)

    def _took(self, consumer: Consumer, message: Message) -> None:
        partition, error = message.partition(), message.error()
        if error is None:
            take(self, consumer, self._ledger, message)
        elif error.code() == KafkaError._PARTITION_EOF:
            if self._topic.is_complete and not self._ledger.is_settled():
                self._ledger.ended(partition, min(message.offset(), _log_start(self, consumer, message)))
        else:
            self._met(error)


class Member(Client):
    """One process after the other in a group: consumes, then commits what it has consumed."""

    def __init__(
        self, number: int, protocol: str, topic: Topic, ledger: Ledger, bootstrap: str, findings: Findings
    ) -> None:
        super().__init__(f"member {number} of {ledger.name}", bootstrap, findings)
        self._protocol, self._topic, self._ledger = protocol, topic, ledger

    @property
    def topic_is_gone(self) -> bool:
        return self._topic.is_gone

    def work(self) -> None:
        while not self.stopping:
            consumer = self._consumer()
            consumer.subscribe([self._topic.name])
            ends_at = time.monotonic() + self.random.uniform(20, 120)
            while not self.stopping and (time.monotonic() < ends_at or self._topic.is_complete):
                self._poll(consumer)
            if self.random.random() < 0.5:
                bounded(consumer.close, CALL_S)
            grave = [consumer]
            del consumer
            bury(grave)

    def _consumer(self) -> Consumer:
        session = {"session_timeout_ms": 10_000} if self._protocol == "classic" else {}
        return Consumer(
            self.config(
                group_id=self._ledger.name,
                group_protocol=self._protocol,
                auto_offset_reset="earliest",
                enable_auto_commit=False,
                enable_partition_eof=True,
                **session,
            )
        )

    def _poll(self, consumer: Consumer) -> None:
        took = False
        for message in consumer.consume(200, 0.3):
            error = message.error()
            if error is None:
                take(self, consumer, self._ledger, message)
                took = True
            elif error.code() != KafkaError._PARTITION_EOF:
                self._met(error)
            elif self._topic.is_complete and not self._ledger.is_settled():
                start = min(message.offset(), _log_start(self, consumer, message))
                self._ledger.ended(message.partition(), start)
        if took:
            try:
                consumer.commit(asynchronous=False)
            except KafkaException as error:  # it has lost its partitions, or a broker is away: others read it again
                self._met(error.args[0])


def read_newest(topic: Topic, bootstrap: str, findings: Findings) -> dict[bytes, int]:
    """By key the number that a reader from the beginning knows at the end."""
    found: dict[bytes, int] = {}
    _read_all(topic, bootstrap, findings, lambda consumer, message: found.update({message.key(): _number(message)}))
    return found


def read_into(ledger: Ledger, topic: Topic, bootstrap: str, findings: Findings) -> None:
    """All of it, once, from the beginning."""
    _read_all(
        topic,
        bootstrap,
        findings,
        lambda consumer, message: ledger.read(message.partition(), message.offset(), _number(message), lambda: 0),
    )


def _read_all(topic: Topic, bootstrap: str, findings: Findings, take: Callable[[Consumer, Message], None]) -> None:
    client = Client(f"reading {topic.name}", bootstrap, findings)
    settings = client.config(group_id=client.name, enable_auto_commit=False, enable_partition_eof=True)
    consumer = Consumer({**settings, "auto.offset.reset": "earliest"})
    consumer.assign([TopicPartition(topic.name, index, 0) for index in range(topic.partitions)])
    ended: set[int] = set()
    give_up_at = time.monotonic() + PATIENCE_S
    while len(ended) < topic.partitions and time.monotonic() < give_up_at:
        for message in consumer.consume(500, 0.3):
            error = message.error()
            if error is None:
                take(consumer, message)
            elif error.code() == KafkaError._PARTITION_EOF:
                ended.add(message.partition())
            else:
                findings.meet(error)
    if len(ended) < topic.partitions:
        findings.add(f"{client.name}: the end does not come")
    bury([consumer])


def take(client: Client, consumer: Consumer, ledger: Ledger, message: Message) -> None:
    ledger.read(message.partition(), message.offset(), _number(message), lambda: _log_start(client, consumer, message))


def _log_start(client: Client, consumer: Consumer, message: Message) -> int:
    """Where the message's partition begins now. Raises KafkaException when the topic is gone, or nobody says."""
    place = TopicPartition(message.topic(), message.partition())
    give_up_at = time.monotonic() + PATIENCE_S
    while True:
        try:
            return int(consumer.get_watermark_offsets(place, timeout=CALL_S)[0])
        except KafkaException as exception:
            error = exception.args[0]
            client.findings.meet(error)
            if client.topic_is_gone or time.monotonic() > give_up_at:
                raise
            time.sleep(0.1)


def _patiently(client: Client, call: Callable[[], Any]) -> Any:
    """Again while librdkafka says that it may be tried again, or a broker is not there."""
    give_up_at = time.monotonic() + PATIENCE_S
    while True:
        try:
            return call()
        except KafkaException as exception:
            error = exception.args[0]
            client.findings.meet(error)
            passes = error.retriable() or error.code() in (KafkaError._TIMED_OUT, KafkaError._TRANSPORT)
            if not passes or error.txn_requires_abort() or error.fatal() or time.monotonic() > give_up_at:
                raise
            time.sleep(0.1)


def _document(number: int, chance: random.Random) -> bytes:
    """Half of it compresses."""
    noise = chance.randbytes(VALUE_BYTES // 4).hex()
    head = b'{"number": %d, "at": %.3f, "noise": "%s", "rest": "' % (number, time.time(), noise.encode())
    return head.ljust(VALUE_BYTES - 2, b".") + b'"}'


def _number(message: Message) -> int:
    value = message.value()
    return int(value[len(b'{"number": ') : value.index(b",")])
