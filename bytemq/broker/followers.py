"""The partitions that this broker serves to readers without owning them.

Owns: which ones are followed, from their first reader until nobody has asked for a while, and their end when this
broker comes to own them or their topic goes. Must not: decide who may read here
(`nearest_reader` does), or own anything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from bytemq.broker.log.followed_partition import FollowedPartition
from bytemq.broker.log.waiters import Awaited
from bytemq.errors import BytemqError, Unavailable
from bytemq.metadata.image import ClusterImage, ImageChange, TopicImage
from bytemq.metadata.standing import Standing
from bytemq.protocol.error_codes import ErrorCode
from bytemq.runtime.clock import Clock
from bytemq.runtime.logging import LogGate, get_logger
from bytemq.runtime.tasks import Supervisor
from bytemq.storage.following.followed_logs import FollowedLogs
from bytemq.types import PartitionId

log = get_logger("broker.followers")

IDLE_S = 60.0
"""So long after its last reader a partition is followed no more."""
LOOK_S = 5.0


class Beginning(Awaited["FollowedPartition | ErrorCode"]):
    """A partition that is being looked up in the storage."""

    def __init__(self, is_read: bool) -> None:
        super().__init__()
        self.is_read = is_read


class Followers:
    """`logs`: None where there is no storage that brokers share, and nobody else's log can be read."""

    def __init__(
        self,
        logs: FollowedLogs | None,
        image: Callable[[], ClusterImage],
        broker_id: int,
        standing: Standing,
        clock: Clock,
        supervisor: Supervisor,
    ) -> None:
        self._logs = logs
        self._image = image
        self._broker_id = broker_id
        self._standing = standing
        self._clock = clock
        self._supervisor = supervisor
        self._followed: dict[PartitionId, FollowedPartition | Beginning] = {}
        self._unreadable = LogGate(clock.monotonic, burst=1, interval_s=60.0)
        self._unserved = LogGate(clock.monotonic, burst=1, interval_s=60.0)
        """Readers ask again at once."""

    def __len__(self) -> int:
        return len(self._followed)

    def get(self, topic: TopicImage, index: int, *, is_read: bool = True) -> FollowedPartition | Beginning | None:
        """The partition, or what it takes; None where it cannot be had, or while we cannot know what is committed.

        `is_read`: by somebody who wants it as it grows.
        """
        if self._logs is None or not self._standing.holds():
            return None
        pid = PartitionId(topic.topic_id, index)
        found = self._followed.get(pid)
        if found is None:
            found = self._followed[pid] = Beginning(is_read)
            self._supervisor.start("follow", self._begin(self._logs, pid, topic.name, found))
        elif isinstance(found, FollowedPartition):
            found.fetched_at = self._clock.monotonic()
            if is_read and not found.is_read:
                found.is_read = True
                self._logs.read_from_now_on(pid)
        else:
            found.is_read |= is_read
        return found

    async def catch_up(self, topic: TopicImage, indexes: Sequence[int]) -> None:
        """Whatever was committed to these partitions before this was called is known here when it returns, as long as
        `topic` names the sessions that own them. Raises Unavailable.
        """
        found = [self.get(topic, index, is_read=False) for index in indexes]
        if self._logs is None or None in found:
            raise Unavailable(f"what other brokers own of {topic.name} cannot be read here")
        outcomes = await asyncio.gather(*[one.future() for one in found if isinstance(one, Beginning)])
        if any(isinstance(outcome, ErrorCode) for outcome in outcomes):
            raise Unavailable(f"what other brokers own of {topic.name} cannot be looked up now")
        sessions = {PartitionId(topic.topic_id, index): topic.partitions[index].session for index in indexes}
        await self._logs.refresh(sessions)

    async def run(self) -> None:
        """Lets go of what nobody reads any more."""
        while True:
            await self._clock.sleep(LOOK_S)
            long_ago = self._clock.monotonic() - IDLE_S
            for pid, followed in list(self._followed.items()):
                if isinstance(followed, FollowedPartition) and followed.fetched_at < long_ago:
                    self._end(pid)

    def on_image_change(self, change: ImageChange) -> None:
        """What is ours now is served as the owner's, and what is deleted not at all."""
        for pid in list(self._followed):
            if pid.topic_id not in change.topics:
                continue
            topic = self._image().topics_by_id.get(pid.topic_id)
            if topic is None or topic.partitions[pid.index].owner == self._broker_id:
                self._end(pid)

    def close(self) -> None:
        for pid in list(self._followed):
            self._end(pid)

    async def _begin(self, logs: FollowedLogs, pid: PartitionId, topic: str, beginning: Beginning) -> None:
        outcome: FollowedPartition | ErrorCode = ErrorCode.OFFSET_NOT_AVAILABLE
        try:
            followed = FollowedPartition(pid, topic, lambda: self._epoch_of(pid), logs.doubt, self._unreadable)
            await logs.follow(pid, followed, is_read=beginning.is_read)
            if beginning.is_read:  # by now
                logs.read_from_now_on(pid)
            followed.is_read = beginning.is_read
            followed.fetched_at = self._clock.monotonic()
            outcome = followed
        except BytemqError as error:
            kept_back = self._unserved.allow(pid)
            if kept_back is not None:
                log.warning(
                    "a partition cannot be served to readers now",
                    topic=topic,
                    partition=pid.index,
                    reason=str(error),
                    not_logged_since=kept_back,
                )
        except Exception as error:  # whoever waits is told all the same, and whoever comes next begins anew
            log.error("looking up a partition crashed", topic=topic, partition=pid.index, error=error)
        if self._followed.get(pid) is not beginning:  # ended meanwhile
            if isinstance(outcome, FollowedPartition):
                logs.unfollow(pid)
            outcome = ErrorCode.NOT_LEADER_OR_FOLLOWER
        elif isinstance(outcome, FollowedPartition):
            self._followed[pid] = outcome
        else:
            del self._followed[pid]
        beginning.tell(outcome)

    def _epoch_of(self, pid: PartitionId) -> int:
        topic = self._image().topics_by_id.get(pid.topic_id)
        return -1 if topic is None else topic.partitions[pid.index].leader_epoch

    def _end(self, pid: PartitionId) -> None:
        assert self._logs is not None
        followed = self._followed.pop(pid)
        if isinstance(followed, FollowedPartition):
            self._logs.unfollow(pid)
            followed.close()
