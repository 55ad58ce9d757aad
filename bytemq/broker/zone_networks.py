"""Which zone a client is in, by its address: Kafka's producers do not say. Pure.

Owns: the networks of zones, as the user names them. Must not: guess. A client in none of them is in no zone.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from bytemq.errors import Invalid


class ZoneNetworks:
    """From `ZONE=NETWORK`, e.g. `a=10.0.0.0/20`; a zone may have several. Raises Invalid."""

    def __init__(self, entries: Iterable[str] = ()) -> None:
        networks: list[tuple[IPv4Network | IPv6Network, str]] = []
        for entry in entries:
            zone, _, network = (part.strip() for part in entry.partition("="))
            try:
                networks.append((ip_network(network), zone))
            except ValueError as error:
                raise Invalid(f"bytemq.zone.networks has {entry!r}, which is no ZONE=NETWORK: {error}") from error
            if not zone:
                raise Invalid(f"bytemq.zone.networks has {entry!r}, which names no zone")
        self._networks = sorted(networks, key=lambda one: -one[0].prefixlen)

    def zone_of(self, host: str) -> str:
        """That of the smallest network that has the address; "" for none."""
        if not self._networks:
            return ""
        try:
            address = ip_address(host.partition("%")[0])
        except ValueError:
            return ""
        mapped = getattr(address, "ipv4_mapped", None) or address
        return next((zone for network, zone in self._networks if mapped in network), "")


NO_NETWORKS = ZoneNetworks()
