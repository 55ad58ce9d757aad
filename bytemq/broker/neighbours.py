"""A connection to each of the other brokers, on which nothing is ever said: it breaks when its process dies.

That is no proof. Until the lease has run out there is time to read the log that somebody will have to take over, and
then it has been read. And where a process had been, and a connection is refused now, as a machine does for ports that
nobody listens on, the session is doubted (`metadata/doubts.py`): whoever lives has time to object.

Owns: these connections, having logs looked ahead in, and whom to doubt. Must not: end a session.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from bytemq.errors import BytemqError
from bytemq.metadata.follower import ImageFollower
from bytemq.metadata.image import BrokerImage, ImageChange
from bytemq.runtime.clock import Clock
from bytemq.runtime.logging import get_logger
from bytemq.runtime.tasks import Supervisor

log = get_logger("broker.neighbours")

CONNECT_TIMEOUT_S = 1.0
RETRY_S = 1.0
MOST_BYTES = 4096


class Neighbours:
    """`look_ahead` takes a session id; `doubt` ends a session unless its broker objects; `listener` is the one whose
    addresses brokers use among themselves.
    """

    def __init__(
        self,
        *,
        broker_id: int,
        listener: str,
        follower: ImageFollower,
        look_ahead: Callable[[int], Awaitable[None]],
        doubt: Callable[[BrokerImage], Coroutine[Any, Any, object]],
        clock: Clock,
        supervisor: Supervisor,
    ) -> None:
        self._broker_id = broker_id
        self._listener = listener
        self._follower = follower
        self._look_ahead = look_ahead
        self._doubt = doubt
        self._clock = clock
        self._supervisor = supervisor
        self._watched: dict[int, asyncio.Task[object]] = {}
        """By session."""
        self._changed = asyncio.Event()
        self._changed.set()
        follower.subscribe(self._on_change)

    async def run(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            live = {one.epoch: one for one in self._follower.image.brokers.values() if one.id != self._broker_id}
            for session_id in self._watched.keys() - live.keys():
                self._watched.pop(session_id).cancel()
            for session_id in live.keys() - self._watched.keys():
                self._watched[session_id] = self._supervisor.start("neighbour", self._watch(live[session_id]))

    async def _watch(self, broker: BrokerImage) -> None:
        """Until it is cancelled, as the session has ended."""
        address = broker.endpoints.get(self._listener)
        doubting: asyncio.Task[object] | None = None
        was_there = is_told = False
        try:
            while address is not None:
                try:
                    async with asyncio.timeout(CONNECT_TIMEOUT_S):
                        reader, writer = await asyncio.open_connection(*address)
                except (OSError, TimeoutError) as error:
                    if was_there:  # else it has not begun to listen
                        if not is_told:
                            log.info("a broker cannot be reached: its log is read ahead", broker=broker.id)
                        is_told = True
                        if doubting is None and isinstance(error, ConnectionRefusedError):
                            doubting = self._supervisor.start("doubt", self._doubt(broker))
                        await self._prepare_for_the_end_of(broker)
                    await self._clock.sleep(RETRY_S)
                    continue
                was_there, is_told = True, False
                if doubting is not None and doubting.done():
                    doubting = None  # it lives, and may die some other time
                peer = writer.get_extra_info("peername")  # None: it has been reset already
                address = address if peer is None else peer[:2]  # of all that the name may stand for, this is the one
                await self._until_it_breaks(reader, writer)
        finally:
            if doubting is not None:
                doubting.cancel()

    async def _until_it_breaks(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected_at = self._clock.monotonic()
        try:
            while await reader.read(MOST_BYTES):  # nothing is said; whatever it is, is not kept
                pass
        except OSError:
            pass
        finally:
            writer.close()
        # Whoever only closes what is idle too long is there when it is asked again; who takes nobody is left alone.
        if self._clock.monotonic() - connected_at < RETRY_S:
            await self._clock.sleep(RETRY_S)

    async def _prepare_for_the_end_of(self, broker: BrokerImage) -> None:
        try:
            await self._look_ahead(broker.epoch)
        except BytemqError as error:
            log.info("the log of a broker could not be read ahead", broker=broker.id, reason=str(error))

    def _on_change(self, change: ImageChange) -> None:
        if change.brokers:
            self._changed.set()
