"""The worker process: `python -m bytemq.compaction.worker_process FD`, started by `worker.Worker`.

Owns: its own modesty (memory, the first to be killed when the machine has no memory left), its temporary files, and
running one job after the other. Must not: know a job, or outlive the broker: when the socket at file descriptor FD
ends, however that came, the process ends at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import os
import resource
import shutil
import socket
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from random import SystemRandom
from types import ModuleType
from typing import Any

from bytemq.compaction.frames import LENGTH, Created, Done, Failed, Setup, decode, encode
from bytemq.compaction.job import Job, Workspace
from bytemq.runtime import logging
from bytemq.runtime.child_process import parent
from bytemq.runtime.clock import SystemClock
from bytemq.runtime.logging import get_logger
from bytemq.storage.pools.opening import open_stores

log = get_logger("compaction.worker")

THREAD_STACK_BYTES = 512 * 1024
OOM_SCORE_ADJUSTMENT = "800"
"""Of 1000: without memory the kernel ends this process, not the broker."""


def main() -> None:
    connection = parent()
    setup: Setup = decode(_received(connection) or sys.exit(0))
    _be_modest(setup)
    if setup.scratch:
        _use_scratch(Path(setup.scratch))
    asyncio.run(_work(connection, setup))


def _be_modest(setup: Setup) -> None:
    threading.stack_size(THREAD_STACK_BYTES)  # of the limit below: by default a thread promises itself 8 MiB
    resource.setrlimit(resource.RLIMIT_DATA, (setup.memory_bytes, setup.memory_bytes))
    with contextlib.suppress(OSError):  # not on this system
        Path("/proc/self/oom_score_adj").write_text(OOM_SCORE_ADJUSTMENT)
    logging.configure(log_format=setup.log_format)
    for part, level in setup.log_levels.items():
        logging.set_level(level, part)


def _use_scratch(folder: Path) -> None:
    """Without what one before that was killed left there: here nobody waits for it."""
    for left in folder.iterdir():
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                left.unlink()
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder)


async def _work(connection: socket.socket, setup: Setup) -> None:
    store = await open_stores(setup.store_url, setup.pools, SystemClock(), SystemRandom())
    jobs: asyncio.Queue[Job[Any]] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def arrived(job: Job[Any]) -> None:
        loop.call_soon_threadsafe(jobs.put_nowait, job)

    threading.Thread(target=_receive, args=(connection, arrived), daemon=True).start()

    def announce(name: str) -> None:
        connection.sendall(encode(Created(name)))

    space = Workspace(store, setup.memory_bytes, announce)
    while True:
        connection.sendall(encode(await _run(await jobs.get(), space)))
        gc.collect()  # what a job held is gone before the next one begins


async def _run(job: Job[Any], space: Workspace) -> Done | Failed:
    try:
        module, _, function = job.runs.partition(":")
        return Done(await getattr(_imported(module), function)(job, space))
    except Exception as error:
        failed = Failed.of(error)
        log.warning("job failed", job=type(job).__name__, reason=failed.reason)
        return failed


def _imported(name: str) -> ModuleType:
    """What a module brings stays as long as the process: collections need not look at it, which took longer than the
    job itself where that was to restore a unit.
    """
    is_new = name not in sys.modules
    module = importlib.import_module(name)
    if is_new:
        gc.collect()
        gc.freeze()
    return module


def _receive(connection: socket.socket, arrived: Callable[[Job[Any]], object]) -> None:
    """In a thread, so that the end of the broker is noticed in the middle of a job."""
    while (data := _received(connection)) is not None:
        arrived(decode(data))
    os._exit(0)


def _received(connection: socket.socket) -> bytes | None:
    """The next message; None at the end."""
    length = _exactly(connection, LENGTH.size)
    return _exactly(connection, *LENGTH.unpack(length)) if length is not None else None


def _exactly(connection: socket.socket, size_bytes: int) -> bytes | None:
    parts = bytearray()
    while len(parts) < size_bytes:
        try:
            part = connection.recv(size_bytes - len(parts))
        except OSError:
            return None
        if not part:
            return None
        parts += part
    return bytes(parts)


if __name__ == "__main__":
    main()
