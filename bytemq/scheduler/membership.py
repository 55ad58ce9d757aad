"""A broker's membership: its session key, registered under a lease and kept alive.

Owns: joining, claiming a broker id, renewing and leaving. Must not: know what the session is used for. Everything that
a broker may write is compared against this key, so whoever removes it ends the broker's ownership of everything at
once.
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple, NoReturn

from bytemq.errors import Fenced, Invalid, NotFound, Unavailable
from bytemq.metadata import keys, values
from bytemq.metadata.features import require_supported
from bytemq.metadata.image import ClusterImage
from bytemq.metadata.standing import Standing
from bytemq.metadata.store import Compare, MetadataStore, Put, Txn
from bytemq.runtime.clock import Clock
from bytemq.runtime.logging import get_logger
from bytemq.scheduler.reports import load_reports

log = get_logger("scheduler.membership")

RENEWALS_PER_TTL = 3
RETRIES_PER_TTL = 15
"""A renewal that had no answer is tried again soon: another member of the store may answer."""
LEASE_CHECK_S = 0.2
REGISTRATIONS = 5
"""Attempts, at least, at an id that nobody has."""
ENDED_WITHIN_TTLS = 2.5
"""A session of a dead process is gone by then: the store looks at its leases every half second or so."""
CLOCKS_APART_S = 120.0
"""What a broker told of its clock may be a quarter of a minute old, or a little more on a busy machine."""


class SessionLost(Fenced):
    """This node owns nothing any more. Stop; a new start is a new session."""


class _Registered(NamedTuple):
    broker_id: int
    session_id: int


class Membership:
    """A live session. `session_id`, the revision of its key, is also the broker epoch: unique, and growing."""

    def __init__(
        self,
        store: MetadataStore,
        clock: Clock,
        standing: Standing,
        registered: tuple[int, int],
        lease: int,
        ttl_s: float,
    ) -> None:
        """`registered`: broker id and session id. Use `join`."""
        self.broker_id, self.session_id = registered
        self.lease = lease
        self.standing = standing
        self._store = store
        self._clock = clock
        self._ttl_s = ttl_s
        self.renewal_s = 0.0
        """How long the last renewal took."""
        self.failed_renewals = 0

    @classmethod
    async def join(
        cls,
        store: MetadataStore,
        clock: Clock,
        broker_id: int | None,
        broker: values.BrokerValue,
        ttl_s: float,
        *,
        or_any: bool = False,
    ) -> Membership:
        """Registers a session under this broker id, or, without one, under the lowest that is free. `or_any`: under
        that also when another node has this one.

        Where leases time out, a session that was left behind by a dead process is waited for. Raises `Unavailable`
        while another node lives under this broker id, when nobody can tell, or when the lease ended meanwhile, and
        Invalid when the cluster is at a feature level that `broker` does not support.
        """
        give_up_at = clock.monotonic() + (ENDED_WITHIN_TTLS * ttl_s if store.leases_time_out else 0.0)
        standing = Standing(clock.monotonic)
        attempts = 1
        sent_at = clock.monotonic()
        lease = await store.grant_lease(ttl_s)
        wanted = broker_id
        try:
            while True:
                if wanted is None:
                    wanted = await _lowest_free_id(store)
                registered = await _register(store, wanted, broker, lease)
                if isinstance(registered, _Registered):
                    break
                if broker_id is None and registered is not None:
                    wanted = None  # not where nobody has it: we may come to, by an attempt that had no answer
                if broker_id is not None:
                    if clock.monotonic() >= give_up_at and (registered is not None or attempts == REGISTRATIONS):
                        if or_any:
                            broker_id = wanted = None
                            continue
                        raise Unavailable(
                            f"broker id {broker_id} is in use by another node{_addresses(registered)}. "
                            "Give this one another --id, or stop that node."
                        )
                    attempts += 1
                    await clock.sleep(LEASE_CHECK_S)
                    sent_at = clock.monotonic()
                    await store.keep_alive(lease)
        except (NotFound, Fenced) as error:
            raise Unavailable(
                f"this process, or the metadata store, stood still for more than {ttl_s:g} s while broker "
                f"{wanted} was being registered: {error}. Start it again."
            ) from error
        except BaseException:
            await store.revoke(lease)
            raise
        if store.leases_time_out:
            standing.renew(sent_at, ttl_s)
        log.info("session registered", broker=registered.broker_id, session=registered.session_id)
        return cls(store, clock, standing, registered, lease, ttl_s)

    async def run(self) -> None:
        """Renews the lease until it is gone. Raises `SessionLost` then."""
        delay_s = self._ttl_s / RENEWALS_PER_TTL
        while True:
            await self._clock.sleep(delay_s)
            sent_at = self._clock.monotonic()
            try:
                await self._store.keep_alive(self.lease)
                is_undoubted = not self._store.leases_time_out or await self._take_back_doubts()
            except Unavailable as error:
                self.failed_renewals += 1
                log.warning("session not renewed", session=self.session_id, reason=str(error))
                delay_s = self._ttl_s / RETRIES_PER_TTL
            except Fenced:
                self.lose()
            else:
                delay_s = self._ttl_s / RENEWALS_PER_TTL
                self.renewal_s = self._clock.monotonic() - sent_at
                if self._store.leases_time_out and is_undoubted:
                    self.standing.renew(sent_at, self._ttl_s)

    async def _take_back_doubts(self) -> bool:
        """Whether the renewal counts: see `doubts`. Raises `SessionLost`, Unavailable."""
        session, doubt = await asyncio.gather(
            self._store.get(keys.broker(self.broker_id)), self._store.get(keys.doubt(self.broker_id))
        )
        if session is None or session.revision != self.session_id:
            self.lose()
        value = None if doubt is None else values.decode_doubt(doubt.value)
        if doubt is None or value is None or value.session != self.session_id:
            return True
        if value.stage is values.DoubtStage.FINAL:
            self.lose()
        log.warning("this session was in doubt", session=self.session_id, by=value.by)
        return (await self._store.txn([Compare(doubt.key, doubt.revision)], [], [doubt.key])).succeeded

    def check(self, image: ClusterImage) -> None:
        """Raises `SessionLost` when the session key is gone from the metadata, whatever the lease says."""
        known = image.brokers.get(self.broker_id)
        if known is None or known.epoch != self.session_id:
            self.lose()

    def lose(self) -> NoReturn:
        """Ends what this node may say and own. Raises `SessionLost`."""
        self.standing.end()
        log.error("session lost", broker=self.broker_id, session=self.session_id)
        raise SessionLost(
            f"session {self.session_id} of broker {self.broker_id} has ended: "
            "it was not renewed in time, or somebody removed it"
        )

    async def leave(self) -> None:
        """Ends the session; what was owned under it is free at once."""
        self.standing.end()
        await self._store.revoke(self.lease)


async def check_clock(store: MetadataStore, clock: Clock) -> None:
    """Raises Invalid when this machine's clock is far from that of a broker that lives: timestamps, retention and the
    time-outs of transactions would depend on who owns a partition.
    """
    for broker, report in (await load_reports(store)).items():
        apart_s = (clock.wall_ms() - report.wall_ms) / 1000
        if abs(apart_s) > CLOCKS_APART_S:
            where = "ahead of" if apart_s > 0 else "behind"
            raise Invalid(
                f"this machine's clock is {abs(apart_s):.0f} s {where} that of broker {broker}. "
                "Set the one that is wrong (NTP does), then start again."
            )


async def _register(
    store: MetadataStore, broker_id: int, broker: values.BrokerValue, lease: int
) -> _Registered | values.BrokerValue | None:
    """The session, or who has the id (None: whoever had it is gone, or the feature level has just changed).

    When the answer of the transaction is lost, the key tells by its incarnation whether it is ours.
    """
    key = keys.broker(broker_id)
    level = await store.get(keys.FEATURE_LEVEL)
    require_supported(level, broker.levels)
    try:
        joined = await store.txn(
            [Compare(key, 0), Compare(keys.FEATURE_LEVEL, 0 if level is None else level.revision)],
            [Put(key, values.encode_broker(broker), lease), Put(keys.LAST_SESSION, values.THIS_REVISION)],
        )
    except Unavailable as error:
        log.warning("registering the session had no answer", broker=broker_id, reason=str(error))
        joined = Txn(False, 0)
    if joined.succeeded:
        return _Registered(broker_id, joined.revision)
    holder = await store.get(key)
    if holder is None:
        return None
    found = values.decode_broker(holder.value)
    return _Registered(broker_id, holder.revision) if found.incarnation == broker.incarnation else found


async def _lowest_free_id(store: MetadataStore) -> int:
    taken = {int(entry.key[len(keys.BROKERS) :]) for entry in (await store.range(keys.BROKERS)).entries}
    return next(candidate for candidate in range(len(taken) + 1) if candidate not in taken)


def _addresses(broker: values.BrokerValue | None) -> str:
    if broker is None:
        return ""
    return " at " + ", ".join(f"{host}:{port}" for host, port in broker.endpoints.values())
