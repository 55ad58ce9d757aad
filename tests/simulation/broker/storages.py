"""What the brokers of a simulation keep their logs in: an ideal log storage, or the real one of a cluster.

Both take their time and fail within their contracts. A `NodeStorage` is one process's way to it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Protocol

from bytemq.broker.log.partition import Partition
from bytemq.errors import BytemqError, Fenced, Unavailable
from bytemq.node.foundation import Foundation
from bytemq.runtime.tasks import Supervisor
from bytemq.scheduler.membership import SessionLost
from bytemq.storage.cluster_storage import ClusterStorage, Session
from bytemq.storage.logs import Logs
from bytemq.storage.pools.pooled_store import PooledStore
from bytemq.storage.stores.remote import RemoteStore, RetryPolicy
from tests.simulation.broker.loop import NOBODY
from tests.simulation.failing_log_storage import FailingLogStorage
from tests.simulation.transcript import Transcript
from tests.support.failing_driver import FailingDriver
from tests.support.fake_log_storage import Disk
from tests.unit.storage.cluster.cluster_bench import SMALL

if TYPE_CHECKING:
    from tests.simulation.broker.node import Node

_CONFIG = replace(
    SMALL, wal_flush_interval_ms=20, retry_delay_ms=20, storage_upkeep_interval_ms=1000, coordinator_extents=6
)
_RETRIES = RetryPolicy(attempts=3, timeout_s=2.0)
_LATENCIES_S = (0.0, 0.001, 0.01, 0.03)
_LATE_S = (0.05, 0.5, 4.0)
"""How long after its caller gave up a request to the store may be carried out."""
_FAULTS = ("refused", "torn", "twice", "late", "cut")
Objects = dict[str, tuple[bytes, str]]


class NodeStorage(Protocol):
    """`sickness` is the chance of whatever it does to fail."""

    sickness: float

    async def open(self, base: Foundation) -> Logs: ...
    def checkpoint(self, partition: Partition) -> None: ...
    def crash(self) -> None:
        """The process dies now."""


class IdealStorage:
    """Implements NodeStorage by a log storage without files: appends in flushes, and nothing beside."""

    def __init__(self, disk: Disk, random: Random, history: Transcript, sickness: float) -> None:
        self._logs = FailingLogStorage(disk, random, history, sickness)

    @property
    def sickness(self) -> float:
        return self._logs.sickness

    @sickness.setter
    def sickness(self, sickness: float) -> None:
        self._logs.sickness = sickness

    async def open(self, base: Foundation) -> Logs:
        return self._logs  # type: ignore[return-value]

    def checkpoint(self, partition: Partition) -> None:
        self._logs.checkpoint(partition._files)  # type: ignore[arg-type]

    def crash(self) -> None:
        self._logs.crash()


class SharedStorage:
    """Implements NodeStorage by the real storage of a cluster over an object store that fails as those do."""

    def __init__(self, node: Node, objects: Objects, sickness: float, on_flush: Callable[[], None]) -> None:
        """`on_flush` is told when a flush is in the store, not yet committed."""
        self.sickness = sickness
        self._node = node
        self._random = node.random
        self._driver = _SlowDriver(node.random, objects, on_flush)
        self._driver.fault = self._fault
        self._logs: ClusterStorage | None = None

    async def open(self, base: Foundation) -> Logs:
        self._logs = await ClusterStorage.open(
            PooledStore(RemoteStore(self._driver, base.clock, base.random, _RETRIES), base.clock),
            base.store,
            session=Session(base.broker_id, base.membership.session_id),
            config=_CONFIG,
            clock=base.clock,
            random=base.random,
            supervisor=Supervisor(base.clock, partial(_failed, base.fail)),
        )
        return self._logs

    def checkpoint(self, partition: Partition) -> None:
        if self._logs is not None:
            self._node.process.start(_attempt(self._logs))

    def crash(self) -> None:
        """What it has sent to the store is carried out, maybe a while later."""

    def _fault(self, operation: str, name: str) -> str | None:
        if self._random.random() >= self.sickness:
            return None
        fault = self._random.choice(_FAULTS)
        if fault == "late":
            loop = asyncio.get_running_loop()
            loop.call_later(self._random.choice(_LATE_S), self._driver.settle, context=NOBODY)
        return fault


class _SlowDriver(FailingDriver):
    def __init__(self, random: Random, objects: Objects, on_flush: Callable[[], None]) -> None:
        super().__init__(objects=objects)
        self._random = random
        self._on_flush = on_flush

    async def _attempt(
        self, operation: str, name: str, act: Callable[[], object], half: Callable[[], object] | None = None
    ) -> object:
        self.latency_s = self._random.choice(_LATENCIES_S)
        result = await super()._attempt(operation, name, act, half)
        if operation == "put" and name.endswith(".flush"):
            self._on_flush()
        return result


async def _attempt(logs: ClusterStorage) -> None:
    try:
        await logs.checkpoint()
    except (Unavailable, Fenced):
        return


def _failed(fail: Callable[[str, BaseException], None], name: str, error: BytemqError | BaseException) -> None:
    """As in a node: storage may be the first to notice that the session has ended."""
    fail(name, SessionLost(str(error)) if isinstance(error, Fenced) else error)
