"""What is done to the cluster: which troubles there are, and which come when, by seed.

Owns: the plan, a pure function of the seed, and doing and undoing it. Must not: look at what clients see.
"""

from __future__ import annotations

import heapq
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from random import Random
from typing import NamedTuple

from tests.chaos.cluster import LISTENERS, PEERS, ChaosBroker, ChaosCluster, leading
from tests.chaos.links import ANSWERS, REQUESTS, Link
from tests.support.etcd_process import EtcdProcess

PACES_S = (1.5, 3.0, 6.0)
"""Mean times between the beginnings of two troubles."""

Undo = Callable[[], object]


class Trouble(NamedTuple):
    at_s: float
    lasts_s: float
    name: str
    broker: int
    detail: float
    """From 0 to 1; what it decides is the trouble's own."""

    def __str__(self) -> str:
        return f"{self.name}, broker {self.broker}, {self.lasts_s:g} s"


def plan(seed: int, seconds: float, lease_s: float) -> list[Trouble]:
    """In order of their beginnings. All end by themselves, some after `seconds`. `lease_s`: of a broker's session."""
    random = Random(f"troubles {seed}")
    pace_s = random.choice(PACES_S)
    # Each seed has its favourites, so that some things come together that seldom would.
    weights = [kind.weight * random.choice((0, 1, 1, 3)) for kind in KINDS.values()]
    planned = []
    at_s = 0.0
    while (at_s := at_s + random.expovariate(1 / pace_s)) < seconds:
        [name] = random.choices(list(KINDS), weights if any(weights) else None)
        kind = KINDS[name]
        lasts_s = random.choice([*kind.lasts_s, *(lease_s + more_s for more_s in kind.beyond_lease_s)])
        planned.append(Trouble(at_s, lasts_s, name, random.randrange(3), random.random()))
    return planned


def inflict(cluster: ChaosCluster, troubles: list[Trouble], seconds: float, note: Callable[[str], None]) -> None:
    """Does and undoes them, each at its time; those that are not over after `seconds` are left to `cluster.heal`."""
    began = time.monotonic()
    ordered: list[tuple[float, int, str, Callable[[], None]]] = []

    def begin(number: int, trouble: Trouble) -> None:
        undo = KINDS[trouble.name].act(cluster, trouble)
        heapq.heappush(ordered, (trouble.at_s + trouble.lasts_s, number, f"over: {trouble}", undo))

    for number, trouble in enumerate(troubles):
        action = lambda number=number, trouble=trouble: begin(number, trouble)  # noqa: E731
        heapq.heappush(ordered, (trouble.at_s, number, str(trouble), action))
    while ordered and ordered[0][0] < seconds:
        at_s, _, words, act = heapq.heappop(ordered)
        time.sleep(max(0.0, began + at_s - time.monotonic()))
        note(words)
        act()
    time.sleep(max(0.0, began + seconds - time.monotonic()))


# Processes.


def _kill_broker(cluster: ChaosCluster, trouble: Trouble) -> Undo:
    broker = cluster.brokers[trouble.broker]
    cluster.kill_broker(broker)
    return lambda: cluster.start_broker(broker)


def _stop_broker(cluster: ChaosCluster, trouble: Trouble) -> Undo:
    broker = cluster.brokers[trouble.broker]
    cluster.signal_broker(broker, signal.SIGSTOP)
    return lambda: cluster.signal_broker(broker, signal.SIGCONT)


def _restart_broker(cluster: ChaosCluster, trouble: Trouble) -> Undo:
    """As an operator does it: asked to stop, and started again."""
    broker = cluster.brokers[trouble.broker]
    broker.wanted = False
    cluster.signal_broker(broker, signal.SIGTERM)

    def start() -> None:
        cluster.kill_broker(broker)  # one that is still stopping
        cluster.start_broker(broker)

    return start


def _kill_etcd(cluster: ChaosCluster, trouble: Trouble) -> Undo:
    """One member, the leader in half of the cases."""
    if trouble.detail < 0.5:
        with suppress(AssertionError):
            return _etcd_away(leading(cluster.etcd, patience_s=0.5))
    return _etcd_away(cluster.etcd[int(trouble.detail * 300) % 3])


def _etcd_away(member: EtcdProcess) -> Undo:
    member.close()

    def start() -> None:
        if not member.is_running():
            member.launch()

    return start


def _stop_etcd(cluster: ChaosCluster, trouble: Trouble) -> Undo:
    member = cluster.etcd[int(trouble.detail * 3)]
    member.signal(signal.SIGSTOP)
    return lambda: member.signal(signal.SIGCONT)


def _double_death(cluster: ChaosCluster, trouble: Trouble) -> Undo:
    """A broker and the leading member of etcd, at the same time."""
    undo_broker = _kill_broker(cluster, trouble)
    undo_etcd = _kill_etcd(cluster, trouble._replace(detail=0.0))
    return lambda: (undo_broker(), undo_etcd())


def _restart_store(cluster: ChaosCluster, trouble: Trouble) -> Undo:
    cluster.s3.close()
    return cluster.s3.launch


def _stop_store(cluster: ChaosCluster, trouble: Trouble) -> Undo:
    cluster.s3.signal(signal.SIGSTOP)
    return lambda: cluster.s3.signal(signal.SIGCONT)


def _jump_clock(cluster: ChaosCluster, trouble: Trouble) -> Undo:
    """Of the last broker, by up to 50 minutes: beyond an hour Kafka refuses its clients' timestamps."""
    clock = cluster.clock
    if clock is None:
        return lambda: None
    clock.set(int((trouble.detail - 0.5) * 6000))
    return lambda: clock.set(0)


