"""Takes and gives up partitions as the cluster image says.

Owns: the broker's side of ownership. It claims what the planner wishes it to own, opens what it holds, tells the
coordinators, releases what the planner wishes elsewhere, and closes or deletes what it no longer holds. Must not: plan,
or serve. What is held of a partition, and what follows from that, is in `holding`; what may be claimed, and what a
release says, in `metadata.claims`. A partition is opened only after the metadata says that this session owns it, it is
released only when nothing of it can be committed any more, and only one step works at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple, Protocol

from bytemq.broker.departures import Departures
from bytemq.broker.holding import Holding, State, Step, fact_of, next_step
from bytemq.broker.preparation import Preparation
from bytemq.errors import BytemqError, Unavailable
from bytemq.metadata.claims import Change, Changes, Ending, claims, releases
from bytemq.metadata.follower import ImageFollower
from bytemq.metadata.image import ImageChange, TopicImage
from bytemq.metadata.store import MetadataStore
from bytemq.protocol.error_codes import KafkaError
from bytemq.runtime.clock import Clock
from bytemq.runtime.logging import get_logger
from bytemq.runtime.steps import Pace, Steps, slices
from bytemq.runtime.turns import in_turns
from bytemq.types import PartitionId, TopicId

if TYPE_CHECKING:
    from bytemq.broker.log.partition import Partition
    from bytemq.broker.log.partitions import PartitionTable
    from bytemq.config import TopicConfig

log = get_logger("broker.ownership")

DELETIONS_AT_ONCE = 64
TAKEN_AT_ONCE = 200
"""Before something else is done."""
FIRST_RETRY_DELAY_S = 0.2
MAX_RETRY_DELAY_S = 10.0


class Coordinators(Protocol):
    """Who follows the ownership of one internal topic's partitions: they hold what it coordinates."""

    def own(self, partition: Partition) -> None: ...
    async def leave(self, index: int) -> None: ...
    def release(self, index: int) -> None: ...
    def expect_nothing(self) -> None: ...


