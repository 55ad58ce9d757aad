"""Ending another broker's session: before its lease runs out, or although it is renewed, but never while it stands.

Every commit compares the session's key, so whoever removes the key ends the writing at once. Answers without a write
are another matter: a broker gives them while its last renewal is recent (`standing`), and need not have heard that its
key is gone. So a session is doubted first, in a key that names it:

- A broker that has renewed its lease looks for its session's key and for a doubt. While there is one, the renewal does
  not count for its standing.
- It takes the doubt back by deleting it, and then the renewal counts; unless the doubt is final, and its session over.
- Whoever doubts waits until nothing that was renewed before the doubt can stand, by the doubted broker's own time-out,
  and then removes the session in one transaction that compares the doubt: it was there all the time.

There is time meanwhile. One who has not objected when it should have renewed is *missed*: it loses the controller's
office, which is safe at any time, the planner wishes what it has to be others', and Metadata sends clients there.
Should it live after all, that is a planned move. Shortly before the session *ends*, who comes there may wait: it is
worth it now.

Owns: raising doubts and what they lead to. Must not: decide whom to doubt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from bytemq.errors import NotFound, Unavailable
from bytemq.metadata import keys
from bytemq.metadata.image import BrokerImage
from bytemq.metadata.standing import MARGIN
from bytemq.metadata.store import Compare, MetadataStore, Put
from bytemq.metadata.values import DoubtStage, DoubtValue, decode_doubt, decode_number, encode_doubt
from bytemq.runtime.clock import Clock
from bytemq.runtime.logging import get_logger

log = get_logger("metadata.doubts")

STANDS_NO_MORE: Final = 1 - MARGIN / 2
"""Part of the TTL after which nothing stands that was renewed before: half of the margin is left for the clocks."""
MISSED_AFTER: Final = 0.4
"""Part of the TTL in which a broker that lives has renewed its lease: it does so every third."""
ENDING_S: Final = 0.5
"""So long before a session ends it is worth waiting for: more would be felt by those who are served there already."""
RETRY_DELAY_S: Final = 0.1


class Doubts:
    """Those of one broker in others. `lease`: its own, under which they are raised."""

    def __init__(self, store: MetadataStore, clock: Clock, broker_id: int, lease: int) -> None:
        self._store = store
        self._clock = clock
        self._broker_id = broker_id
        self._lease = lease

    async def end_unless_it_objects(self, broker: BrokerImage) -> bool:
        """False: it lives, or somebody else ends its session. Where sessions end with their process alone, and of a
        broker that does not look for doubts, nothing is done. To be cancelled when the session has ended.
        """
        if not self._store.leases_time_out or broker.session_timeout_s is None:
            return False
        return await self._end(broker, broker.session_timeout_s, DoubtStage.RAISED, ())

    async def end(self, broker: BrokerImage, compares: Sequence[Compare]) -> bool:
        """Whether it lives or not, as long as these hold. Raises Unavailable."""
        if not self._store.leases_time_out or broker.session_timeout_s is None:
            key = keys.broker(broker.id)
            return (await self._store.txn([*compares, Compare(key, broker.epoch)], [], [key])).succeeded
        return await self._end(broker, broker.session_timeout_s, DoubtStage.FINAL, compares)

    async def _end(self, broker: BrokerImage, ttl_s: float, stage: DoubtStage, compares: Sequence[Compare]) -> bool:
        session, key = Compare(keys.broker(broker.id), broker.epoch), keys.doubt(broker.id)
        value = DoubtValue(broker.epoch, self._broker_id, stage)
        doubt = await self._raise(session, key, value, compares)
        if doubt is None:
            return False
        log.warning("the session of a broker is in doubt", broker=broker.id, session=broker.epoch, stage=stage)
        ends_at = self._clock.monotonic() + ttl_s * STANDS_NO_MORE
        if stage is DoubtStage.RAISED:
            for later, at in (
                (DoubtStage.MISSED, ends_at - ttl_s * (STANDS_NO_MORE - MISSED_AFTER)),
                (DoubtStage.ENDING, ends_at - ENDING_S),
            ):
                await self._sleep_until(at)
                doubt = await self._go_on(broker.id, doubt, replace(value, stage=later))
                if doubt is None:
                    log.info("a broker whose session was in doubt lives, or has left", broker=broker.id)
                    return False
        await self._sleep_until(ends_at)
        while True:
            try:
                ended = await self._store.txn([*compares, session, doubt], [], [session.key, key])
            except Unavailable:
                await self._clock.sleep(RETRY_DELAY_S)  # if it happened, the next one does nothing
            else:
                return ended.succeeded

    async def _go_on(self, broker_id: int, doubt: Compare, value: DoubtValue) -> Compare | None:
        """The doubt at its next stage; None when it was taken back."""
        put = Put(doubt.key, encode_doubt(value), self._lease)
        while True:
            try:
                controller = await self._store.get(keys.CONTROLLER)
                deposed = controller is not None and decode_number(controller.value) == broker_id
                office = [Compare(keys.CONTROLLER, controller.revision)] if controller is not None and deposed else []
                written = await self._store.txn([doubt, *office], [put], [keys.CONTROLLER] if deposed else [])
                if written.succeeded:
                    return Compare(doubt.key, written.revision)
                found = await self._store.get(doubt.key)
                if found is None or found.revision != doubt.revision:  # written, and nobody said so?
                    return Compare(doubt.key, found.revision) if found and decode_doubt(found.value) == value else None
            except Unavailable:
                await self._clock.sleep(RETRY_DELAY_S)
            except NotFound:
                return None  # whoever doubts has no session any more

    async def _sleep_until(self, at: float) -> None:
        await self._clock.sleep(max(0.0, at - self._clock.monotonic()))

    async def _raise(
        self, session: Compare, key: str, value: DoubtValue, compares: Sequence[Compare]
    ) -> Compare | None:
        """What holds as long as the doubt is not taken back; None when it cannot be raised, or somebody else did."""
        while True:
            try:
                found = await self._store.get(key)
                if found is not None and decode_doubt(found.value).session == session.revision:
                    return Compare(key, found.revision) if decode_doubt(found.value) == value else None
                known = Compare(key, 0 if found is None else found.revision)
                raised = await self._store.txn(
                    [*compares, session, known], [Put(key, encode_doubt(value), self._lease)]
                )
            except Unavailable:  # it may have been raised: looked at again
                await self._clock.sleep(RETRY_DELAY_S)
            except NotFound:
                return None  # whoever doubts has no session any more
            else:
                return Compare(key, raised.revision) if raised.succeeded else None
