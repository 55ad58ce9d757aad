"""What is read as a file by libraries that want one.

Owns: the position. Must not: know where the bytes come from.
"""

from __future__ import annotations

import io
import os


class Seekable(io.RawIOBase):
    """Of `size_bytes`. What is made of it has `read`, which begins at `_position` and moves it on."""

    def __init__(self, size_bytes: int) -> None:
        super().__init__()
        self._size_bytes = size_bytes
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size_bytes}[whence]
        self._position = base + offset
        return self._position
