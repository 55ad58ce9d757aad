"""Topics that are filled by librdkafka, as fast as it takes records."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from confluent_kafka import Producer

from tests.support.node_process import NodeProcess


def fill(node: NodeProcess, topic: str, records: Iterable[tuple[bytes | None, bytes]], **config: Any) -> None:
    """Each record is a key and a value; returns when all are acknowledged. Configs have "_" for "."."""
    given = {name.replace("_", "."): value for name, value in config.items()}
    producer = Producer({"bootstrap.servers": node.bootstrap, **given})
    for key, value in records:
        while True:
            try:
                producer.produce(topic, value, key)
                break
            except BufferError:
                producer.poll(0.1)
    assert producer.flush(120) == 0
