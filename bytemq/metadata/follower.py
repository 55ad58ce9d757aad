"""Keeps a `ClusterImage` up to date with the store, and tells those who derive something from it.

Owns: listing, watching and starting again on any doubt. Must not: decide anything from what it sees.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence

from bytemq.errors import Unavailable
from bytemq.metadata import keys
from bytemq.metadata.image import ClusterImage, ImageChange
from bytemq.metadata.store import Compacted, Event, MetadataStore
from bytemq.runtime.clock import Clock
from bytemq.runtime.logging import get_logger

log = get_logger("metadata.follower")

RETRY_DELAY_S = 0.2
EVENTS_AT_ONCE = 64
"""Each may have a chunk of a topic built anew. One transaction's events are taken together in any case."""


class ImageFollower:
    """The image is loaded by `load`, then kept current by `run`, a task that never ends by itself."""

    def __init__(self, store: MetadataStore, clock: Clock) -> None:
        self.image = ClusterImage()
        self._store = store
        self._clock = clock
        self._listeners: list[Callable[[ImageChange], None]] = []
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []

    def subscribe(self, listener: Callable[[ImageChange], None]) -> None:
        """`listener` is called after each change, when the image shows it. It must not wait nor change the image."""
        self._listeners.append(listener)

    async def load(self) -> None:
        """Brings the image to what the store holds now."""
        entries, revision = await self._store.range(keys.CLUSTER)
        if revision >= self.image.revision:  # else the watch has been faster
            self._publish(self.image.apply(self.image.events_from_listing(entries, revision), revision))

    async def run(self) -> None:
        while True:
            try:
                async for events in self._store.watch(keys.CLUSTER, self.image.revision):
                    await self._take(events)
            except Compacted:
                log.info("listing the metadata again", revision=self.image.revision)
            except Unavailable as error:
                log.warning("cannot watch the metadata", reason=str(error))
                await self._clock.sleep(RETRY_DELAY_S)
            await self._reload()

    async def _take(self, events: Sequence[Event]) -> None:
        """In slices of whole transactions: between two of them the loop does something else."""
        for some in _slices(events):
            # A listing asked for meanwhile may have shown some of them already.
            new = [event for event in some if event.revision > self.image.revision]
            if new:
                self._publish(self.image.apply(new))
            if some[-1] is not events[-1]:
                await asyncio.sleep(0)

    async def wait_for(self, revision: int) -> None:
        """Returns when the image shows the changes of a transaction under `cluster/` at `revision`."""
        if self.image.revision >= revision:
            return
        reached = asyncio.get_running_loop().create_future()
        entry = (revision, reached)
        self._waiting.append(entry)
        try:
            await reached
        finally:
            if entry in self._waiting:
                self._waiting.remove(entry)

    async def _reload(self) -> None:
        while True:
            try:
                await self.load()
                return
            except Unavailable:
                await self._clock.sleep(RETRY_DELAY_S)

    def _publish(self, change: ImageChange) -> None:
        for listener in self._listeners:
            listener(change)
        revision = self.image.revision
        for entry in [entry for entry in self._waiting if entry[0] <= revision]:
            self._waiting.remove(entry)
            if not entry[1].done():
                entry[1].set_result(None)


def _slices(events: Sequence[Event]) -> Iterator[list[Event]]:
    some: list[Event] = []
    for event in events:
        if len(some) >= EVENTS_AT_ONCE and event.revision != some[-1].revision:
            yield some
            some = []
        some.append(event)
    if some:
        yield some
