"""Three brokers in three zones, three members of etcd, an S3 server, and a link on every way between them.

Owns: the processes and their life; what ended by itself is started again, as a supervisor would. Must not: decide what
is done to them.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType

from tests.chaos.clock import FakeClock
from tests.chaos.links import Link, Links, running_links
from tests.scenarios.cluster.cluster import PATIENCE_S, Reachable, until
from tests.support.etcd_process import EtcdProcess, running_etcd
from tests.support.node_process import NodeProcess, free_port
from tests.support.s3_server import S3Server, running_s3

BROKERS = 3
LEASE_S = 3.0
"""What brokers have by default."""
LATE = "PRODUCERS"
STRICT = "TRANSACTIONS"
READING = "CONSUMERS"
PEERS = "BROKERS"
LISTENERS = (LATE, STRICT, READING, PEERS)
"""Each kind of client has a listener, and so a link, of its own: what is held up on the first comes late."""
NEWS = ("session lost", " is ready on ")
SETTINGS = {
    "inter.broker.listener.name": PEERS,
    "group.initial.rebalance.delay.ms": "200",
    "group.consumer.min.session.timeout.ms": "6000",
    "group.consumer.session.timeout.ms": "6000",
    "group.consumer.min.heartbeat.interval.ms": "1000",
    "group.consumer.heartbeat.interval.ms": "1000",
    "offsets.topic.num.partitions": "6",
    "transaction.state.log.num.partitions": "6",
    # So that what is written behind, and goes, is part of it.
    "wal.retained.flushes": "64",
    "storage.upkeep.interval.ms": "1000",
    "storage.garbage.grace.ms": "10000",
    "storage.segment.bytes": "65536",
    # And what is read comes from the store.
    "wal.memory.bytes": "8388608",
}


class ChaosBroker:
    """A broker and the ways to and from it."""

    def __init__(self, node: NodeProcess, zone: str, listeners: dict[str, Link], etcd: list[Link], store: Link) -> None:
        self.node = node
        self.zone = zone
        self.listeners = listeners
        self.etcd = etcd
        self.store = store
        self.wanted = True
        """Whether it is started when it has ended."""

    @property
    def links(self) -> list[Link]:
        return [*self.listeners.values(), *self.etcd, self.store]


class Way(Reachable):
    """The cluster, as clients that use one listener see it."""

    def __init__(self, brokers: Sequence[ChaosBroker], listener: str) -> None:
        self._brokers = brokers
        self._listener = listener

    @property
    def bootstrap(self) -> str:
        return ",".join(broker.listeners[self._listener].address for broker in self._brokers)


class ChaosCluster:
    """Use `running_cluster`."""

    def __init__(
        self,
        folder: Path,
        etcd: list[EtcdProcess],
        s3: S3Server,
        links: Links,
        clock: FakeClock | None,
        lease_s: float,
        wrapper: Sequence[str] = (),
    ) -> None:
        self.folder = folder
        self.etcd = etcd
        self.s3 = s3
        self.links = links
        self.clock = clock
        """Of the last broker; None: clocks cannot be changed here."""
        self.lease_s = lease_s
        """Of a broker's session."""
        self._wrapper = list(wrapper)
        self.brokers = [self._broker(number) for number in range(BROKERS)]
        self.endings: list[str] = []
        """What brokers said that ended by themselves."""
        self.restless_at = 0.0
        """When a broker was last seen to have lost its session or to be ready again, by the monotonic clock."""
        self._news = 0
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._supervisor = threading.Thread(target=self._supervise, name="supervisor", daemon=True)

    def way(self, listener: str) -> Way:
        return Way(self.brokers, listener)

    def _broker(self, number: int) -> ChaosBroker:
        ports = {name: free_port() for name in LISTENERS}
        listeners = {
            name: self.links.to(f"127.0.0.1:{port}", delivers_late=name == LATE) for name, port in ports.items()
        }
        etcd = [self.links.to(member.endpoint, delivers_late=True) for member in self.etcd]
        store = self.links.to(f"127.0.0.1:{self.s3.port}", delivers_late=True)
        zone = "abc"[number % 3]
        options = ["--id", str(number), "--zone", zone, "--storage", "s3://chaos/records"]
        options += ["--metadata", f"etcd://{','.join(link.address for link in etcd)}/chaos"]
        for name, link in listeners.items():
            options += ["--advertise", f"{name}://{link.address}"]
        session = {"broker.session.timeout.ms": str(int(self.lease_s * 1000))}
        for name, value in (SETTINGS | session).items():
            options += ["--set", f"{name}={value}"]
        environment = {**self.s3.environment, "AWS_ENDPOINT_URL": f"http://{store.address}"}
        if self.clock is not None and number == BROKERS - 1:
            environment |= self.clock.environment
        node = NodeProcess(
            self.folder / f"broker-{number}",
            listen=[f"{name}://127.0.0.1:{port}" for name, port in ports.items()],
            port=ports[STRICT],
            options=options,
            environment=environment,
            wrapper=self._wrapper,
        )
        return ChaosBroker(node, zone, listeners, etcd, store)

    def start(self) -> None:
        for broker in self.brokers:
            broker.node.launch()
        for broker in self.brokers:
            broker.node.wait_ready(PATIENCE_S)
        self._supervisor.start()

    def heal(self) -> None:
        """Every process runs, and every way is open. Returns when all brokers are known to each other."""
        self.links.heal()
        if self.clock is not None:
            self.clock.set(0)
        for member in self.etcd:
            if not member.is_running():
                member.launch()
            member.signal(signal.SIGCONT)
        if not self.s3.is_running():
            self.s3.start()
        self.s3.signal(signal.SIGCONT)
        for broker in self.brokers:
            self.start_broker(broker)
            self.signal_broker(broker, signal.SIGCONT)

    def kill_broker(self, broker: ChaosBroker) -> None:
        with self._lock:
            broker.wanted = False
            if broker.node.is_running():
                broker.node.kill9()

    def start_broker(self, broker: ChaosBroker) -> None:
        with self._lock:
            broker.wanted = True
            if not broker.node.is_running():
                broker.node.launch()

    def signal_broker(self, broker: ChaosBroker, number: signal.Signals) -> None:
        with self._lock:
            if broker.node.is_running():
                broker.node.signal(number)

    def log_tails(self) -> str:
        return "\n".join(f"{broker.node.log_path}:\n{broker.node.log()[-2000:]}" for broker in self.brokers)

    def _supervise(self) -> None:
        while not self._closing.wait(0.5):
            news = sum(broker.node.log().count(words) for broker in self.brokers for words in NEWS)
            if news != self._news:
                self._news, self.restless_at = news, time.monotonic()
            with self._lock:
                for broker in self.brokers:
                    if broker.wanted and not broker.node.is_running():
                        self.endings.append(_last_line(broker.node.log()))
                        broker.node.launch()

    def close(self) -> None:
        self._closing.set()
        if self._supervisor.is_alive():
            self._supervisor.join()
        for broker in self.brokers:
            self.kill_broker(broker)


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "without a word"


@contextmanager
def running_cluster(
    folder: Path, seed: int, lease_s: float = LEASE_S, wrapper: Sequence[str] = ()
) -> Iterator[ChaosCluster]:
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as parts:
        etcd = parts.enter_context(running_etcd(folder, 3))
        s3 = parts.enter_context(running_s3(folder / "s3"))
        links = parts.enter_context(running_links(seed))
        cluster = ChaosCluster(folder, etcd, s3, links, FakeClock.where_possible(folder / "clock"), lease_s, wrapper)
        parts.callback(cluster.close)
        cluster.start()
        yield cluster


def end_when_terminated() -> None:
    """So that no process is left behind."""

    def end(number: int, frame: FrameType | None) -> None:
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, end)


def planted_wrapper(name: str) -> list[str]:
    """What runs a broker with that bug in it."""
    return [sys.executable, "-m", "tests.chaos.planted", name]


def leading(members: Sequence[EtcdProcess], patience_s: float = PATIENCE_S) -> EtcdProcess:
    def leader() -> EtcdProcess | None:
        return next((member for member in members if member.is_running() and member.leads()), None)

    found: EtcdProcess = until(leader, "a member of etcd leads", patience_s)
    return found
