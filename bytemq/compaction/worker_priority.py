"""How modest a worker process is: in the kernel's idle class, but not so that it never gets on.

Owns: the rule, and watching over it in the broker's process: in its own a starving worker would not come to look. Must
not: know a job.

Niceness is about shares of a processor. It does not say who comes first: Linux lets a process of niceness 19 finish its
slice, some milliseconds, before one that has just been woken, and that one may be the broker. One of the idle class
makes way at once, and its processor counts as free (decision 94).

On a machine that is always busy, a process of the lowest priority gets next to nothing: logs that are never cleaned and
tables that are never made grow without bound. So a job that wants to run and hardly may is given the share that
niceness 10 stands for, a tenth of a processor beside one busy process, and more where that is next to nothing, too,
until the machine has room again. What counts is the time for which it waited for a processor; time spent waiting for a
store is not that.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

from bytemq.runtime.logging import get_logger

log = get_logger("compaction.worker")

LOWEST = 19
LOOK_S = 2.0
IDLE = 20
"""Stands for the idle class, below the lowest niceness, as in the kernel's own rules of who may leave it."""
FIRST_RAISED_BY, NEXT_RAISED_BY = 10, 5
"""From the idle class to 10: a ninth of the weight of an ordinary process, where that class has a 340th. From there to
5, a third, and on, to what the broker has at most: who starves at 10 is beside two busy processes of niceness 0 at
least, for each processor, and at 5 beside six. So a worker gets 5 % of a processor, or as much as the broker would.
"""
STARVING_SHARE = 0.05
ROOM_SHARE, ENOUGH_SHARE = 0.25, 0.5
"""With more, a worker goes back a step: where it was raised further than once it still gets a tenth there, and goes no
further; in the idle class it would get nothing beside what leaves it less than half. All steps at once would have it
starve again on a machine that is busy all the time, for as many looks as it takes to come back.
"""
LEAST_WANTED_S = 0.5
"""In the time of a look: below, it hardly wanted to run."""
_NANOSECONDS = 1e9


class Seen(NamedTuple):
    """For how long a process has run so far, and for how long it could have, but had to wait."""

    ran_s: float
    waited_s: float


class Range(NamedTuple):
    """Of niceness: at the lowest priority, which may be IDLE, and raised most; never above the broker's own."""

    lowest: int
    raised: int

    @classmethod
    def below(cls, broker: int, by: int) -> Range:
        """Lower than a broker of that niceness by so much. Below the idle class there is nothing."""
        return cls(IDLE if IDLE in (broker, by) else min(broker + by, LOWEST), broker)


def next_niceness(niceness: int, allowed: Range, before: Seen, now: Seen) -> int:
    """What the niceness should be after this look."""
    ran_s, waited_s = now.ran_s - before.ran_s, now.waited_s - before.waited_s
    wanted_s = ran_s + waited_s
    first_raised = allowed.lowest - FIRST_RAISED_BY
    if wanted_s < LEAST_WANTED_S or ran_s > (ROOM_SHARE if niceness < first_raised else ENOUGH_SHARE) * wanted_s:
        return min(niceness + NEXT_RAISED_BY, first_raised) if niceness < first_raised else allowed.lowest
    if ran_s >= STARVING_SHARE * wanted_s:
        return niceness
    return max(first_raised if niceness == allowed.lowest else niceness - NEXT_RAISED_BY, allowed.raised)


def seen_of(process_id: int) -> Seen | None:
    """As the kernel has counted for all its threads; None where it does not, or the process has ended."""
    counted = []
    for thread in _threads(process_id):
        with suppress(OSError, ValueError):
            ran, waited, _ = Path(f"/proc/{process_id}/task/{thread}/schedstat").read_text().split()
            counted.append((int(ran), int(waited)))
    if not counted:
        return None
    return Seen(*(sum(column) / _NANOSECONDS for column in zip(*counted, strict=True)))


def niceness_of(process_id: int) -> int:
    """As `set_niceness` takes it."""
    if sys.platform == "linux" and os.sched_getscheduler(process_id) == os.SCHED_IDLE:
        return IDLE
    return os.getpriority(os.PRIO_PROCESS, process_id)


def set_niceness(process_id: int, niceness: int) -> None:
    """Of all threads of a process, and of those that they start. Raises PermissionError where it may not be raised."""
    for thread in _threads(process_id):
        with suppress(ProcessLookupError):
            if sys.platform == "linux":
                policy = os.SCHED_IDLE if niceness == IDLE else os.SCHED_OTHER
                if os.sched_getscheduler(thread) != policy:
                    os.sched_setscheduler(thread, policy, os.sched_param(0))
            os.setpriority(os.PRIO_PROCESS, thread, min(niceness, LOWEST))


def _threads(process_id: int) -> list[int]:
    try:
        return [int(name) for name in os.listdir(f"/proc/{process_id}/task")]
    except OSError:  # it has ended, or there is no /proc
        return [process_id]


class PriorityWatch:
    """Looks every few seconds."""

    def __init__(self, allowed: Range, seen: Callable[[], Seen | None], set_niceness: Callable[[int], None]) -> None:
        """The process is at the lowest priority from now on; call `run`."""
        self._allowed = allowed
        self._niceness = allowed.lowest
        self._seen = seen
        self._set_niceness = set_niceness
        self._before = seen()
        with suppress(PermissionError):  # started in the idle class, with all of the node
            set_niceness(allowed.lowest)

    @classmethod
    def over(cls, process_id: int, allowed: Range) -> PriorityWatch:
        return cls(allowed, partial(seen_of, process_id), partial(set_niceness, process_id))

    def look(self) -> bool:
        """Whether it is of use to look again."""
        before, now = self._before, self._seen()
        if before is None or now is None:
            return False
        self._before = now
        wanted = next_niceness(self._niceness, self._allowed, before, now)
        if wanted == self._niceness:
            return True
        try:
            self._set_niceness(wanted)
        except PermissionError:
            log.warning(
                "the worker gets next to nothing of the processors, and may not raise its priority: it needs "
                "CAP_SYS_NICE or a limit for niceness (ulimit -e 20)",
                niceness=self._niceness,
            )
            return False
        log.info("the worker has another priority", niceness=wanted, before=self._niceness)
        self._niceness = wanted
        return True

    async def run(self) -> None:
        """Until the process has ended."""
        while self.look():  # noqa: ASYNC110  # the kernel tells nobody
            await asyncio.sleep(LOOK_S)
