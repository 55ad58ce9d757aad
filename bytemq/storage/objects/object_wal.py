"""The writer of the write-ahead log in objects: one object a flush, committed by a metadata transaction.

Owns: when a flush starts, how many are on their way, the order of commits, and what happens when one fails. Must not:
know what a log is beyond where its committed bytes are, or decide what is written behind.

A flush takes what is staged, gathered by partition. It starts at once when the last one started an interval ago or
longer, and before that only when it is full: so a lone append waits for nothing, and a busy broker pays for few
requests. What a coordinator writes is urgent, since clients take one step after the other: it waits only for the flush
that is on its way, and takes along what is staged by then. Nobody's records wait because of it: their interval begins
with a flush that had records of clients. Several objects are written at the same time and committed in order: one
transaction commits all leading ones that are written.

When an object cannot be written, it and everything behind it fails, once everything before it is decided, and the
offsets of every log involved roll back to what is committed. The object may still appear in the store later: no tail
names it, and its name is never used again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from random import Random
from typing import NamedTuple

from bytemq.errors import BytemqError, Fenced, Invalid, Unavailable
from bytemq.protocol.records.batch import RecordBatch
from bytemq.runtime.clock import Clock, TimerHandle
from bytemq.runtime.logging import get_logger
from bytemq.runtime.tasks import retrieved
from bytemq.storage.log_files import LogFiles
from bytemq.storage.objects.session_log import FlushRef, flush_name
from bytemq.storage.objects.session_tail import SessionTailKeeper
from bytemq.storage.pools.names import pool_of
from bytemq.storage.pools.pooled_store import Place
from bytemq.storage.settings import StorageConfig
from bytemq.storage.wal.extents import Chunk
from bytemq.storage.wal.format import encode_head
from bytemq.storage.wal.staging import Append, Flush, OnDurable, Staged, Staging

log = get_logger("storage.wal")

NEVER = -1e9
MOST_ATTEMPTS = 0xFFFF


class Flight(NamedTuple):
    """A flush on its way."""

    flush: Flush
    ref: FlushRef
    """Without the pool, which is known when it is written."""
    head: bytes
    body: bytes
    written: asyncio.Future[str]
    """Its object's name."""

    @property
    def written_ref(self) -> FlushRef:
        return self.ref._replace(pool=pool_of(self.written.result()))


