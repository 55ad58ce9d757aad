"""Writing files beside the event loop, in the order in which it was asked for.

Owns one thread and how outcomes come back from it. Must not: know what is written, or translate errors.

Where the package was compiled the thread is native (`_file_writer.c`) and never needs the interpreter: the loop goes on
receiving while the kernel copies, and neither waits for the other to let go of it. Elsewhere it is one of Python's.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from contextlib import suppress

from bytemq.runtime.call_threads import CallThreads
from bytemq.storage.stores.interface import Buffer

try:
    from bytemq.storage.stores import _file_writer as native
except ImportError:  # no compiler when the package was installed
    native = None  # type: ignore[assignment]

Write = tuple[int, Sequence[Buffer], int]
"""File descriptor, buffers, position of the first of them."""


class FileWriter:
    """See the module's docstring. `write` is how one file is written in Python."""

    __slots__ = ("_closing", "_native", "_threads", "_waiting", "_wake_fds", "_write")

    def __init__(self, write: Callable[[int, Sequence[Buffer], int, bool], None]) -> None:
        self._write = write
        self._threads = CallThreads(1, "storage-urgent")
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self._wake_fds: tuple[int, ...] = ()
        self._native: native.FileWriter | None = None
        self._closing: asyncio.Future[None] | None = None

    async def write(self, writes: Sequence[Write], *, sync: bool) -> None:
        """Writes them one after the other; with `sync` they are durable when this returns. Raises OSError.

        The buffers must not change meanwhile, also when this is cancelled: it is written all the same.
        """
        if native is None:
            await self._threads.run(lambda: self._write_all(writes, sync))
            return
        loop = asyncio.get_running_loop()
        if self._native is None:
            self._native = self._started(loop)
        future = loop.create_future()
        self._waiting[self._native.submit(writes, sync)] = future
        await future

    async def close(self) -> None:
        """Returns when all that was asked for is done. Closing twice, or twice at once, is harmless."""
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, self._threads.close)
        if self._native is not None and self._wake_fds:
            await loop.run_in_executor(None, self._native.close)
            self._tell()
            loop.remove_reader(self._wake_fds[0])
            for fd in self._wake_fds:
                os.close(fd)
            self._wake_fds = ()

    def _write_all(self, writes: Sequence[Write], sync: bool) -> None:
        for fd, buffers, position in writes:
            self._write(fd, buffers, position, sync)

    def _started(self, loop: asyncio.AbstractEventLoop) -> native.FileWriter:
        self._wake_fds = os.pipe()
        for fd in self._wake_fds:
            os.set_blocking(fd, False)
        loop.add_reader(self._wake_fds[0], self._woken)
        return native.FileWriter(self._wake_fds[1])

    def _woken(self) -> None:
        with suppress(BlockingIOError):
            os.read(self._wake_fds[0], 64)
        self._tell()

    def _tell(self) -> None:
        """Those whose writes are finished."""
        assert self._native is not None
        for number, error in self._native.finished():
            future = self._waiting.pop(number)
            if future.done():
                continue  # cancelled
            if error:
                future.set_exception(OSError(error, os.strerror(error)))
            else:
                future.set_result(None)
