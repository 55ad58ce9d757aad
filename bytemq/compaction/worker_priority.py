"""How modest a worker process is: at the lowest priority, but not so that it never gets on.

Owns: the rule, and watching over it in a thread of the worker process. Must not: know a job.

On a machine that is always busy, a process of the lowest priority gets next to nothing: logs that are never cleaned and
tables that are never made grow without bound. So a job that wants to run and hardly may is given the share that the
next priority stands for, a tenth of a processor beside one busy process, until the machine has room again. What counts
is the time for which it waited for a processor; time spent waiting for a store is not that.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from bytemq.runtime.logging import get_logger

log = get_logger("compaction.worker")

LOOK_S = 5.0
RAISED_BY = 9
"""From 19 to 10: a ninth of the weight of an ordinary process, where 19 is a seventieth."""
STARVING_SHARE = 0.05
ENOUGH_SHARE = 0.5
LEAST_WANTED_S = 1.0
"""In the time of a look: below, it hardly wanted to run."""
_NANOSECONDS = 1e9


class Seen(NamedTuple):
    """For how long the main thread has run so far, and for how long it could have, but had to wait."""

    ran_s: float
    waited_s: float


class Range(NamedTuple):
    """Of niceness: at the lowest priority, and raised; never above the broker's own."""

    lowest: int
    raised: int


def next_niceness(niceness: int, allowed: Range, before: Seen, now: Seen) -> int:
    """What the niceness should be after this look."""
    ran_s, waited_s = now.ran_s - before.ran_s, now.waited_s - before.waited_s
    wanted_s = ran_s + waited_s
    if wanted_s < LEAST_WANTED_S or ran_s > ENOUGH_SHARE * wanted_s:
        return allowed.lowest
    return allowed.raised if ran_s < STARVING_SHARE * wanted_s else niceness


def seen_of_main_thread() -> Seen | None:
    """As the kernel has counted; None where it does not."""
    try:
        ran, waited, _ = Path(f"/proc/{os.getpid()}/schedstat").read_text().split()
    except (OSError, ValueError):
        return None
    return Seen(int(ran) / _NANOSECONDS, int(waited) / _NANOSECONDS)


def set_niceness(niceness: int) -> None:
    """Of the main thread, which does the jobs. Raises PermissionError where it may not be raised."""
    os.setpriority(os.PRIO_PROCESS, os.getpid(), niceness)


class PriorityWatch:
    """Looks every few seconds."""

    def __init__(
        self,
        allowed: Range,
        seen: Callable[[], Seen | None] = seen_of_main_thread,
        set_niceness: Callable[[int], None] = set_niceness,
    ) -> None:
        """The process is at the lowest priority now."""
        self._allowed = allowed
        self._niceness = allowed.lowest
        self._seen = seen
        self._set_niceness = set_niceness
        self._before = seen()

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

    def start(self) -> None:
        """Watches until the process ends."""
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while self.look():
            time.sleep(LOOK_S)
