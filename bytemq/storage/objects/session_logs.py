"""Reading what sessions have committed to their write-ahead logs: by their tails and indexes, no batch is read.

Owns: loading the index of a session once for all partitions that are opened from it. Must not: publish, or keep what
nobody opens any more.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

from crc32c import crc32c

from bytemq.errors import Corrupt, NotFound
from bytemq.metadata import keys
from bytemq.metadata.store import MetadataStore
from bytemq.runtime.logging import get_logger
from bytemq.runtime.steps import Pace
from bytemq.runtime.tasks import retrieved
from bytemq.storage.objects.committed_shares import CommittedShare, CommittedShares
from bytemq.storage.objects.session_log import (
    FlushRef,
    IndexedFlush,
    IndexRef,
    SessionTail,
    checked_flush,
    decode_index,
    decode_tail,
    flush_name,
    index_name,
)
from bytemq.storage.stores.interface import ObjectStore
from bytemq.types import PartitionId

log = get_logger("storage.recovery")

READS_AT_ONCE = 16
SESSIONS_KEPT = 8


class _Loaded(NamedTuple):
    tail: SessionTail
    revision: int
    """Of the tail record."""
    is_final: bool
    """Whether the session had ended before its tail was read: nothing can be added to its log any more."""
    shares: CommittedShares


class SessionLogs:
    """Keeps the indexes of the sessions that logs were opened from lately. Of a session that lives, only what it has
    added is read again; and all who ask while that is being done share the next time.
    """

    def __init__(self, store: ObjectStore, metadata: MetadataStore) -> None:
        self._store = store
        self._metadata = metadata
        self._loaded: OrderedDict[int, _Loaded] = OrderedDict()
        self._locks: dict[int, asyncio.Lock] = {}
        self._next: dict[int, asyncio.Future[_Loaded]] = {}
        """Readings that have not begun."""
        self._gate = asyncio.Semaphore(READS_AT_ONCE)
        self.read_bytes = 0
        """Of indexes and heads."""

    async def shares_of(self, session_id: int, partition: PartitionId) -> Sequence[CommittedShare]:
        """What the session has committed of the partition by now, in order, less what was released.

        Raises Corrupt when its tail is missing although a manifest names the session, or an index is damaged;
        Unavailable.
        """
        loaded = self._loaded.get(session_id)
        if loaded is None or not loaded.is_final:
            loaded = await self._read_anew(session_id)
        else:
            self._loaded.move_to_end(session_id)
        return loaded.shares.of(partition)

    async def look_ahead(self, session_id: int) -> None:
        """So that there is less to read later. Raises as `shares_of`."""
        await self._read_anew(session_id)

    async def tail_of(self, session_id: int) -> tuple[SessionTail, int]:
        """What its tail record says now, and the record's revision. Raises Corrupt, Unavailable."""
        entry = await self._metadata.get(keys.session_log(session_id))
        if entry is None:
            raise Corrupt(f"the write-ahead log of session {session_id} is not in the metadata any more")
        return decode_tail(entry.value), entry.revision

    async def flushes_of(self, tail: SessionTail, above: int = 0) -> list[IndexedFlush]:
        """The committed flushes behind the sequence `above` that were not released, with their heads.

        Raises Corrupt, also when something of it is gone meanwhile; Unavailable.
        """
        indexes = [index for index in tail.indexes if index.last_sequence > above]
        indexed = await asyncio.gather(*(self._index(tail.session_id, index) for index in indexes))
        newest = [flush for flush in tail.flushes if flush.sequence > above]
        loose = await asyncio.gather(*(self._head(tail.session_id, flush) for flush in newest))
        flushes = [flush for flushes in indexed for flush in flushes] + list(loose)
        first = max(tail.first_sequence, above + 1)
        flushes = [flush for flush in flushes if flush.ref.sequence >= first]
        _check_chain(tail, flushes, first)
        return flushes

    async def _read_anew(self, session_id: int) -> _Loaded:
        """As it is at this moment, or later."""
        reading = self._next.get(session_id)
        if reading is None:
            reading = self._next[session_id] = asyncio.ensure_future(self._read_in_turn(session_id))
            reading.add_done_callback(retrieved)
        return await asyncio.shield(reading)

    async def _read_in_turn(self, session_id: int) -> _Loaded:
        async with self._locks.setdefault(session_id, asyncio.Lock()):
            del self._next[session_id]  # whoever comes from now on may want what is not there yet
            loaded = self._loaded.get(session_id)
            if loaded is None or not loaded.is_final:
                loaded = self._loaded[session_id] = await self._refreshed(session_id, loaded)
            self._loaded.move_to_end(session_id)
            while len(self._loaded) > SESSIONS_KEPT:
                self._loaded.popitem(last=False)
            return loaded

    async def _refreshed(self, session_id: int, loaded: _Loaded | None) -> _Loaded:
        tail, revision = await self.tail_of(session_id)
        holder = await self._metadata.get(keys.broker(tail.broker_id))
        is_final = holder is None or holder.revision != session_id
        if is_final:
            tail, revision = await self.tail_of(session_id)  # again: what it committed before its end
        if loaded is not None and loaded.revision == revision:
            return loaded._replace(is_final=is_final)
        while True:
            shares = CommittedShares() if loaded is None else loaded.shares
            shares.release_below(tail.first_sequence)
            try:
                await self._add(shares, tail, loaded.tail if loaded is not None else None)
                return _Loaded(tail, revision, is_final, shares)
            except Corrupt:  # or released, and deleted: reading may take longer than the time of grace
                first = tail.first_sequence
                tail, revision = await self.tail_of(session_id)
                if tail.first_sequence == first:
                    raise

    def forget(self, session_id: int) -> None:
        """The session's log is gone."""
        self._loaded.pop(session_id, None)
        self._locks.pop(session_id, None)

    async def _add(self, shares: CommittedShares, tail: SessionTail, before: SessionTail | None) -> None:
        """What the tail names and the one before did not. Nothing is added when it cannot be read."""
        flushes = await self.flushes_of(tail, before.last_sequence if before is not None else 0)
        if before is not None and flushes and flushes[0].ref.sequence == before.last_sequence + 1:
            _check_link(tail, flushes[0], before.last_crc)
        pace = Pace()
        for flush in flushes:
            if pace.is_over(len(shares.add(flush))):
                await asyncio.sleep(0)
        log.info(
            "write-ahead log of a session read", session=tail.session_id, flushes=len(flushes), partitions=len(shares)
        )

    async def _index(self, session_id: int, index: IndexRef) -> list[IndexedFlush]:
        name = index_name(session_id, index)
        async with self._gate:
            data = await self._read(name, None)
        if crc32c(data) != index.crc:
            raise Corrupt(f"{name} is not the index that was committed")
        return decode_index(data, session_id)

    async def _head(self, session_id: int, flush: FlushRef) -> IndexedFlush:
        async with self._gate:
            head = await self._read(flush_name(session_id, flush), flush.head_bytes)
        return checked_flush(flush, session_id, head)

    async def _read(self, name: str, size_bytes: int | None) -> bytes:
        try:
            if size_bytes is None:
                data = await self._store.read(name)
            else:
                data = await self._store.read_range(name, 0, size_bytes)
        except NotFound as error:
            raise Corrupt(f"{name} is missing: it was committed and not released") from error
        self.read_bytes += len(data)
        return data


def _check_chain(tail: SessionTail, flushes: Sequence[IndexedFlush], first: int) -> None:
    """Raises Corrupt unless each flush follows the one before it, up to the last that was committed."""
    previous: IndexedFlush | None = None
    for flush in flushes:
        if previous is not None:
            if flush.header.sequence != previous.header.sequence + 1:
                raise Corrupt(f"session {tail.session_id}: flush {previous.header.sequence + 1} is missing")
            _check_link(tail, flush, previous.header.crc)
        previous = flush
    last = previous.header.sequence if previous is not None else first - 1
    if last != tail.last_sequence and tail.last_sequence >= first:
        raise Corrupt(f"session {tail.session_id}: flushes {last + 1} to {tail.last_sequence} are missing")


def _check_link(tail: SessionTail, flush: IndexedFlush, predecessor_crc: int) -> None:
    if flush.header.previous_crc != predecessor_crc:
        raise Corrupt(f"session {tail.session_id}: flush {flush.header.sequence} does not follow its predecessor")
