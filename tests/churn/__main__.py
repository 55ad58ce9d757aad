"""So many minutes of churn, then the audit: `python -m tests.churn --minutes 60`.

Three brokers in three zones over etcd and an S3 server, all of them processes. Exit code 0 when nothing was wrong: no
audit found anything missing or damaged; at the end, with everybody at rest for longer than the time of grace, nothing
was there that nothing refers to, and neither when all brokers had been killed and started again; and readers and groups
were given what was acknowledged, where retention allows.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.chaos.cluster import end_when_terminated
from tests.churn import clients
from tests.churn.audit import audit
from tests.churn.clients import Findings, Member, Reader, TransactionalWriter, Writer
from tests.churn.ledger import Ledger
from tests.churn.topics import CUT, KINDS, PASSING, Topic
from tests.churn.upheavals import CatalogReader, Cutter, Passing, Upheaval, create
from tests.scenarios.cluster.at_rest import await_end_of_sessions, await_quiet
from tests.scenarios.cluster.cluster import Cluster
from tests.support.etcd_process import EtcdProcess
from tests.support.s3_server import S3Server, minio_program, running_s3

BUCKET = "records"
QUIET_S, QUIET_PATIENCE_S = 10.0, 300.0
GRACE_S = 10
UPKEEP_S = 2
MARGIN_S = 10
ROUNDS_OF_GRACE = 3
"""After deaths: garbage is found, has its grace, and what the logs of ended sessions were still needed for as well."""
PASSING_AT_ONCE = 2
MEMBERS = 2
WORDS_OF_FAULTS = (" crashed", "failed unexpectedly", "offsets are lost")
SETTINGS = {
    "auto.create.topics.enable": "false",
    "bytemq.table.cache.bytes": "67108864",
    "bytemq.table.grace.ms": str(GRACE_S * 1000),
    "group.initial.rebalance.delay.ms": "200",
    "log.cleaner.backoff.ms": "1000",
    "log.retention.check.interval.ms": "1000",
    "offsets.topic.num.partitions": "6",
    "storage.garbage.grace.ms": str(GRACE_S * 1000),
    "storage.scratch.bytes": "67108864",
    "storage.upkeep.interval.ms": str(UPKEEP_S * 1000),
    "transaction.state.log.num.partitions": "6",
    # So that what is written behind, and goes, is much of it.
    "wal.memory.bytes": "67108864",
    "wal.retained.bytes": "67108864",
    "wal.retained.flushes": "256",
}
ETCD_OPTIONS = ("--auto-compaction-mode", "revision", "--auto-compaction-retention", "10000")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.churn", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0, help="of churn, before the end (default: 60)")
    parser.add_argument("--rate", type=float, default=2.0, help="MB that are produced each second, about (default: 2)")
    parser.add_argument("--upheaval", type=float, default=30.0, help="seconds between two of them, about (default: 30)")
    parser.add_argument("--audit", type=float, default=15.0, help="minutes between two audits meanwhile (default: 15)")
    parser.add_argument("--session", type=float, default=6.0, help="of brokers, in seconds (default: 6)")
    parser.add_argument("--most", type=float, default=6.0, help="GB in the folder; the churn ends there (default: 6)")
    parser.add_argument("--kind", choices=("minio", "seaweedfs"), default="minio" if minio_program() else "seaweedfs")
    parser.add_argument("--folder", type=Path, help="of everything, and logs stay (default: one that goes)")
    options = parser.parse_args()
    end_when_terminated()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="churn-"))
    findings = Findings()
    with running_cluster(folder, options) as (cluster, s3):
        Churn(cluster, s3, options, findings).go()
    for what in findings.all:
        print(f"WRONG: {what}")
    print(f"WRONG in {len(findings.all)} ways" if findings.all else "right: nothing unreferenced, missing or lost")
    if not findings.all and options.folder is None:
        shutil.rmtree(folder, ignore_errors=True)
    return int(bool(findings.all))


@contextmanager
def running_cluster(folder: Path, options: argparse.Namespace) -> Iterator[tuple[Cluster, S3Server]]:
    folder.mkdir(parents=True, exist_ok=True)
    settings = SETTINGS | {"broker.session.timeout.ms": str(int(options.session * 1000))}
    arguments = tuple(part for name, value in settings.items() for part in ("--set", f"{name}={value}"))
    etcd = EtcdProcess(folder / "etcd", options=ETCD_OPTIONS).start()
    try:
        with running_s3(folder / "s3", options.kind) as s3:
            storage = f"s3://{BUCKET}/churn"
            cluster = Cluster(folder, etcd, 3, arguments, storage=storage, environment=s3.environment)
            try:
                yield cluster.start(), s3
            finally:
                cluster.close()
                for part in ("s3", *(f"broker-{number}" for number in range(3))):
                    shutil.rmtree(folder / part, ignore_errors=True)
    finally:
        etcd.close()


class Churn:
    def __init__(self, cluster: Cluster, s3: S3Server, options: argparse.Namespace, findings: Findings) -> None:
        self._cluster, self._s3, self._options, self._findings = cluster, s3, options, findings
        self._began = time.monotonic()
        bytes_per_s = options.rate * 1e6
        self._topics = [Topic(kind, kind.name) for kind in KINDS]
        self._writers: list[Writer] = []
        self._followers: list[Reader | Member] = []
        for topic in self._topics:
            writer = TransactionalWriter if topic.kind.is_transactional else Writer
            self._writers.append(writer(topic, topic.kind.share * bytes_per_s, cluster.bootstrap, findings))
            if topic.newest is None:
                self._follow(topic)
        named = {topic.name: topic for topic in self._topics}
        share = PASSING[0].share * bytes_per_s
        self._passing = [Passing(number, cluster, share, findings) for number in range(PASSING_AT_ONCE)]
        self._cutter = Cutter(cluster, named[CUT], findings)
        self._catalog = CatalogReader(cluster, self._topics, findings)
        self._upheaval = Upheaval(cluster, options.upheaval, options.session, findings)

    def _follow(self, topic: Topic) -> None:
        bootstrap, findings = self._cluster.bootstrap, self._findings
        ledger = Ledger(f"reader of {topic.name}")
        topic.ledgers.append(ledger)
        self._followers.append(Reader(topic, ledger, bootstrap, findings))
        for protocol in topic.kind.groups:
            of_group = Ledger(f"{protocol} group of {topic.name}")
            topic.ledgers.append(of_group)
            self._followers += [
                Member(number, protocol, topic, of_group, bootstrap, findings) for number in range(MEMBERS)
            ]

    def go(self) -> None:
        for topic in self._topics:
            create(self._cluster, topic)
        for client in (*self._followers, *self._writers, *self._passing, self._cutter, self._catalog):
            client.start()
        self._upheaval.start()
        self._churn()
        self._tell("the churn ends")
        self._settle()
        self._read_again()
        self._final_audits()
        self._read_logs()

    def _churn(self) -> None:
        now = time.monotonic()
        ends_at, audit_at = now + self._options.minutes * 60, now + self._options.audit * 60
        while time.monotonic() < ends_at:
            time.sleep(min(30.0, max(0.0, ends_at - time.monotonic())))
            self._progress()
            if _size_bytes(self._cluster.folder) > self._options.most * 1e9:
                self._findings.add(f"more than {self._options.most} GB are in {self._cluster.folder}: the churn ends")
                return
            if time.monotonic() > audit_at and ends_at - time.monotonic() > 60:
                found = audit(self._cluster)
                self._tell(f"in the middle of it, {found}")
                for problem in found.problems:
                    self._findings.add(problem)
                audit_at = time.monotonic() + self._options.audit * 60

    def _settle(self) -> None:
        """Everybody comes to the end of what they do."""
        self._upheaval.stop()
        others = [*self._passing, self._cutter, self._catalog]
        for client in (*others, *self._writers):
            client.stop()
        for client in (*self._writers, *others):
            client.join()
        for topic in self._topics:
            topic.is_complete = True
        give_up_at = time.monotonic() + clients.PATIENCE_S
        ledgers = [ledger for topic in self._topics for ledger in topic.ledgers]
        while not all(ledger.is_settled() for ledger in ledgers) and time.monotonic() < give_up_at:
            time.sleep(0.2)
        for follower in self._followers:
            follower.stop()
        for follower in self._followers:
            follower.join()
        for ledger in ledgers:
            for problem in ledger.problems():
                self._findings.add(problem)
        read, let_go = (sum(getattr(one, what) for one in ledgers) for what in ("read_count", "let_go_count"))
        self._tell(f"readers and groups were given {read:,} records; {let_go:,} were let go before they came to them")

    def _read_again(self) -> None:
        """From the beginning: what is kept is there, and of compacted topics the newest of each key."""
        bootstrap, findings = self._cluster.bootstrap, self._findings
        for topic in self._topics:
            if topic.newest is not None:
                found = clients.read_newest(topic, bootstrap, findings)
                for problem in topic.newest.problems(topic.name, found):
                    findings.add(problem)
            elif topic.is_kept:
                ledger = topic.ledger_from_the_beginning()
                clients.read_into(ledger, topic, bootstrap, findings)
                for problem in ledger.problems():
                    findings.add(problem)
                self._tell(f"{topic.name}: {ledger.read_count:,} records were read from the beginning")

    def _final_audits(self) -> None:
        """With everybody at rest for longer than the time of grace; and once more when brokers have died that way."""
        self._tell(f"the store was at rest after {await_quiet(self._s3, BUCKET, QUIET_S, QUIET_PATIENCE_S):.0f} s")
        time.sleep(GRACE_S + MARGIN_S)
        while_running = audit(self._cluster, GRACE_S + MARGIN_S)
        self._tell(f"brokers running: {while_running}")
        for node in self._cluster.nodes:
            node.kill9()
        await_end_of_sessions(self._cluster)
        killed = audit(self._cluster)
        self._tell(f"brokers killed: {killed}")
        for node in self._cluster.nodes:
            node.launch()
        for node in self._cluster.nodes:
            node.wait_ready()
        time.sleep(ROUNDS_OF_GRACE * GRACE_S + MARGIN_S)
        after_all = audit(self._cluster, GRACE_S + MARGIN_S)
        self._tell(f"brokers running again: {after_all}")
        wrong = [*while_running.problems, *killed.problems, *after_all.problems]
        wrong += [f"nothing refers to {name}" for name in (*while_running.unreferenced, *after_all.unreferenced)]
        for what in dict.fromkeys(wrong):
            self._findings.add(what)
        objects = self._s3.objects(BUCKET)
        self._tell(f"in the bucket: {len(objects):,} objects, {sum(objects.values()) / 1e6:.0f} MB")

    def _read_logs(self) -> None:
        """Whatever troubles there were: nothing that a broker wrote says that it is wrong itself."""
        for node in self._cluster.nodes:
            for line in node.log_path.read_text(errors="replace").splitlines():
                if any(words in line for words in WORDS_OF_FAULTS):
                    self._findings.add(f"{node.log_path.name}: {line[:300]}")

    def _progress(self) -> None:
        written = sum(topic.acknowledged_count for topic in self._topics)
        written_bytes = sum(topic.acknowledged_bytes for topic in self._topics)
        objects = self._s3.objects(BUCKET)
        tables = sum("/tables/" in name for name in objects)
        unread = sum(not ledger.is_settled() for topic in self._topics for ledger in topic.ledgers)
        self._tell(
            f"{written:,} records acknowledged ({written_bytes / 1e6:.0f} MB), "
            f"{sum(one.is_alive() for one in self._writers)} writers, {unread} followers behind, "
            f"{sum(one.deleted for one in self._passing)} topics made and deleted, {self._cutter.done} cuts, "
            f"{self._catalog.answered} tables asked for; {_told(self._upheaval.done)}; "
            f"{len(objects):,} objects ({tables} Parquet), {sum(objects.values()) / 1e6:.0f} MB; "
            f"clients met {_told(self._findings.met)}; brokers ended: {_told(self._upheaval.endings)}"
        )

    def _tell(self, what: str) -> None:
        print(
            f"{time.strftime('%H:%M:%S')} {time.monotonic() - self._began:5.0f} s, load {os.getloadavg()[0]:4.1f}, "
            f"{threading.active_count()} threads: {what}",
            flush=True,
        )


def _told(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items())) or "nothing"


def _size_bytes(folder: Path) -> int:
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(parent, name)).st_size
            except FileNotFoundError:  # it went meanwhile
                continue
    return total


if __name__ == "__main__":
    sys.exit(main())
