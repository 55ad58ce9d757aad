"""Calls to an etcd cluster: which member is asked, who we are there, and what its errors mean.

Owns: one channel to each member, moving on from a member that does not answer, tokens, errors by what the caller must
do. Must not: know keys or repeat a call that changes something; what may have happened is Unavailable.

A call is sent to a member only once there is a connection to it, so that members which are down cost no lost calls.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import grpc

from bytemq.errors import BytemqError, Full, Invalid, NotFound, Unavailable
from bytemq.metadata.etcd import messages_pb2 as messages
from bytemq.metadata.etcd.address import EtcdAddress
from bytemq.metadata.store import Compacted
from bytemq.runtime.logging import get_logger

log = get_logger("metadata.etcd")

CONNECT_TIMEOUT_S = 1.0
REQUEST_TIMEOUT_S = 4.0
_OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # A member that vanished without a word; etcd takes offence at pings more often than every 5 s.
    ("grpc.keepalive_time_ms", 6000),
    ("grpc.keepalive_timeout_ms", 2000),
    ("grpc.enable_http_proxy", 0),
]
_HAS_LEADER = ("hasleader", "true")
"""Ends streams of a member that lost its leader, which would be silent otherwise."""


class Method(NamedTuple):
    path: str
    response: Any


RANGE = Method("/etcdserverpb.KV/Range", messages.RangeResponse)
TXN = Method("/etcdserverpb.KV/Txn", messages.TxnResponse)
WATCH = Method("/etcdserverpb.Watch/Watch", messages.WatchResponse)
LEASE_GRANT = Method("/etcdserverpb.Lease/LeaseGrant", messages.LeaseGrantResponse)
LEASE_REVOKE = Method("/etcdserverpb.Lease/LeaseRevoke", messages.LeaseRevokeResponse)
LEASE_KEEP_ALIVE = Method("/etcdserverpb.Lease/LeaseKeepAlive", messages.LeaseKeepAliveResponse)
AUTHENTICATE = Method("/etcdserverpb.Auth/Authenticate", messages.AuthenticateResponse)
STATUS = Method("/etcdserverpb.Maintenance/Status", messages.StatusResponse)


class Connection:
    """Made on the running loop, closed by `close`."""

    def __init__(self, address: EtcdAddress) -> None:
        """Raises Invalid when a file of the address cannot be read."""
        self._address = address
        credentials = _credentials(address) if address.is_encrypted else None
        self._channels = [_channel(endpoint, credentials) for endpoint in address.endpoints]
        self._at = 0
        self._moved: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._token = ""
        self._closed = False

    async def call(
        self, method: Method, request: Any, *, repeatable: bool = False, timeout_s: float = REQUEST_TIMEOUT_S
    ) -> Any:
        """The answer. One that is `repeatable` is asked of each member in turn. Raises as the module says."""
        tries = len(self._channels) if repeatable else 1
        while True:
            at = await self._connected()
            try:
                return await self._unary(at, method, request, timeout_s)
            except Unavailable:
                self._leave(at)
                tries -= 1
                if tries == 0:
                    raise

    async def exchange(self, method: Method, request: Any, *, timeout_s: float) -> Any:
        """The first answer of a stream that is opened for this request alone; it may be repeated by the caller."""
        at = await self._connected()
        try:
            async with asyncio.timeout(timeout_s):
                async for response in self._stream(at, method, request):
                    return response
        except TimeoutError as error:
            self._leave(at)
            raise Unavailable(f"etcd at {self._address.endpoints[at]} does not answer") from error
        except Unavailable:
            self._leave(at)
            raise
        raise Unavailable(f"etcd at {self._address.endpoints[at]} ended a stream")

    async def stream(self, method: Method, request: Any) -> AsyncIterator[Any]:
        """Answers to one request until the caller has enough. Raises Unavailable when it breaks, or when this
        connection has moved on to another member.
        """
        at = await self._connected()
        try:
            async for response in self._stream(at, method, request):
                yield response
        except Unavailable:
            self._leave(at)
            raise

    async def status(self, endpoint: str) -> Any:
        """StatusResponse of one member. Raises as `call`."""
        at = self._address.endpoints.index(endpoint)
        if not await _is_ready(self._channels[at]):
            raise Unavailable(f"no connection to etcd at {endpoint}")
        return await self._unary(at, STATUS, messages.StatusRequest(), REQUEST_TIMEOUT_S)

    async def close(self) -> None:
        self._closed = True
        self._wake_streams()
        for channel in self._channels:
            await channel.close()

    async def _connected(self) -> int:
        """Index of a member to which there is a connection, the last one that answered first."""
        count = len(self._channels)
        for step in range(count):
            if self._closed:
                break
            at = (self._at + step) % count
            if await _is_ready(self._channels[at]):
                if step and at != self._at:
                    log.info("asking another member of etcd", endpoint=self._address.endpoints[at])
                    self._move(at)
                return at
        if self._closed:
            raise Unavailable("the metadata store is closed")
        raise Unavailable(f"no etcd answers at {', '.join(self._address.endpoints)}")

    def _leave(self, at: int) -> None:
        """The member did not answer: somebody else is asked next."""
        if self._at == at and len(self._channels) > 1:
            self._move((at + 1) % len(self._channels))

    def _move(self, at: int) -> None:
        self._at = at
        self._wake_streams()

    def _wake_streams(self) -> None:
        moved, self._moved = self._moved, asyncio.get_running_loop().create_future()
        moved.set_result(None)

    async def _unary(self, at: int, method: Method, request: Any, timeout_s: float) -> Any:
        call = self._channels[at].unary_unary(method.path, type(request).SerializeToString, method.response.FromString)
        for fresh_token in (False, True):
            metadata = await self._metadata(at, method, fresh_token)
            try:
                return await call(request, timeout=timeout_s, metadata=metadata)
            except grpc.aio.AioRpcError as error:
                if _is_stale_token(error) and self._address.user and not fresh_token:
                    continue
                raise self._error_of(error, at) from error
            except asyncio.CancelledError:
                if self._closed:  # the channel was closed under the call
                    raise Unavailable("the metadata store is closed") from None
                raise
        raise AssertionError("unreachable")

    async def _stream(self, at: int, method: Method, request: Any) -> AsyncIterator[Any]:
        open_ = self._channels[at].stream_stream(
            method.path, type(request).SerializeToString, method.response.FromString
        )
        call = open_(metadata=(*await self._metadata(at, method, fresh_token=False), _HAS_LEADER))
        moved = self._moved
        try:
            await call.write(request)
            while True:
                reading = asyncio.ensure_future(call.read())
                try:
                    await asyncio.wait((reading, moved), return_when=asyncio.FIRST_COMPLETED)
                finally:
                    if not reading.done():
                        reading.cancel()
                if not reading.done():
                    raise Unavailable("the connection to etcd has moved to another member")
                response = await reading
                if response is grpc.aio.EOF:
                    raise Unavailable("etcd ended a stream")
                yield response
        except grpc.aio.AioRpcError as error:
            if _is_stale_token(error):
                self._token = ""
            raise self._error_of(error, at) from error
        except asyncio.InvalidStateError as error:  # how grpc reports a write on a stream that has ended
            raise Unavailable(f"etcd at {self._address.endpoints[at]} ended a stream") from error
        finally:
            call.cancel()

    async def _metadata(self, at: int, method: Method, fresh_token: bool) -> tuple[tuple[str, str], ...]:
        if not self._address.user or method is AUTHENTICATE:
            return ()
        if fresh_token or not self._token:
            request = messages.AuthenticateRequest(name=self._address.user, password=self._address.password)
            self._token = (await self._unary(at, AUTHENTICATE, request, REQUEST_TIMEOUT_S)).token
        return (("token", self._token),)

    def _error_of(self, error: grpc.aio.AioRpcError, at: int) -> BytemqError:
        code, details = error.code(), error.details() or ""
        where = f"etcd at {self._address.endpoints[at]}"
        if "lease not found" in details:
            return NotFound(details)
        if "has been compacted" in details:
            return Compacted(details)
        if "database space exceeded" in details:
            return Full(f"{where} has no space: compact and defragment it, then disarm its alarm ({details})")
        if code is grpc.StatusCode.PERMISSION_DENIED:
            return Invalid(f"{where} does not let user {self._address.user!r} at {self._address.prefix}: {details}")
        if "user name is empty" in details or "invalid user ID or password" in details:
            user = f"user {self._address.user!r}" if self._address.user else "who gives no name"
            return Invalid(
                f"{where} does not let in {user} ({details}). Give user and password in the address, or by "
                "ETCDCTL_USER and ETCDCTL_PASSWORD."
            )
        if code in _REFUSED:
            return Invalid(f"{where} refused: {details}")
        if code is grpc.StatusCode.UNIMPLEMENTED:
            return Invalid(f"{where} does not speak etcd's API version 3: {details}")
        return Unavailable(f"{where}: {details or code.name}")


_REFUSED = frozenset(
    {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.UNAUTHENTICATED}
)


def _is_stale_token(error: grpc.aio.AioRpcError) -> bool:
    """Such a call was not carried out."""
    details = error.details() or ""
    return "invalid auth token" in details or "revision of auth store is old" in details


async def _is_ready(channel: grpc.aio.Channel) -> bool:
    """Waits for a connection that is being made, but not for a second attempt."""
    state = channel.get_state(try_to_connect=True)
    if state is grpc.ChannelConnectivity.READY:
        return True
    tried = False
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            while state is not grpc.ChannelConnectivity.READY:
                if state is grpc.ChannelConnectivity.SHUTDOWN:
                    return False
                if state is grpc.ChannelConnectivity.TRANSIENT_FAILURE and tried:
                    return False
                tried = tried or state is grpc.ChannelConnectivity.CONNECTING
                await channel.wait_for_state_change(state)
                state = channel.get_state(try_to_connect=True)
    except TimeoutError:
        return False
    return True


def _channel(endpoint: str, credentials: grpc.ChannelCredentials | None) -> grpc.aio.Channel:
    if credentials is None:
        return grpc.aio.insecure_channel(endpoint, options=_OPTIONS)
    return grpc.aio.secure_channel(endpoint, credentials, options=_OPTIONS)


def _credentials(address: EtcdAddress) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(
        root_certificates=_content(address.ca_file),
        private_key=_content(address.key_file),
        certificate_chain=_content(address.certificate_file),
    )


def _content(file: str) -> bytes | None:
    try:
        return Path(file).read_bytes() if file else None
    except OSError as error:
        raise Invalid(f"cannot read {file}, which encrypts the connection to etcd: {error.strerror}") from error
