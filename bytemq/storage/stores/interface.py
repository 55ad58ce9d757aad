"""The small store interface that everything durable goes through.

Owns: the contract of a store. Must not: know formats, offsets or the operating system.

Names are relative paths with "/" between their parts. One name has one content: objects are created if absent and never
overwritten. That is what every store can do, `ObjectStore`. What a file system can do beyond it, `Store`, is appending
in place and syncing: the bytes of an `AppendFile` are durable only up to the last sync, and so is nothing else's.

Every call raises by what the caller must do: `Full` (no space), `Unavailable` (any other I/O error), `NotFound`,
`Invalid` (the name exists already).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

Buffer = bytes | bytearray | memoryview


class ObjectInfo(NamedTuple):
    name: str
    size_bytes: int


class ReadFile(Protocol):
    """An open file. Reading past its end gives fewer bytes than asked."""

    @property
    def name(self) -> str: ...

    def read_cached(self, position: int, size_bytes: int) -> memoryview | None:
        """The bytes if they can be had without waiting for a device (page cache), else None."""

    async def read(self, position: int, size_bytes: int) -> memoryview: ...

    def forget_copies(self) -> None:
        """What was read is not what was written: the next read is of the file itself, of nothing that is kept of it."""

    async def close(self) -> None:
        """The caller answers for nobody using the file any more. Closing twice is harmless."""


class AppendFile(ReadFile, Protocol):
    """A file open for positional writing by one writer. It may be read at the same time."""

    def write_now(self, buffers: Sequence[Buffer], position: int) -> None:
        """Writes into the page cache on the calling thread: for small writes with page-cache durability."""

    async def write(self, buffers: Sequence[Buffer], position: int, *, sync: bool) -> None:
        """Writes all buffers one after the other from `position`; with `sync` they are durable when this returns.

        The buffers must not change meanwhile. After an error (or cancellation) any part may have been written; after a
        failed sync nothing written since the last successful one may be trusted, not even by syncing again.
        """

    async def sync(self) -> None:
        """Makes every completed write durable."""


class ObjectStore(Protocol):
    """What every store can do. See the module's docstring for names and errors."""

    async def create(self, name: str, data: Sequence[Buffer]) -> None:
        """Creates a whole object: absent or complete and durable, whatever happens. `Invalid` if the name exists."""

    async def read(self, name: str) -> bytes:
        """A whole object."""

    async def read_range(self, name: str, position: int, size_bytes: int) -> bytes:
        """Part of an object, fewer bytes where it ends before: for those who read it once and do not open it."""

    async def list(self, prefix: str) -> Sequence[ObjectInfo]:
        """Everything whose name starts with `prefix` (which ends with "/"), in name order."""

    async def delete(self, names: Sequence[str]) -> None:
        """Deletes; names that do not exist are no error. A deletion may be undone by a power cut."""

    async def open_read(self, name: str) -> ReadFile: ...

    async def size(self, name: str) -> int: ...

    async def close(self) -> None:
        """Waits for calls in progress. Files still open become unusable."""


class Store(ObjectStore, Protocol):
    """A file system: what every store can do, and appending, syncing, renaming."""

    async def create_append(
        self, name: str, *, size_bytes: int = 0, zeroed: bool = False, urgent: bool = False
    ) -> AppendFile:
        """A new file, its name durable, `size_bytes` of space reserved for it.

        `zeroed` writes the zeros out, which makes later syncs cheaper. `urgent` files have a thread of their own.
        """

    async def open_append(self, name: str, *, urgent: bool = False) -> AppendFile: ...

    async def write_all(self, writes: Sequence[tuple[AppendFile, Sequence[Buffer], int]], *, sync: bool) -> None:
        """Several writes (file, buffers, position), as `AppendFile.write`. After an error any part may be written."""

    async def rename(self, name: str, new_name: str) -> None:
        """Durable when it returns. `Invalid` if the new name exists."""

    async def free_bytes(self) -> int:
        """Space left, roughly; it may be gone the next moment."""
