"""Blocks on a local disk that may be lost at any time.

Owns: the files in one folder, within a byte limit, least recently used out first. Must not: be needed by anybody. Every
block is compared with its checksum when it comes back; what is missing, changed or cannot be written is forgotten.
"""

from __future__ import annotations

import asyncio
import shutil
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from crc32c import crc32c

from bytemq.runtime.logging import get_logger
from bytemq.storage.cache.block_cache import BlockKey

log = get_logger("storage.cache")

MAX_QUEUED_BYTES = 32 * 1024 * 1024
"""Blocks on their way to a disk that is too slow; beyond, they are dropped."""


class _Kept(NamedTuple):
    path: Path
    size_bytes: int
    checksum: int


class ScratchBlocks:
    """Implements `block_cache.ColdBlocks`. The folder is this object's own: what is in it at the start goes."""

    def __init__(self, folder: Path, capacity_bytes: int) -> None:
        self._folder = folder
        self._capacity_bytes = capacity_bytes
        self._kept: OrderedDict[BlockKey, _Kept] = OrderedDict()
        self._pool = ThreadPoolExecutor(1, "storage-scratch")
        self._made = 0
        self._queued_bytes = 0
        self._has_failed = False
        self.size_bytes = 0
        shutil.rmtree(folder, ignore_errors=True)

    async def get(self, key: BlockKey) -> bytes | None:
        kept = self._kept.get(key)
        if kept is None:
            return None
        try:
            data = await asyncio.get_running_loop().run_in_executor(self._pool, kept.path.read_bytes)
        except OSError:
            data = b""
        if len(data) == kept.size_bytes and crc32c(data) == kept.checksum:
            if key in self._kept:
                self._kept.move_to_end(key)
            return data
        self._drop(key)
        return None

    def put(self, key: BlockKey, data: bytes) -> None:
        """Keeps the block, some time later, if that can be done."""
        fits = self._queued_bytes + len(data) <= MAX_QUEUED_BYTES and len(data) <= self._capacity_bytes
        if key in self._kept or not fits:
            return
        self._queued_bytes += len(data)
        self._made += 1
        path = self._folder / f"{self._made:x}.block"
        written = asyncio.get_running_loop().run_in_executor(self._pool, self._write, path, data)
        written.add_done_callback(lambda done: self._is_written(key, _Kept(path, len(data), done.result())))

    def forget(self, name: str) -> None:
        """The object is gone."""
        for key in [key for key in self._kept if key.name == name]:
            self._drop(key)

    async def close(self) -> None:
        await asyncio.get_running_loop().run_in_executor(None, self._pool.shutdown)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _write(self, path: Path, data: bytes) -> int:
        """In the thread. The checksum; -1 when it could not be written."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        except OSError as error:
            if not self._has_failed:
                log.warning("scratch space cannot be written", folder=self._folder, reason=str(error))
            self._has_failed = True
            with suppress(OSError):
                path.unlink()
            return -1
        return int(crc32c(data))

    def _is_written(self, key: BlockKey, kept: _Kept) -> None:
        self._queued_bytes -= kept.size_bytes
        if kept.checksum < 0:
            return
        self._drop(key)
        self._kept[key] = kept
        self.size_bytes += kept.size_bytes
        while self.size_bytes > self._capacity_bytes:
            self._drop(next(iter(self._kept)))

    def _drop(self, key: BlockKey) -> None:
        kept = self._kept.pop(key, None)
        if kept is not None:
            self.size_bytes -= kept.size_bytes
            self._pool.submit(kept.path.unlink, missing_ok=True)
