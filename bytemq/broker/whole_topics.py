"""Topics read as a whole, whoever owns their partitions: for SQL and tables.

Owns: that each partition of a topic is at hand here, ours or followed, as new as the question. Must not: read one, or
serve clients of the Kafka protocol (`partition_lookup` says who may read here).

A record is there for whoever asks after its acknowledgement. Of our own partitions that is so at any moment. Of others
it takes asking: the metadata say who owns them, with whatever was decided before the question, and the tail records of
these sessions say what they have committed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable

from bytemq.broker.followers import Followers
from bytemq.broker.log.followed_partition import FollowedPartition
from bytemq.broker.log.partition import Partition
from bytemq.broker.log.partitions import PartitionTable
from bytemq.errors import BytemqError, Unavailable
from bytemq.metadata import keys
from bytemq.metadata.image import ClusterImage, TopicImage
from bytemq.metadata.store import MetadataStore
from bytemq.protocol.error_codes import ErrorCode, KafkaError

PATIENCE_S = 30.0
"""For a partition that is between two owners, or whose owner writes behind all the time; on a busy machine."""
RETRY_S = 0.05

Readable = Partition | FollowedPartition


class WholeTopics:
    def __init__(
        self,
        partitions: PartitionTable,
        followers: Followers,
        metadata: MetadataStore,
        image: Callable[[], ClusterImage],
        image_at: Callable[[int], Awaitable[None]],
        broker_id: int,
    ) -> None:
        """`image_at` returns when the image shows what is under `cluster/` up to a revision."""
        self._partitions = partitions
        self._followers = followers
        self._metadata = metadata
        self._image = image
        self._image_at = image_at
        self._broker_id = broker_id

    async def at_hand(self, names: Collection[str]) -> dict[str, list[Readable]]:
        """Of those names that are topics all partitions, each with all that was committed before this was called. Taken
        together in one step. Raises Unavailable.
        """
        problem: BytemqError | None = None
        try:
            async with asyncio.timeout(PATIENCE_S):
                while True:
                    try:
                        await asyncio.gather(*map(self._see, names))
                        await asyncio.gather(*map(self._open, self._topics(names)))
                        return {topic.name: self._all_of(topic) for topic in self._topics(names)}
                    except Unavailable as error:  # something moves
                        problem = error
                    await asyncio.sleep(RETRY_S)
        except TimeoutError as error:
            raise problem or Unavailable(f"not all of {', '.join(names)} can be looked up now") from error
        except KafkaError as error:
            raise Unavailable(f"not all partitions of {', '.join(names)} can be read now: {error}") from error

    def partition(self, topic: str, index: int) -> Readable | None:
        """If it is at hand at this moment."""
        known = self._image().topics.get(topic)
        if known is None or not 0 <= index < len(known.partitions):
            return None
        found: object
        if known.partitions[index].owner == self._broker_id:
            found = self._partitions.get_by_id(known.topic_id, index)
        else:
            found = self._followers.get(known, index, is_read=False)
        return found if isinstance(found, Partition | FollowedPartition) and not found.is_closed else None

    def _topics(self, names: Iterable[str]) -> list[TopicImage]:
        topics = self._image().topics
        return [topics[name] for name in names if name in topics]

    async def _see(self, name: str) -> None:
        topic = self._image().topics.get(name)
        if topic is None:
            entry = await self._metadata.get(keys.topic(name))
            changed_at = 0 if entry is None else entry.revision
        else:
            entries = (await self._metadata.range(keys.owners_of(topic.topic_id))).entries
            changed_at = max((entry.revision for entry in entries), default=0)
        await self._image_at(changed_at)

    async def _open(self, topic: TopicImage) -> None:
        own = [index for index, one in enumerate(topic.partitions) if one.owner == self._broker_id]
        others = [index for index, one in enumerate(topic.partitions) if one.owner != self._broker_id]
        await asyncio.gather(*(self._open_own(topic, index) for index in own))
        if others:
            await self._followers.catch_up(topic, others)

    async def _open_own(self, topic: TopicImage, index: int) -> None:
        try:
            await self._partitions.open_by_id(topic.topic_id, index)
        except KafkaError as error:
            if error.code is not ErrorCode.NOT_LEADER_OR_FOLLOWER:
                raise
            raise Unavailable(f"partition {index} of {topic.name} moves to another broker") from error

    def _all_of(self, topic: TopicImage) -> list[Readable]:
        found = [self.partition(topic.name, index) for index in range(len(topic.partitions))]
        if None in found:
            raise Unavailable(f"partition {found.index(None)} of {topic.name} is between two brokers")
        return [one for one in found if one is not None]
