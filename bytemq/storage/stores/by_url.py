"""From a URL to a store: `file:///mnt/shared/x`, `s3://BUCKET/PREFIX`, or any other URL that fsspec understands.

Owns: which backend a URL means. Must not: import a backend that is not wanted.
"""

from __future__ import annotations

from random import Random
from urllib.parse import unquote, urlsplit

from bytemq.errors import Invalid
from bytemq.runtime.clock import Clock
from bytemq.storage.stores.interface import ObjectStore
from bytemq.storage.stores.local import LocalStore
from bytemq.storage.stores.remote import Driver, RemoteStore


async def open_store(url: str, clock: Clock, random: Random) -> ObjectStore:
    """Raises Invalid with a sentence for the user, Unavailable when it cannot be had for a while."""
    parts = urlsplit(url)
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
        driver: Driver = await S3Driver.open(parts.netloc, f"{prefix}/" if prefix else "")
    else:
        from bytemq.storage.stores.fsspec_store import FsspecDriver

        driver = await FsspecDriver.open(url)
    store = RemoteStore(driver, clock, random)
    try:
        await store.prepare()
    except BaseException:
        await store.close()
        raise
    return store
