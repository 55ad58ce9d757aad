"""The listeners: sockets that accept clients, and what all connections share.

Owns the listening sockets, the set of connections and their limits: how many, how long idle, how slow while others
wait for memory. Requests are the dispatcher's business, bytes the connections'.
"""

import asyncio
import contextlib
import errno
import socket
from dataclasses import dataclass

from bytemq.broker.connection import Connection
from bytemq.broker.context import Broker, ClientInfo
from bytemq.broker.dispatch import Dispatcher
from bytemq.broker.frame_reader import RequestMemory
from bytemq.broker.limits import STALL_BYTES, STALL_SECONDS, ServerLimits
from bytemq.broker.produce_run import ProduceRuns
from bytemq.broker.receive_turn import ReceiveTurn
from bytemq.errors import Unavailable
from bytemq.protocol.api_keys import ApiKey
from bytemq.runtime.clock import TimerHandle
from bytemq.runtime.logging import LogGate, get_logger

log = get_logger("broker.server")

SWEEP_INTERVAL_S = 1.0
KEEPALIVE_IDLE_S, KEEPALIVE_INTERVAL_S, KEEPALIVE_PROBES = 60, 15, 4
"""A peer that vanished without a word is noticed within two minutes."""
NEVER_PACES = b"reno"
"""Congestion control, see `_do_not_pace`."""


@dataclass(frozen=True, slots=True)
class Listener:
    """An address to listen on. Port 0: the system chooses."""

    name: str
    host: str
    port: int


BoundListener = tuple[Listener, socket.socket]


class CannotListen(Unavailable):
    """A sentence for the user that says which address cannot be had, why, and what to do."""


class Server:
    """Accepts clients on several listeners. `start`, then `stop` once."""

    def __init__(self, broker: Broker, limits: ServerLimits) -> None:
        self._broker = broker
        self.limits = limits
        self.dispatcher = Dispatcher(broker)
        self.request_memory = RequestMemory(limits.request_memory_bytes, limits.request_max_bytes)
        self.response_memory = broker.response_memory
        produce_duration = broker.traffic.durations.labels(ApiKey.PRODUCE.name)
        self.runs = ProduceRuns(broker, limits.request_max_bytes, produce_duration, self.dispatcher.log_crash)
        self.turn = ReceiveTurn(self.runs)
        self.monotonic = broker.clock.monotonic
        self.now = self.monotonic()
        """A coarse clock: renewed at each sweep."""
        self._listening: list[asyncio.Server] = []
        self._connections: set[Connection] = set()
        self._per_ip: dict[str, int] = {}
        self._sequence = 0
        self._sweeper: TimerHandle | None = None
        self._stopping = False
        self._waits_seen = 0
        self._log_gate = LogGate(broker.clock.monotonic)
        self._register_metrics()

    async def start(self, listeners: list[Listener]) -> dict[str, tuple[str, int]]:
        """Opens all listeners or none; returns the addresses bound, by listener name. Raises CannotListen."""
        return await self.serve(bind(listeners))

    async def serve(self, sockets: list[BoundListener]) -> dict[str, tuple[str, int]]:
        """Accepts clients on sockets that were bound before; returns their addresses by listener name."""
        loop = asyncio.get_running_loop()
        bound: dict[str, tuple[str, int]] = {}
        for listener, opened in sockets:
            factory = self._factory(listener.name, loop)
            self._listening.append(await loop.create_server(factory, sock=opened, backlog=self.limits.listen_backlog))
            bound[listener.name] = opened.getsockname()[:2]
            log.info("listener started", listener=listener.name, host=listener.host, port=bound[listener.name][1])
        self._sweep()
        return bound

    async def warm_up(self) -> None:
        """What need not be done before the first client is served, but is better done before the thousandth."""
        await self.dispatcher.warm()

    async def stop(self, timeout_s: float = 2.0) -> None:
        """Accepts nobody more, gives requests in work that long to be answered, and closes all connections."""
        self._stopping = True
        for server in self._listening:
            server.close()
        deadline = self._broker.clock.monotonic() + timeout_s
        for connection in self._connections:
            connection.stop_reading()
        while any(connection.busy for connection in self._connections):
            if self._broker.clock.monotonic() >= deadline:
                log.warning("connections closed with requests in work", connections=len(self._connections))
                break
            await self._broker.clock.sleep(0.01)
        for connection in tuple(self._connections):
            connection.close()
        await self.dispatcher.close()
        await self._broker.clock.sleep(0)  # transports report their end in the next turn
        if self._sweeper is not None:
            self._sweeper.cancel()

    @property
    def connection_count(self) -> int:
        return len(self._connections)

    # What connections call

    def connected(self, connection: Connection, transport: asyncio.Transport) -> None:
        client = connection.client
        client.host, client.port = (transport.get_extra_info("peername") or ("", 0))[:2]
        client.zone = self.limits.zone_networks.zone_of(client.host)
        local_host, local_port = (transport.get_extra_info("sockname") or ("", 0))[:2]
        self._sequence += 1
        client.connection_id = f"{local_host}:{local_port}-{client.host}:{client.port}-{self._sequence}"
        count = self._per_ip.get(client.host, 0) + 1
        self._per_ip[client.host] = count
        self._connections.add(connection)
        self._accepted.value += 1
        if len(self._connections) > self.limits.max_connections:
            connection.hang_up(f"more than max.connections={self.limits.max_connections} connections")
        elif count > self.limits.per_ip(client.host):
            connection.hang_up(f"more than max.connections.per.ip={self.limits.per_ip(client.host)} connections")
        elif self._stopping:
            connection.close()
        else:
            _set_options(transport.get_extra_info("socket"), self.limits, is_local=client.host == local_host)

    def disconnected(self, connection: Connection) -> None:
        self._connections.discard(connection)
        host = connection.client.host
        remaining = self._per_ip.get(host, 0) - 1
        if remaining > 0:
            self._per_ip[host] = remaining
        else:
            self._per_ip.pop(host, None)

    def log_hang_up(self, client: ClientInfo, reason: str) -> None:
        """A client was sent away. One that comes back for more does not fill the log."""
        self._hang_ups.value += 1
        kept_back = self._log_gate.allow(client.host)
        if kept_back is not None:
            log.warning(
                "connection closed",
                reason=reason,
                client=f"{client.host}:{client.port}",
                listener=client.listener,
                software=client.software_name,
                not_logged_since=kept_back,
            )

    # Housekeeping

    def _factory(self, listener_name: str, loop: asyncio.AbstractEventLoop) -> "_Factory":
        return _Factory(self, loop, listener_name)

    def _sweep(self) -> None:
        """Once a second: closes what is idle, and what holds memory without using it while others wait."""
        clock = self._broker.clock
        self.now = clock.monotonic()
        idle_s = self.limits.connections_max_idle_s
        waits = self.request_memory.budget.waits + self.response_memory.waits
        short_of_memory = waits != self._waits_seen or self.request_memory.anyone_waits
        self._waits_seen = waits
        for connection in tuple(self._connections):
            if short_of_memory and connection.holds_memory:
                self._close_if_stalled(connection)
            else:
                connection.stalled_since = 0.0
                if 0 <= idle_s < self.now - connection.active_at and not connection.busy:
                    connection.close()
        self._sweeper = clock.call_later(SWEEP_INTERVAL_S, self._sweep)

    def _close_if_stalled(self, connection: Connection) -> None:
        """Each period of STALL_SECONDS must move STALL_BYTES."""
        if not connection.stalled_since:
            connection.stalled_since = self.now
            connection.moved_bytes()
        elif self.now - connection.stalled_since >= STALL_SECONDS:
            connection.stalled_since = self.now
            if connection.moved_bytes() < STALL_BYTES:
                connection.hang_up("held memory that others wait for and made no progress")

    def _register_metrics(self) -> None:
        metrics = self._broker.metrics
        self._accepted = metrics.counter("bytemq_connections_accepted_total", "Connections accepted")
        self._hang_ups = metrics.counter(
            "bytemq_connections_refused_total", "Connections closed because of what the client sent, or of a limit"
        )
        metrics.gauge("bytemq_connections", "Connections open", lambda: len(self._connections))
        requests, responses = self.request_memory.budget, self.response_memory
        metrics.gauge("bytemq_request_memory_bytes", "Requests received and not yet done", lambda: requests.used_bytes)
        metrics.gauge("bytemq_response_memory_bytes", "Batches read and not yet sent", lambda: responses.used_bytes)


