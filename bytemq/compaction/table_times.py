"""When what a log gets is sealed, and when it becomes part of its table. Pure.

Owns: these times, and how they follow from how long conversions take. Must not: look at a clock, or at a log.

Files are converted as a whole, and a log that is written all the time has its newest record in the same segment as one
that is due. So a segment is sealed some time before it is converted: when it is, nothing in it is quite new, and
nothing that is due is in another one.
"""

from __future__ import annotations

from math import inf
from typing import NamedTuple

LEFT_SHARE, LEFT_SHORT_SHARE, LEFT_S = 1 / 8, 1 / 4, 15.0
"""Of `after_s`, what is left for the conversion at least, so that a record is in the table when that is over."""
MOST_LEFT_SHARE = 1 / 2
DELAYS_LEFT = 1.5
"""What is left at least, in the delays between due and published that there were lately."""
FIRST_DELAY_S = 20.0
"""Nothing is known yet: the start of a worker alone may take so long on a busy machine."""
DELAY_KEPT = 0.75
"""After each conversion, of what is known of slower ones."""
SEALED_SHARE = 1 / 4
"""Of `after_s`: so long before its conversion a segment is sealed, and so old are all of its records then."""
ALONG_SHARE = 1 / 2
"""Of the age at which a log is sealed: what is as old goes along, so that one checkpoint does for many."""


class Delay:
    """How long it takes until something that is due is in its table."""

    def __init__(self) -> None:
        self.seconds = FIRST_DELAY_S

    def was(self, seconds: float) -> None:
        self.seconds = max(self.seconds * DELAY_KEPT, seconds)


class _Due(NamedTuple):
    """What is below `offset` is to be in the table; the first of it came at `came`."""

    offset: int
    came: float
    since: float | None = None
    """Since then nothing is waited for but its turn; None: it was not found to be due yet."""


class LogTimes:
    """Of one log. `after_s` is what its topic says at the moment, `delay_s` what is known of conversions."""

    __slots__ = ("_came", "_due", "sealed_offset")

    def __init__(self) -> None:
        self.sealed_offset = 0
        self._came: float | None = None
        """When the first record came that is not sealed, or a bit before."""
        self._due: list[_Due] = []

    def saw(self, end_offset: int, since: float) -> None:
        """What is new at the end of the log came since then."""
        if self._came is None and end_offset > self.sealed_offset:
            self._came = since

    @property
    def has_news(self) -> bool:
        """Whether there is something that is not sealed: most logs of a node have nothing new, and cost nothing."""
        return self._came is not None

    @property
    def is_waiting(self) -> bool:
        """Whether something is sealed that is not converted."""
        return bool(self._due)

    def is_to_be_sealed(self, now: float, after_s: float, delay_s: float, *, along: bool = False) -> bool:
        if self._came is None:
            return False
        age_s = due_s(after_s, delay_s) - after_s * SEALED_SHARE
        return now - self._came >= age_s * (ALONG_SHARE if along else 1)

    def was_sealed(self, offset: int) -> None:
        """All below `offset`."""
        if self._came is None or offset <= self.sealed_offset:
            return
        late = sum(due.since is not None for due in self._due)
        if late > 1:  # they go together, or a log that waits for long would have more and more of them
            self._due[:late] = [self._due[0]._replace(offset=self._due[late - 1].offset)]
        self._due.append(_Due(offset, self._came))
        self.sealed_offset, self._came = offset, None

    def due_offset(self, now: float, looked: float, after_s: float, delay_s: float) -> int:
        """What is below is to be converted now; 0: nothing. At `looked` this was asked before."""
        offset = 0
        for number, due in enumerate(self._due):
            begins = due.came + due_s(after_s, delay_s)
            if due.since is None and now < begins:
                break
            if due.since is None:
                self._due[number] = due._replace(since=max(begins, looked))
            offset = due.offset
        return offset

    def by(self, after_s: float) -> float:
        """When the next of it is to be in the table."""
        return self._due[0].came + after_s if self._due else inf

    def is_late(self, now: float, after_s: float, delay_s: float) -> bool:
        """Whether the time that was left for the conversion is over. What waited for more is not late by that."""
        since = self._due[0].since if self._due else None
        return since is not None and now - since > after_s - due_s(after_s, delay_s)

    def was_converted(self, offset: int) -> float | None:
        """All below `offset`. Since when the first that is done by now had been due; None: nothing is done by that."""
        since = None
        while self._due and self._due[0].offset <= offset:
            done = self._due.pop(0)
            since = done.since if since is None else since
        return since

    def waits_for_more(self, now: float) -> None:
        """It could not be converted: a transaction is open, or there is too little of it."""
        self._due = [due if due.since is None else due._replace(since=now) for due in self._due]


def due_s(after_s: float, delay_s: float = 0.0) -> float:
    """When the conversion of a record begins after it came."""
    left_s = max(after_s * LEFT_SHARE, min(after_s * LEFT_SHORT_SHARE, LEFT_S), DELAYS_LEFT * delay_s)
    return after_s - min(left_s, after_s * MOST_LEFT_SHARE)
