"""The partitions that this broker owns, opened when they are first touched.

Owns: which partitions are ours and at which leader epoch, opening each once, and the periodic work over all of them.
Must not: decide ownership (metadata does, node wiring calls `own`, `release` and `delete`), or do anything at the
start for partitions that nobody asks for.

Ten thousand partitions may be owned while a hundred are in use: one that was not touched costs an `Opening` of a few
machine words.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence, Set
from functools import partial

from bytemq.broker.log.arrivals import Arrival, Arrivals
from bytemq.broker.log.beginnings import Beginnings
from bytemq.broker.log.departed import Departed
from bytemq.broker.log.failures import append_failure
from bytemq.broker.log.opening import open_partition
from bytemq.broker.log.partition import Partition
from bytemq.broker.log.retention import RetentionPolicy, could_retain_less
from bytemq.broker.log.services import LogServices
from bytemq.broker.log.waiters import Awaited, Waiters
from bytemq.config import TopicConfig
from bytemq.errors import BytemqError
from bytemq.metadata.standing import Standing
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.runtime.logging import get_logger
from bytemq.storage.log_opening import NO_OFFSET
from bytemq.storage.manifests.manifest import SegmentInfo
from bytemq.types import PartitionId, TopicId

log = get_logger("broker.log")


class Opening(Awaited["Partition | ErrorCode"]):
    """A partition that is ours but not open yet. Hot paths use `then`; who can wait uses `PartitionTable.open`."""

    __slots__ = (
        "_table",
        "_task",
        "config",
        "is_in_segments",
        "leader_epoch",
        "least_end_offset",
        "pid",
        "topic",
    )

    def __init__(
        self,
        table: PartitionTable,
        pid: PartitionId,
        topic: str,
        leader_epoch: int,
        config: TopicConfig,
        least_end_offset: int = NO_OFFSET,
    ) -> None:
        super().__init__()
        self.pid = pid
        self.topic = topic
        self.leader_epoch = leader_epoch
        self.config = config
        self.least_end_offset = least_end_offset
        self.is_in_segments = least_end_offset <= 0
        """Whether all that its last owner has said of it is known to be in segments."""
        self._table = table
        self._task: asyncio.Task[None] | None = None

    def then(self, told: Callable[[Partition | ErrorCode], None]) -> None:
        """As `Awaited.then`. Opening starts with the first call; after a failure the next call tries again."""
        super().then(told)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(
                self._open(), name=f"open {self.topic}-{self.pid.index}"
            )

    def is_all_in(self, segments: Sequence[SegmentInfo]) -> bool:
        """Whether all that its last owner has said of it is known to be in these, or was before."""
        if not self.is_in_segments:
            self.is_in_segments = bool(segments) and segments[-1].last_offset + 1 >= self.least_end_offset
        return self.is_in_segments

    async def settled(self) -> None:
        """Return when no attempt to open is under way."""
        if self._task is not None:
            await asyncio.wait([self._task])

    async def _open(self) -> None:
        outcome: Partition | ErrorCode
        try:
            outcome = await self._table.open_now(self)
        except BytemqError as error:
            log.error("partition could not be opened", topic=self.topic, partition=self.pid.index, reason=str(error))
            outcome = append_failure(error)  # not CORRUPT_MESSAGE: no batch was read
        except Exception as error:  # whoever waits is told all the same, and whoever comes next tries again
            log.error("opening a partition crashed", topic=self.topic, partition=self.pid.index, error=error)
            outcome = ErrorCode.KAFKA_STORAGE_ERROR
        self._task = None
        self.tell(outcome)


Entry = Partition | Opening
Known = tuple[Mapping[str, Mapping[int, Entry]], Mapping[bytes, Mapping[int, Entry]]]
"""By topic name and by topic id."""


class PartitionTable:
    """Owned partitions by topic name and by topic id."""

    def __init__(self, services: LogServices, standing: Standing) -> None:
        self.services = services
        self._standing = standing
        self._beginnings = Beginnings()
        self._arrivals = Arrivals(services.clock)
        self.departed = Departed(services.clock)
        self.newcomers: Waiters[Set[str]] = Waiters()
        """Told the topics of which partitions have come to be ours, a turn later, all of that turn at once."""
        self._new_in: set[str] = set()
        self._by_id: dict[bytes, dict[int, Entry]] = {}
        self._by_name: dict[str, dict[int, Entry]] = {}
        """The same inner dicts. A recreated topic takes the name from its predecessor."""
        self._leaving: dict[PartitionId, Entry] = {}
        """What was given up and storage has not let go of yet: whoever gave it up may have failed or been cancelled."""

    # The hot path.

    def get(self, topic: str, index: int) -> Entry | None:
        """The partition, or what it takes to open it; None if it is not ours, or if we cannot know any more."""
        partitions = self._by_name.get(topic)
        return None if partitions is None or not self._standing.holds() else partitions.get(index)

    def get_by_id(self, topic_id: bytes, index: int) -> Entry | None:
        """As `get`."""
        return self._entry(topic_id, index) if self._standing.holds() else None

    def known(self) -> Known:
        """All that are ours at this moment: dictionaries, not to be changed."""
        return (self._by_name, self._by_id) if self._standing.holds() else ({}, {})

    def of_topic(self, name: str | None, topic_id: bytes | None) -> Mapping[int, Entry]:
        """All of a topic that are ours by index, at this moment; `topic_id` counts where there is no name."""
        by_name, by_id = self.known()
        known = by_name.get(name) if name is not None else by_id.get(topic_id or b"")
        return {} if known is None else known

    def expected(self, topic_id: TopicId, index: int) -> Arrival | None:
        """What waits for a partition that is wished to be ours and is not yet; None if we cannot know, or leave."""
        return self._arrivals.get(PartitionId(topic_id, index)) if self._standing.holds() else None

    # For those who can wait.

    async def open(self, topic: str, index: int) -> Partition:
        """The open partition. Raises KafkaError: NOT_LEADER_OR_FOLLOWER if it is not ours, KAFKA_STORAGE_ERROR, ..."""
        return await self.opened(self.get(topic, index))

    async def open_by_id(self, topic_id: bytes, index: int) -> Partition:
        """As `open`."""
        return await self.opened(self.get_by_id(topic_id, index))

    async def opened(self, entry: Entry | Arrival | None) -> Partition:
        """As `open`, of what was found."""
        if isinstance(entry, Partition):
            return entry
        if entry is None:
            raise KafkaError(ErrorCode.NOT_LEADER_OR_FOLLOWER)
        outcome = await entry.future()
        if isinstance(outcome, Partition):
            return outcome
        raise KafkaError(outcome)

    async def size_bytes(self, entry: Entry, held: Collection[PartitionId]) -> int:
        """Of its log. One that nobody has touched is opened only where part of it may be in another session's
        write-ahead log, as of those that storage says are `held`. Raises KafkaError, BytemqError.
        """
        if isinstance(entry, Opening) and entry.pid not in held:
            segments = await self._segments_of(entry)
            if entry.is_all_in(segments):
                return sum(segment.size_bytes for segment in segments)
        return (await self.opened(entry)).size_bytes

    def is_open(self, pid: PartitionId) -> bool:
        """Whether somebody has used it here."""
        return isinstance(self._entry(pid.topic_id, pid.index), Partition)

    def entries(self) -> Iterator[Entry]:
        """All that is owned, open or not, at this moment."""
        for partitions in list(self._by_id.values()):
            yield from list(partitions.values())

    def open_partitions(self) -> Iterator[Partition]:
        return (entry for entry in self.entries() if isinstance(entry, Partition))

    def beginning_refused(self, pid: PartitionId, producer_id: int, producer_epoch: int) -> None:
        """The first batch of an idempotent producer was refused, here or by the partition, and will come again."""
        entry = self._entry(pid.topic_id, pid.index)
        if isinstance(entry, Partition) and not entry.is_closed:
            entry.await_beginning(producer_id, producer_epoch)
        else:
            self._beginnings.refused(pid, producer_id, producer_epoch)

    # Ownership.

    async def own(
        self, pid: PartitionId, topic: str, leader_epoch: int, config: TopicConfig, *, least_end_offset: int = NO_OFFSET
    ) -> None:
        """This broker owns `pid` from now on. Opens it only for those who have waited. At a newer epoch than before the
        old ownership ends first. A log that ends below `least_end_offset` has lost something and is not opened.
        """
        known = self._entry(pid.topic_id, pid.index)
        if known is not None and known.leader_epoch >= leader_epoch:
            return
        if known is not None:
            await self.release(pid)
        leaving = self._leaving.get(pid)
        await self._close(leaving, drain=True)
        self._let_go_of(pid, leaving)
        self.departed.came_back(pid)
        partitions = self._by_id.setdefault(pid.topic_id, {})
        self._by_name[topic] = partitions
        opening = partitions[pid.index] = Opening(self, pid, topic, leader_epoch, config, least_end_offset)
        self._arrivals.arrived(pid, opening)
        if not self._new_in:
            self.services.clock.call_later(0, self._tell_of_newcomers)
        self._new_in.add(topic)

    def _tell_of_newcomers(self) -> None:
        topics, self._new_in = self._new_in, set()
        self.newcomers.wake(topics)

    async def release(self, pid: PartitionId) -> int:
        """Give `pid` up: refused to everyone at once; returns when nothing more of ours can be committed to it.

        The end offset of its log, -1 if it was not open. Raises BytemqError; then, or when it was cancelled, call
        again.
        """
        if self._entry(pid.topic_id, pid.index) is not None:
            self.departed.left(pid)
        leaving = self._give_up(pid)
        await self._close(leaving, drain=True)
        await self.services.storage.release_log(pid)
        self._let_go_of(pid, leaving)
        return leaving.high_watermark if isinstance(leaving, Partition) else -1

    async def delete(self, pid: PartitionId) -> None:
        """The topic is gone: forget `pid` and let its storage be freed. Raises BytemqError; then call again."""
        leaving = self._give_up(pid)
        await self._close(leaving)
        await self.services.storage.delete_log(pid)
        self._let_go_of(pid, leaving)

    def reconfigure(self, pid: PartitionId, config: TopicConfig) -> None:
        """The topic's config has changed."""
        entry = self._entry(pid.topic_id, pid.index)
        if isinstance(entry, Partition):
            entry.reconfigure(config)
        elif entry is not None:
            entry.config = config

    def expect_nothing(self) -> None:
        """This broker leaves: nobody waits for what is not here."""
        self._arrivals.close()

    async def close(self) -> None:
        """Release everything, all at once."""
        await asyncio.gather(*(self.release(entry.pid) for entry in self.entries()))

    # Now and then.

    async def apply_retention(self) -> None:
        """One pass of retention and producer expiry over all that is owned.

        What nobody has touched yet stays unopened unless something in it may have expired. A partition whose storage
        fails is logged and left for the next pass.
        """
        for entry in self.entries():
            try:
                if isinstance(entry, Partition) or await self._worth_opening(entry):
                    partition = await self.opened(entry)
                    await partition.apply_retention(self.services.clock.wall_ms())
                    partition.expire_producers(self.services.clock.wall_ms())
            except (BytemqError, KafkaError) as error:
                log.warning("retention skipped", topic=entry.topic, partition=entry.pid.index, reason=str(error))
            await asyncio.sleep(0)  # ten thousand in one go would be felt by clients

    async def compacted(self, worth_opening: Callable[[TopicConfig, Sequence[SegmentInfo]], bool]) -> list[Partition]:
        """The partitions of compacted topics that are open, and those that are worth opening for what they hold."""
        found = []
        for entry in self.entries():
            if entry.config.is_compacted:
                partition = await self._opened_if_worth(entry, worth_opening, "compaction skipped")
                if partition is not None:
                    found.append(partition)
                await asyncio.sleep(0)
        return found

    async def open_untouched(self, worth_opening: Callable[[str, TopicConfig, Sequence[SegmentInfo]], bool]) -> None:
        """Opens those partitions that nobody has touched and that are worth it, by topic, config and what they hold."""
        for entry in self.entries():
            if isinstance(entry, Opening):
                await self._opened_if_worth(entry, partial(worth_opening, entry.topic), "left unopened")
                await asyncio.sleep(0)

    async def _opened_if_worth(
        self, entry: Entry, worth_opening: Callable[[TopicConfig, Sequence[SegmentInfo]], bool], otherwise: str
    ) -> Partition | None:
        try:
            if isinstance(entry, Partition) or worth_opening(entry.config, await self._segments_of(entry)):
                return await self.opened(entry)
        except (BytemqError, KafkaError) as error:
            log.warning(otherwise, topic=entry.topic, partition=entry.pid.index, reason=str(error))
        return None

    async def handed_over(self) -> list[PartitionId]:
        """What is not open, and whose last owner released it with more than its segments hold: the rest is in that
        owner's write-ahead log. One that is not is asked for once: nothing changes before it is opened.
        """
        found = []
        for entry in self.entries():
            if isinstance(entry, Partition) or entry.is_in_segments:
                continue
            try:
                segments = await self._segments_of(entry)
            except BytemqError:
                continue  # the next round asks again; a manifest that is damaged is reported by whoever opens the log
            if not entry.is_all_in(segments):
                found.append(entry.pid)
            await asyncio.sleep(0)
        return found

    async def _worth_opening(self, opening: Opening) -> bool:
        config = opening.config
        if not config.deletes_old_data:
            return False
        policy = RetentionPolicy(config.retention_ms, config.retention_bytes)
        return could_retain_less(await self._segments_of(opening), policy, self.services.clock.wall_ms())

    async def _segments_of(self, opening: Opening) -> Sequence[SegmentInfo]:
        """Nothing when it was given up meanwhile: what others own is not asked for."""
        if not self._has_its_place(opening):
            return ()
        return await self.services.storage.segments_of(opening.pid)

    async def open_now(self, opening: Opening) -> Partition | ErrorCode:
        """For `Opening` alone: open its log and take its place. Raises BytemqError."""
        pid = opening.pid
        if not self._has_its_place(opening):
            return ErrorCode.NOT_LEADER_OR_FOLLOWER  # given up before: its log may be open for another ownership
        partition = await open_partition(
            pid,
            opening.topic,
            opening.leader_epoch,
            opening.config,
            self.services,
            least_end_offset=opening.least_end_offset,
        )
        if not self._has_its_place(opening):
            await partition.close()  # given up while it was being opened
            return ErrorCode.NOT_LEADER_OR_FOLLOWER
        if partition.config is not opening.config:
            partition.reconfigure(opening.config)
        self._by_id[pid.topic_id][pid.index] = partition
        for producer_id, producer_epoch in self._beginnings.take(pid).items():
            partition.await_beginning(producer_id, producer_epoch)
        return partition

    def _has_its_place(self, opening: Opening) -> bool:
        """Whether it was not given up."""
        return self._entry(opening.pid.topic_id, opening.pid.index) is opening

    def _entry(self, topic_id: bytes, index: int) -> Entry | None:
        partitions = self._by_id.get(topic_id)
        return None if partitions is None else partitions.get(index)

    async def _close(self, leaving: Entry | None, *, drain: bool = False) -> None:
        if isinstance(leaving, Partition):
            await leaving.close(drain=drain)
        elif leaving is not None:
            await leaving.settled()  # its partition closes itself: it finds its place taken

    def _give_up(self, pid: PartitionId) -> Entry | None:
        """Nobody finds it any more. What it was, also where it was given up before and not let go of yet."""
        partitions = self._by_id.get(pid.topic_id)
        entry = None if partitions is None else partitions.pop(pid.index, None)
        if partitions is not None and entry is not None:
            self._leaving[pid] = entry
            if not partitions:
                del self._by_id[pid.topic_id]
                if self._by_name.get(entry.topic) is partitions:
                    del self._by_name[entry.topic]
        return self._leaving.get(pid)

    def _let_go_of(self, pid: PartitionId, leaving: Entry | None) -> None:
        """Unless it came back and is given up once more."""
        if self._leaving.get(pid) is leaving:
            self._leaving.pop(pid, None)
