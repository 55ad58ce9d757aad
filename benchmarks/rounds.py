"""What a round of requests costs the broker's own code: `produce_path` and `fetch_path` count theirs by it.

Owns warming up, the counting of calls, and the clock. Must not: know what is asked for.
"""

from __future__ import annotations

import cProfile
import pstats
import statistics
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, Protocol

WARM_ROUNDS = 8


class Rounds(Protocol):
    """Whatever answers the same requests again and again."""

    async def start(self) -> None: ...

    async def prepare(self) -> None:
        """What a round needs, and does not count."""

    async def round(self) -> None: ...

    async def stop(self) -> None: ...


class Cost(NamedTuple):
    """Of one round: calls of Python functions and of native ones, and microseconds of processor time (median)."""

    python: int
    native: int
    us: float


class Calls:
    """Counts calls of Python functions and of native ones."""

    def __enter__(self) -> Calls:
        self.python = self.native = 0
        sys.setprofile(self._event)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def _event(self, frame: Any, event: str, argument: Any) -> None:
        if "/benchmarks/" in frame.f_code.co_filename:
            return
        if event == "call":
            self.python += 1
        elif event == "c_call":
            self.native += 1


async def measure(path: Rounds, count: int) -> Cost:
    """Over `count` rounds, and one more of which the calls are counted."""
    async with _warmed(path):
        took = []
        for _ in range(count):
            await path.prepare()
            started = time.process_time()
            await path.round()
            took.append((time.process_time() - started) * 1e6)
        await path.prepare()
        with Calls() as calls:
            await path.round()
    return Cost(calls.python, calls.native, statistics.median(took))


async def profile(path: Rounds) -> None:
    """Prints where the calls of one round are."""
    async with _warmed(path):
        await path.prepare()
        profiler = cProfile.Profile()
        with profiler:
            await path.round()
    pstats.Stats(profiler).sort_stats("ncalls").print_stats(80)


@asynccontextmanager
async def _warmed(path: Rounds) -> AsyncIterator[None]:
    await path.start()
    try:
        for _ in range(WARM_ROUNDS):
            await path.prepare()
            await path.round()
        yield
    finally:
        await path.stop()
