"""Several brokers over one etcd and one shared store, each its own process, and unmodified clients that keep count.

Owns: starting and stopping them, a producer that knows what was acknowledged, and reading a topic whole.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from tests.support.etcd_process import EtcdProcess
from tests.support.node_process import BYTEMQ, NodeProcess

PATIENCE_S = 90.0
LONG_SESSIONS = ("--set", "broker.session.timeout.ms=10000")
"""Where fail-over is not the matter, a busy machine is no trouble."""


def until(seen: Callable[[], Any], what: str = "", patience_s: float = PATIENCE_S) -> Any:
    """What `seen()` gives, once that is true."""
    give_up_at = time.monotonic() + patience_s
    while not (found := seen()):
        assert time.monotonic() < give_up_at, f"it never came to that: {what}"
        time.sleep(0.05)
    return found


def bytemq(*arguments: str, code: int = 0) -> str:
    """What the command printed, which ended with `code`."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("BYTEMQ_")}
    command = [*BYTEMQ, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


class Reachable:
    """Brokers that clients reach, however they run."""

    @property
    def bootstrap(self) -> str:
        raise NotImplementedError

    def admin(self) -> AdminClient:
        return AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})

    def create_topic(self, name: str, partitions: int, **config: str) -> None:
        configs = {key.replace("_", "."): value for key, value in config.items()}
        topic = NewTopic(name, partitions, 3, config=configs)

        def exists() -> bool:
            admin = self.admin()  # it must live until it has answered
            try:
                admin.create_topics([topic], operation_timeout=60)[name].result(60)
            except KafkaException as error:  # on a busy machine the broker that was asked may have lost its session
                return bool(error.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS)
            return True

        until(exists, f"{name} is created")

    def leaders(self, topic: str) -> list[int]:
        """Owner of each partition; -1: none just now."""
        try:
            partitions = self.admin().list_topics(topic, timeout=20).topics[topic].partitions
        except KafkaException:
            return [-1]
        return [partitions[index].leader for index in sorted(partitions)]


class Cluster(Reachable):
    def __init__(
        self,
        folder: Path,
        etcd: EtcdProcess,
        brokers: int = 3,
        options: tuple[str, ...] = (),
        *,
        storage: str | None = None,
        environment: Mapping[str, str] | None = None,
        program: Sequence[str] = BYTEMQ,
    ) -> None:
        """`storage`: its URL, and `environment` what is needed to reach it; None: a folder that all brokers share.
        `program`: what runs the brokers that are made here.
        """
        self.folder = folder
        self.etcd = etcd
        self.options = options
        self.storage = storage or f"file://{folder / 'shared'}"
        self.environment = environment
        self._program = program
        self.nodes = [self._node(broker_id) for broker_id in range(brokers)]

    def _node(self, broker_id: int) -> NodeProcess:
        options = ["--id", str(broker_id), "--zone", "abc"[broker_id % 3], "--metadata", self.etcd.url("cluster")]
        options += ["--storage", self.storage, *self.options]
        folder = self.folder / f"broker-{broker_id}"
        log_path = self.folder / f"broker-{broker_id}.log"
        return NodeProcess(
            folder, options=options, log_path=log_path, environment=self.environment, program=self._program
        )

    def start(self) -> Cluster:
        for node in self.nodes:
            node.launch()
        for node in self.nodes:
            node.wait_ready(PATIENCE_S)
        return self

    def add(self) -> NodeProcess:
        self.nodes.append(self._node(len(self.nodes)))
        return self.nodes[-1].start(PATIENCE_S)

    def owner(self, topic: str) -> NodeProcess:
        """Of its one partition: a broker that has not died since it was said to be."""

        def alive() -> list[NodeProcess]:
            owners = [self.nodes[broker_id] for broker_id in self.leaders(topic) if broker_id >= 0]
            return [node for node in owners if node.is_running()]

        owner: NodeProcess = until(alive, f"{topic} has an owner")[0]
        return owner

    def close(self) -> None:
        for node in self.nodes:
            if node.is_running():
                node.signal(signal.SIGCONT)
            node.close()

    @property
    def bootstrap(self) -> str:
        return ",".join(node.bootstrap for node in self.nodes)

    def logs(self) -> str:
        return "".join(node.log() for node in self.nodes)


