"""From a URL to a store: `file:///mnt/shared/x`, `s3://BUCKET/PREFIX`, or any other URL that fsspec understands.

Owns: which backend a URL means. Must not: import a backend that is not wanted.

The usual variables say where S3 is and who we are. For stores that are not all at one place a URL may say it: of
`s3://BUCKET/PREFIX?profile=NAME` in the usual files, or by `endpoint` and `region`. Secrets are in no URL.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote, urlsplit

from bytemq.errors import Invalid
from bytemq.runtime.clock import Clock
from bytemq.storage.stores.interface import ObjectStore
from bytemq.storage.stores.local import LocalStore
from bytemq.storage.stores.remote import START_PATIENCE_S, Driver, RemoteStore

if TYPE_CHECKING:
    from bytemq.storage.stores.s3 import S3Place


async def open_store(url: str, clock: Clock, random: Random, *, patience_s: float = START_PATIENCE_S) -> ObjectStore:
    """Raises Invalid with a sentence for the user, Unavailable when it cannot be had for so long."""
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = urlsplit("")
    if not parts.scheme:
        raise Invalid(f"not a URL of a storage: {url!r}; write file:///FOLDER or s3://BUCKET/PREFIX")
    if parts.scheme == "file":
        if parts.netloc not in ("", "localhost") or not parts.path:
            raise Invalid(f"a storage in files is file:///FOLDER with an absolute path, not {url!r}")
        return LocalStore(unquote(parts.path))
    if parts.scheme == "s3":
        if not parts.netloc:
            raise Invalid(f"a storage on S3 is s3://BUCKET/PREFIX, not {url!r}")
        from bytemq.storage.stores.s3 import S3Driver

        prefix = parts.path.strip("/")
        driver: Driver = await S3Driver.open(parts.netloc, f"{prefix}/" if prefix else "", _place_of(url))
    else:
        from bytemq.storage.stores.fsspec_store import FsspecDriver

        driver = await FsspecDriver.open(url)
    store = RemoteStore(driver, clock, random)
    try:
        await store.prepare(patience_s)
    except BaseException:
        await store.close()
        raise
    return store


def _place_of(url: str) -> S3Place:
    """Raises Invalid."""
    from bytemq.storage.stores.s3 import S3Place

    said = dict(parse_qsl(urlsplit(url).query, keep_blank_values=True))
    if unknown := said.keys() - set(S3Place._fields):
        raise Invalid(f"{url}: {', '.join(sorted(unknown))} means nothing; it may say {', '.join(S3Place._fields)}")
    return S3Place(**said)
