"""What a broker tells of its cluster at each scrape: its session, who lives, what moves, how etcd is.

Owns the reading, under names documented in docs/metrics.md, and asking the members of etcd now and then.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, runtime_checkable

from bytemq.metadata.image import ClusterImage
from bytemq.metadata.values import NO_BROKER
from bytemq.runtime.clock import Clock
from bytemq.runtime.metrics import Metrics
from bytemq.scheduler.controller import Controller
from bytemq.scheduler.membership import Membership

ASK_MEMBERS_S = 15.0


class Member(Protocol):
    @property
    def endpoint(self) -> str: ...
    @property
    def size_bytes(self) -> int: ...
    @property
    def alarms(self) -> Sequence[str]: ...
    @property
    def problem(self) -> str: ...


@runtime_checkable
class HasMembers(Protocol):
    """A metadata store of several members: etcd."""

    async def members(self) -> Sequence[Member]: ...


def register(
    metrics: Metrics, image: Callable[[], ClusterImage], membership: Membership, controller: Controller
) -> None:
    """Once per node."""
    me = membership.broker_id
    metrics.gauge("bytemq_brokers", "Brokers whose sessions live", lambda: len(image().brokers))
    metrics.gauge("bytemq_controller", "1 on the controller", lambda: image().controller_id == me)
    metrics.gauge("bytemq_session_stands", "1 while this broker may answer", membership.standing.holds)
    metrics.gauge("bytemq_session_renewal_seconds", "The last renewal took", lambda: membership.renewal_s)
    metrics.gauge("bytemq_session_renewals_failed_total", "Without an answer", lambda: membership.failed_renewals)
    metrics.gauge("bytemq_partitions_unowned", "Without a live owner", lambda: _unowned(image()))
    metrics.gauge("bytemq_moves_total", "Partitions that this controller moved", lambda: controller.moved)


def _unowned(image: ClusterImage) -> int:
    return sum(partition.owner == NO_BROKER for topic in image.topics.values() for partition in topic.partitions)


class MemberWatch:
    """Asks the members of etcd for size and alarms; `run` it as a task."""

    def __init__(self, ask: Callable[[], Awaitable[Sequence[Member]]], clock: Clock) -> None:
        self._ask = ask
        self._clock = clock
        self._members: Sequence[Member] = ()

    def register(self, metrics: Metrics) -> None:
        metrics.gauges(
            "bytemq_etcd_size_bytes",
            "Of a member's database",
            ("endpoint",),
            lambda: [((member.endpoint,), member.size_bytes) for member in self._members if not member.problem],
        )
        metrics.gauges(
            "bytemq_etcd_alarms",
            "Raised by a member",
            ("endpoint",),
            lambda: [((member.endpoint,), len(member.alarms)) for member in self._members if not member.problem],
        )
        metrics.gauge(
            "bytemq_etcd_members_silent",
            "Members that did not answer",
            lambda: sum(bool(member.problem) for member in self._members),
        )

    async def run(self) -> None:
        while True:
            self._members = await self._ask()
            await self._clock.sleep(ASK_MEMBERS_S)
