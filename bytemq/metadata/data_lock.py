"""The lock on a data folder: proof that no other live process works on it.

Owns: DATA/lock. Must not: know what else is in the folder. The kernel drops the lock when its process dies, however it
dies, and never before: whoever holds it knows that every earlier session on this folder has ended.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

from bytemq.errors import Invalid, Unavailable


class DataLock:
    """Held from `acquire` to `release`, or to the death of the process."""

    def __init__(self, folder: Path, descriptor: int) -> None:
        self.folder = folder
        self._descriptor = descriptor

    @classmethod
    def acquire(cls, folder: Path) -> DataLock:
        """Makes the folder where it is missing. Raises `Invalid` when unusable, `Unavailable` when in use."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except (FileExistsError, NotADirectoryError) as error:
            raise Invalid(f"{folder} is not a directory. Choose another with --data.") from error
        except OSError as error:
            raise Invalid(
                f"the data directory {folder} cannot be written: {error.strerror}. "
                "Choose another with --data, or change its owner or permissions."
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
            os.close(descriptor)
            raise Unavailable(
                f"the data directory {folder} is in use by another node (process {holder or 'unknown'}). "
                "Stop that node, or choose another directory with --data."
            ) from error
        os.ftruncate(descriptor, 0)
        with contextlib.suppress(OSError):  # a full disk costs the pid in a message, not the start
            os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
        return cls(folder, descriptor)

    @staticmethod
    def is_held(folder: Path) -> bool:
        """Whether a node works on the folder at this moment. Changes nothing there."""
        try:
            descriptor = os.open(folder / "lock", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
        finally:
            os.close(descriptor)
        return False

    def release(self) -> None:
        """The file stays: deleting it would let two processes lock two files of one name."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