class ObjectWal:
    """`committed(ref, body)` takes over a flush that was committed and returns the ordinal that extents refer to it by.
    `grown` is called after commits and failures: the moment to look whether something should be written behind.
    `discard` is told of objects that were written and will never be committed.
    """

    def __init__(
        self,
        place: Place,
        tail: SessionTailKeeper,
        config: StorageConfig,
        clock: Clock,
        random: Random,
        committed: Callable[[FlushRef, bytes], int],
        grown: Callable[[], None],
        discard: Callable[[Sequence[str]], None],
    ) -> None:
        self._place = place
        self._tail = tail
        self._config = config
        self._clock = clock
        self._random = random
        self._committed = committed
        self._grown = grown
        self._discard = discard
        self._staging = Staging(config)
        self._flights: deque[Flight] = deque()
        self._is_urgent = False
        """Whether something of a coordinator is staged."""
        self._is_paced = False
        """Whether something else is."""
        self._sequence = 0
        self._link = 0
        self._attempt = 0
        """How often flushes have come to nothing: sequences are then used again."""
        self.flushes = 0
        """So many have been started."""
        self._started_at = NEVER
        self._paced_at = NEVER
        """When a flush was started that had more than what coordinators write."""
        self._retry_at = NEVER
        self._closing = False
        self._timer: TimerHandle | None = None
        self._timer_at = NEVER
        self._changed = asyncio.Event()
        self._flown = asyncio.Event()
        self.failure: BytemqError | None = None
        """Why the last flush failed; None once something could be written again."""
        self.has_died = False
        """Whether the session was fenced, or `run` has ended otherwise: everything appended is refused then."""

    # Appending.

    def append(self, files: LogFiles, batches: Sequence[RecordBatch], on_durable: OnDurable) -> None:
        self.append_all(((files, batches, on_durable),))

    def append_all(self, appends: Sequence[Append]) -> None:
        if self._closing:
            raise Invalid("an append needs a storage that is open")
        self._staging.add(appends)
        for files, batches, _ in appends:
            if files.is_urgent or any(batch.is_control for batch in batches):
                self._is_urgent = True
            else:
                self._is_paced = True
        if self.has_died:
            asyncio.get_running_loop().call_soon(self._refuse_all)
        self._changed.set()

    def hasten(self) -> None:
        """See `logs`."""
        self._is_urgent = bool(self._staging)
        self._changed.set()

    @property
    def pending_bytes(self) -> int:
        return self._staging.pending_bytes

    async def run(self) -> None:
        """Writes and commits until `stop` was called and nothing is left.

        Raises Fenced when the session has ended, and what nobody had foreseen; then what is pending was answered, and
        everything later is refused.
        """
        starting = asyncio.ensure_future(self._start_flushes())
        committing = asyncio.ensure_future(self._commit_in_order())
        try:
            await asyncio.wait([starting, committing], return_when=asyncio.FIRST_EXCEPTION)
            for task in (committing, starting):
                if task.done():
                    task.result()
        except BaseException as error:
            self._die(error)
            raise
        finally:
            if self._timer is not None:
                self._timer.cancel()
            starting.cancel()
            committing.cancel()
            await asyncio.gather(starting, committing, return_exceptions=True)

    def stop(self) -> None:
        """Makes `run` return when everything staged was decided."""
        self._closing = True
        self._changed.set()
        self._flown.set()

    # Writing.

    async def _start_flushes(self) -> None:
        while self._staging or not self._closing:
            self._changed.clear()
            now = self._clock.monotonic()
            if self._staging and self.failure is not None and now < self._retry_at:
                if not self._flights:
                    self._staging.fail(self._all_staged(), self.failure)
            elif self._staging and self._may_start(now):
                self._start(now)
                continue
            if self._staging or not self._closing:
                await self._changed.wait()
        self._flown.set()

    def _may_start(self, now: float) -> bool:
        """Whether a flush starts now. Where only time is missing, a timer looks again."""
        if len(self._flights) >= self._config.wal_flush_in_flight:
            return False
        if self._is_urgent and not self._flights:
            return True
        before = self._paced_at if self._is_paced else self._started_at
        due_at = before + self._config.wal_flush_interval_ms / 1000
        if due_at <= now or self._closing or self._staging.staged_bytes >= self._config.wal_flush_bytes:
            return True
        self._look_again(due_at, now)
        return False

    def _look_again(self, due_at: float, now: float) -> None:
        if self._timer is not None:
            if self._timer_at <= due_at:
                return
            self._timer.cancel()
        self._timer, self._timer_at = self._clock.call_later(due_at - now, self._interval_over), due_at

    def _interval_over(self) -> None:
        self._timer = None
        self._changed.set()

    def _start(self, now: float) -> None:
        flush = self._staging.gather()
        self._started_at = now
        if self._is_paced:
            self._paced_at = now
        self._is_urgent = self._is_urgent and bool(self._staging)
        self._is_paced = self._is_paced and bool(self._staging)
        self._sequence += 1
        session_id = self._tail.session_id
        last, attempt = self._sequence - 1, min(self._attempt, MOST_ATTEMPTS)
        head, crc = encode_head(session_id, self._sequence, last, self._link, flush.shares, attempt=attempt)
        self._link = crc
        body = b"".join([head, *(batch.view for share in flush.shares for batch in share.batches)])
        ref = FlushRef(self._sequence, self._random.getrandbits(64), len(body), len(head), crc)
        written = asyncio.ensure_future(self._place(flush_name(session_id, ref), [body]))
        self._flights.append(Flight(flush, ref, head, body, written))
        self.flushes += 1
        self._flown.set()

    # Committing.

    async def _commit_in_order(self) -> None:
        while self._flights or self._staging or not self._closing:
            if not self._flights:
                self._flown.clear()
                await self._flown.wait()
                continue
            await asyncio.wait([self._flights[0].written])
            error = self._flights[0].written.exception()
            if isinstance(error, BytemqError):
                self._fail(error)
            elif error is not None:
                raise error
            else:
                await self._commit(self._leading_written())
            self._changed.set()
            self._grown()

    def _leading_written(self) -> list[Flight]:
        ready = []
        for flight in self._flights:
            if not flight.written.done() or flight.written.exception() is not None:
                break
            ready.append(flight)
        return ready

    async def _commit(self, ready: Sequence[Flight]) -> None:
        await self._tail.commit([(flight.written_ref, flight.head) for flight in ready])
        self.failure = None
        for flight in ready:
            self._flights.popleft()
            self._apply(flight)

    def _apply(self, flight: Flight) -> None:
        """The flush counts: makes its bytes readable, then tells the appenders, in order."""
        ordinal = self._committed(flight.written_ref, flight.body)
        flush, position = flight.flush, len(flight.head)
        for files, (_, batches, size_bytes, newest, checksum) in zip(flush.logs, flush.shares, strict=True):
            chunk = Chunk(batches[0].base_offset, batches[-1].next_offset, position, size_bytes, newest)
            files.wal.append(chunk, ordinal, checksum, verified=True)
            position += size_bytes
        self._staging.finish(flush.appends, None)

    # Failing.

    def _fail(self, error: BytemqError) -> None:
        """The flush at the front cannot be written: it and all behind it come to nothing."""
        log.error("appends failed", flushes=len(self._flights), reason=str(error))
        self.failure = error
        delay_s = self._config.retry_delay_ms / 1000
        self._retry_at = self._clock.monotonic() + delay_s
        self._clock.call_later(delay_s, self._try_again)
        self._refuse_all()

    def _try_again(self) -> None:
        if not self.has_died:
            self.failure = None
            self._changed.set()

    def _refuse_all(self) -> None:
        """Everything pending comes to nothing; what is appended next goes on from what was committed."""
        assert self.failure is not None
        doomed = [append for flight in self._flights for append in flight.flush.appends]
        if not self.has_died:  # else one of them may have been committed, whoever asks next finds out
            self._discard([flight.written.result() for flight in self._flights if _is_written(flight)])
        for flight in self._flights:
            flight.written.cancel()
            flight.written.add_done_callback(retrieved)
        self._flights.clear()
        self._sequence, self._link = self._tail.tail.last_sequence, self._tail.tail.last_crc
        self._attempt += 1
        self._staging.fail([*doomed, *self._all_staged()], self.failure)

    def _all_staged(self) -> list[Staged]:
        """Takes it: nothing is staged any more."""
        self._is_urgent = self._is_paced = False
        return self._staging.take_all()

    def _die(self, error: BaseException) -> None:
        self.has_died = True
        ended = Unavailable(f"the write-ahead log has ended: {error!r}")
        self.failure = error if isinstance(error, Fenced) else ended
        self._refuse_all()


def _is_written(flight: Flight) -> bool:
    return flight.written.done() and not flight.written.cancelled() and flight.written.exception() is None
