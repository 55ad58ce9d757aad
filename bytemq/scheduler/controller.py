"""The controller: one of the nodes, elected, that writes the planner's wishes.

Owns: the election, the looks at the load, the writing, and the end of owners that do not release in time. Must not:
touch owners' facts; it only requests. Every write compares the controller's own key, so one that was replaced cannot
write, and the chunk that it read, so it never undoes what it has not seen.

Partitions without a live broker are placed as soon as the image shows them. Everything else is for the balancer, which
looks about once a second, and the less often the longer a look takes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence

from bytemq.errors import Unavailable
from bytemq.metadata import keys, values
from bytemq.metadata.doubts import Doubts
from bytemq.metadata.follower import ImageFollower
from bytemq.metadata.image import ImageChange
from bytemq.metadata.store import Compare, MetadataStore, Put
from bytemq.metadata.values import NO_BROKER
from bytemq.runtime.clock import Clock
from bytemq.runtime.logging import get_logger
from bytemq.runtime.steps import Pace, Steps
from bytemq.runtime.turns import in_turns
from bytemq.scheduler.balance_work import BalanceWork
from bytemq.scheduler.board import Move
from bytemq.scheduler.lateness import Lateness
from bytemq.scheduler.membership import Membership
from bytemq.scheduler.planner import Wishes, homes_of, late_owners, plan, wishes_of
from bytemq.types import TopicId

log = get_logger("scheduler.controller")

CHUNKS_PER_TRANSACTION = 100
RETRY_DELAY_S = 0.2
LOOK_S = 1.0
LOOK_SHARE = 0.05
"""Most of a broker's time that looking may take."""
START_GRACE_S = 5.0
"""How long a broker that was not seen since this node started is waited for."""
BETWEEN_REMOVALS_S = 60.0
"""Sessions are removed one at a time: when all are late, it is what they share that is slow."""