class CountingProducer:
    """Produces unique values in a thread until `stop`; `acknowledged` holds where each came to be."""

    def __init__(self, cluster: Reachable, topic: str, **config: Any) -> None:
        self._producer = Producer(
            {
                "bootstrap.servers": cluster.bootstrap,
                "enable.idempotence": True,
                "linger.ms": 5,
                "message.timeout.ms": int(PATIENCE_S * 1000),
                "log_level": 0,
                **config,
            }
        )
        self._topic = topic
        self.acknowledged: dict[str, tuple[int, int]] = {}
        self._times: dict[int, list[float]] = {}
        self.failed: list[str] = []
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        number = 0
        while not self._stopping.is_set():
            number += 1
            value = f"v{number}"
            try:
                self._producer.produce(self._topic, value.encode(), key=value.encode(), on_delivery=self._delivered)
            except BufferError:
                self._producer.poll(0.05)
            self._producer.poll(0.002)

    def _delivered(self, error: KafkaError | None, message: Any) -> None:
        value = message.value().decode()
        if error is not None:
            self.failed.append(f"{value}: {error}")
        else:
            self.acknowledged[value] = (message.partition(), message.offset())
            self._times.setdefault(message.partition(), []).append(time.monotonic())

    def wait_for_more(self, count: int = 50) -> None:
        """Returns when so many more are acknowledged."""
        wanted = len(self.acknowledged) + count
        until(lambda: len(self.acknowledged) >= wanted, f"{count} more acknowledgements")

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(PATIENCE_S)
        assert self._producer.flush(PATIENCE_S) == 0

    def abandon(self) -> None:
        """`stop` without a word about what is on its way: the cluster is gone."""
        self._stopping.set()
        self._thread.join(PATIENCE_S)
        self._producer.purge()

    def acknowledged_since(self, when: float) -> float | None:
        """The first moment at which every partition had acknowledged something after `when`; None: not yet."""
        first = [next((at for at in times if at > when), None) for times in list(self._times.values())]
        return None if None in first else max(at for at in first if at is not None)

    def longest_pause_of_a_partition_s(self) -> float:
        """Between two acknowledgements of one partition."""
        return max(later - earlier for times in self._times.values() for earlier, later in pairwise(times))


def read_all(cluster: Reachable, topic: str, *, isolation: str = "read_uncommitted") -> list[tuple[str, int, int]]:
    """Value, partition and offset of everything in the topic, up to the end of each partition."""
    consumer = Consumer(
        {
            "bootstrap.servers": cluster.bootstrap,
            "group.id": "reader",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "isolation.level": isolation,
            "log_level": 0,
        }
    )
    count = len(consumer.list_topics(topic, timeout=PATIENCE_S).topics[topic].partitions)
    consumer.assign([TopicPartition(topic, index, 0) for index in range(count)])
    found: list[tuple[str, int, int]] = []
    ended: set[int] = set()
    give_up_at = time.monotonic() + PATIENCE_S
    while len(ended) < count:
        assert time.monotonic() < give_up_at, f"read {len(found)}, ended {sorted(ended)}"
        message = consumer.poll(0.2)
        if message is None:
            continue
        if message.error() is None:
            found.append((message.value().decode(), message.partition(), message.offset()))
        elif message.error().code() == KafkaError._PARTITION_EOF:
            ended.add(message.partition())
    consumer.close()
    return found


def check_nothing_lost(producer: CountingProducer, read: list[tuple[str, int, int]]) -> None:
    """Everything acknowledged is where it was said to be, once; nothing failed."""
    assert producer.failed == []
    values = [value for value, _, _ in read]
    assert len(values) == len(set(values)), "an idempotent producer's record is there twice"
    where = {value: (partition, offset) for value, partition, offset in read}
    missing = {value for value, place in producer.acknowledged.items() if where.get(value) != place}
    assert not missing, f"{len(missing)} acknowledged records are lost or elsewhere: {sorted(missing)[:5]}"
