"""The sessions that are followed at this moment: each is opened once, however many ask for it at the same time.

Owns: opening, and ending what runs for each. Must not: decide which ones are needed (`followed_logs` does).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from bytemq.metadata.store import MetadataStore
from bytemq.runtime.clock import Clock
from bytemq.runtime.tasks import Supervisor
from bytemq.storage.following.followed_session import FollowedSession
from bytemq.storage.objects.flush_objects import FlushObjects
from bytemq.storage.objects.session_logs import SessionLogs
from bytemq.storage.stores.interface import ObjectStore


class FollowedSessions:
    def __init__(
        self,
        store: ObjectStore,
        metadata: MetadataStore,
        session_logs: SessionLogs,
        objects: FlushObjects,
        clock: Clock,
        supervisor: Supervisor,
    ) -> None:
        self._store = store
        self._metadata = metadata
        self._session_logs = session_logs
        self._objects = objects
        self._clock = clock
        self._supervisor = supervisor
        self._opened: dict[int, asyncio.Future[FollowedSession]] = {}
        self._running: dict[int, asyncio.Task[object]] = {}

    def __iter__(self) -> Iterator[int]:
        return iter(self._opened)

    def __contains__(self, session_id: int) -> bool:
        return session_id in self._opened

    def opened(self, session_id: int) -> FollowedSession | None:
        """None for one that is not followed, and while it is being opened."""
        opened = self._opened.get(session_id)
        return opened.result() if opened is not None and opened.done() and opened.exception() is None else None

    async def get(self, session_id: int) -> FollowedSession:
        """Followed already, or from now on; it may be broken. Raises Corrupt, Unavailable."""
        opened = self._opened.get(session_id)
        if opened is not None and opened.done() and opened.exception() is not None:
            self.drop(session_id)
            opened = None
        if opened is None:
            opened = self._opened[session_id] = asyncio.ensure_future(self._open(session_id))
        return await asyncio.shield(opened)

    async def _open(self, session_id: int) -> FollowedSession:
        session = FollowedSession(
            session_id, self._store, self._metadata, self._session_logs, self._objects, self._clock
        )
        await session.begin()
        self._running[session_id] = self._supervisor.start("follow a session", session.run())
        return session

    def drop(self, session_id: int) -> None:
        self._opened.pop(session_id, None)
        running = self._running.pop(session_id, None)
        if running is not None:
            running.cancel()
