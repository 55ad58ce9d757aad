"""The metadata store of a cluster: etcd v3, one prefix.

Owns: the store's contract in etcd's terms. Must not: know what the keys mean, or send a transaction a second time.

A watch resumes by itself, at the revision after the last one that it told. What it cannot bridge is Compacted. A member
whose history ends before what was seen already is either behind, which passes, or the whole etcd was put back to an
older state, which nobody may go on with: that is Corrupt.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, NamedTuple

from bytemq.errors import Corrupt, Fenced, Invalid, NotFound, Unavailable
from bytemq.metadata.etcd import connection
from bytemq.metadata.etcd import messages_pb2 as messages
from bytemq.metadata.etcd.address import EtcdAddress, parse_address
from bytemq.metadata.etcd.connection import Connection
from bytemq.metadata.etcd.shared_reads import SharedReads
from bytemq.metadata.store import Compacted, Compare, Event, KeyValue, Listing, Put, Txn, check_limits
from bytemq.runtime.logging import get_logger

log = get_logger("metadata.etcd")

OLDEST_VERSION = (3, 4)
KEYS_PER_PAGE = 1000
KEEP_ALIVE_TIMEOUT_S = 1.0
"""Below what a lease lasts, so that another member can be asked in time."""
TXN_TIMEOUT_S = 2.0
"""What was on its way through a leader that died is never answered: sooner than that there is a new one, and whoever
wants to know can look. Everything that is written waits for it meanwhile."""
RETRY_DELAY_S = 0.2
WATCH_TRIES = 25
"""How often in a row a watch is opened in vain before its reader is told."""


class MemberStatus(NamedTuple):
    """What one member says of itself; `problem` is a sentence and the rest is empty when it says nothing."""

    endpoint: str
    version: str = ""
    size_bytes: int = 0
    is_leader: bool = False
    alarms: tuple[str, ...] = ()
    problem: str = ""


class EtcdStore:
    """Implements `MetadataStore`. Use `open`."""

    leases_time_out = True

    def __init__(self, address: EtcdAddress) -> None:
        self.address = address
        self._prefix = address.prefix
        self._connection = Connection(address)
        self._reads = SharedReads(self._read_keys)

    @classmethod
    async def open(cls, url: str, environment: Mapping[str, str], *, timeout_s: float = 2.0) -> EtcdStore:
        """Waits so long for an etcd that is starting. Raises Invalid for an address or an etcd that cannot be right,
        Unavailable when none answers.
        """
        store = cls(parse_address(url, environment))
        give_up_at = asyncio.get_running_loop().time() + timeout_s
        try:
            while not are_usable(members := await store.members()):
                if asyncio.get_running_loop().time() >= give_up_at:
                    raise Unavailable(
                        f"{members[0].problem}. Start etcd, or correct the address given with --metadata."
                    )
                await asyncio.sleep(RETRY_DELAY_S)
            await store.get("")  # whether we are let in
        except BaseException:
            await store.close()
            raise
        return store

    async def get(self, key: str) -> KeyValue | None:
        self._name(key)  # one that is wrong fails alone
        return await self._reads.get(key)

    async def range(self, prefix: str) -> Listing:
        while True:
            try:
                return await self._list(prefix)
            except Compacted:  # between two pages
                log.info("listing again", prefix=prefix)

    async def txn(self, compares: Sequence[Compare], puts: Sequence[Put] = (), deletes: Sequence[str] = ()) -> Txn:
        check_limits(compares, puts, deletes)
        request = messages.TxnRequest(
            compare=[
                messages.Compare(target=messages.Compare.MOD, key=self._name(key), mod_revision=revision)
                for key, revision in compares
            ],
            success=[
                *(messages.RequestOp(request_put=self._put(put)) for put in puts),
                *(
                    messages.RequestOp(request_delete_range=messages.DeleteRangeRequest(key=self._name(key)))
                    for key in deletes
                ),
            ],
        )
        response = await self._connection.call(connection.TXN, request, timeout_s=TXN_TIMEOUT_S)
        return Txn(response.succeeded, response.header.revision)

    async def watch(self, prefix: str, after_revision: int) -> AsyncIterator[list[Event]]:
        reached = after_revision
        failures = 0
        while True:
            try:
                async for response in self._watch_once(prefix, reached):
                    failures = 0
                    if response.events:
                        reached = response.events[-1].kv.mod_revision
                        yield [self._event(event) for event in response.events]
            except Unavailable:
                failures += 1
                if failures == WATCH_TRIES:
                    raise
                await asyncio.sleep(RETRY_DELAY_S)

    async def grant_lease(self, ttl_s: float) -> int:
        """etcd has leases of whole seconds, and makes one longer that is below its own election time-out."""
        request = messages.LeaseGrantRequest(TTL=math.ceil(ttl_s))
        lease: int = (await self._connection.call(connection.LEASE_GRANT, request)).ID
        return lease

    async def keep_alive(self, lease: int) -> None:
        request = messages.LeaseKeepAliveRequest(ID=lease)
        response = await self._connection.exchange(connection.LEASE_KEEP_ALIVE, request, timeout_s=KEEP_ALIVE_TIMEOUT_S)
        if response.TTL <= 0:
            raise Fenced(f"lease {lease} has ended")

    async def revoke(self, lease: int) -> None:
        try:
            await self._connection.call(connection.LEASE_REVOKE, messages.LeaseRevokeRequest(ID=lease), repeatable=True)
        except NotFound:
            return

    async def close(self) -> None:
        await self._connection.close()

    async def members(self) -> list[MemberStatus]:
        """Every member of the address, asked all at once."""
        return list(await asyncio.gather(*(self._member(endpoint) for endpoint in self.address.endpoints)))

    async def _member(self, endpoint: str) -> MemberStatus:
        try:
            status = await self._connection.status(endpoint)
        except Unavailable as error:
            return MemberStatus(endpoint, problem=str(error))
        is_leader = status.leader == status.header.member_id
        return MemberStatus(endpoint, status.version, status.dbSize, is_leader, tuple(status.errors))

    async def _list(self, prefix: str) -> Listing:
        """Page by page, all at the revision of the first."""
        start, end = self._name(prefix), _end_of(self._name(prefix))
        entries: list[KeyValue] = []
        revision = 0
        while True:
            request = messages.RangeRequest(key=start, range_end=end, limit=KEYS_PER_PAGE, revision=revision)
            response = await self._connection.call(connection.RANGE, request, repeatable=True)
            revision = revision or response.header.revision
            entries.extend(self._entry(kv) for kv in response.kvs)
            if not response.more:
                return Listing(entries, revision)
            start = response.kvs[-1].key + b"\0"

    async def _watch_once(self, prefix: str, reached: int) -> AsyncIterator[Any]:
        """Answers of one stream with what happened after `reached`."""
        start, end = self._name(prefix), _end_of(self._name(prefix))
        create = messages.WatchCreateRequest(key=start, range_end=end, start_revision=reached + 1)
        async for response in self._connection.stream(connection.WATCH, messages.WatchRequest(create_request=create)):
            if response.compact_revision:
                raise Compacted(f"changes after revision {reached} are no longer known")
            if response.canceled:
                raise Unavailable(f"etcd ended a watch: {response.cancel_reason}")
            if response.created and response.header.revision < reached:
                await self._check_history(reached)
            yield response

    async def _check_history(self, reached: int) -> None:
        """Asked of a majority: is there a revision that was seen already?"""
        request = messages.RangeRequest(key=self._name(""), limit=1)
        response = await self._connection.call(connection.RANGE, request, repeatable=True)
        if response.header.revision < reached:
            raise Corrupt(
                f"{self.address} is at revision {response.header.revision}, but {reached} was seen before: etcd was "
                "put back to an older state. Stop every broker of this cluster, then see docs/operations.md, "
                '"etcd was lost or restored".'
            )

    async def _read_keys(self, keys: Sequence[str]) -> list[KeyValue | None]:
        ranges = [messages.RangeRequest(key=self._name(key)) for key in keys]
        if len(ranges) == 1:
            answers = [await self._connection.call(connection.RANGE, ranges[0], repeatable=True)]
        else:
            request = messages.TxnRequest(success=[messages.RequestOp(request_range=one) for one in ranges])
            response = await self._connection.call(connection.TXN, request, repeatable=True)
            answers = [one.response_range for one in response.responses]
        return [self._entry(answer.kvs[0]) if answer.kvs else None for answer in answers]

    def _name(self, key: str) -> bytes:
        try:
            return (self._prefix + key).encode()
        except UnicodeEncodeError as error:
            raise Invalid(f"a metadata key is Unicode text, not {key!r}") from error

    def _put(self, put: Put) -> messages.PutRequest:
        return messages.PutRequest(key=self._name(put.key), value=put.value, lease=put.lease or 0)

    def _key(self, name: bytes) -> str:
        return name.decode()[len(self._prefix) :]

    def _entry(self, kv: messages.KeyValue) -> KeyValue:
        return KeyValue(self._key(kv.key), kv.value, kv.mod_revision)

    def _event(self, event: messages.Event) -> Event:
        deleted = event.type == messages.Event.DELETE
        return Event(self._key(event.kv.key), None if deleted else event.kv.value, event.kv.mod_revision)


def are_usable(members: Sequence[MemberStatus]) -> bool:
    """False when none answers. Raises Invalid when one that does is not an etcd that we know."""
    answering = [member for member in members if not member.problem]
    for member in answering:
        numbers = re.match(r"(\d+)\.(\d+)", member.version)
        if numbers is None or not OLDEST_VERSION <= (int(numbers[1]), int(numbers[2])) < (4, 0):
            raise Invalid(
                f"etcd at {member.endpoint} has version {member.version or 'unknown'}; "
                "this version of bytemq works with etcd 3.4 and later 3.x."
            )
    return bool(answering)


def _end_of(prefix: bytes) -> bytes:
    """The first name after all that begin with `prefix`, which ends with text and so never with 0xff."""
    return prefix[:-1] + bytes([prefix[-1] + 1])
