"""Memory as a machine has it that has been up for a while. Owns filling it; measures nothing.

A virtual machine gets a page from its host when it first touches it; where the host takes free pages back (free page
reporting), it does so again whenever a page was free for some seconds. Then a byte written into a new page of the page
cache costs several times what it costs on a machine whose memory is full of page cache, as that of each is that has
read and written as much as it has memory. How much is free is chance, and differs from one run to the next.
"""

from __future__ import annotations

import os
from math import inf
from pathlib import Path

LEFT_BYTES = 512 << 20
_PIECE_BYTES = 1 << 20


def fill(folder: Path) -> None:
    """Fills what is free with page cache of a file without contents. It is the first to go where memory is needed. In a
    container with a limit of its own, only that much.
    """
    file = os.open(_path(folder), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
    try:
        position = os.fstat(file).st_size
        piece = bytearray(_PIECE_BYTES)
        before, missing = inf, _free_bytes() - LEFT_BYTES
        while 0 < missing < before:
            end = position + -(-missing // _PIECE_BYTES) * _PIECE_BYTES
            os.ftruncate(file, end)
            while position < end:
                position += os.preadv(file, [piece], position)
            before, missing = missing, _free_bytes() - LEFT_BYTES
    finally:
        os.close(file)


def empty(folder: Path) -> None:
    """Takes the file away."""
    _path(folder).unlink(missing_ok=True)


def _path(folder: Path) -> Path:
    return folder / "page-cache"


def _free_bytes() -> int:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("MemFree:")).split()[1]) * 1024
