"""The write-ahead log of another session, followed while it grows.

Owns: hearing of its commits, reading each flush once, and handing the shares on in the order of the log. Must not: know
manifests, or what a log is beyond its shares.

The tail record in the metadata is what commits, so what it names is what may be served: a follower can be late, never
early. A watch tells of each commit; since a watch is a hint, `refresh` asks. A flush is read whole, in one request,
while a good part of the session's log is being followed: everybody who reads its tail here then costs one read of the
store together. What little is followed of the rest is found by the heads of the flushes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

from bytemq.errors import BytemqError, Corrupt, NotFound
from bytemq.metadata import keys
from bytemq.metadata.store import Compacted, MetadataStore
from bytemq.runtime.clock import Clock
from bytemq.runtime.logging import get_logger
from bytemq.storage.objects.flush_objects import FlushObjects
from bytemq.storage.objects.session_log import (
    FlushRef,
    IndexedFlush,
    SessionTail,
    checked_flush,
    decode_tail,
    flush_name,
)
from bytemq.storage.objects.session_logs import CommittedShare, SessionLogs
from bytemq.storage.stores.interface import ObjectStore
from bytemq.storage.wal.format import decode_shares
from bytemq.types import PartitionId

log = get_logger("storage.following")

READS_AT_ONCE = 8
WHOLE_BYTES = 64 * 1024 * 1024
"""Of what was committed since the last look, the newest so many bytes are read whole: more is found by its heads."""
WHOLE_FROM = 0.25
"""Flushes are read whole while so much of what is in them is followed."""
WEIGHT_OF_LAST = 0.25
RETRY_S = 0.2

Taker = Callable[[int, CommittedShare], None]
"""Told the session and a share that was committed; called in the order of the log."""


class FollowedSession:
    """`begin` it, then keep `run` running. `takers` are those who follow a partition, and may change at any time."""

    def __init__(
        self,
        session_id: int,
        store: ObjectStore,
        metadata: MetadataStore,
        logs: SessionLogs,
        objects: FlushObjects,
        clock: Clock,
    ) -> None:
        self.session_id = session_id
        self.takers: dict[PartitionId, Taker] = {}
        self.shares: dict[PartitionId, list[CommittedShare]] = {}
        """All that is committed and not released, as of `heard_at`."""
        self.heard_at = clock.monotonic()
        self.is_broken = False
        """Something of it is gone that was not seen: whoever follows begins anew, with another object of this class."""
        self._store = store
        self._metadata = metadata
        self._logs = logs
        self._objects = objects
        self._clock = clock
        self._revision = 0
        self._first = 1
        self._last = 0
        self._last_crc = 0
        self._followed_part = 1.0
        self._lock = asyncio.Lock()

    async def begin(self) -> None:
        """Reads what there is. Raises Corrupt when the session's log is gone; Unavailable."""
        async with self._lock:
            tail, revision = await self._logs.tail_of(self.session_id)
            self._take(await self._logs.flushes_of(tail), {})
            self._is_at(tail, revision)

    async def refresh(self) -> None:
        """Brings it to what is committed now. Raises as `begin`; it is broken then, unless it was Unavailable."""
        tail, revision = await self._logs.tail_of(self.session_id)
        await self._advance(tail, revision)

    async def run(self) -> None:
        """Follows until the session's log is no more, or broken."""
        key = keys.session_log(self.session_id)
        while not self.is_broken:
            try:
                async for events in self._metadata.watch(key, self._revision):
                    newest = [event for event in events if event.key == key]
                    if newest and newest[-1].value is None:
                        return  # nobody needs it any more
                    if newest and newest[-1].value is not None:
                        await self._advance(decode_tail(newest[-1].value), newest[-1].revision)
            except Compacted:
                pass
            except BytemqError as error:
                log.info("cannot follow a session just now", session=self.session_id, reason=str(error))
            if self.is_broken:
                return
            await self._clock.sleep(RETRY_S)
            try:
                await self.refresh()
            except BytemqError as error:
                log.info("cannot follow a session just now", session=self.session_id, reason=str(error))

    async def _advance(self, tail: SessionTail, revision: int) -> None:
        async with self._lock:
            if revision <= self._revision:
                self.heard_at = self._clock.monotonic()
                return
            try:
                await self._read_new(tail)
            except (Corrupt, NotFound):
                self.is_broken = True
                raise
            self._is_at(tail, revision)

    def _is_at(self, tail: SessionTail, revision: int) -> None:
        self._revision, self._last, self._last_crc = revision, tail.last_sequence, tail.last_crc
        self.heard_at = self._clock.monotonic()
        if tail.first_sequence > self._first:
            self._first = tail.first_sequence
            self._forget_released()

    def _forget_released(self) -> None:
        for partition, shares in list(self.shares.items()):
            kept = [share for share in shares if share.ref.sequence >= self._first]
            if kept:
                self.shares[partition] = kept
            else:
                del self.shares[partition]

    # Reading what is new.

    async def _read_new(self, tail: SessionTail) -> None:
        if tail.first_sequence > self._last + 1:
            raise Corrupt(f"session {self.session_id}: flushes were released before they were seen here")
        whole = self._read_whole([flush for flush in tail.flushes if flush.sequence > self._last])
        bodies = await self._bodies(whole)
        if whole and whole[0].sequence == self._last + 1:
            flushes = [checked_flush(ref, self.session_id, bodies[ref.sequence][: ref.head_bytes]) for ref in whole]
        else:  # late, or little of it is followed
            flushes = await self._logs.flushes_of(tail, self._last)
        link = self._last_crc
        for flush in flushes:
            if flush.header.previous_crc != link:
                raise Corrupt(f"session {self.session_id}: flush {flush.ref.sequence} does not follow its predecessor")
            link = flush.ref.crc
        self._take(flushes, bodies)

    def _read_whole(self, new: Sequence[FlushRef]) -> list[FlushRef]:
        """The newest of these flushes, as far as it is worth it."""
        chosen: list[FlushRef] = []
        left = WHOLE_BYTES if self._followed_part >= WHOLE_FROM else 0
        for ref in reversed(new):
            left -= ref.size_bytes
            if left < 0:
                break
            chosen.append(ref)
        return chosen[::-1]

    async def _bodies(self, refs: Sequence[FlushRef]) -> dict[int, bytes]:
        gate = asyncio.Semaphore(READS_AT_ONCE)

        async def read(ref: FlushRef) -> bytes:
            async with gate:
                return await self._store.read(flush_name(self.session_id, ref))

        bodies = await asyncio.gather(*(read(ref) for ref in refs))
        return {ref.sequence: body for ref, body in zip(refs, bodies, strict=True)}

    def _take(self, flushes: Sequence[IndexedFlush], bodies: Mapping[int, bytes]) -> None:
        for ref, header, head in flushes:
            followed_bytes = 0
            shares = [CommittedShare(ref, header.head_bytes, share) for share in decode_shares(head, header)]
            wanted = [share for share in shares if share.share.partition in self.takers]
            if wanted and ref.sequence in bodies:
                self._objects.keep(self.session_id, ref, bodies[ref.sequence])
            for committed in shares:
                self.shares.setdefault(committed.share.partition, []).append(committed)
            for committed in wanted:
                followed_bytes += committed.share.size_bytes
                self.takers[committed.share.partition](self.session_id, committed)
            if self.takers:
                part = followed_bytes / max(1, ref.size_bytes - ref.head_bytes)
                self._followed_part += WEIGHT_OF_LAST * (part - self._followed_part)
