"""An open file that several readers use at the same time.

Owns: how long it stays open. Must not: know what is in it.

Whoever reads and has to wait pins the file first; whoever wants to close, recycle or delete it first takes it out of
every table that leads to it, then waits until nobody has it pinned. So bytes of a recycled file are never taken for
those that were there before.
"""

from __future__ import annotations

import asyncio

from bytemq.storage.stores.interface import AppendFile, ReadFile


class SharedFile:
    __slots__ = ("_unpinned", "file", "is_doubtful", "pins")

    def __init__(self, file: ReadFile) -> None:
        self.file = file
        self.pins = 0
        self.is_doubtful = False
        """Whether a sync of it has failed: the kernel may have dropped what was written, and not say so again."""
        self._unpinned: asyncio.Future[None] | None = None

    def read_cached(self, position: int, size_bytes: int) -> memoryview | None:
        return self.file.read_cached(position, size_bytes)

    async def read(self, position: int, size_bytes: int) -> memoryview:
        """As `ReadFile.read`. The caller has pinned the file, or knows that nobody can release it meanwhile."""
        return await self.file.read(position, size_bytes)

    def forget_copies(self) -> None:
        self.file.forget_copies()

    def pin(self) -> None:
        self.pins += 1

    def unpin(self) -> None:
        self.pins -= 1
        if not self.pins and self._unpinned is not None:
            if not self._unpinned.done():
                self._unpinned.set_result(None)
            self._unpinned = None

    async def unpinned(self) -> None:
        """Returns when no read is in progress."""
        while self.pins:
            if self._unpinned is None:
                self._unpinned = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._unpinned)


class HolderFile(SharedFile):
    """A file that extents of logs are in. They name it by its `ordinal`: in this order such files came to be."""

    __slots__ = ("first_sequence", "ordinal")

    def __init__(self, file: ReadFile, ordinal: int) -> None:
        super().__init__(file)
        self.ordinal = ordinal
        self.first_sequence = 0
        """Of the first flush that is in it, or refers to it; 0 while there is none."""

    @property
    def writable(self) -> AppendFile:
        return self.file  # type: ignore[return-value]  # opened so by whoever writes
