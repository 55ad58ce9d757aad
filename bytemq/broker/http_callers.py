"""Whose requests a port that knows no users answers: programs', and not those of other people's web pages.

Every page that somebody looks at on a machine which reaches the port may send requests to it, through that browser. It
may read the answers as well once its own name has been pointed here (DNS rebinding); the browser then still says in
`Host` which name it believes to talk to, and nobody can rebind an address or `localhost`. Where the name is right, it
says in `Origin` and `Sec-Fetch-Site` that another page asks; programs send neither.

Owns the rule. Must not: read or write anything.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Mapping

ANY = "*"
MISDIRECTED = 421
FORBIDDEN = 403


def why_refused(headers: Mapping[bytes, bytes], names: Collection[str]) -> tuple[int, str] | None:
    """Status and sentence, or None: it is answered. `headers` by their names in lower case; `names`: of hosts that this
    node is known by, in lower case, or `*`."""
    host = headers.get(b"host", b"").decode("latin-1").lower()
    if host and not _is_known(_without_port(host), names):
        return MISDIRECTED, f"this node does not go by the name {_without_port(host)!r}; name it in bytemq.http.hosts"
    origin = headers.get(b"origin", b"").decode("latin-1").lower()
    site = headers.get(b"sec-fetch-site", b"none").lower()
    if (origin and origin.partition("://")[2] != host) or site not in (b"none", b"same-origin"):
        return FORBIDDEN, "pages of other sites may not ask"
    return None


def _is_known(host: str, names: Collection[str]) -> bool:
    if host == "localhost" or host in names or ANY in names:
        return True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].removesuffix(".")
