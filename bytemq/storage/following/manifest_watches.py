"""Watching the manifests of topics: whatever becomes of one is told, sooner or later, also where a watch breaks off.

Owns: the watches. Must not: decode what it tells.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from bytemq.errors import BytemqError
from bytemq.metadata import keys
from bytemq.metadata.store import Compacted, MetadataStore
from bytemq.runtime.clock import Clock
from bytemq.runtime.logging import get_logger
from bytemq.runtime.tasks import Supervisor
from bytemq.types import TopicId

log = get_logger("storage.following")

RETRY_S = 0.2
Heard = Callable[[str, bytes | None, int], None]
"""Key, value (None: it is gone) and revision."""


class ManifestWatches:
    def __init__(self, metadata: MetadataStore, clock: Clock, supervisor: Supervisor, heard: Heard) -> None:
        self._metadata = metadata
        self._clock = clock
        self._supervisor = supervisor
        self._heard = heard
        self._topics: dict[TopicId, asyncio.Task[object]] = {}

    def begin(self, topic_id: TopicId, revision: int) -> None:
        """What comes after `revision` is told from now on, if it is not already."""
        if topic_id not in self._topics:
            self._topics[topic_id] = self._supervisor.start("follow manifests", self._watch(topic_id, revision))

    def end(self, topic_id: TopicId) -> None:
        watching = self._topics.pop(topic_id, None)
        if watching is not None:
            watching.cancel()

    async def _watch(self, topic_id: TopicId, revision: int) -> None:
        prefix = keys.manifests(topic_id)
        while True:
            try:
                async for events in self._metadata.watch(prefix, revision):
                    for event in events:
                        revision = max(revision, event.revision)
                        self._heard(event.key, event.value, event.revision)
            except Compacted:
                pass
            except BytemqError as error:
                log.info("cannot watch manifests just now", reason=str(error))
                await self._clock.sleep(RETRY_S)
            try:
                entries, revision = await self._metadata.range(prefix)
                for entry in entries:
                    self._heard(entry.key, entry.value, entry.revision)
            except BytemqError:
                await self._clock.sleep(RETRY_S)
