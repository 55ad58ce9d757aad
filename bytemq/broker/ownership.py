"""Takes and gives up partitions as the cluster image says.

Owns: the broker's side of ownership. It claims what the planner wishes it to own, opens what it holds, tells the
coordinators, releases what the planner wishes elsewhere, and closes or deletes what it no longer holds. Must not: plan,
or serve. A partition is opened only after the metadata says that this session owns it, it is released only when nothing
of it can be committed any more, and only one step works at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Protocol

from bytemq.broker.departures import Departures
from bytemq.broker.preparation import Preparation
from bytemq.errors import BytemqError, Unavailable
from bytemq.metadata.claims import Change, Ending, claims, releases
from bytemq.metadata.follower import ImageFollower
from bytemq.metadata.image import ImageChange, TopicImage
from bytemq.metadata.store import MetadataStore
from bytemq.protocol.error_codes import KafkaError
from bytemq.runtime.clock import Clock
from bytemq.runtime.logging import get_logger
from bytemq.types import PartitionId, TopicId

if TYPE_CHECKING:
    from bytemq.broker.log.partition import Partition
    from bytemq.broker.log.partitions import PartitionTable
    from bytemq.config import TopicConfig

log = get_logger("broker.ownership")

DELETIONS_AT_ONCE = 64
FIRST_RETRY_DELAY_S = 0.2
MAX_RETRY_DELAY_S = 10.0


class Coordinators(Protocol):
    """Who follows the ownership of one internal topic's partitions: they hold what it coordinates."""

    def own(self, partition: Partition) -> None: ...
    def release(self, index: int) -> None: ...


