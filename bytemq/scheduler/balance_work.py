"""What the balancer sees, gathered from the brokers' reports; and the record of what it did.

Owns: remembering rates over moves, and the list of last moves. Must not: decide (`balance.py`, `health.py`), or write
wishes (`controller.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bytemq.metadata import keys
from bytemq.metadata.follower import ImageFollower
from bytemq.metadata.image import ClusterImage
from bytemq.metadata.loads import LoadReport, Rates
from bytemq.metadata.moves import MOST, RecordedMove, encode_moves
from bytemq.metadata.store import Compare, MetadataStore, Put
from bytemq.runtime.clock import Clock
from bytemq.runtime.steps import Steps
from bytemq.runtime.turns import in_turns
from bytemq.scheduler.balance import Balancer
from bytemq.scheduler.board import BrokerState, Move
from bytemq.scheduler.health import HealthWatch
from bytemq.scheduler.planner import broker_states, placed_partitions
from bytemq.scheduler.reports import last_moves, load_reports
from bytemq.types import PartitionId

MEASURED_AFTER_S = 15.0
"""So long after a move the rates from before it are believed: the new owner's begin at nothing."""


class BalanceWork:
    """One per controller; what it remembers is gone with it, and built up again within seconds."""

    def __init__(self, store: MetadataStore, follower: ImageFollower, clock: Clock) -> None:
        self._store = store
        self._follower = follower
        self._clock = clock
        self.forget()

    def forget(self) -> None:
        """Another one is the controller."""
        self._balancer = Balancer()
        self._health = HealthWatch()
        self._rates: dict[PartitionId, Rates] = {}
        self._homes: dict[PartitionId, str] = {}
        self._moved_at: dict[PartitionId, float] = {}

    async def look(self, now: float) -> list[Move]:
        reports = await load_reports(self._store)
        image = self._follower.image
        self._take_rates(now, reports)
        sick = self._health.look(reports)
        moves = await in_turns(self._plan(now, image, broker_states(image, sick)))
        self._moved_at.update((move.partition, now) for move in moves)
        return moves

    def _plan(self, now: float, image: ClusterImage, brokers: Mapping[int, BrokerState]) -> Steps[list[Move]]:
        placed = yield from placed_partitions(image, self._rates, self._homes)
        return (yield from self._balancer.plan_in_steps(now, placed, brokers))

    async def record(self, moves: Sequence[Move]) -> None:
        """Adds to the last moves, for people; one that another controller writes at the same time may be missing."""
        before, revision = await last_moves(self._store)
        topics = self._follower.image.topics_by_id
        wall_ms = self._clock.wall_ms()
        new = [
            RecordedMove(wall_ms, topics[topic_id].name, index, source, target, reason)
            for (topic_id, index), source, target, reason in moves[-MOST:]
            if topic_id in topics
        ]
        unchanged = Compare(keys.MOVES, revision)
        await self._store.txn([unchanged], [Put(keys.MOVES, encode_moves([*before, *new]))])

    def _take_rates(self, now: float, reports: dict[int, LoadReport]) -> None:
        self._moved_at = {one: at for one, at in self._moved_at.items() if now - at < MEASURED_AFTER_S}
        rates = {partition: rate for report in reports.values() for partition, rate in report.partitions.items()}
        rates.update((one, self._rates[one]) for one in self._moved_at if one in self._rates)
        self._rates = rates
        self._homes = {partition: zone for report in reports.values() for partition, zone in report.homes.items()}
