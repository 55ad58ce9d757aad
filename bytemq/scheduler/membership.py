"""A broker's membership: its session key, registered under a lease and kept alive.

Owns: joining, renewing and leaving. Must not: know what the session is used for. Everything that a broker may write is
compared against this key, so whoever removes it ends the broker's ownership of everything at once.
"""

from __future__ import annotations

from bytemq.errors import Fenced, Unavailable
from bytemq.metadata import keys, values
from bytemq.metadata.store import Compare, MetadataStore, Put, Txn
from bytemq.runtime.clock import Clock
from bytemq.runtime.logging import get_logger

log = get_logger("scheduler.membership")

RENEWALS_PER_TTL = 3


class Membership:
    """A live session. `session_id`, the revision of its key, is also the broker epoch: unique, and growing."""

    def __init__(
        self, store: MetadataStore, clock: Clock, broker_id: int, session_id: int, lease: int, ttl_s: float
    ) -> None:
        self.broker_id = broker_id
        self.session_id = session_id
        self.lease = lease
        self._store = store
        self._clock = clock
        self._ttl_s = ttl_s

    @classmethod
    async def join(
        cls, store: MetadataStore, clock: Clock, broker_id: int, broker: values.BrokerValue, ttl_s: float
    ) -> Membership:
        """Raises `Unavailable` while another node lives under this broker id, or when nobody can tell.

        When the answer of the transaction is lost, the key tells by its incarnation whether it is ours.
        """
        key = keys.broker(broker_id)
        lease = await store.grant_lease(ttl_s)
        try:
            joined = await store.txn([Compare(key, 0)], [Put(key, values.encode_broker(broker), lease)])
        except Unavailable as error:
            log.warning("registering the session had no answer", broker=broker_id, reason=str(error))
            joined = Txn(False, 0)
        session_id = joined.revision
        if not joined.succeeded:
            holder = await store.get(key)
            found = None if holder is None else values.decode_broker(holder.value)
            if holder is None or found is None or found.incarnation != broker.incarnation:
                await store.revoke(lease)
                raise Unavailable(
                    f"broker id {broker_id} is in use by another node{'' if found is None else _addresses(found)}. "
                    "Give this one another --id, or stop that node."
                )
            session_id = holder.revision
        log.info("session registered", broker=broker_id, session=session_id)
        return cls(store, clock, broker_id, session_id, lease, ttl_s)

    async def run(self) -> None:
        """Renews the lease until it is gone. Raises `Fenced` then: this node owns nothing any more and must stop."""
        while True:
            await self._clock.sleep(self._ttl_s / RENEWALS_PER_TTL)
            try:
                await self._store.keep_alive(self.lease)
            except Unavailable as error:
                log.warning("session not renewed", session=self.session_id, reason=str(error))
            except Fenced:
                log.error("session lost", session=self.session_id)
                raise

    async def leave(self) -> None:
        """Ends the session; what was owned under it is free at once."""
        await self._store.revoke(self.lease)


def _addresses(broker: values.BrokerValue) -> str:
    return " at " + ", ".join(f"{host}:{port}" for host, port in broker.endpoints.values())
