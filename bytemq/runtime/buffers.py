"""Memory to receive into, used again: pages that were touched before are 5 to 20 times faster than fresh ones.

Owns the buffers between uses. Sizes are powers of two from 64 KiB; below that the allocator is as good. From 1 MiB on a
buffer is an anonymous mapping, whose pages cost nothing until bytes arrive: a client that announces 100 MB and sends
none holds none. It is a private one: the pages of a shared one belong to a file system in memory and cost more.

What is kept follows what is asked for: buffers of a size that is wanted no more make room for those that are.
"""

import mmap

SMALLEST_POOLED_BYTES = 64 * 1024
MAPPED_FROM_BYTES = 1024 * 1024
LARGEST_POOLED_BYTES = 16 * 1024 * 1024
LOOKED_AT_NEWEST, LOOKED_AT_OLDEST = 2, 6
"""Kept buffers of a size that are tried before a new one is made: first those just returned, which are in the
processor's cache, then those that somebody still had in view when they were returned, the longest ago first."""

Buffer = bytearray | mmap.mmap


class BufferPool:
    """Recycles buffers, keeping at most `keep_bytes` of unused memory."""

    __slots__ = ("_free", "keep_bytes", "kept_bytes")

    def __init__(self, keep_bytes: int) -> None:
        self.keep_bytes = keep_bytes
        self.kept_bytes = 0
        self._free: dict[int, list[Buffer]] = {}  # the sizes by when they were last asked for, the longest ago first

    def take(self, size_bytes: int) -> Buffer:
        """A buffer of at least `size_bytes`; what it holds is undefined."""
        if size_bytes <= SMALLEST_POOLED_BYTES:
            return bytearray(size_bytes)
        rounded = 1 << (size_bytes - 1).bit_length()
        if rounded > LARGEST_POOLED_BYTES:
            return _mapped(size_bytes)
        free = self._free[rounded] = self._free.pop(rounded, [])
        count = len(free)
        for position in (
            *range(count - 1, max(-1, count - 1 - LOOKED_AT_NEWEST), -1),
            *range(min(LOOKED_AT_OLDEST, count - LOOKED_AT_NEWEST)),
        ):
            if not _is_viewed(free[position]):
                self.kept_bytes -= rounded
                return free.pop(position)
        return _mapped(rounded) if rounded >= MAPPED_FROM_BYTES else bytearray(rounded)

    def give_back(self, buffer: Buffer) -> None:
        """Takes a buffer that its owner is done with. While some memoryview still shows it, it is not used again."""
        size_bytes = len(buffer)
        if size_bytes <= SMALLEST_POOLED_BYTES or size_bytes > LARGEST_POOLED_BYTES or size_bytes & (size_bytes - 1):
            return
        while self.kept_bytes + size_bytes > self.keep_bytes:
            if not self._drop_one(size_bytes):
                return
        self._free.setdefault(size_bytes, []).append(buffer)
        self.kept_bytes += size_bytes

    def _drop_one(self, but_of_bytes: int) -> bool:
        """Forgets a buffer of the size that was last asked for the longest ago; False if only the given one is left."""
        for size_bytes, free in self._free.items():
            if free and size_bytes != but_of_bytes:
                del free[0]
                self.kept_bytes -= size_bytes
                return True
        return False


def _mapped(size_bytes: int) -> mmap.mmap:
    return mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def _is_viewed(buffer: Buffer) -> bool:
    """Python refuses to resize what a memoryview shows; asking for it is cheap."""
    try:
        if isinstance(buffer, bytearray):
            buffer.append(buffer.pop())
        else:
            buffer.resize(len(buffer))
    except BufferError:
        return True
    return False