class Controller:
    """Stands for election under its broker's lease, and plans whenever the image changes while it is elected."""

    def __init__(
        self,
        store: MetadataStore,
        follower: ImageFollower,
        membership: Membership,
        clock: Clock,
        *,
        may_control: bool = True,
    ) -> None:
        """Without `may_control` it never stands; it follows, so that nothing else need know of it."""
        self._may_control = may_control
        self._store = store
        self._follower = follower
        self._membership = membership
        self._clock = clock
        self._balance = BalanceWork(store, follower, clock)
        self._doubts = Doubts(store, clock, membership.broker_id, membership.lease)
        self._lateness = Lateness()
        self._removed_at = -BETWEEN_REMOVALS_S
        self.moved = 0
        """Partitions that were given another broker since this node started."""
        self._seen = set(follower.image.brokers)
        """Brokers that lived at any time since this node started."""
        self._awaits_until = clock.monotonic() + START_GRACE_S
        clock.call_later(START_GRACE_S, self._grace_is_over)
        self._changed = asyncio.Event()
        self._changed.set()
        self._unplanned: set[TopicId] = set(follower.image.topics_by_id)
        follower.subscribe(self._on_change)

    async def run(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            try:
                await self._step()
            except Unavailable as error:
                log.warning("planning waits for the metadata store", reason=str(error))
                await self._clock.sleep(RETRY_DELAY_S)
                self._changed.set()

    async def run_looks(self) -> None:
        """Evens out the load while this one is elected."""
        delay_s = LOOK_S
        while True:
            await self._clock.sleep(delay_s)
            office = self._office()
            if office is None or len(self._follower.image.brokers) < 2:
                self._balance.forget()
                self._lateness.forget()
                continue
            started_at = self._clock.monotonic()
            try:
                await self._look(started_at, office)
            except Unavailable as error:
                log.warning("balancing waits for the metadata store", reason=str(error))
            delay_s = max(LOOK_S, (self._clock.monotonic() - started_at) / LOOK_SHARE)

    async def _look(self, now: float, office: Compare) -> None:
        moves = await self._balance.look(now)
        if moves:
            log.info("moving partitions", count=len(moves), reason=moves[0].reason)
            await self._write(office, await in_turns(wishes_of(self._follower.image, moves)), moves)
        await self._end_late_owners(now, office)

    async def _end_late_owners(self, now: float, office: Compare) -> None:
        """An owner that does not release in time loses its session, and with it all that it owns."""
        image = self._follower.image
        late = await in_turns(late_owners(image))
        overdue = await in_turns(self._lateness.look(now, late))
        broker = next((image.brokers[owner] for owner in overdue if owner in image.brokers), None)
        if broker is None or now - self._removed_at < BETWEEN_REMOVALS_S:
            return
        self._removed_at = now
        log.error(
            "an owner does not release its partitions: its session ends", broker=broker.id, late=overdue[broker.id]
        )
        await self._doubts.end(broker, [office])

    def _office(self) -> Compare | None:
        """What holds as long as this one is the controller; None: it is not. To be taken before anything is planned,
        and compared when that is written: meanwhile the image may show another controller.
        """
        image = self._follower.image
        is_mine = image.controller_id == self._membership.broker_id
        return Compare(keys.CONTROLLER, image.key_revision(keys.CONTROLLER)) if is_mine else None

    async def stand(self) -> None:
        """Becomes the controller unless there is one, if it may. Clients expect to find one: a node stands before it
        serves.
        """
        if not self._may_control:
            return
        me = self._membership
        session = Compare(keys.broker(me.broker_id), me.session_id)
        mine = Put(keys.CONTROLLER, values.encode_number(me.broker_id), me.lease)
        elected = await self._store.txn([session, Compare(keys.CONTROLLER, 0)], [mine])
        if elected.succeeded:
            await self._follower.wait_for(elected.revision)
            log.info("elected controller", broker=me.broker_id)

    def _grace_is_over(self) -> None:
        self._changed.set()

    def _awaited(self) -> set[int]:
        """When a whole cluster starts, those who come later find their partitions waiting for them."""
        if self._clock.monotonic() >= self._awaits_until:
            return set()
        counts = self._follower.image.assigned_counts
        return {broker for broker, count in counts.items() if count and broker != NO_BROKER} - self._seen

    def _on_change(self, change: ImageChange) -> None:
        self._seen |= self._follower.image.brokers.keys()
        known = self._follower.image.topics_by_id
        self._unplanned |= change.topics
        if change.deleted:  # who is never elected would remember them for ever
            self._unplanned.difference_update([topic_id for topic_id in change.topics if topic_id not in known])
        if change.doubts:
            self._unplanned.update(known)
        if change.topics or change.brokers or change.doubts or self._follower.image.key_revision(keys.CONTROLLER) == 0:
            self._changed.set()

    async def _step(self) -> None:
        image = self._follower.image
        if image.key_revision(keys.CONTROLLER) == 0:
            await self.stand()
        office = self._office()
        if office is None:
            return  # what has to be planned stays known, in case this one is elected later
        wishes, moves = await in_turns(plan(image, self._unplanned, self._awaited()))
        if not await self._write(office, wishes, moves):
            return  # somebody else changed what was read: the image will show it, and call for a new plan
        await in_turns(self._forget_what_is_planned())

    async def _write(self, office: Compare, wishes: Sequence[Wishes], moves: Sequence[Move]) -> bool:
        """False when somebody else changed what was read, or is the controller."""
        for compares, puts in _transactions(office, wishes):
            log.info("assigning partitions", chunks=len(puts))
            written = await self._store.txn(compares, puts)
            if not written.succeeded:
                return False
            await self._follower.wait_for(written.revision)
        if moves:
            self.moved += len(moves)
            await self._balance.record(moves)
        return True

    def _forget_what_is_planned(self) -> Steps[None]:
        image, pace = self._follower.image, Pace()
        for topic_id in list(self._unplanned):
            topic = image.topics_by_id.get(topic_id)
            if topic is None or homes_of(image).issuperset(partition.assigned for partition in topic.partitions):
                self._unplanned.discard(topic_id)
            if pace.is_over(0 if topic is None else len(topic.partitions)):
                yield


def _transactions(office: Compare, wishes: Sequence[Wishes]) -> Iterator[tuple[list[Compare], list[Put]]]:
    for start in range(0, len(wishes), CHUNKS_PER_TRANSACTION):
        compares = [office]
        puts: list[Put] = []
        for topic_id, chunk, brokers, revision in wishes[start : start + CHUNKS_PER_TRANSACTION]:
            key = keys.assignments(topic_id, chunk)
            compares.append(Compare(key, revision))
            puts.append(Put(key, values.encode_assignments(brokers)))
        yield compares, puts
