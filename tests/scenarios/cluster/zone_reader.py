"""A consumer that reads from its own zone, in a thread, and checks what it gets as it comes.

Owns: the consumer and its checks. It begins at 0 and commits nothing; an offset that is out of range is an error, as is
anything that comes twice, out of order or that a transaction has aborted.
"""

from __future__ import annotations

import json
import threading
from typing import Any

from confluent_kafka import Consumer, TopicPartition

from tests.scenarios.cluster.cluster import PATIENCE_S, Cluster, until


class ZoneReader:
    def __init__(self, cluster: Cluster, topic: str, partitions: int, zone: str, **config: Any) -> None:
        self.found: dict[str, tuple[int, int]] = {}
        self.problems: list[str] = []
        self.received_by_broker: dict[int, int] = {}
        """Bytes, by the statistics of the client."""
        self._next = [0] * partitions
        self._stopping = threading.Event()
        self._consumer = Consumer(
            {
                "bootstrap.servers": cluster.bootstrap,
                "group.id": f"zone-{zone}",
                "client.rack": zone,
                "enable.auto.commit": False,
                "auto.offset.reset": "error",
                "statistics.interval.ms": 200,
                "stats_cb": self._told,
                "log_level": 0,
                **config,
            }
        )
        self._consumer.assign([TopicPartition(topic, index, 0) for index in range(partitions)])
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def wait_for(self, values: set[str]) -> None:
        until(lambda: self.problems or values <= self.found.keys(), f"all {len(values)} values were read")
        assert self.problems == []

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(PATIENCE_S)
        self._consumer.close()
        assert self.problems == []

    def _run(self) -> None:
        while not self._stopping.is_set() and len(self.problems) < 5:
            message = self._consumer.poll(0.1)
            if message is None:
                continue
            if message.error() is not None:
                if not message.error().retriable() and message.error().code() not in _AWAY:
                    self.problems.append(str(message.error()))
                continue
            value, partition, offset = message.value().decode(), message.partition(), message.offset()
            if offset < self._next[partition]:
                self.problems.append(f"offset {offset} of {partition} after {self._next[partition]}")
            if value in self.found:
                self.problems.append(f"{value} came twice")
            if value.startswith("aborted"):
                self.problems.append(f"{value} was read")
            self._next[partition] = offset + 1
            self.found[value] = partition, offset

    def _told(self, statistics: str) -> None:
        for broker in json.loads(statistics)["brokers"].values():
            if broker["nodeid"] >= 0:
                self.received_by_broker[broker["nodeid"]] = broker["rxbytes"]


_AWAY = (-195, -187, -185)
"""A broker that was killed is away: _TRANSPORT, _ALL_BROKERS_DOWN, _TIMED_OUT."""
