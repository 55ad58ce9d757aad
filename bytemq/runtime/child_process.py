"""A process of ours that has one end of a socket pair.

Owns: starting and ending it, at both ends. Must not: know what is said over the socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping

from bytemq.errors import Unavailable

MODEST = {"OPENBLAS_NUM_THREADS": "1"}
"""What NumPy brings has a thread for each processor otherwise, and 40 MiB of what a process may use for each thread."""


class ChildProcess:
    """`reader` and `writer` are our end of the socket; when we close it, the process is to end by itself."""

    def __init__(
        self, child: asyncio.subprocess.Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Use `start`."""
        self._child = child
        self.reader = reader
        self.writer = writer

    @classmethod
    async def start(
        cls,
        module: str,
        environment: Mapping[str, str] | None = None,
        inherits: Callable[[str], bool] = lambda name: True,
        niceness: int = 0,
    ) -> ChildProcess:
        """Runs `module` with the number of its file descriptor as argument; `environment` is added to what it
        `inherits` of ours, by name. Its priority is lower than ours by `niceness` nearly from its first instruction on:
        what it imports may keep a processor busy for half a second. It stays in our session: where the kernel groups
        processes by sessions (sched_autogroup), priorities count within a group only.

        Raises Unavailable when no process can be started.
        """
        inherited = {name: os.environ[name] for name in filter(inherits, os.environ)}
        ours, theirs = socket.socketpair()
        with theirs:
            reader, writer = await asyncio.open_connection(sock=ours)
            try:
                child = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-m",
                    module,
                    str(theirs.fileno()),
                    pass_fds=[theirs.fileno()],
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.DEVNULL,
                    env={**MODEST, **inherited, **(environment or {})},
                )
            except OSError as error:
                writer.close()
                raise Unavailable(f"no process of {module} could be started: {error.strerror}") from error
            except BaseException:
                writer.close()
                raise
        with contextlib.suppress(ProcessLookupError):
            os.setpriority(os.PRIO_PROCESS, child.pid, os.getpriority(os.PRIO_PROCESS, 0) + niceness)
        return cls(child, reader, writer)

    @property
    def process_id(self) -> int:
        return self._child.pid

    @property
    def has_ended(self) -> bool:
        return self._child.returncode is not None

    def end(self) -> None:
        """It does nothing more; whoever reads from it soon finds the end."""
        with contextlib.suppress(ProcessLookupError):
            self._child.kill()

    async def kill(self) -> None:
        """Returns when it is gone: nothing that it was doing goes on."""
        self.end()
        await self._child.wait()
        self.writer.close()


def parent() -> socket.socket:
    """In such a process, before anything else: its end. What is typed at the broker's terminal is the broker's."""
    os.setpgrp()
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # but what is logged may be written there
    return socket.socket(fileno=int(sys.argv[1]))
