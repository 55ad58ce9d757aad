"""The interface of every metadata store, and the limits that each implementation keeps.

Owns: the contract. Must not: know any key, any implementation or what the values mean.

Two implementations honour it, checked by one conformance suite: an embedded one (one process, local files) and etcd.
The contract is etcd's, reduced to what we use:

- A store has one revision, a counter that every transaction with an effect raises. A key carries the revision of its
  last change.
- A transaction applies all of its puts and deletes at one revision, or none of them.
- A transaction whose call raises `Unavailable` or is cancelled may have happened. It is never retried blindly: read
  back.
- Watches are hints. On `Compacted`, or on any doubt, list again and watch from the revision of the listing.
- A lease ends a session: when it ends, its keys are deleted as if by a transaction.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple, Protocol

from bytemq.errors import BytemqError, Invalid

MAX_TXN_OPERATIONS = 128
"""Most compares, and most puts and deletes together, in one transaction (etcd's default)."""
MAX_TXN_BYTES = 3 * 512 * 1024
"""Most bytes of keys and values in one transaction (etcd's default request limit, 1.5 MiB)."""
MAX_VALUE_BYTES = 1024 * 1024


class KeyValue(NamedTuple):
    key: str
    value: bytes
    revision: int
    """The store's revision when the key was last written; never 0."""


class Listing(NamedTuple):
    """All keys under a prefix, in key order, as they were together at `revision`."""

    entries: list[KeyValue]
    revision: int


class Compare(NamedTuple):
    """Holds when the key's revision is exactly `revision`; 0 means that the key must not exist."""

    key: str
    revision: int


class Put(NamedTuple):
    key: str
    value: bytes
    lease: int | None = None
    """The lease with which the key goes away; None: it stays."""


class Txn(NamedTuple):
    """Outcome of a transaction.

    `revision` is the one at which it was applied, or, when a compare did not hold, one at which that was seen.
    """

    succeeded: bool
    revision: int


class Event(NamedTuple):
    """A key was written (`value` is bytes) or deleted (`value` is None) at `revision`."""

    key: str
    value: bytes | None
    revision: int


class Compacted(BytemqError):
    """The changes after the asked revision are no longer known: list again, then watch from that revision."""


class MetadataStore(Protocol):
    """See the module's docstring for the contract.

    `leases_time_out`: a lease that is not kept alive ends after its TTL; otherwise only with its holder's process.

    Every method may raise `Unavailable` (retry; a transaction: read back first). `Full` says that there is no space.
    """

    @property
    def leases_time_out(self) -> bool: ...

    async def get(self, key: str) -> KeyValue | None: ...

    async def range(self, prefix: str) -> Listing:
        """Everything under `prefix`."""

    async def txn(self, compares: Sequence[Compare], puts: Sequence[Put] = (), deletes: Sequence[str] = ()) -> Txn:
        """Applies puts and deletes if every compare holds.

        Raises `Invalid` when it is above a limit or names a key twice, `NotFound` when a put names a lease that ended.
        Deleting a key that does not exist is no error and no event. Watchers may hear of it later than the caller:
        `ImageFollower.wait_for` waits for both.
        """

    def watch(self, prefix: str, after_revision: int) -> AsyncIterator[list[Event]]:
        """Changes under `prefix` with a revision above `after_revision`, in order, without gaps.

        A list holds whole revisions only. Raises `Compacted` when the store no longer knows all of them.
        """

    async def grant_lease(self, ttl_s: float) -> int:
        """A new lease; it ends by `revoke`, or when it was not kept alive and its holder is taken for dead."""

    async def keep_alive(self, lease: int) -> None:
        """Raises `Fenced` when the lease has ended."""

    async def revoke(self, lease: int) -> None:
        """Ends the lease and deletes its keys. A lease that has ended already is no error."""

    async def close(self) -> None: ...


def check_limits(compares: Sequence[Compare], puts: Sequence[Put], deletes: Sequence[str]) -> None:
    """Raises `Invalid` for a transaction that some implementation would refuse."""
    if len(compares) > MAX_TXN_OPERATIONS or len(puts) + len(deletes) > MAX_TXN_OPERATIONS:
        raise Invalid(f"a metadata transaction has at most {MAX_TXN_OPERATIONS} operations")
    changed = [put.key for put in puts]
    changed.extend(deletes)
    if len(set(changed)) != len(changed):
        raise Invalid("a metadata transaction changes a key once at most")
    size_bytes = 0
    for put in puts:
        if len(put.value) > MAX_VALUE_BYTES:
            raise Invalid(f"the metadata value of {put.key} has {len(put.value)} bytes, above {MAX_VALUE_BYTES}")
        size_bytes += len(put.key) + len(put.value)
    if size_bytes > MAX_TXN_BYTES:
        raise Invalid(f"a metadata transaction of {size_bytes} bytes is above {MAX_TXN_BYTES}")
