"""Data of topics that were deleted while nobody was there to free it.

Owns: finding manifests whose topic is gone, and who of all brokers frees them. Deleting comes last: first a topic's
keys go, then its data, which its owners free. What is looked for here is what they have left: after a crash between the
two, and where a partition had no owner that lives.

A live session frees what it has written itself last; what ended sessions have left, the controller frees. Each deletion
compares the manifest and the session of who deletes.
"""

from __future__ import annotations

from bytemq.broker.log.partitions import PartitionTable
from bytemq.errors import BytemqError, Corrupt
from bytemq.metadata import keys
from bytemq.metadata.follower import ImageFollower
from bytemq.metadata.image import ImageChange
from bytemq.metadata.store import KeyValue, MetadataStore
from bytemq.runtime.clock import Clock
from bytemq.runtime.logging import get_logger
from bytemq.storage.manifests.manifest_codec import decode_manifest, directory_of
from bytemq.types import PartitionId, TopicId

log = get_logger("broker.orphans")

INTERVAL_S = 10.0
"""Owners that live have freed their partitions long before."""


class Orphans:
    def __init__(
        self,
        store: MetadataStore,
        follower: ImageFollower,
        partitions: PartitionTable,
        broker_id: int,
        session_id: int,
        clock: Clock,
    ) -> None:
        self._store = store
        self._image = follower.image
        self._partitions = partitions
        self._broker_id = broker_id
        self._session_id = session_id
        self._clock = clock
        self._gone: set[TopicId] = set()
        """Topics that the image does not show, until nothing of them is left."""
        follower.subscribe(self._on_change)

    def _on_change(self, change: ImageChange) -> None:
        self._gone |= change.topics - self._image.topics_by_id.keys()

    async def run(self) -> None:
        """Everything once, then the topics that were deleted since."""
        entries, _ = await self._store.range(keys.MANIFESTS)
        found = {keys.partition_of_manifest(entry.key).topic_id for entry in entries}
        self._gone |= found - self._image.topics_by_id.keys()
        while True:
            await self.free()
            await self._clock.sleep(INTERVAL_S)

    async def free(self) -> int:
        """How many partitions' data was freed. What is left is looked at again."""
        freed = 0
        for topic_id in list(self._gone):
            try:
                freed += await self._free(topic_id)
            except BytemqError as error:
                log.warning("data of a deleted topic is not freed yet", topic=topic_id.hex(), reason=str(error))
        if freed:
            log.info("data of deleted topics freed", partitions=freed)
        return freed

    async def _free(self, topic_id: TopicId) -> int:
        entries, _ = await self._store.range(keys.manifests(topic_id))
        if not entries or topic_id in self._image.topics_by_id:
            self._gone.discard(topic_id)
            return 0
        # Asked after the manifests were seen, not of the image, which may be behind: a topic that is gone by then, and
        # was there before its manifests were, never comes back.
        if await self._store.get(keys.assignments(topic_id, 0)) is not None:
            return 0
        ours = [entry for entry in entries if self._is_ours_to_free(entry)]
        for entry in ours:
            await self._partitions.delete(keys.partition_of_manifest(entry.key))
        return len(ours)

    def _is_ours_to_free(self, manifest: KeyValue) -> bool:
        session_id = _owner_session(keys.partition_of_manifest(manifest.key), manifest.value)
        if session_id in (0, self._session_id):
            return True
        is_alive = any(broker.epoch == session_id for broker in self._image.brokers.values())
        return not is_alive and self._image.controller_id == self._broker_id


def _owner_session(partition: PartitionId, manifest: bytes) -> int:
    """0 where several brokers do not share a storage, -1 where the manifest is damaged: no session that lives."""
    try:
        return decode_manifest(manifest, directory_of(partition)).manifest.owner_session
    except Corrupt:
        return -1
