"""A store that is reached over a network: the contract of `ObjectStore` over a driver that may answer late or never.

Owns: retries, what a lost answer means, and the count of requests and bytes. Must not: speak any store's protocol (the
drivers do), or know what is in an object.

A PUT whose answer was lost may have happened, may happen later, or was sent twice by a library below. So every object
carries a token of its writer: "the name exists" is a success when the token there is ours and nothing is missing (of a
PUT that broke off, SeaweedFS was seen to keep the name, the token and no bytes). Where the store keeps no tokens, it is
one when an earlier attempt's outcome is unknown and the bytes there are ours.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple, Protocol, TypeVar

from bytemq.errors import Full, Invalid, NotFound, Unavailable
from bytemq.runtime.clock import Clock
from bytemq.storage.stores.interface import Buffer, ObjectInfo, ReadFile

Result = TypeVar("Result")

START_PATIENCE_S = 10.0
"""As that for the metadata: a whole cluster may be starting, its store included."""
DELETE_AT_ONCE = 1000
"""Most names in one deletion: S3's limit."""


class Refused(Unavailable):
    """The store does not let us: at a start that is for the user to mend; later, credentials may come back."""


class _Torn(Unavailable):
    """A part of our object is there under its name. It stays so: to delete it, with an answer that may be lost, could
    hit the whole one later. Another name is as good.
    """


class Head(NamedTuple):
    size_bytes: int
    token: str | None
    """None: the store keeps none."""


class Driver(Protocol):
    """One attempt each. Raises NotFound, `Invalid` (the name exists; or the store refuses such calls for good), `Full`
    and, for anything that may be different the next time or whose outcome is unknown, Unavailable.
    """

    async def prepare(self) -> None:
        """Whatever holds the objects is there when this returns; made, where there was none and that is allowed."""

    async def put(self, name: str, data: bytes | memoryview, token: str) -> None:
        """A view may be of a mapped file that is larger than memory."""

    async def get(self, name: str, position: int, size_bytes: int | None) -> bytes:
        """A range, or from `position` to the end. Fewer bytes at the end of the object."""

    async def head(self, name: str) -> Head: ...

    async def list(self, prefix: str) -> Sequence[ObjectInfo]: ...

    async def delete(self, names: Sequence[str]) -> None:
        """At most `DELETE_AT_ONCE`."""

    async def sign(self, name: str, seconds: int) -> str:
        """As `RemoteStore.sign`."""

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Attempt n waits a random time up to `first_delay_s` * 2 ** n, at most `max_delay_s`, and takes `timeout_s` at
    most."""

    attempts: int = 6
    first_delay_s: float = 0.05
    max_delay_s: float = 2.0
    timeout_s: float = 15.0


@dataclass(slots=True)
class Traffic:
    """What was asked of a store so far, retries included. Keys: put, get, head, list, delete."""

    requests: dict[str, int] = field(default_factory=dict)
    failures: dict[str, int] = field(default_factory=dict)
    written_bytes: int = 0
    read_bytes: int = 0


class RemoteStore:
    """See the module's docstring. `random` makes tokens and jitter."""

    def __init__(self, driver: Driver, clock: Clock, random: Random, policy: RetryPolicy | None = None) -> None:
        self._driver = driver
        self._clock = clock
        self._random = random
        self._policy = policy or RetryPolicy()
        self.traffic = Traffic()

    async def prepare(self, patience_s: float = START_PATIENCE_S) -> None:
        """Before anything else. Raises Unavailable when the store cannot be had for so long, Refused at once."""
        give_up_at = self._clock.monotonic() + patience_s
        number = 0
        while True:
            try:
                return await self._counted("head", self._driver.prepare)
            except Refused:
                raise
            except Unavailable:
                if self._clock.monotonic() >= give_up_at:
                    raise
            await self._back_off(number)
            number += 1

    async def create(self, name: str, data: Sequence[Buffer]) -> None:
        check_name(name)
        body = data[0] if len(data) == 1 and isinstance(data[0], memoryview) else b"".join(data)
        token = f"{self._random.getrandbits(128):032x}"
        attempts = 0

        async def attempt() -> None:
            nonlocal attempts
            attempts += 1
            self.traffic.written_bytes += len(body)
            try:
                await self._driver.put(name, body, token)
            except Invalid:
                if not await self._is_ours(name, body, token, may_be_there=attempts > 1):
                    raise

        await self._retried("put", attempt)

    async def _is_ours(self, name: str, body: bytes | memoryview, token: str, *, may_be_there: bool) -> bool:
        """Whether what exists under the name is what this call has written. Raises Unavailable."""
        try:
            head = await self._counted("head", lambda: self._driver.head(name))
            if head.token == token and head.size_bytes != len(body):
                raise _Torn(f"{name}: the store kept {head.size_bytes} of {len(body)} bytes, as an attempt broke off")
            if head.token is not None:
                return head.token == token
            if not may_be_there or head.size_bytes != len(body):
                return False
            return await self._counted("get", lambda: self._driver.get(name, 0, None)) == body
        except NotFound:
            return False

    async def read(self, name: str) -> bytes:
        return await self._get(name, 0, None)

    async def read_range(self, name: str, position: int, size_bytes: int) -> bytes:
        """Fewer bytes where the object ends before."""
        return await self._get(name, position, size_bytes) if size_bytes else b""

    async def list(self, prefix: str) -> Sequence[ObjectInfo]:
        return sorted(await self._retried("list", lambda: self._driver.list(prefix)))

    async def delete(self, names: Sequence[str]) -> None:
        for start in range(0, len(names), DELETE_AT_ONCE):
            part = list(dict.fromkeys(names[start : start + DELETE_AT_ONCE]))
            for name in part:
                check_name(name)
            await self._retried("delete", lambda part=part: self._driver.delete(part))  # type: ignore[misc]

    async def open_read(self, name: str) -> ReadFile:
        await self.size(name)
        return RemoteFile(self, name)

    async def size(self, name: str) -> int:
        return (await self._retried("head", lambda: self._driver.head(name))).size_bytes

    async def sign(self, name: str, seconds: int) -> str:
        """A URL by which anybody can GET this object, and do nothing else, for so long. Nothing is asked of the store.
        Raises Invalid where it knows no such URLs, Unavailable.
        """
        check_name(name)
        return await self._driver.sign(name, seconds)

    async def close(self) -> None:
        await self._driver.close()

    async def _get(self, name: str, position: int, size_bytes: int | None) -> bytes:
        data = await self._retried("get", lambda: self._driver.get(name, position, size_bytes))
        self.traffic.read_bytes += len(data)
        return data

    async def _retried(self, operation: str, attempt: Callable[[], Awaitable[Result]]) -> Result:
        """Until it works, fails for good, or the policy's attempts are over."""
        policy = self._policy
        for number in range(policy.attempts):
            try:
                return await self._counted(operation, attempt)
            except (Full, _Torn):
                raise
            except Unavailable:
                if number + 1 == policy.attempts:
                    raise
            await self._back_off(number)
        raise AssertionError("a policy has one attempt at least")

    async def _back_off(self, number: int) -> None:
        limit_s = min(self._policy.first_delay_s * 2**number, self._policy.max_delay_s)
        await self._clock.sleep(self._random.random() * limit_s)

    async def _counted(self, operation: str, attempt: Callable[[], Awaitable[Result]]) -> Result:
        requests, failures = self.traffic.requests, self.traffic.failures
        requests[operation] = requests.get(operation, 0) + 1
        try:
            return await within(self._clock, self._policy.timeout_s, attempt())
        except Unavailable:
            failures[operation] = failures.get(operation, 0) + 1
            raise


