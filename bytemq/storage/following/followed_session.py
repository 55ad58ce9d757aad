"""The write-ahead log of another session, followed while it grows.

Owns: hearing of its commits, reading each flush once, and handing the shares on in the order of the log. Must not: know
manifests, or what a log is beyond its shares.

The tail record in the metadata is what commits, so what it names is what may be served: a follower can be late, never
early. A watch tells of each commit; since a watch is a hint, `refresh` asks. A flush is read whole, in one request,
while a good part of the session's log is being read here: everybody who reads its tail here then costs one read of the
store together. What little is read of the rest, or only followed, is found by the heads of the flushes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

from bytemq.errors import BytemqError, Corrupt, Unavailable
from bytemq.metadata import keys
from bytemq.metadata.store import Compacted, MetadataStore
from bytemq.runtime.clock import Clock
from bytemq.runtime.logging import get_logger
from bytemq.runtime.steps import Pace
from bytemq.runtime.tasks import retrieved
from bytemq.storage.objects.committed_shares import CommittedShare, CommittedShares, share_at
from bytemq.storage.objects.flush_objects import FlushObjects
from bytemq.storage.objects.session_log import (
    FlushRef,
    IndexedFlush,
    SessionTail,
    checked_flush,
    decode_tail,
    flush_name,
)
from bytemq.storage.objects.session_logs import SessionLogs
from bytemq.storage.stores.interface import ObjectStore
from bytemq.types import PartitionId

log = get_logger("storage.following")

READS_AT_ONCE = 8
WHOLE_BYTES = 64 * 1024 * 1024
"""Of what was committed since the last look, the newest so many bytes are read whole: more is found by its heads."""
WHOLE_FROM = 0.25
"""Flushes are read whole while so much of what is in them is read here."""
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
        self.read: set[PartitionId] = set()
        """Those of them that somebody reads as they grow."""
        self.shares = CommittedShares()
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
        self._last = 0
        self._last_crc = 0
        self._read_part = 1.0
        self._lock = asyncio.Lock()
        self._gate = asyncio.Semaphore(READS_AT_ONCE)
        self._reading: dict[int, tuple[FlushRef, asyncio.Future[bytes]]] = {}
        """Flushes that are being read, or were and are not taken yet, by sequence. They stay committed when the tail
        has come to name them through an index."""
        self._newest: tuple[SessionTail, int] | None = None
        self._heard = asyncio.Event()
        self._is_over = False

    async def begin(self) -> None:
        """Reads what there is. Raises Corrupt when the session's log is gone; Unavailable."""
        async with self._lock:
            tail, revision = await self._logs.tail_of(self.session_id)
            flushes = await self._logs.flushes_of(tail)
            self._last_crc = flushes[0].header.previous_crc if flushes else tail.last_crc
            await self._take(flushes, {})
            self._is_at(tail, revision)

    async def refresh(self) -> None:
        """Brings it to what is committed now. Raises as `begin`; it is broken then, unless it was Unavailable."""
        try:
            tail, revision = await self._logs.tail_of(self.session_id)
        except Corrupt:
            self.is_broken = True
            raise
        await self._advance(tail, revision)

    async def run(self) -> None:
        """Follows until the session's log is no more, or broken."""
        reading = asyncio.ensure_future(self._read_what_is_heard())
        try:
            while not self.is_broken and not self._is_over:
                try:
                    await self._watch()
                except Compacted:
                    pass
                except BytemqError as error:
                    log.info("cannot follow a session just now", session=self.session_id, reason=str(error))
                    await self._clock.sleep(RETRY_S)
                if not self.is_broken and not self._is_over:
                    await self._ask()
        finally:
            reading.cancel()
            self._stop_reading()

    async def _watch(self) -> None:
        key = keys.session_log(self.session_id)
        async for events in self._metadata.watch(key, self._revision):
            newest = [event for event in events if event.key == key]
            if newest and newest[-1].value is None:
                self._is_over = True
            elif newest and newest[-1].value is not None:
                self._hear(decode_tail(newest[-1].value), newest[-1].revision)
            if self._is_over or self.is_broken:
                return

    async def _ask(self) -> None:
        try:
            self._hear(*await self._logs.tail_of(self.session_id))
        except BytemqError as error:
            log.info("cannot follow a session just now", session=self.session_id, reason=str(error))

    def _hear(self, tail: SessionTail, revision: int) -> None:
        """Only the newest counts; reading begins at once, however many are being read already."""
        self._newest = tail, revision
        self._read_ahead(tail)
        self._heard.set()

    async def _read_what_is_heard(self) -> None:
        while not self.is_broken:
            await self._heard.wait()
            self._heard.clear()
            if self._newest is None:
                continue
            try:
                await self._advance(*self._newest)
            except BytemqError as error:
                log.info("cannot follow a session just now", session=self.session_id, reason=str(error))
                await self._clock.sleep(RETRY_S)
                self._heard.set()

    async def _advance(self, tail: SessionTail, revision: int) -> None:
        async with self._lock:
            if revision <= self._revision:
                self.heard_at = self._clock.monotonic()
                return
            try:
                await self._read_new(tail)
            except Unavailable:
                raise
            except Exception:  # whatever it is, it would be met again
                self.is_broken = True
                raise
            self._is_at(tail, revision)

    def _is_at(self, tail: SessionTail, revision: int) -> None:
        self._revision, self._last, self._last_crc = revision, tail.last_sequence, tail.last_crc
        self.heard_at = self._clock.monotonic()
        self.shares.release_below(tail.first_sequence)

    # Reading what is new.

    async def _read_new(self, tail: SessionTail) -> None:
        if tail.first_sequence > self._last + 1:
            raise Corrupt(f"session {self.session_id}: flushes were released before they were seen here")
        self._read_ahead(tail)
        while self._last < tail.last_sequence and self._last + 1 in self._reading:
            ref, body = await self._body(self._last + 1)
            await self._take([checked_flush(ref, self.session_id, body[: ref.head_bytes])], {ref.sequence: body})
        if self._last < tail.last_sequence:  # late, or little of it is read
            flushes = await self._logs.flushes_of(tail, self._last)
            read = [sequence for sequence in self._reading if sequence <= tail.last_sequence]
            await self._take(flushes, {sequence: (await self._body(sequence))[1] for sequence in read})

    def _read_ahead(self, tail: SessionTail) -> None:
        """Begins to read the newest of what is new, as far as it is worth it."""
        if not self.read or self._read_part < WHOLE_FROM:
            return
        left = WHOLE_BYTES
        for ref in reversed(tail.flushes):
            left -= ref.size_bytes
            if left < 0 or ref.sequence <= self._last:
                break
            if ref.sequence not in self._reading:
                self._reading[ref.sequence] = ref, asyncio.ensure_future(self._read(ref))

    async def _read(self, ref: FlushRef) -> bytes:
        async with self._gate:
            return await self._store.read(flush_name(self.session_id, ref))

    async def _body(self, sequence: int) -> tuple[FlushRef, bytes]:
        ref, reading = self._reading[sequence]
        try:
            return ref, await asyncio.shield(reading)
        finally:
            self._reading.pop(sequence, None)
            reading.add_done_callback(retrieved)

    def _stop_reading(self) -> None:
        for _, reading in self._reading.values():
            reading.cancel()
            reading.add_done_callback(retrieved)
        self._reading.clear()

    async def _take(self, flushes: Sequence[IndexedFlush], bodies: Mapping[int, bytes]) -> None:
        """Each whole, in one step; something else may be done between two of many."""
        pace = Pace()
        for flush in flushes:
            ref, header, _ = flush
            if header.previous_crc != self._last_crc:
                raise Corrupt(f"session {self.session_id}: flush {ref.sequence} does not follow its predecessor")
            self._last, self._last_crc = ref.sequence, ref.crc
            places = self.shares.add(flush)
            wanted = [share_at(flush, position) for partition, position in places if partition in self.takers]
            if wanted and ref.sequence in bodies:
                self._objects.keep(self.session_id, ref, bodies[ref.sequence])
            read_bytes = 0
            for committed in wanted:
                if committed.share.partition in self.read:
                    read_bytes += committed.share.size_bytes
                taker = self.takers.get(committed.share.partition)
                if taker is not None:  # else the chunk before this one has made it begin anew
                    taker(self.session_id, committed)
            if self.read:
                part = read_bytes / max(1, ref.size_bytes - ref.head_bytes)
                self._read_part += WEIGHT_OF_LAST * (part - self._read_part)
            if pace.is_over(len(places)):
                await asyncio.sleep(0)
