"""The controller: one of the nodes, elected, that writes the planner's wishes.

Owns: the election and the writing. Must not: touch owners' facts; it only requests. Every write compares the
controller's own key, so one that was replaced cannot write, and the chunk that it read, so it never undoes what it has
not seen.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence

from bytemq.errors import Unavailable
from bytemq.metadata import keys, values
from bytemq.metadata.follower import ImageFollower
from bytemq.metadata.image import ImageChange
from bytemq.metadata.store import Compare, MetadataStore, Put
from bytemq.runtime.clock import Clock
from bytemq.runtime.logging import get_logger
from bytemq.scheduler.membership import Membership
from bytemq.scheduler.planner import Wishes, plan
from bytemq.types import TopicId

log = get_logger("scheduler.controller")

CHUNKS_PER_TRANSACTION = 100
RETRY_DELAY_S = 0.2


class Controller:
    """Stands for election under its broker's lease, and plans whenever the image changes while it is elected."""

    def __init__(self, store: MetadataStore, follower: ImageFollower, membership: Membership, clock: Clock) -> None:
        self._store = store
        self._follower = follower
        self._membership = membership
        self._clock = clock
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

    async def stand(self) -> None:
        """Becomes the controller unless there is one. Clients expect to find one: a node stands before it serves."""
        me = self._membership
        session = Compare(keys.broker(me.broker_id), me.session_id)
        mine = Put(keys.CONTROLLER, values.encode_number(me.broker_id), me.lease)
        elected = await self._store.txn([session, Compare(keys.CONTROLLER, 0)], [mine])
        if elected.succeeded:
            await self._follower.wait_for(elected.revision)
            log.info("elected controller", broker=me.broker_id)

    def _on_change(self, change: ImageChange) -> None:
        self._unplanned |= change.topics
        if change.topics or change.brokers or self._follower.image.key_revision(keys.CONTROLLER) == 0:
            self._changed.set()

    async def _step(self) -> None:
        image = self._follower.image
        if image.key_revision(keys.CONTROLLER) == 0:
            await self.stand()
        if image.controller_id != self._membership.broker_id:
            return  # what has to be planned stays known, in case this one is elected later
        wishes = plan(image, self._unplanned)
        for compares, puts in self._transactions(wishes):
            log.info("assigning partitions", chunks=len(puts))
            written = await self._store.txn(compares, puts)
            if not written.succeeded:
                return  # somebody else changed what was read: the image will show it, and call for a new plan
            await self._follower.wait_for(written.revision)
        self._unplanned.difference_update(topic_id for topic_id in self._unplanned.copy() if self._is_planned(topic_id))

    def _is_planned(self, topic_id: TopicId) -> bool:
        image = self._follower.image
        topic = image.topics_by_id.get(topic_id)
        return topic is None or all(partition.assigned in image.brokers for partition in topic.partitions)

    def _transactions(self, wishes: Sequence[Wishes]) -> Iterator[tuple[list[Compare], list[Put]]]:
        image = self._follower.image
        elected = Compare(keys.CONTROLLER, image.key_revision(keys.CONTROLLER))
        for start in range(0, len(wishes), CHUNKS_PER_TRANSACTION):
            compares = [elected]
            puts: list[Put] = []
            for topic_id, chunk, brokers in wishes[start : start + CHUNKS_PER_TRANSACTION]:
                key = keys.assignments(topic_id, chunk)
                compares.append(Compare(key, image.key_revision(key)))
                puts.append(Put(key, values.encode_assignments(brokers)))
            yield compares, puts
