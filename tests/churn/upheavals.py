"""What is done to the cluster meanwhile: brokers drained, restarted, killed and paused; workers killed; topics made and
deleted; records deleted; tables asked for.

Owns: threads that do it, and starting again what has ended by itself. Must not: judge.
"""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
import urllib.request
from collections import Counter
from contextlib import suppress

from confluent_kafka import Consumer, KafkaException, TopicPartition

from tests.churn.clients import PATIENCE_S, Client, Findings, Reader, TransactionalWriter, Writer
from tests.churn.ledger import Ledger
from tests.churn.topics import PASSING, Topic
from tests.scenarios.cluster.cluster import Cluster, bytemq
from tests.scenarios.test_compaction import workers_of
from tests.support.node_process import NodeFailed, NodeProcess

CUT_EVERY_S = 10.0
LEFT_BY_CUTS = 500
LOOK_S = 0.5


class Upheaval(threading.Thread):
    """Something happens to a broker about every so many seconds, until `stop`; then all brokers run and none is
    drained."""

    def __init__(self, cluster: Cluster, every_s: float, session_s: float, findings: Findings) -> None:
        super().__init__(name="upheaval", daemon=True)
        self.done: Counter[str] = Counter()
        self.endings: Counter[str] = Counter()
        """Of brokers that ended by themselves, by what they said last."""
        self._cluster, self._every_s, self._session_s, self._findings = cluster, every_s, session_s, findings
        self._random = random.Random(5)
        self._stopping = threading.Event()

    def stop(self) -> None:
        self._stopping.set()
        self.join()

    def run(self) -> None:
        acts = [self._restart, self._stop_undrained, self._kill, self._pause, self._move, self._kill_workers]
        due = self._next_due()
        try:
            while not self._stopping.wait(LOOK_S):
                self._all_run()
                if time.monotonic() < due:
                    continue
                act = self._random.choice(acts)
                with suppress(NodeFailed):  # it has ended by itself, and is started again
                    act(self._random.choice(self._cluster.nodes))
                    self.done[act.__name__.strip("_").replace("_", " ")] += 1
                due = self._next_due()
        except Exception as error:
            self._findings.add(f"the upheaval ended: {type(error).__name__}: {error}")
        self._all_run()
        for number in range(len(self._cluster.nodes)):
            self._command("undrain", number)

    def _next_due(self) -> float:
        return time.monotonic() + self._every_s * self._random.uniform(0.5, 1.5)

    def _restart(self, node: NodeProcess) -> None:
        """As planned."""
        number = self._cluster.nodes.index(node)
        self._command("drain", number)
        node.terminate()
        node.start()
        self._command("undrain", number)

    def _stop_undrained(self, node: NodeProcess) -> None:
        """Without a drain before it."""
        node.terminate()
        self._stopping.wait(self._random.uniform(0, 10))
        node.start()

    def _kill(self, node: NodeProcess) -> None:
        node.kill9()
        self._stopping.wait(self._random.uniform(0, 2 * self._session_s))
        node.start()

    def _pause(self, node: NodeProcess) -> None:
        """For longer than its session."""
        node.signal(signal.SIGSTOP)
        self._stopping.wait(self._random.uniform(1, 2) * self._session_s)
        node.signal(signal.SIGCONT)

    def _move(self, node: NodeProcess) -> None:
        number = self._cluster.nodes.index(node)
        self._command("drain", number)
        self._stopping.wait(self._random.uniform(0, 10))
        self._command("undrain", number)

    def _kill_workers(self, node: NodeProcess) -> None:
        for worker in workers_of(node):
            with suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)

    def _command(self, what: str, number: int) -> None:
        try:
            bytemq("cluster", what, str(number), "--metadata", self._cluster.etcd.url("cluster"))
        except AssertionError as error:  # no controller for a moment
            self.done[f"{what} that failed"] += 1
            print(f"{what} {number}: {str(error).strip()[-300:]}", flush=True)

    def _all_run(self) -> None:
        for node in self._cluster.nodes:
            if not node.is_running():
                lines = node.log().strip().splitlines()
                self.endings[lines[-1] if lines else "without a word"] += 1
                node.launch()
        for node in self._cluster.nodes:
            with suppress(NodeFailed):
                node.wait_ready(PATIENCE_S)


