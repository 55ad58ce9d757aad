"""The metadata store of a single process: SQLite in one worker thread.

Owns: the thread, group commit and the watchers. Must not: know SQL (`database.py`) or the keys.

The thread takes all the calls that wait and commits their changes together, so ten thousand concurrent transactions
cost a few syncs, not ten thousand. Watchers read the shared `History` from the revision they have reached: a slow one
costs no memory, it gets `Compacted` in the end.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple, TypeVar

from bytemq.errors import BytemqError, Fenced, Invalid, Unavailable
from bytemq.metadata.data_lock import DataLock
from bytemq.metadata.database import Database, Durability, error_of
from bytemq.metadata.history import History
from bytemq.metadata.store import Compare, Event, KeyValue, Listing, Put, Txn, check_limits

FILE_NAME = "meta.db"
MAX_GROUP = 256
"""Most calls in one commit: bounds what one failed sync fails, and how long the first of them waits."""

T = TypeVar("T")


class _Call(NamedTuple):
    run: Callable[[Database], Any]
    answer: asyncio.Future[Any]
    writes: bool
    names_a_session: bool


class EmbeddedStore:
    """Implements `MetadataStore` for the one process that holds the data folder's lock."""

    leases_time_out = False

    def __init__(self, database: Database, lock: DataLock) -> None:
        self._database = database
        self._path = lock.folder / FILE_NAME
        self._loop = asyncio.get_running_loop()
        self._history = History(database.revision)
        self._watchers: dict[asyncio.Future[None], str] = {}
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._closed = False
        self._thread_ended = self._loop.create_future()
        threading.Thread(target=self._work, name="bytemq-metadata", daemon=True).start()

    @classmethod
    def open(cls, lock: DataLock, durability: Durability) -> EmbeddedStore:
        """Blocks for a few milliseconds: there is nothing to serve without it. Errors as `Database`."""
        return cls(Database(lock.folder / FILE_NAME, durability), lock)

    async def get(self, key: str) -> KeyValue | None:
        _check_key(key)
        return await self._call(lambda database: database.get(key))

    async def range(self, prefix: str) -> Listing:
        _check_key(prefix)
        return await self._call(lambda database: database.range(prefix))

    async def txn(self, compares: Sequence[Compare], puts: Sequence[Put] = (), deletes: Sequence[str] = ()) -> Txn:
        check_limits(compares, puts, deletes)
        for key in [*(compare.key for compare in compares), *(put.key for put in puts), *deletes]:
            _check_key(key)
        leased = any(put.lease is not None for put in puts)
        return await self._call(
            lambda database: database.txn(compares, puts, deletes), writes=True, names_a_session=leased
        )

    async def watch(self, prefix: str, after_revision: int) -> AsyncIterator[list[Event]]:
        reached = after_revision
        while not self._closed:
            events = self._history.since(reached, prefix)
            reached = max(reached, self._history.revision)
            if events:
                yield events
                continue
            changed = self._loop.create_future()
            self._watchers[changed] = prefix
            try:
                await changed
            finally:
                self._watchers.pop(changed, None)
        raise Unavailable("the metadata store is closed")

    async def grant_lease(self, ttl_s: float) -> int:
        """`ttl_s` has no meaning here: this process holds the lock on the folder, and lives as long as its lease."""
        return await self._call(lambda database: database.grant_lease())

    async def keep_alive(self, lease: int) -> None:
        if not await self._call(lambda database: database.has_lease(lease)):
            raise Fenced(f"lease {lease} has ended")

    async def revoke(self, lease: int) -> None:
        await self._call(lambda database: database.revoke(lease), writes=True)

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._calls.put(None)
            for changed in self._watchers:
                if not changed.done():
                    changed.set_result(None)
        await asyncio.shield(self._thread_ended)

    async def _call(self, run: Callable[[Database], T], *, writes: bool = False, names_a_session: bool = False) -> T:
        if self._closed:
            raise Unavailable("the metadata store is closed")
        answer: asyncio.Future[T] = self._loop.create_future()
        self._calls.put(_Call(run, answer, writes, names_a_session))
        return await answer

    def _work(self) -> None:
        """The thread. It ends at the None that `close` sends, after all the calls before it."""
        open_ = True
        while open_:
            group: list[_Call] = []
            call = self._calls.get()
            while call is not None:
                group.append(call)
                if len(group) == MAX_GROUP:
                    break
                try:
                    call = self._calls.get_nowait()
                except Empty:
                    break
            open_ = call is not None
            if group:
                outcomes, changes = self._run_group(group)
                self._loop.call_soon_threadsafe(self._deliver, group, outcomes, changes)
        self._database.close()
        self._loop.call_soon_threadsafe(self._thread_ended.set_result, None)

    def _run_group(self, group: list[_Call]) -> tuple[list[Any], list[tuple[int, list[Event]]]]:
        """Results or errors of the calls, and the changes that are now committed."""
        writes = any(call.writes for call in group)
        try:
            if writes:
                self._database.begin(names_a_session=any(call.names_a_session for call in group))
            outcomes = [_outcome(self._database, call) for call in group]
            return outcomes, self._database.commit() if writes else []
        except Exception as error:  # whatever it is, the callers must hear it and the thread must go on
            failure: Exception = error
            try:
                self._database.rollback()
            except sqlite3.Error as second:
                failure = second
            return [error_of(failure, self._path) for _ in group], []

    def _deliver(self, group: list[_Call], outcomes: list[Any], changes: list[tuple[int, list[Event]]]) -> None:
        """On the loop: first the watchers, then the callers, as the store's contract says."""
        for revision, events in changes:
            self._history.add(revision, events)
        if changes:
            self._wake_watchers(changes)
        for call, outcome in zip(group, outcomes, strict=True):
            if call.answer.done():  # cancelled
                continue
            if isinstance(outcome, Exception):
                call.answer.set_exception(outcome)
            else:
                call.answer.set_result(outcome)

    def _wake_watchers(self, changes: list[tuple[int, list[Event]]]) -> None:
        for changed, prefix in self._watchers.items():
            if not changed.done() and any(event.key.startswith(prefix) for _, events in changes for event in events):
                changed.set_result(None)


def _outcome(database: Database, call: _Call) -> Any:
    """A refused call changes nothing, and so leaves the others of its group alone."""
    try:
        return call.run(database)
    except BytemqError as refusal:
        return refusal


def _check_key(key: str) -> None:
    try:
        key.encode()
    except UnicodeEncodeError as error:
        raise Invalid(f"a metadata key is Unicode text, not {key!r}") from error