class Unfinished(NamedTuple):
    """What is held and shall be otherwise."""

    leaving: list[Holding]
    """Wished elsewhere, and served until it is their turn. There may be tens of thousands."""
    others: list[Holding]


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
        self._held: dict[TopicId, dict[int, Holding]] = {}
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
        """Brings what is held to what the image says; False when something failed that may work later."""
        async with self._working:
            return await self._work()

    def reconfigure_all(self) -> None:
        """The broker's defaults have changed: every partition takes its config anew."""
        for held in self._held.values():
            for holding in held.values():
                self._partitions.reconfigure(holding.pid, self._topic_config(holding.topic))

    def is_settled(self, topic_id: TopicId) -> bool:
        """Every partition has a live owner, and those of this broker are served; of a topic that is gone, nothing is
        held.
        """
        topic = self._follower.image.topics_by_id.get(topic_id)
        held = self._held.get(topic_id, {})
        if topic is None:
            return not held
        return all(
            index in held and held[index].is_served if partition.owner == self._broker_id else partition.owner >= 0
            for index, partition in enumerate(topic.partitions)
        )

    async def wait_settled(self, topic_id: TopicId) -> None:
        while not self.is_settled(topic_id):
            await asyncio.shield(self._settled)

    async def close_all(self) -> None:
        """Closes every partition; nothing is taken any more. The session's end then releases them all."""
        self._dirty.clear()
        self._partitions.expect_nothing()
        for coordinators in self._coordinators.values():
            coordinators.expect_nothing()
        for held in list(self._held.values()):
            for holding in list(held.values()):
                self._stop_coordinating(holding)
                await self._partitions.release(holding.pid)
        self._held.clear()

    def _on_change(self, change: ImageChange) -> None:
        self._dirty |= change.topics
        if self._dirty and (change.topics or change.prepared):
            self._changed.set()

    async def _work(self) -> bool:
        topics, self._dirty = self._dirty, set()
        crashed: list[BaseException] = []
        try:
            claims_hold = await self._commit(claims(self._follower.image, self._broker_id, self._session_id, topics))
            found = await in_turns(self._look_at(topics))
            unfinished = found.others
            self._forget_what_is_over(unfinished)
            crashed += await _crashes_of(map(self._close, self._due(unfinished, Step.CLOSE)))
            self._reconfigure(topics)
            unfinished += await self._take(topics, unfinished)
            leaving = self._leaving_now([*found.leaving, *self._due(unfinished, Step.LEAVE)])
            crashed += await _crashes_of(map(self._leave, leaving))
            unfinished = [*dict.fromkeys([*unfinished, *leaving])]
            await self._hand_over(self._due(unfinished, Step.HAND_OVER))
            self._forget_what_is_over(unfinished)
            # Last: they wait for storage, and nobody else waits for these.
            deletions = map(self._delete, self._due(unfinished, Step.DELETE))
            coordinated = map(self._coordinate, self._due(unfinished, Step.COORDINATE))
            crashed += await _crashes_of([*deletions, *coordinated])
            if crashed:
                raise crashed[0]
        except Unavailable as error:
            log.warning("ownership waits for the metadata store", reason=str(error))
            self._dirty |= topics
            return False
        except BaseException:
            self._dirty |= topics  # whoever runs this again has it all to do
            self._changed.set()
            raise
        left = await in_turns(self._look_at(topics))
        self._dirty.update(holding.pid.topic_id for holding in (*left.leaving, *left.others))
        if not claims_hold:  # what was made of an image that is out of date is told of again by nobody
            self._dirty |= topics
        settled, self._settled = self._settled, asyncio.get_running_loop().create_future()
        settled.set_result(None)
        leave_in_time = all(holding.is_served for holding in left.leaving)
        return claims_hold and leave_in_time and not left.others

    def _step(self, holding: Holding) -> Step:
        return next_step(holding, *fact_of(self._follower.image, holding.pid, self._session_id))

    def _look_at(self, topics: Iterable[TopicId]) -> Steps[Unfinished]:
        found = Unfinished([], [])
        pace = Pace()
        for topic_id in topics:
            for some in slices([*self._held.get(topic_id, {}).values()]):
                for holding in some:
                    step = self._step(holding)
                    if step is not Step.NOTHING:
                        (found.leaving if step is Step.LEAVE else found.others).append(holding)
                if pace.is_over(len(some)):
                    yield
        return found

    def _due(self, holdings: Iterable[Holding], step: Step) -> list[Holding]:
        return [holding for holding in holdings if self._step(holding) is step]

    # The steps.

    async def _take(self, topics: Iterable[TopicId], unfinished: Iterable[Holding]) -> list[Holding]:
        """Returns those that were not among the unfinished and are now."""
        for holding in self._due(unfinished, Step.TAKE):
            if self._step(holding) is Step.TAKE:
                await self._own(holding)
        # One after the other: taking a partition opens nothing, and ten thousand tasks would cost more than it.
        count, left = 0, []
        for topic_id in topics:
            for holding in self._not_held(topic_id):
                await self._own(holding)
                if self._step(holding) is not Step.NOTHING:
                    left.append(holding)
                count += 1
                if count % TAKEN_AT_ONCE == 0:
                    await asyncio.sleep(0)
        return left

    def _not_held(self, topic_id: TopicId) -> Iterator[Holding]:
        topic, held = self._follower.image.topics_by_id.get(topic_id), self._held.get(topic_id, {})
        if topic is None:
            return
        for index, partition in enumerate(topic.partitions):
            if index not in held and partition.session == self._session_id:
                holding = Holding(PartitionId(topic_id, index), topic)
                if self._step(holding) is Step.TAKE:
                    yield holding

    async def _own(self, holding: Holding) -> None:
        pid = holding.pid
        topic = holding.topic = self._follower.image.topics_by_id[pid.topic_id]
        partition = topic.partitions[pid.index]
        config = self._topic_config(topic)
        await self._partitions.own(
            pid, topic.name, partition.leader_epoch, config, least_end_offset=partition.end_offset
        )
        holding.leader_epoch = partition.leader_epoch
        holding.state = State.TAKEN if topic.name in self._coordinators else State.SERVED
        self._held.setdefault(pid.topic_id, {})[pid.index] = holding

    def _reconfigure(self, topics: Iterable[TopicId]) -> None:
        for topic_id in topics:
            topic = self._follower.image.topics_by_id.get(topic_id)
            for holding in self._held.get(topic_id, {}).values():
                if topic is not None and holding.topic.configs is not topic.configs:
                    holding.topic = topic
                    self._partitions.reconfigure(holding.pid, self._topic_config(topic))

    def _leaving_now(self, unwanted: list[Holding]) -> list[Holding]:
        """So many of those that are wished elsewhere."""
        pids = [holding.pid for holding in unwanted]
        now = set(self._departures.due(self._follower.image, pids, self._partitions.is_open))
        return [holding for holding in unwanted if holding.pid in now and self._step(holding) is Step.LEAVE]

    async def _hand_over(self, left: Iterable[Holding]) -> None:
        """Together."""
        endings = {one.pid: Ending(one.leader_epoch, one.end_offset) for one in left}
        await self._commit(releases(self._follower.image, self._broker_id, self._session_id, endings))

    async def _leave(self, holding: Holding) -> None:
        coordinators = self._coordinators.get(holding.topic.name)
        if coordinators is not None:
            holding.state = State.TAKEN  # from now on nobody coordinates what it is about, also if this is called off
            await coordinators.leave(holding.pid.index)
        await self._let_go(holding)

    async def _let_go(self, holding: Holding) -> None:
        holding.state = State.STUCK  # until storage has let go of it; this may be called off before
        try:
            holding.end_offset = await self._partitions.release(holding.pid)
            holding.state = State.LEFT
        except BytemqError as error:
            log.warning("partition not released yet", partition=holding.pid, reason=str(error))

    async def _close(self, holding: Holding) -> None:
        self._stop_coordinating(holding)
        await self._let_go(holding)
        if holding.state is State.LEFT:  # the metadata know
            self._forget(holding)

    async def _delete(self, holding: Holding) -> None:
        self._stop_coordinating(holding)
        async with self._deletions:
            holding.state = State.STUCK
            try:
                await self._partitions.delete(holding.pid)
                self._forget(holding)
            except BytemqError as error:
                topic, index = holding.topic.name, holding.pid.index
                log.warning("partition not deleted yet", topic=topic, partition=index, reason=str(error))

    async def _coordinate(self, holding: Holding) -> None:
        """Has what the partition is about coordinated here, as soon as its log can be opened."""
        topic, pid = holding.topic.name, holding.pid
        try:
            partition = await self._partitions.open_by_id(pid.topic_id, pid.index)
        except KafkaError as error:
            log.warning("no coordinator yet", topic=topic, partition=pid.index, reason=str(error))
            return
        self._coordinators[topic].own(partition)
        holding.state = State.SERVED

    def _stop_coordinating(self, holding: Holding) -> None:
        coordinators = self._coordinators.get(holding.topic.name)
        if coordinators is not None:
            coordinators.release(holding.pid.index)

    def _forget_what_is_over(self, unfinished: Iterable[Holding]) -> None:
        for holding in self._due(unfinished, Step.FORGET):
            self._forget(holding)

    def _forget(self, holding: Holding) -> None:
        holding.state = State.ABSENT
        held = self._held[holding.pid.topic_id]
        del held[holding.pid.index]
        if not held:
            del self._held[holding.pid.topic_id]

    async def _commit(self, changes: Changes) -> bool:
        """False: one was made from an image that is out of date. Nothing of it holds, not even for topics that have not
        changed, which no news will make dirty again.
        """
        made: list[Change] = []
        for change in changes:
            if change is None:
                await asyncio.sleep(0)
            else:
                made.append(change)
        written = await asyncio.gather(*(self._store.txn(compares, puts) for compares, puts in made))
        revisions = [txn.revision for txn in written if txn.succeeded]
        if revisions:
            await self._follower.wait_for(max(revisions))
        return len(revisions) == len(written)


async def _crashes_of(steps: Iterable[Coroutine[None, None, None]]) -> list[BaseException]:
    """Of steps that are done side by side: what is wrong with one partition keeps no other."""
    return [crash for crash in await asyncio.gather(*steps, return_exceptions=True) if crash is not None]