class _Factory:
    """Makes the connections of one listener."""

    __slots__ = ("_listener", "_loop", "_server")

    def __init__(self, server: Server, loop: asyncio.AbstractEventLoop, listener: str) -> None:
        self._server = server
        self._loop = loop
        self._listener = listener

    def __call__(self) -> Connection:
        return Connection(self._server, self._loop, ClientInfo("", self._listener, "", 0))


def bind(listeners: list[Listener]) -> list[BoundListener]:
    """Takes all addresses or none: a node wants to have them before it tells others of itself. Raises CannotListen."""
    sockets: list[BoundListener] = []
    try:
        sockets.extend((listener, _bind(listener)) for listener in listeners)
    except CannotListen:
        for _, opened in sockets:
            opened.close()
        raise
    return sockets


def _bind(listener: Listener) -> socket.socket:
    where = f"{listener.host}:{listener.port}"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            listener.host or None, listener.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:
        raise CannotListen(f"cannot listen on {where}: the host name is not known ({error})") from error
    opened = socket.socket(family, kind, protocol)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(address)
        opened.setblocking(False)
    except OSError as error:
        opened.close()
        raise CannotListen(_why(where, error)) from error
    return opened


def _why(where: str, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"address {where} is already in use by another program; choose another with --listen"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"address {where} does not belong to this machine; choose another with --listen"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"not allowed to listen on {where}: ports below 1024 need more rights; choose another with --listen"
    return f"cannot listen on {where}: {error.strerror}"


def _set_options(client: socket.socket | None, limits: ServerLimits, *, is_local: bool) -> None:
    """`is_local`: both ends are on this machine."""
    if client is None:
        return
    if is_local:
        _do_not_pace(client)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", KEEPALIVE_IDLE_S),
        ("TCP_KEEPINTVL", KEEPALIVE_INTERVAL_S),
        ("TCP_KEEPCNT", KEEPALIVE_PROBES),
    ):
        option = getattr(socket, name, None)  # not on every system
        if option is not None:
            client.setsockopt(socket.IPPROTO_TCP, option, value)
    if limits.socket_send_buffer_bytes > 0:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, limits.socket_send_buffer_bytes)
    if limits.socket_receive_buffer_bytes > 0:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, limits.socket_receive_buffer_bytes)


def _do_not_pace(client: socket.socket) -> None:
    """Where the kernel's congestion control is one that paces what is sent, as BBR does, each piece of an answer waits
    for a timer. Within a machine there is nothing to be congested; and `reno`, which does not pace, is in every kernel.
    """
    option = getattr(socket, "TCP_CONGESTION", None)  # not on every system
    if option is not None:
        with contextlib.suppress(OSError):  # nor allowed in every container
            client.setsockopt(socket.IPPROTO_TCP, option, NEVER_PACES)