# Ways.


def _hurt(links: list[Link], detail: float) -> Undo:
    """Cut, held up in one direction or both, or answers lost."""
    ways: list[Callable[[Link], None]] = [
        Link.cut,
        lambda link: link.hold(REQUESTS, ANSWERS),
        lambda link: link.hold(REQUESTS),
        lambda link: link.hold(ANSWERS),
        Link.lose_answers,
    ]
    hurt = ways[int(detail * 1000) % len(ways)]
    for link in links:
        hurt(link)
    return lambda: [link.heal() for link in links]


def _cut_etcd(cluster: ChaosCluster, trouble: Trouble) -> Undo:
    return _hurt(cluster.brokers[trouble.broker].etcd, trouble.detail)


def _cut_one_etcd(cluster: ChaosCluster, trouble: Trouble) -> Undo:
    """The way to one member only; others answer."""
    return _hurt([cluster.brokers[trouble.broker].etcd[int(trouble.detail * 3)]], trouble.detail)


def _cut_store(cluster: ChaosCluster, trouble: Trouble) -> Undo:
    return _hurt([cluster.brokers[trouble.broker].store], trouble.detail)


def _cut_clients(cluster: ChaosCluster, trouble: Trouble) -> Undo:
    listeners = cluster.brokers[trouble.broker].listeners
    return _hurt([link for name, link in listeners.items() if name != PEERS], trouble.detail)


def _cut_some_clients(cluster: ChaosCluster, trouble: Trouble) -> Undo:
    name = LISTENERS[int(trouble.detail * len(LISTENERS))]
    return _hurt([cluster.brokers[trouble.broker].listeners[name]], trouble.detail)


def _cut_peers(cluster: ChaosCluster, trouble: Trouble) -> Undo:
    return _hurt([broker.listeners[PEERS] for broker in cluster.brokers], trouble.detail)


def _isolate(cluster: ChaosCluster, trouble: Trouble) -> Undo:
    """From the cluster; clients still reach it."""
    broker = cluster.brokers[trouble.broker]
    return _hurt([*broker.etcd, broker.store, broker.listeners[PEERS]], trouble.detail)


def _vanish(cluster: ChaosCluster, trouble: Trouble) -> Undo:
    """For everybody."""
    return _hurt(cluster.brokers[trouble.broker].links, trouble.detail)


def _slow(links: list[Link], detail: float) -> Undo:
    for link in links:
        link.delay((0.02, 0.2, 1.0)[int(detail * 3)])
    return lambda: [link.heal() for link in links]


def _slow_broker(cluster: ChaosCluster, trouble: Trouble) -> Undo:
    return _slow(cluster.brokers[trouble.broker].links, trouble.detail / 1.5)


def _slow_store(cluster: ChaosCluster, trouble: Trouble) -> Undo:
    return _slow([broker.store for broker in cluster.brokers], trouble.detail)


def _unavailable_store(cluster: ChaosCluster, trouble: Trouble) -> Undo:
    """503 to all, or to one broker; always, or on half of its connections."""
    brokers: list[ChaosBroker] = cluster.brokers
    if trouble.detail < 0.5:
        brokers = [brokers[trouble.broker]]
    links = [broker.store for broker in brokers]
    for link in links:
        link.be_unavailable(0.5 if int(trouble.detail * 100) % 2 else 1.0)
    return lambda: [link.heal() for link in links]


class Kind(NamedTuple):
    weight: int
    act: Callable[[ChaosCluster, Trouble], Undo]
    lasts_s: tuple[float, ...]
    beyond_lease_s: tuple[float, ...] = ()


KINDS: dict[str, Kind] = {
    "broker killed": Kind(4, _kill_broker, (0.2, 4.0, 8.0)),
    "broker stopped": Kind(6, _stop_broker, (1.0,), (0.3, 1.5, 4.0)),
    "broker restarted": Kind(2, _restart_broker, (5.0,)),
    "etcd killed": Kind(2, _kill_etcd, (0.5, 5.0)),
    "etcd stopped": Kind(2, _stop_etcd, (1.0, 5.0)),
    "broker and etcd's leader killed": Kind(1, _double_death, (3.0, 6.0)),
    "store killed": Kind(1, _restart_store, (0.2, 3.0)),
    "store stopped": Kind(1, _stop_store, (1.0, 4.0)),
    "store says 503": Kind(3, _unavailable_store, (1.0, 4.0, 8.0)),
    "store slow": Kind(2, _slow_store, (2.0, 6.0)),
    "clock jumps": Kind(1, _jump_clock, (3.0, 8.0)),
    "cut from etcd": Kind(3, _cut_etcd, (1.0, 2.5), (2.0,)),
    "cut from a member of etcd": Kind(2, _cut_one_etcd, (1.0, 6.0)),
    "cut from the store": Kind(3, _cut_store, (1.0, 4.0, 8.0)),
    "cut from clients": Kind(3, _cut_clients, (0.5, 3.0, 6.0)),
    "cut from some clients": Kind(3, _cut_some_clients, (0.5, 3.0, 6.0)),
    "brokers cut from each other": Kind(2, _cut_peers, (1.0, 5.0)),
    "cut from the cluster": Kind(2, _isolate, (2.0,), (2.0,)),
    "cut from everybody": Kind(2, _vanish, (2.0,), (2.0,)),
    "slow": Kind(2, _slow_broker, (2.0, 6.0)),
}