class Ownership:
    """One per session. `settle` at the start, then `run` as a task."""

    def __init__(
        self,
        *,
        broker_id: int,
        session_id: int,
        lease: int,
        store: MetadataStore,
        follower: ImageFollower,
        partitions: PartitionTable,
        coordinators: Mapping[str, Coordinators],
        topic_config: Callable[[TopicImage], TopicConfig],
        clock: Clock,
    ) -> None:
        self._broker_id = broker_id
        self._session_id = session_id
        self._store = store
        self._follower = follower
        self._partitions = partitions
        self._coordinators = coordinators
        self._topic_config = topic_config
        self._clock = clock
        self._open: dict[TopicId, dict[int, TopicImage]] = {}
        """Open partitions, each with the topic as it was when last (re)configured."""
        self._leaving: dict[PartitionId, Ending] = {}
        """Closed here and still ours in the metadata."""
        self._uncoordinated: list[PartitionId] = []
        """Taken, of topics that are coordinated here, and nobody was told."""
        self._stuck: set[PartitionId] = set()
        """Closed, but storage could not let go of them when it was last tried: others go first."""
        self._dirty: set[TopicId] = set(follower.image.topics_by_id)
        self._changed = asyncio.Event()
        self._departures = Departures(clock, self._changed.set)
        self._preparation = Preparation(
            broker_id=broker_id,
            session_id=session_id,
            lease=lease,
            store=store,
            follower=follower,
            logs=partitions.services.storage,
        )
        self._deletions = asyncio.Semaphore(DELETIONS_AT_ONCE)
        self._working = asyncio.Lock()
        self._settled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        follower.subscribe(self._on_change)

    async def run(self) -> None:
        works = [asyncio.ensure_future(work) for work in (self._run(), self._preparation.run())]
        try:
            await asyncio.gather(*works)
        finally:  # whoever runs this again must not find one of them still at work
            for work in works:
                work.cancel()

    async def _run(self) -> None:
        """What fails is tried again at growing intervals, or when something changes."""
        retry_delay_s = FIRST_RETRY_DELAY_S
        while True:
            await self._changed.wait()
            self._changed.clear()
            if await self.settle():
                retry_delay_s = FIRST_RETRY_DELAY_S
            else:
                self._clock.call_later(retry_delay_s, self._changed.set)
                retry_delay_s = min(2 * retry_delay_s, MAX_RETRY_DELAY_S)

    async def settle(self) -> bool:
        """Brings what is open to what the image says; False when something failed that may work later."""
        async with self._working:
            return await self._step()

    async def _step(self) -> bool:
        topics, self._dirty = self._dirty, set()
        try:
            image = self._follower.image
            claimed = await self._commit(claims(image, self._broker_id, self._session_id, topics))
            # One after the other: taking a partition opens nothing, and ten thousand tasks would cost more than it.
            failed = [topic_id for topic_id in topics if not await self._reconcile(topic_id)]
            failed += await self._release(topics) if claimed else topics
            failed += await self._coordinate_what_is_new()  # last: it opens logs, and nobody else waits for these
        except Unavailable as error:
            log.warning("ownership waits for the metadata store", reason=str(error))
            self._dirty |= topics
            return False
        except BaseException:
            self._dirty |= topics  # whoever runs this again has it all to do
            self._changed.set()
            raise
        self._dirty.update(failed)
        settled, self._settled = self._settled, asyncio.get_running_loop().create_future()
        settled.set_result(None)
        return not failed

    def reconfigure_all(self) -> None:
        """The broker's defaults have changed: every open partition takes its config anew."""
        for partitions in self._open.values():
            for index, topic in partitions.items():
                self._reconfigure(PartitionId(topic.topic_id, index), topic)

    def is_settled(self, topic_id: TopicId) -> bool:
        """Every partition has a live owner, and those of this broker are open; of a topic that is gone, none is."""
        topic = self._follower.image.topics_by_id.get(topic_id)
        if topic is None:
            return topic_id not in self._open
        mine = self._open.get(topic_id, {})
        return all(
            index in mine if partition.owner == self._broker_id else partition.owner >= 0
            for index, partition in enumerate(topic.partitions)
        )

    async def wait_settled(self, topic_id: TopicId) -> None:
        while not self.is_settled(topic_id):
            await asyncio.shield(self._settled)

    async def close_all(self) -> None:
        """Closes every open partition; nothing is taken any more. The session's end then releases them all."""
        self._dirty.clear()
        self._partitions.expect_nothing()
        for topic_id in list(self._open):
            await self._close(topic_id, self._open.get(topic_id, {}).copy())

    def _on_change(self, change: ImageChange) -> None:
        self._dirty |= change.topics
        if self._dirty and (change.topics or change.prepared):
            self._changed.set()

    async def _commit(self, changes: Iterable[Change]) -> bool:
        """False: one was made from an image that is out of date. Nothing of it holds, not even for topics that have not
        changed, which no news will make dirty again.
        """
        written = await asyncio.gather(*(self._store.txn(compares, puts) for compares, puts in changes))
        revisions = [txn.revision for txn in written if txn.succeeded]
        if revisions:
            await self._follower.wait_for(max(revisions))
        return len(revisions) == len(written)

    async def _release(self, topics: Iterable[TopicId]) -> set[TopicId]:
        """Hands over what is wished elsewhere, so many together; the topics of which something is stuck."""
        unwanted = [pid for topic_id in topics for pid in self._unwanted(topic_id)]
        unwanted.sort(key=self._stuck.__contains__)
        now = self._departures.due(self._follower.image, unwanted, self._partitions.is_open)
        closed = await asyncio.gather(*map(self._leave, now))
        self._stuck.difference_update(now)  # others wait, or their next owner has died: closed they are all the same
        self._stuck.update(pid for pid, is_closed in zip(now, closed, strict=True) if not is_closed)
        await self._commit(releases(self._follower.image, self._broker_id, self._session_id, self._leaving))
        self._leaving = {
            pid: ending for pid, ending in self._leaving.items() if self._epoch_of(pid) == ending.leader_epoch
        }
        self._dirty.update(pid.topic_id for pid in unwanted if pid not in self._stuck and self._epoch_of(pid) >= 0)
        return {pid.topic_id for pid in (*self._stuck, *self._leaving)}

    def _unwanted(self, topic_id: TopicId) -> list[PartitionId]:
        image = self._follower.image
        topic = image.topics_by_id.get(topic_id)
        if topic is None:
            return []
        wished_elsewhere = (
            PartitionId(topic_id, index)
            for index, partition in enumerate(topic.partitions)
            if partition.session == self._session_id
            and partition.assigned != self._broker_id
            and partition.assigned in image.brokers
        )
        return [pid for pid in wished_elsewhere if pid not in self._leaving]

    async def _leave(self, pid: PartitionId) -> bool:
        """Closes the partition for good; False when its storage cannot let go of it now."""
        topic = self._open.get(pid.topic_id, {}).get(pid.index)
        if topic is not None:
            self._stop_coordinating(topic, pid.index)
        leader_epoch = self._epoch_of(pid)
        try:
            self._leaving[pid] = Ending(leader_epoch, await self._partitions.release(pid))
        except BytemqError as error:
            log.warning("partition not released yet", partition=pid, reason=str(error))
            return False
        if topic is not None:
            self._forget(pid.topic_id, pid.index)
        return True

    def _epoch_of(self, pid: PartitionId) -> int:
        """The leader epoch under which it is this session's; -1: it is not."""
        topic = self._follower.image.topics_by_id.get(pid.topic_id)
        partition = None if topic is None else topic.partitions[pid.index]
        return -1 if partition is None or partition.session != self._session_id else partition.leader_epoch

    async def _reconcile(self, topic_id: TopicId) -> bool:
        topic = self._follower.image.topics_by_id.get(topic_id)
        open_ = self._open.get(topic_id, {})
        if topic is None:
            return await self._delete(topic_id, open_.copy())
        mine = {
            index
            for index, partition in enumerate(topic.partitions)
            if partition.session == self._session_id and partition.owner == self._broker_id
        }
        await self._close(topic_id, {index: open_[index] for index in open_.keys() - mine})
        for index in open_.keys() & mine:
            if open_[index].configs is not topic.configs:
                self._reconfigure(PartitionId(topic_id, index), topic)
                open_[index] = topic
        new = sorted(index for index in mine if self._is_to_be_owned(topic, index))
        config = self._topic_config(topic)
        for index in new:
            partition = topic.partitions[index]
            await self._partitions.own(
                PartitionId(topic_id, index),
                topic.name,
                partition.leader_epoch,
                config,
                least_end_offset=partition.end_offset,
            )
            self._open.setdefault(topic_id, {})[index] = topic
            self._stuck.discard(PartitionId(topic_id, index))
        if topic.name in self._coordinators:
            self._uncoordinated.extend(PartitionId(topic_id, index) for index in new)
        return True

    def _is_to_be_owned(self, topic: TopicImage, index: int) -> bool:
        """Of what is ours in the metadata: what was not taken yet, and what was closed in vain since it shall stay."""
        pid, partition = PartitionId(topic.topic_id, index), topic.partitions[index]
        if index in self._open.get(topic.topic_id, {}):
            return pid in self._stuck and partition.assigned == self._broker_id
        ending = self._leaving.get(pid)
        return ending is None or ending.leader_epoch != partition.leader_epoch

    async def _coordinate_what_is_new(self) -> set[TopicId]:
        """The topics of which something cannot be coordinated now."""
        new, self._uncoordinated = list(dict.fromkeys(self._uncoordinated)), []
        coordinated = await asyncio.gather(*map(self._coordinate, new))
        return {pid.topic_id for pid, is_coordinated in zip(new, coordinated, strict=True) if not is_coordinated}

    async def _coordinate(self, pid: PartitionId) -> bool:
        """Has what the partition is about coordinated here; False when its log cannot be opened now."""
        index = pid.index
        topic = self._open.get(pid.topic_id, {}).get(index)
        if topic is None:
            return True  # released already
        try:
            self._coordinators[topic.name].own(await self._partitions.open_by_id(topic.topic_id, index))
        except KafkaError as error:
            log.warning("no coordinator yet", topic=topic.name, partition=index, reason=str(error))
            await self._partitions.release(PartitionId(topic.topic_id, index))
            self._forget(topic.topic_id, index)
            return False
        return True

    def _stop_coordinating(self, topic: TopicImage, index: int) -> None:
        coordinators = self._coordinators.get(topic.name)
        if coordinators is not None:
            coordinators.release(index)

    async def _close(self, topic_id: TopicId, partitions: dict[int, TopicImage]) -> None:
        for index, topic in partitions.items():
            self._stop_coordinating(topic, index)
            await self._partitions.release(PartitionId(topic_id, index))
            self._forget(topic_id, index)

    async def _delete(self, topic_id: TopicId, partitions: dict[int, TopicImage]) -> bool:
        return all(
            await asyncio.gather(*(self._delete_one(PartitionId(topic_id, i), t) for i, t in partitions.items()))
        )

    async def _delete_one(self, pid: PartitionId, topic: TopicImage) -> bool:
        self._stop_coordinating(topic, pid.index)
        async with self._deletions:
            try:
                await self._partitions.delete(pid)
            except BytemqError as error:
                log.warning("partition not deleted yet", topic=topic.name, partition=pid.index, reason=str(error))
                return False
        self._forget(pid.topic_id, pid.index)
        return True

    def _forget(self, topic_id: TopicId, index: int) -> None:
        self._stuck.discard(PartitionId(topic_id, index))
        partitions = self._open[topic_id]
        del partitions[index]
        if not partitions:
            del self._open[topic_id]

    def _reconfigure(self, pid: PartitionId, topic: TopicImage) -> None:
        self._partitions.reconfigure(pid, self._topic_config(topic))
