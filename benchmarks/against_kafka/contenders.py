"""The two servers under test, with one shape. Owns their processes, and what "the same durability" means for each."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Protocol

from benchmarks.loader import Address
from benchmarks.nodes import compiled
from tests.interop.kafka_process import KafkaProcess
from tests.support.node_process import NodeProcess

Durability = Literal["page-cache", "fsync"]

JVM_DEFAULTS = [
    "-server",
    "-XX:+UseG1GC",
    "-XX:MaxGCPauseMillis=20",
    "-XX:InitiatingHeapOccupancyPercent=35",
    "-XX:+ExplicitGCInvokesConcurrent",
    "-Djava.awt.headless=true",
]
"""What kafka-run-class.sh passes when nobody asks for anything else."""


class Contender(Protocol):
    name: str

    @property
    def address(self) -> Address: ...

    @property
    def pid(self) -> int: ...

    def is_running(self) -> bool: ...

    def start(self) -> object: ...

    def stop(self) -> object: ...

    def close(self) -> None: ...

    def topic_configs(self, durability: Durability) -> dict[str, str]:
        """What a topic of this server is created with."""


class Bytemq:
    """A node with default settings, but for the durability that is compared."""

    name = "bytemq"

    def __init__(self, folder: Path, durability: Durability) -> None:
        options = ["--durability", durability]
        self._node = NodeProcess(
            folder, options=options, environment=compiled(folder.parent), log_path=folder.with_suffix(".log")
        )

    @property
    def address(self) -> Address:
        return self._node.address

    @property
    def pid(self) -> int:
        return self._node.pid

    def is_running(self) -> bool:
        return self._node.is_running()

    def start(self) -> None:
        self._node.start()

    def stop(self) -> None:
        self._node.terminate(60.0)

    def close(self) -> None:
        self._node.close()

    def topic_configs(self, durability: Durability) -> dict[str, str]:
        return {}


class Kafka:
    """One KRaft node with its own defaults. An fsync for each append is a config of the topic, flush.messages."""

    name = "kafka"

    def __init__(self, folder: Path, heap: str) -> None:
        self.heap = heap
        self._kafka = KafkaProcess(folder, java_options=[f"-Xms{heap}", f"-Xmx{heap}", *JVM_DEFAULTS])

    @property
    def address(self) -> Address:
        return self._kafka.address

    @property
    def pid(self) -> int:
        return self._kafka.pid

    def is_running(self) -> bool:
        return self._kafka.is_running()

    def start(self) -> None:
        self._kafka.start()

    def stop(self) -> None:
        self._kafka.terminate(60.0)

    def close(self) -> None:
        self._kafka.close()

    def topic_configs(self, durability: Durability) -> dict[str, str]:
        # The delay only keeps the disk from filling up; the small index files are what is recommended with many
        # partitions: 10 MiB each are preallocated otherwise.
        configs = {"file_delete_delay_ms": "1000", "segment_index_bytes": "262144"}
        return {**configs, "flush_messages": "1"} if durability == "fsync" else configs
