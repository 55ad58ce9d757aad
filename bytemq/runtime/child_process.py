"""A process of ours that has one end of a socket pair.

Owns: starting and ending it. Must not: know what is said over the socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import Callable, Mapping

from bytemq.errors import Unavailable


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
    ) -> ChildProcess:
        """Runs `module` with the number of its file descriptor as argument; `environment` is added to what it
        `inherits` of ours, by name.

        Raises Unavailable when no process can be started.
        """
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
                    start_new_session=True,
                    env={**{name: os.environ[name] for name in filter(inherits, os.environ)}, **(environment or {})},
                )
            except OSError as error:
                writer.close()
                raise Unavailable(f"no process of {module} could be started: {error.strerror}") from error
            except BaseException:
                writer.close()
                raise
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
