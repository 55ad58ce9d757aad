"""Exports of the metadata in the storage, made by the controller: with what the write-ahead logs hold beyond the newest
one, the storage alone can give a cluster back (`roll_forward`).

Owns: their names and form, when one is made, and which go. Must not: know the lines (`metadata/backup.py`).

One is made twice within the time for which the storage keeps what was superseded, and soon after topics, configs or
pools have changed, which write-ahead logs do not tell. It takes a listing of all metadata, so it is made less often
where that takes long.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Iterator
from random import Random

from bytemq.errors import BytemqError, Corrupt, NotFound
from bytemq.metadata import backup, features, keys
from bytemq.metadata.backup import Backup
from bytemq.metadata.follower import ImageFollower
from bytemq.metadata.image import ImageChange
from bytemq.metadata.store import MetadataStore
from bytemq.runtime.clock import Clock
from bytemq.runtime.logging import get_logger
from bytemq.runtime.steps import Pace
from bytemq.storage.stores.interface import ObjectStore

log = get_logger("storage.exports")

FOLDER = "metadata/"
KEPT = 3
LOOK_S = 1.0
"""How often it is looked whether one is due, and how long after a change of topics, configs or pools it is."""
REST = 5
"""One that took a second is followed by another after so many seconds, at the earliest."""
STEP_BYTES = 64 * 1024
"""Of lines, before something else is done."""
_REVISION_DIGITS = 16
_GZIP = zlib.MAX_WBITS | 16


class MetadataExports:
    """`grace_s`: how long the storage keeps what was superseded."""

    def __init__(
        self,
        store: ObjectStore,
        metadata: MetadataStore,
        follower: ImageFollower,
        broker_id: int,
        grace_s: float,
        clock: Clock,
        random: Random,
    ) -> None:
        self._store = store
        self._metadata = metadata
        self._follower = follower
        self._broker_id = broker_id
        self._interval_s = grace_s / 2
        self._clock = clock
        self._random = random
        self._exported_revision = 0
        self._exported_at: float | None = None
        self._took_s = 0.0
        self._has_changed = False
        follower.subscribe(self._look_at)

    @property
    def age_s(self) -> float:
        """Of the newest export; 0 where another broker makes them, or nobody may yet."""
        return 0.0 if self._exported_at is None else self._clock.monotonic() - self._exported_at

    async def run(self) -> None:
        while True:
            await self._clock.sleep(LOOK_S)
            if self._is_due():
                try:
                    await self.export()
                except BytemqError as error:
                    log.warning("the metadata were not exported, it will be tried again", reason=str(error))

    async def export(self) -> None:
        """Makes one now. Raises Unavailable, Full."""
        had_changed, self._has_changed = self._has_changed, False
        try:
            await self._write()
        except BaseException:
            self._has_changed = self._has_changed or had_changed
            raise
        old = [info.name for info in await self._store.list(FOLDER)][:-KEPT]
        if old:
            await self._store.delete(old)

    async def _write(self) -> None:
        began = self._clock.monotonic()
        listing = await self._metadata.range("")
        name = f"{FOLDER}{listing.revision:0{_REVISION_DIGITS}x}-{self._random.getrandbits(64):016x}.jsonl.gz"
        data = await _compressed(backup.lines_of(listing))
        await self._store.create(name, [data])
        self._exported_at = self._clock.monotonic()
        self._exported_revision, self._took_s = listing.revision, self._exported_at - began
        log.info("metadata exported", name=name, bytes=len(data), keys=len(listing.entries))

    def _is_due(self) -> bool:
        image = self._follower.image
        if image.controller_id != self._broker_id or image.feature_level < features.LAST_SESSION_KNOWN:
            self._exported_at = None
            return False
        if self._exported_at is None:
            return True
        rest_s = self._took_s * REST
        due_s = rest_s if self._has_changed else max(self._interval_s, rest_s)
        return self.age_s >= due_s

    def _look_at(self, change: ImageChange) -> None:
        image = self._follower.image
        self._has_changed = self._has_changed or bool(change.configs) or change.pools
        for topic_id in change.topics:
            topic = image.topics_by_id.get(topic_id)
            if topic is None or image.key_revision(keys.topic(topic.name)) > self._exported_revision:
                self._has_changed = True


async def newest_revision(store: ObjectStore) -> int:
    """Of all exports, readable or not; 0: there is none. Raises Unavailable."""
    return max((_revision_of(info.name) for info in await store.list(FOLDER)), default=0)


def _revision_of(name: str) -> int:
    """0: it is none of ours."""
    try:
        return int(name[len(FOLDER) :][:_REVISION_DIGITS], 16)
    except ValueError:
        return 0


async def newest_export(store: ObjectStore) -> Backup:
    """The newest that can be read. Raises NotFound, Unavailable."""
    for info in reversed(await store.list(FOLDER)):
        try:
            text = zlib.decompress(await store.read(info.name), _GZIP).decode()
            return backup.parse(text.splitlines())
        except (NotFound, Corrupt, zlib.error, UnicodeDecodeError) as error:
            log.warning("an export of the metadata cannot be read", name=info.name, reason=str(error))
    raise NotFound("there is no export of the metadata in this storage; give the file of one")


async def _compressed(lines: Iterator[str]) -> bytes:
    """In steps: whoever makes an export serves clients, too."""
    compressor = zlib.compressobj(1, zlib.DEFLATED, _GZIP)
    parts: list[bytes] = []
    pace = Pace(STEP_BYTES)
    for line in lines:
        parts.append(compressor.compress(f"{line}\n".encode()))
        if pace.is_over(len(line)):
            await asyncio.sleep(0)
    parts.append(compressor.flush())
    return b"".join(parts)
