"""The limits of the listeners as frozen data: what one client, and all together, may take.

Owns names and defaults, no enforcement. Most are Kafka's broker configs; the others are in docs/configuration.md.
"""

from dataclasses import dataclass

from bytemq.broker.zone_networks import NO_NETWORKS, ZoneNetworks

MAX_PIPELINED_REQUESTS = 128
"""Requests of one connection in work at a time, where that may be several; further ones stay in the socket."""

TURN_BYTES = 1024 * 1024
"""What one connection may receive and send before the others get their turn: a busy socket must not starve them."""

REQUEST_TURN_BYTES = 8 * 1024
"""What a request counts towards TURN_BYTES beyond its size: a small one costs time too."""

TURN_S = 0.002
"""The time that one request may take of the loop before the others get their turn."""

LARGE_REQUEST_BYTES = 32 * 1024
"""Beyond this a request that is no Produce waits for a turn of its own: a thousand partitions may be named in it."""

WRITE_BUFFER_BYTES = 64 * 1024
"""Unsent bytes at which a connection's requests are no longer handled."""

STALL_SECONDS = 5
STALL_BYTES = 64 * 1024
"""While others wait for memory, who holds some must move this many bytes in this time, or is closed."""


@dataclass(frozen=True, slots=True)
class ServerLimits:
    request_max_bytes: int = 100 * 1024 * 1024
    """socket.request.max.bytes"""
    request_memory_bytes: int = 256 * 1024 * 1024
    """Requests received or being received, all connections together. One request may exceed it at a time."""
    max_connections: int = 2**31 - 1
    max_connections_per_ip: int = 2**31 - 1
    max_connections_per_ip_overrides: tuple[tuple[str, int], ...] = ()
    connections_max_idle_s: float = 600.0
    """connections.max.idle.ms; negative: never."""
    zone_networks: ZoneNetworks = NO_NETWORKS
    """bytemq.zone.networks"""
    listen_backlog: int = 512
    socket_send_buffer_bytes: int = -1
    socket_receive_buffer_bytes: int = -1
    """-1: as the kernel likes, which grows them by need; Kafka's 100 KiB would be all that one round trip carries."""

    def per_ip(self, host: str) -> int:
        for name, limit in self.max_connections_per_ip_overrides:
            if name == host:
                return limit
        return self.max_connections_per_ip