class Cutter(Client):
    """DeleteRecords, but for the last ones of each partition."""

    def __init__(self, cluster: Cluster, topic: Topic, findings: Findings) -> None:
        super().__init__(f"cutting {topic.name}", cluster.bootstrap, findings)
        self._cluster, self._topic = cluster, topic
        self.done = 0

    def work(self) -> None:
        consumer = Consumer(self.config(group_id=self.name))
        while not self._stopping.wait(CUT_EVERY_S):
            for index in range(self._topic.partitions):
                place = TopicPartition(self._topic.name, index)
                try:
                    low, high = consumer.get_watermark_offsets(place, timeout=10)
                    if high - LEFT_BY_CUTS > low:
                        upto = TopicPartition(self._topic.name, index, high - LEFT_BY_CUTS)
                        admin = self._cluster.admin()
                        admin.delete_records([upto], request_timeout=10)[upto].result(20)
                        self.done += 1
                except (KafkaException, TimeoutError) as error:
                    if isinstance(error, KafkaException):
                        self.findings.meet(error.args[0])
        consumer.close()


class Passing(Client):
    """Topics that come, are written and read, and go: some when all was read, some in the middle of it."""

    def __init__(self, number: int, cluster: Cluster, bytes_per_s: float, findings: Findings) -> None:
        super().__init__(f"passing {number}", cluster.bootstrap, findings)
        self._number, self._cluster, self._bytes_per_s = number, cluster, bytes_per_s
        self.deleted = 0

    def work(self) -> None:
        count = 0
        while not self.stopping:
            count += 1
            kind = self.random.choice(PASSING)
            self._one(Topic(kind, f"{kind.name}-{self._number}-{count}"))
            self.deleted += 1

    def _one(self, topic: Topic) -> None:
        ledger = Ledger(f"reader of {topic.name}")
        if topic.newest is None:
            topic.ledgers.append(ledger)
        create(self._cluster, topic)
        kind = TransactionalWriter if topic.kind.is_transactional else Writer
        writer = kind(topic, self._bytes_per_s, self._addresses, self.findings)
        reader = Reader(topic, ledger, self._addresses, self.findings)
        writer.start()
        if topic.newest is None:
            reader.start()
        self._stopping.wait(self.random.uniform(20, 90))
        in_the_middle = self.random.random() < 0.5
        if not in_the_middle:
            writer.stop()
            writer.join()
            topic.is_complete = True
            give_up_at = time.monotonic() + PATIENCE_S
            while topic.newest is None and not ledger.is_settled() and time.monotonic() < give_up_at:
                time.sleep(0.1)
        topic.is_gone = True
        self._delete_topic(topic)
        for client in (writer, reader):
            client.stop()
            if client.is_alive():
                client.join()
        for problem in ledger.wrong if in_the_middle else ledger.problems():
            self.findings.add(problem)

    def _delete_topic(self, topic: Topic) -> None:
        give_up_at = time.monotonic() + PATIENCE_S
        while True:
            try:
                admin = self._cluster.admin()
                admin.delete_topics([topic.name], operation_timeout=30)[topic.name].result(60)
                return
            except KafkaException as error:
                self.findings.meet(error.args[0])
                if error.args[0].code() == error.args[0].UNKNOWN_TOPIC_OR_PART:
                    return
                if time.monotonic() > give_up_at:
                    raise
                time.sleep(0.2)


class CatalogReader(Client):
    """Asks for topics as Iceberg tables, which makes metadata of theirs."""

    def __init__(self, cluster: Cluster, topics: list[Topic], findings: Findings) -> None:
        super().__init__("catalog", cluster.bootstrap, findings)
        self._cluster, self._topics = cluster, topics
        self.answered = 0

    def work(self) -> None:
        while not self._stopping.wait(3.0):
            topic, node = self.random.choice(self._topics), self.random.choice(self._cluster.nodes)
            with suppress(OSError, NodeFailed, ValueError):  # it is away, or the table's owner is
                url = f"http://{node.http_address}/iceberg/v1/namespaces/bytemq/tables/{topic.name}"
                with urllib.request.urlopen(url, timeout=20) as response:
                    json.load(response)
                self.answered += 1


def create(cluster: Cluster, topic: Topic) -> None:
    cluster.create_topic(topic.name, topic.partitions, **topic.config)
