"""Where an etcd is and how to be let in: from a URL and etcdctl's variables. Pure.

    etcd://[USER:PASSWORD@]HOST[:PORT][,HOST[:PORT]...]/PREFIX[?ca=FILE&cert=FILE&key=FILE]

With `etcds://` in place of `etcd://`, or any of the files, the connection is encrypted and the server's certificate
checked (against `ca`, or the authorities that the system trusts). ETCDCTL_USER, _PASSWORD, _CACERT, _CERT and _KEY say
what the URL does not, so that no password need be on a command line.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from bytemq.errors import Invalid

DEFAULT_PORT = 2379
SCHEMES = ("etcd", "etcds")
_FILES = {"ca": "ETCDCTL_CACERT", "cert": "ETCDCTL_CERT", "key": "ETCDCTL_KEY"}


class EtcdAddress(NamedTuple):
    endpoints: tuple[str, ...]
    """HOST:PORT of the members, those to be tried first in front."""
    prefix: str
    """What every key of the cluster begins with; ends with "/"."""
    user: str
    """Empty: without authentication."""
    password: str
    is_encrypted: bool
    ca_file: str
    certificate_file: str
    key_file: str

    def __str__(self) -> str:
        """As a URL that may be shown to anyone."""
        scheme = SCHEMES[self.is_encrypted]
        return f"{scheme}://{','.join(self.endpoints)}/{self.prefix.strip('/')}"


def is_etcd(url: str) -> bool:
    return url.partition("://")[0] in SCHEMES


def parse_address(url: str, environment: Mapping[str, str]) -> EtcdAddress:
    """Raises Invalid with a sentence for the user."""
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise Invalid(f"{url!r} is no address of an etcd, which is etcd://HOST:PORT/PREFIX: {error}") from error
    if parts.scheme not in SCHEMES:
        raise Invalid(f"{parts.scheme}:// is no address of an etcd; one is etcd://HOST:PORT/PREFIX")
    credentials, _, hosts = parts.netloc.rpartition("@")
    prefix = parts.path.strip("/")
    if not prefix:
        raise Invalid("the address of an etcd ends with a prefix of this cluster's own: etcd://HOST:PORT/PREFIX")
    user, _, password = credentials.partition(":")
    if not user:
        user, _, password = environment.get("ETCDCTL_USER", "").partition(":")
        password = password or environment.get("ETCDCTL_PASSWORD", "")
    files = _files(parts.query, environment)
    if bool(files["cert"]) != bool(files["key"]):
        raise Invalid("a client certificate for etcd needs both its files: cert and key")
    return EtcdAddress(
        tuple(_endpoint(host) for host in hosts.split(",")),
        f"{prefix}/",
        unquote(user),
        unquote(password),
        parts.scheme == "etcds" or any(files.values()),
        files["ca"],
        files["cert"],
        files["key"],
    )


def _files(query: str, environment: Mapping[str, str]) -> dict[str, str]:
    given = dict(parse_qsl(query, keep_blank_values=True))
    unknown = sorted(given.keys() - _FILES.keys())
    if unknown:
        raise Invalid(f"the address of an etcd has no parameter {unknown[0]}; there are {', '.join(_FILES)}")
    return {name: given.get(name) or environment.get(variable, "") for name, variable in _FILES.items()}


def _endpoint(text: str) -> str:
    host, colon, port = text.rpartition(":")
    if not colon or port.endswith("]"):
        host, port = text, str(DEFAULT_PORT)
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise Invalid(f"{text!r} is not HOST:PORT of an etcd member")
    return f"{host}:{port}"
