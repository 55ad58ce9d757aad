"""Makes this broker ready for partitions that it is going to have, and says so.

Owns: looking ahead in their last owners' write-ahead logs, and the key that says up to which wishes that has been done.
Living owners wait for it, a moment: so a partition is not without an owner that serves it while a long log is read. The
log of one that has died is read while its partitions are claimed. Must not: open or own anything. That nothing is
prepared does no harm but to the length of the move.
"""

from __future__ import annotations

import asyncio

from bytemq.errors import BytemqError
from bytemq.metadata import keys, values
from bytemq.metadata.follower import ImageFollower
from bytemq.metadata.image import ImageChange
from bytemq.metadata.store import Compare, MetadataStore, Put
from bytemq.runtime.logging import get_logger
from bytemq.storage.logs import Logs

log = get_logger("broker.preparation")


class Preparation:
    def __init__(
        self,
        *,
        broker_id: int,
        session_id: int,
        lease: int,
        store: MetadataStore,
        follower: ImageFollower,
        logs: Logs,
    ) -> None:
        self._broker_id = broker_id
        self._session = Compare(keys.broker(broker_id), session_id)
        self._lease = lease
        self._store = store
        self._follower = follower
        self._logs = logs
        self._sessions: set[int] = set()
        """Those from which something shall come, and that were not looked at since they were told to."""
        self._changed = asyncio.Event()
        follower.subscribe(self._on_change)

    async def run(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            sessions, self._sessions = self._sessions, set()
            wishes_until = self._follower.image.revision
            try:
                await asyncio.gather(*map(self._logs.look_ahead, sessions))
                prepared = Put(keys.prepared(self._broker_id), values.encode_number(wishes_until), self._lease)
                await self._store.txn([self._session], [prepared])
            except BytemqError as error:
                log.info("not prepared for partitions that shall come", reason=str(error))

    def _on_change(self, change: ImageChange) -> None:
        image = self._follower.image
        for topic_id in change.topics:
            topic = image.topics_by_id.get(topic_id)
            for partition in topic.partitions if topic is not None else ():
                if partition.assigned == self._broker_id and partition.owner != self._broker_id:
                    self._sessions.add(partition.session)
        self._sessions.discard(values.NO_SESSION)
        if self._sessions:
            self._changed.set()
