"""Jobs for tests of the worker process."""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from bytemq.compaction.job import Job, Workspace
from bytemq.errors import Corrupt


@dataclass(frozen=True)
class Describe(Job[dict[str, int]]):
    """What the process is like."""

    runs = "tests.support.worker_jobs:describe"


@dataclass(frozen=True)
class Copy(Job[int]):
    """Creates `copies` objects with the content of `source`, then goes on for `seconds`."""

    runs = "tests.support.worker_jobs:copy"
    source: str
    copies: int = 1
    seconds: float = 0


@dataclass(frozen=True)
class LeaveSomething(Job[str]):
    """A temporary file; gives the folder that it is in."""

    runs = "tests.support.worker_jobs:leave_something"


@dataclass(frozen=True)
class Break(Job[None]):
    runs = "tests.support.worker_jobs:fail"
    how: str


async def leave_something(job: LeaveSomething, space: Workspace) -> str:
    descriptor, path = tempfile.mkstemp()
    os.close(descriptor)
    return os.path.dirname(path)


async def describe(job: Describe, space: Workspace) -> dict[str, int]:
    score = int(Path("/proc/self/oom_score_adj").read_text())  # noqa: ASYNC240
    return {
        "pid": os.getpid(),
        "nice": os.nice(0),
        "policy": os.sched_getscheduler(0),
        "oom_score_adj": score,
        "memory_bytes": space.memory_bytes,
    }


async def copy(job: Copy, space: Workspace) -> int:
    data = await space.store.read(job.source)
    for number in range(job.copies):
        await space.create(f"{job.source}-{number}", [data])
    time.sleep(job.seconds)  # noqa: ASYNC251  # as busy as a job may be
    return len(data)


async def fail(job: Break, space: Workspace) -> None:
    if job.how == "corrupt":
        raise Corrupt("what the job says")
    if job.how == "memory":
        bytearray(space.memory_bytes)
    if job.how == "die":
        os.abort()
    raise ZeroDivisionError
