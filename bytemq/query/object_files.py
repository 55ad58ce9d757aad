"""Parquet files of an object store as DuckDB reads files: the ranges that it asks for, over HTTP.

Owns: the requests, and what is read before anybody asks: the ends of files, of which a query needs each. Must not: know
anything of a store beyond the URLs of the files that it was given; there are no others.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any, NamedTuple

import urllib3
from fsspec import AbstractFileSystem

from bytemq.runtime.seekable import Seekable

PROTOCOL = "bytemq"
CONNECTIONS = 16
END_BYTES = 32 * 1024
"""Of a file that are read ahead, as many as DuckDB asks for first: its footer, nearly always."""
ENDS_BYTES = 128 * 1024 * 1024
"""That are read ahead at most: so many files' footers are in memory, the others are asked for one by one."""
PART_BYTES = 8 * 1024 * 1024
"""More than this is asked for in parts, at the same time."""
ATTEMPTS = 6
TIMEOUT_S = 30.0
_WHENEVER = datetime(1970, 1, 1, tzinfo=UTC)
"""A file of a name never changes."""


class ObjectPlace(NamedTuple):
    url: str
    size_bytes: int


def path_of(name: str) -> str:
    """What DuckDB calls the file."""
    return f"{PROTOCOL}://{name}"


class ObjectFiles(AbstractFileSystem):  # type: ignore[misc]
    """To be registered with DuckDB, which calls it in any thread."""

    protocol = PROTOCOL
    cachable = False

    def __init__(self, places: Mapping[str, ObjectPlace]) -> None:
        """By name. Reads the ends of files."""
        super().__init__()
        self._places = places
        self._pool = urllib3.PoolManager(
            maxsize=CONNECTIONS,
            block=True,
            ca_certs=os.environ.get("AWS_CA_BUNDLE"),
            timeout=urllib3.Timeout(total=TIMEOUT_S),
            retries=urllib3.Retry(ATTEMPTS, redirect=0, backoff_factor=0.1, status_forcelist=(429, 500, 502, 503, 504)),
        )
        self._threads = ThreadPoolExecutor(CONNECTIONS)
        self.requests = self.read_bytes = 0
        """As of now; what is read in two threads at once may be counted as one."""
        self.failure: OSError | None = None
        """The last one."""
        ahead = list(places)[: ENDS_BYTES // END_BYTES]
        self._ends = dict(zip(ahead, self._threads.map(self._end, ahead), strict=True))

    def _end(self, name: str) -> bytes:
        size_bytes = min(self._places[name].size_bytes, END_BYTES)
        return self._get(name, self._places[name].size_bytes - size_bytes, size_bytes)

    def read(self, name: str, position: int, size_bytes: int) -> bytes:
        end_at = self._places[name].size_bytes - len(self._ends.get(name, b""))
        if position >= end_at:
            return self._ends[name][position - end_at :][:size_bytes] if name in self._ends else b""
        if size_bytes <= PART_BYTES:
            return self._get(name, position, size_bytes)
        starts = range(position, position + size_bytes, PART_BYTES)
        sizes = [min(PART_BYTES, position + size_bytes - start) for start in starts]
        return b"".join(self._threads.map(self._get, [name] * len(starts), starts, sizes))

    def _get(self, name: str, position: int, size_bytes: int) -> bytes:
        """Raises OSError with a sentence."""
        asked = {"Range": f"bytes={position}-{position + size_bytes - 1}"}
        try:
            response = self._pool.request("GET", self._places[name].url, headers=asked)
        except urllib3.exceptions.HTTPError as error:
            raise self._failed(f"{name} cannot be read from the storage: {type(error).__name__}") from error
        if response.status == 404:
            raise self._failed(f"{name} is gone: the query took longer than replaced files stay")
        if response.status not in (200, 206) or len(response.data) != size_bytes:
            raise self._failed(f"{name} cannot be read from the storage: status {response.status}")
        self.requests += 1
        self.read_bytes += size_bytes
        return response.data

    def _failed(self, sentence: str) -> OSError:
        self.failure = OSError(sentence)
        return self.failure

    # What DuckDB calls.

    def open(self, path: str, mode: str = "rb", **_: Any) -> _Opened:
        if mode != "rb":
            raise PermissionError("files of topics are read only")
        name = self._strip_protocol(path)
        return _Opened(self, name, self._places[name].size_bytes)

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        name = self._strip_protocol(path)
        return {"name": name, "size": self._places[name].size_bytes, "type": "file"}

    def glob(self, path: str, **_: Any) -> list[str]:
        return [self._strip_protocol(path)]

    def modified(self, path: str) -> datetime:
        return _WHENEVER


class _Opened(Seekable):
    def __init__(self, files: ObjectFiles, name: str, size_bytes: int) -> None:
        super().__init__(size_bytes)
        self._files = files
        self._name = name

    def read(self, size: int = -1) -> bytes:
        left = max(self._size_bytes - self._position, 0)
        wanted = left if size < 0 else min(size, left)
        data = self._files.read(self._name, self._position, wanted) if wanted else b""
        self._position += len(data)
        return data
