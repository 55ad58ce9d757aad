"""Topics as the programs' input and output, by librdkafka: written, awaited, and read with read_committed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from confluent_kafka import Consumer, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

TIMEOUT_S = 300.0
"""Generous: a Java program starts in seconds, on a busy machine in many."""

Pair = tuple[str, str]
"""Key and value."""


def create_topics(bootstrap: str, names: Sequence[str], partitions: int = 3, **config: Any) -> None:
    admin = AdminClient({"bootstrap.servers": bootstrap})
    wanted = [NewTopic(name, partitions, 1, config=config) for name in names]
    for created in admin.create_topics(wanted).values():
        created.result(TIMEOUT_S)


def produce(bootstrap: str, topic: str, pairs: Iterable[Pair]) -> None:
    """All of them are acknowledged when this returns."""
    producer = Producer({"bootstrap.servers": bootstrap, "enable.idempotence": True, "linger.ms": 5})
    failures: list[Any] = []
    for key, value in pairs:
        producer.produce(topic, value, key, on_delivery=lambda error, _: failures.append(error) if error else None)
        producer.poll(0)
    assert producer.flush(TIMEOUT_S) == 0
    assert not failures


class Output:
    """What a read_committed consumer has seen of some topics so far, in the order of each partition."""

    def __init__(self, bootstrap: str, *topics: str) -> None:
        settings = {"isolation.level": "read_committed", "auto.offset.reset": "earliest", "enable.auto.commit": False}
        self._consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "judge", "log_level": 2, **settings})
        metadata = [self._consumer.list_topics(topic, TIMEOUT_S).topics[topic] for topic in topics]
        self._consumer.assign(
            [TopicPartition(topic.topic, index, 0) for topic in metadata for index in topic.partitions]
        )
        self.records: dict[str, list[Pair]] = {topic: [] for topic in topics}

    def __enter__(self) -> Output:
        return self

    def __exit__(self, *_: object) -> None:
        self._consumer.close()

    def count(self, topic: str) -> int:
        return len(self.records[topic])

    def read_until(self, condition: Callable[[], bool], quiet_s: float = 0.0, timeout_s: float = TIMEOUT_S) -> None:
        """Reads until `condition` holds and then nothing has come for `quiet_s`: what is too much must show, too."""
        deadline = time.monotonic() + timeout_s
        last = time.monotonic()
        while not condition() or time.monotonic() < last + quiet_s:
            assert time.monotonic() < deadline, {topic: len(records) for topic, records in self.records.items()}
            for message in self._consumer.consume(1_000, timeout=0.1):
                last = time.monotonic()
                self._keep(message)

    def _keep(self, message: Message) -> None:
        error = message.error()
        if error is not None:
            assert error.retriable() or error.name() in ("_TRANSPORT", "_ALL_BROKERS_DOWN"), error
            return
        key, value = message.key(), message.value()
        self.records[message.topic()].append((_text(key), _text(value)))


def _text(data: bytes | str | None) -> str:
    return data.decode() if isinstance(data, bytes) else data or ""