class RemoteFile:
    """An object opened for reading. Nothing of it is at hand without asking."""

    __slots__ = ("_store", "name")

    def __init__(self, store: RemoteStore, name: str) -> None:
        self._store = store
        self.name = name

    def read_cached(self, position: int, size_bytes: int) -> memoryview | None:
        return None

    async def read(self, position: int, size_bytes: int) -> memoryview:
        return memoryview(await self._store.read_range(self.name, position, size_bytes))

    def forget_copies(self) -> None:
        return None

    async def close(self) -> None:
        return None


def check_name(name: str) -> None:
    """Raises Invalid for what is no relative name."""
    if not name or name.startswith("/") or ".." in name.split("/"):
        raise Invalid(f"not a name in the store: {name!r}")


async def within(clock: Clock, seconds: float, work: Awaitable[Result]) -> Result:
    """The result of `work`. After `seconds` it is cancelled and Unavailable raised: nobody knows what it has done.

    It runs in the caller's task: one for each request would cost more than the request's own steps.
    """
    task = asyncio.current_task()
    assert task is not None, "requests are made by tasks"
    cancelled_before = task.cancelling()
    timed_out = False

    def expire() -> None:
        nonlocal timed_out
        timed_out = True
        task.cancel()

    timer = clock.call_later(seconds, expire)
    try:
        return await work
    except asyncio.CancelledError:
        if timed_out and task.cancelling() == cancelled_before + 1:  # nobody else wants it to end
            raise Unavailable(f"the store did not answer within {seconds:g} s") from None
        raise
    finally:
        timer.cancel()
        if timed_out:
            task.uncancel()
