"""A file system of a given size, mounted for one test: the honest way to run out of space."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class CannotMount(Exception):
    """This user may not mount; run as root (as in a container) to include what needs it."""


@contextmanager
def small_disk(folder: Path, size_bytes: int) -> Iterator[Path]:
    """A tmpfs of `size_bytes` at `folder`. Raises CannotMount."""
    folder.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CannotMount(done.stderr.strip())
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


class Ballast:
    """A file that takes all the space there is, until it is dropped."""

    def __init__(self, folder: Path, leave_bytes: int = 0) -> None:
        self._path = folder / "ballast"
        free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
        with self._path.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(free - leave_bytes, 1))

    def drop(self) -> None:
        self._path.unlink()
