"""A store on the local file system.

Owns: every system call on files, the threads that sit in them, and which names are synced when. Must not: know what is
in a file.

Threads only sit in system calls; nothing here runs Python for long. A new name is durable once its directory was
synced, so that happens wherever the contract promises a durable name. A file is created whole by a temporary file,
fsync and link, which is atomic and never overwrites.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, TypeVar

from bytemq.errors import BytemqError, Full, Invalid, NotFound, Unavailable
from bytemq.runtime.buffers import SMALLEST_POOLED_BYTES, BufferPool
from bytemq.runtime.call_threads import CallThreads
from bytemq.storage.stores.file_writer import FileWriter, Write
from bytemq.storage.stores.interface import AppendFile, Buffer, ObjectInfo, ReadFile

Result = TypeVar("Result")

IOV_MAX = min(os.sysconf("SC_IOV_MAX"), 1024) if os.sysconf("SC_IOV_MAX") > 0 else 1024
READ_MEMORY_BYTES = 64 * 1024 * 1024
"""Most memory kept for further reads."""
TEMPORARY = ".creating"
"""Suffix of files that are not objects yet; found at a start, they are what a crash left."""
_ZEROS = bytes(1024 * 1024)
_NOWAIT = getattr(os, "RWF_NOWAIT", 0)


def translated(error: OSError, what: str) -> BytemqError:
    """The error by what the caller must do."""
    message = f"{what}: {error.strerror or error}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return Full(message)
    if error.errno == errno.ENOENT:
        return NotFound(message)
    if error.errno == errno.EEXIST:
        return Invalid(message)
    return Unavailable(message)


class _Threads(NamedTuple):
    """Who waits for what: nobody's write for somebody's read, and the write-ahead log for nothing else at all."""

    calls: CallThreads
    reads: CallThreads
    urgent: FileWriter


class LocalFile:
    """One open file: `ReadFile`, and `AppendFile` when opened for writing."""

    __slots__ = ("_is_urgent", "_memory", "_threads", "_writes_over", "_writing", "fd", "name")

    def __init__(self, name: str, fd: int, threads: _Threads, memory: BufferPool, *, urgent: bool = False) -> None:
        self.name = name
        self.fd = fd
        self._threads = threads
        self._is_urgent = urgent
        self._memory = memory
        self._writing = 0
        """Calls that threads have to make or are making, those among them whose caller was cancelled."""
        self._writes_over: asyncio.Future[None] | None = None

    def read_cached(self, position: int, size_bytes: int) -> memoryview | None:
        if not _NOWAIT:
            return None
        view = self._buffer(size_bytes)
        try:
            got = os.preadv(self.fd, [view], position, _NOWAIT)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EOPNOTSUPP, errno.EINVAL):
                return None
            raise translated(error, self.name) from error
        return view if got == size_bytes else None

    async def read(self, position: int, size_bytes: int) -> memoryview:
        view = self._buffer(size_bytes)
        return await _in_thread(self._threads.reads, self.name, lambda: _read(self.fd, position, view))

    def forget_copies(self) -> None:
        """The page cache is the file to us."""

    def _buffer(self, size_bytes: int) -> memoryview:
        """Memory to read into. The pool gets it back at once, and gives it away when nobody has a view on it any more:
        pages that were used before need not be found and cleared.
        """
        if size_bytes <= SMALLEST_POOLED_BYTES:
            return memoryview(bytearray(size_bytes))
        buffer = self._memory.take(size_bytes)
        view = memoryview(buffer)[:size_bytes]
        self._memory.give_back(buffer)
        return view

    def write_now(self, buffers: Sequence[Buffer], position: int) -> None:
        try:
            _write(self.fd, buffers, position)
        except OSError as error:
            raise translated(error, self.name) from error

    async def write(self, buffers: Sequence[Buffer], position: int, *, sync: bool) -> None:
        if self._is_urgent:
            await _urgently(self._threads.urgent, self.name, [(self.fd, buffers, position)], sync=sync)
        else:
            await self.write_in_pool(buffers, position, sync=sync)

    async def write_in_pool(self, buffers: Sequence[Buffer], position: int, *, sync: bool) -> None:
        """As `write`, beside others."""
        await self._in_use(lambda: _write(self.fd, buffers, position, sync))

    async def sync(self) -> None:
        await self._in_use(lambda: os.fdatasync(self.fd))

    async def close(self) -> None:
        if self.fd >= 0:
            fd, self.fd = self.fd, -1  # what was cancelled may still be in work, and the number would be another file's
            if self._is_urgent:
                await _urgently(self._threads.urgent, self.name, (), sync=False)
            if self._writing:
                self._writes_over = asyncio.get_running_loop().create_future()
                await self._writes_over
            await _in_thread(self._threads.calls, self.name, lambda: os.close(fd))

    async def _in_use(self, call: Callable[[], None]) -> None:
        self._writing += 1
        await _in_thread(self._threads.calls, self.name, call, self._write_over)

    def _write_over(self) -> None:
        self._writing -= 1
        if not self._writing and self._writes_over is not None and not self._writes_over.done():
            self._writes_over.set_result(None)


class LocalStore:
    """See `interface.Store`. `root` is created if it does not exist."""

    def __init__(self, root: str | os.PathLike[str], *, threads: int = 6) -> None:
        self.root = Path(root)
        self.root.mkdir(parents=True, exist_ok=True)
        self._threads = _Threads(
            CallThreads(threads, "storage"), CallThreads(threads, "storage-reads"), FileWriter(_write)
        )
        self._memory = BufferPool(READ_MEMORY_BYTES)
        self._directories: set[str] = set()
        self._temporary = 0

    async def create(self, name: str, data: Sequence[Buffer]) -> None:
        self._temporary += 1
        temporary = f"{name}.{os.getpid()}-{self._temporary}{TEMPORARY}"
        await _in_thread(self._threads.calls, name, lambda: self._create(name, temporary, data))

    async def read(self, name: str) -> bytes:
        return await _in_thread(self._threads.reads, name, lambda: self._path(name).read_bytes())

    async def read_range(self, name: str, position: int, size_bytes: int) -> bytes:
        return await _in_thread(self._threads.reads, name, lambda: self._read_range(name, position, size_bytes))

    async def list(self, prefix: str) -> Sequence[ObjectInfo]:
        return await _in_thread(self._threads.calls, prefix, lambda: self._list(prefix))

    async def delete(self, names: Sequence[str]) -> None:
        await _in_thread(self._threads.calls, "delete", lambda: self._delete(names))

    async def create_append(
        self, name: str, *, size_bytes: int = 0, zeroed: bool = False, urgent: bool = False
    ) -> AppendFile:
        return await self._opened(name, lambda: self._allocate(name, size_bytes, zeroed), urgent=urgent)

    async def open_append(self, name: str, *, urgent: bool = False) -> AppendFile:
        return await self._opened(name, lambda: os.open(self._path(name), os.O_RDWR | os.O_CLOEXEC), urgent=urgent)

    async def write_all(self, writes: Sequence[tuple[AppendFile, Sequence[Buffer], int]], *, sync: bool) -> None:
        if sync:  # side by side: the device takes several at once
            outcomes = await asyncio.gather(
                *(self._write_in_pool(*one) for one in writes),
                return_exceptions=True,
            )
            for outcome in outcomes:
                if isinstance(outcome, BaseException):
                    raise outcome
        else:  # in one go: a thread for each would cost more than the writes
            await _urgently(self._threads.urgent, "write", [_of_local_file(*one) for one in writes], sync=False)

    async def _write_in_pool(self, file: AppendFile, buffers: Sequence[Buffer], position: int) -> None:
        assert isinstance(file, LocalFile)
        await file.write_in_pool(buffers, position, sync=True)

    async def open_read(self, name: str) -> ReadFile:
        return await self._opened(name, lambda: os.open(self._path(name), os.O_RDONLY | os.O_CLOEXEC))

    async def _opened(self, name: str, call: Callable[[], int], *, urgent: bool = False) -> LocalFile:
        """The file of the descriptor that `call` gives; closed again if nobody waits for it any more."""
        opening = asyncio.ensure_future(_in_thread(self._threads.calls, name, call))
        try:
            fd = await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(_close_opened)
            raise
        return LocalFile(name, fd, self._threads, self._memory, urgent=urgent)

    async def size(self, name: str) -> int:
        return await _in_thread(self._threads.calls, name, lambda: self._path(name).stat().st_size)

    async def rename(self, name: str, new_name: str) -> None:
        await _in_thread(self._threads.calls, name, lambda: self._rename(name, new_name))

    async def free_bytes(self) -> int:
        def free() -> int:
            status = os.statvfs(self.root)
            return status.f_bavail * status.f_frsize

        return await _in_thread(self._threads.calls, "statvfs", free)

    async def close(self) -> None:
        loop = asyncio.get_running_loop()
        for pool in (self._threads.calls, self._threads.reads):
            await loop.run_in_executor(None, pool.close)
        await self._threads.urgent.close()

    # What runs in threads.

    def _path(self, name: str) -> Path:
        if name.startswith("/") or ".." in name.split("/"):
            raise Invalid(f"not a name in the store: {name!r}")
        return self.root / name

    def _read_range(self, name: str, position: int, size_bytes: int) -> bytes:
        fd = os.open(self._path(name), os.O_RDONLY | os.O_CLOEXEC)
        try:
            return bytes(_read(fd, position, memoryview(bytearray(size_bytes))))
        finally:
            os.close(fd)

    def _create(self, name: str, temporary: str, data: Sequence[Buffer]) -> None:
        path, temporary_path = self._path(name), self._path(temporary)
        fd = self._open_new(temporary, os.O_WRONLY)
        try:
            try:
                _write(fd, data, 0)
                os.fsync(fd)
            finally:
                os.close(fd)
            os.link(temporary_path, path)
        finally:
            os.unlink(temporary_path)
        _sync_directory(path.parent)

    def _allocate(self, name: str, size_bytes: int, zeroed: bool) -> int:
        path = self._path(name)
        fd = self._open_new(name, os.O_RDWR)
        try:
            if size_bytes:
                os.posix_fallocate(fd, 0, size_bytes)
                for position in range(0, size_bytes if zeroed else 0, len(_ZEROS)):
                    os.pwrite(fd, memoryview(_ZEROS)[: size_bytes - position], position)
                os.fsync(fd)
            _sync_directory(path.parent)
        except OSError:
            os.close(fd)
            os.unlink(path)
            raise
        return fd

    def _open_new(self, name: str, flags: int) -> int:
        path = self._path(name)
        flags |= os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._make_directory(name)
        try:
            return os.open(path, flags, 0o644)
        except FileNotFoundError:  # another thread or node has taken the directory for an empty one
            self._directories.discard(os.fspath(path.parent))
            self._make_directory(name)
            return os.open(path, flags, 0o644)

    def _list(self, prefix: str) -> Sequence[ObjectInfo]:
        found = []
        root = os.fspath(self.root)
        pending = [prefix.rstrip("/")]
        while pending:
            directory = pending.pop()
            try:
                entries = list(os.scandir(os.path.join(root, directory)))
            except FileNotFoundError:
                continue
            for entry in entries:
                name = f"{directory}/{entry.name}"
                if entry.is_dir(follow_symlinks=False):
                    pending.append(name)
                    continue
                with suppress(FileNotFoundError):  # deleted meanwhile
                    found.append(ObjectInfo(name, entry.stat(follow_symlinks=False).st_size))
        return sorted(found)

    def _delete(self, names: Sequence[str]) -> None:
        self._delete_half_made(names)
        for name in names:
            path = self._path(name)
            path.unlink(missing_ok=True)
            for directory in path.parents:
                if directory in (self.root, self.root / path.relative_to(self.root).parts[0]):
                    break
                try:
                    directory.rmdir()
                except OSError:
                    break  # not empty, or another thread was first
                self._directories.discard(os.fspath(directory))

    def _delete_half_made(self, names: Sequence[str]) -> None:
        """What a process left that was killed while it created one of these."""
        wanted = {self._path(name) for name in names}
        for directory in {path.parent for path in wanted}:
            for found in directory.glob(f"*{TEMPORARY}"):
                stem = found.name.removesuffix(TEMPORARY).rpartition(".")[0]
                if directory / stem in wanted:
                    found.unlink(missing_ok=True)

    def _rename(self, name: str, new_name: str) -> None:
        self._make_directory(new_name)
        path, new_path = self._path(name), self._path(new_name)
        if new_path.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        os.rename(path, new_path)
        _sync_directory(new_path.parent)
        if path.parent != new_path.parent:
            _sync_directory(path.parent)

    def _make_directory(self, name: str) -> None:
        """The directory of `name`, durable: each new directory is a name in its parent."""
        directory = self._path(name).parent
        if os.fspath(directory) in self._directories:
            return
        missing = []
        while not directory.exists():
            missing.append(directory)
            directory = directory.parent
        for new in reversed(missing):
            new.mkdir(exist_ok=True)
            _sync_directory(new.parent)
        self._directories.add(os.fspath(self._path(name).parent))


async def _in_thread(
    pool: CallThreads, what: str, call: Callable[[], Result], over: Callable[[], None] | None = None
) -> Result:
    try:
        return await pool.run(call, over)
    except OSError as error:
        raise translated(error, what) from error


async def _urgently(writer: FileWriter, what: str, writes: Sequence[Write], *, sync: bool) -> None:
    try:
        await writer.write(writes, sync=sync)
    except OSError as error:
        raise translated(error, what) from error


def _close_opened(opening: asyncio.Future[int]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        os.close(opening.result())


def _read(fd: int, position: int, buffer: memoryview) -> memoryview:
    filled = 0
    while filled < len(buffer):
        got = os.preadv(fd, [buffer[filled:]], position + filled)
        if not got:
            break
        filled += got
    return buffer[:filled]


def _write(fd: int, buffers: Sequence[Buffer], position: int, sync: bool = False) -> None:
    """All of `buffers`, however many the kernel takes at once."""
    for start in range(0, len(buffers), IOV_MAX):
        part = buffers[start : start + IOV_MAX]
        expected = sum(len(buffer) for buffer in part)
        written = os.pwritev(fd, part, position)
        position += written
        if written < expected:
            rest = memoryview(b"".join(part))[written:]
            while rest:
                written = os.pwrite(fd, rest, position)
                position += written
                rest = rest[written:]
    if sync:
        os.fdatasync(fd)


def _of_local_file(file: AppendFile, buffers: Sequence[Buffer], position: int) -> Write:
    assert isinstance(file, LocalFile)
    return file.fd, buffers, position


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
