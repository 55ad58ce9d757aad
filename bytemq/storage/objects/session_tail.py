"""The tail record of this session's write-ahead log: what commits.

Owns: the one key in the metadata store that says which flushes count, every change of it, and the index objects that
keep it short. Must not: know appends or logs.

Each change is a transaction that compares the key of the session and the tail as it was seen last. An owner that was
taken for dead has lost its key, so that it can change nothing. A transaction whose outcome is unknown is sent again as
it was, until the outcome is known: the comparison lets it happen once at most, and nobody may be told that a commit
failed which may still happen.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from random import Random

from bytemq.errors import BytemqError, Fenced, Unavailable
from bytemq.metadata import keys
from bytemq.metadata.store import Compare, KeyValue, MetadataStore, Put
from bytemq.runtime.clock import Clock
from bytemq.runtime.logging import get_logger
from bytemq.runtime.tasks import Supervisor
from bytemq.storage.objects.session_log import (
    FlushRef,
    IndexRef,
    SessionTail,
    encode_index,
    encode_tail,
    index_name,
    index_ref,
    names_of_tail,
    released_below,
    with_flushes,
    with_index,
)
from bytemq.storage.pools.names import pool_of
from bytemq.storage.pools.pooled_store import Place

log = get_logger("storage.tail")

INDEX_FLUSHES = 32
"""As many flushes get an index object together: whoever opens reads at most about twice as many heads one by one."""
FIRST_RETRY_S = 0.05
MAX_RETRY_S = 1.0


class SessionTailKeeper:
    """`fence` is the comparison that holds while the session lives."""

    def __init__(
        self,
        place: Place,
        metadata: MetadataStore,
        tail: SessionTail,
        fence: Compare,
        clock: Clock,
        random: Random,
        supervisor: Supervisor,
    ) -> None:
        self._place = place
        self._metadata = metadata
        self._fence = fence
        self._clock = clock
        self._random = random
        self._supervisor = supervisor
        self._key = keys.session_log(tail.session_id)
        self._revision = 0
        self._lock = asyncio.Lock()
        self._heads: deque[tuple[FlushRef, bytes]] = deque()
        """Of the flushes that no index has yet."""
        self._indexing: asyncio.Task[object] | None = None
        self._index: IndexRef | None = None
        """Durable, and part of the next change."""
        self.tail = tail
        """As published."""

    @property
    def session_id(self) -> int:
        return self.tail.session_id

    async def begin(self) -> None:
        """Publishes the empty tail. Raises Fenced when the session has ended, or its id was used before."""
        async with self._lock:
            await self._publish(self.tail)

    async def commit(self, flushes: Sequence[tuple[FlushRef, bytes]]) -> None:
        """Commits flushes in a row, each with its head; their objects are durable. Raises Fenced."""
        async with self._lock:
            tail = with_flushes(self.tail, [ref for ref, _ in flushes])
            await self._publish(self._with_ready_index(tail))
        self._heads.extend(flushes)
        # One that is durable and not published yet has heads of its own: another would name them a second time.
        if self._indexing is None and self._index is None and len(self._heads) >= INDEX_FLUSHES:
            self._indexing = self._supervisor.start("wal-index", self._write_index())

    async def release_below(self, sequence: int) -> Sequence[str]:
        """Nobody needs what is below. Returns the names of objects, apart from flushes, that may go now. Raises
        Fenced."""
        async with self._lock:
            left, before = self._pass_over_index(sequence), self.tail
            if sequence > before.first_sequence:
                await self._publish(released_below(self._with_ready_index(before), sequence))
                kept = set(names_of_tail(self.tail))
                left += [name for name in names_of_tail(before) if name.endswith(".index") and name not in kept]
            return left

    def last_in(self, pool: str) -> int:
        """The last flush that a pool must be kept for, be it for an index; 0: there is none."""
        indexed = [index.last_sequence for index in self.tail.indexes if pool in (index.pool, *index.holds)]
        return max([*indexed, *(flush.sequence for flush in self.tail.flushes if flush.pool == pool)], default=0)

    async def idle(self) -> None:
        """Returns when no index is being written."""
        if self._indexing is not None:
            await asyncio.wait([self._indexing])

    def _pass_over_index(self, sequence: int) -> list[str]:
        """What is durable, not published yet, and of nothing that is needed never becomes part of the tail. Returns the
        name of the object."""
        if self._index is None or self._index.last_sequence >= sequence:
            return []
        name = index_name(self.session_id, self._index)
        self._forget_index()
        return [name]

    def _forget_index(self) -> None:
        """What it is of is in it, or nobody needs that any more."""
        assert self._index is not None
        while self._heads and self._heads[0][0].sequence <= self._index.last_sequence:
            self._heads.popleft()
        self._index = None

    def _with_ready_index(self, tail: SessionTail) -> SessionTail:
        return with_index(tail, self._index) if self._index is not None else tail

    async def _publish(self, tail: SessionTail) -> None:
        value = encode_tail(tail)
        compares, puts = [self._fence, Compare(self._key, self._revision)], [Put(self._key, value)]
        delay_s = FIRST_RETRY_S
        while True:
            try:
                outcome = await self._metadata.txn(compares, puts)
                if outcome.succeeded:
                    revision = outcome.revision
                    break
                entry = await self._metadata.get(self._key)
                if not _is_ours(entry, value):
                    raise Fenced(f"session {self.session_id} has ended: nothing more can be committed by it")
                assert entry is not None
                revision = entry.revision  # an attempt whose answer was lost
                break
            except Unavailable as error:
                log.warning("outcome of a commit is unknown", sequence=tail.last_sequence, reason=str(error))
            await self._clock.sleep(delay_s * (0.5 + self._random.random() / 2))
            delay_s = min(2 * delay_s, MAX_RETRY_S)
        self.tail, self._revision = tail, revision
        if self._index is not None and self._index in tail.indexes:
            self._forget_index()

    async def _write_index(self) -> None:
        """Failing is harmless: the tail names the flushes themselves for longer."""
        try:
            flushes = list(self._heads)
            data = encode_index(self.session_id, flushes)
            ref = index_ref(flushes, data, self._random.getrandbits(64))
            name = await self._place(index_name(self.session_id, ref), [data])
            self._index = ref._replace(pool=pool_of(name))
        except BytemqError as error:
            log.warning("an index of the write-ahead log was not written", reason=str(error))
        finally:
            self._indexing = None


def _is_ours(entry: KeyValue | None, value: bytes) -> bool:
    """Tokens in the value make it ours alone."""
    return entry is not None and entry.value == value
