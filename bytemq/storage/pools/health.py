"""How one pool is doing, and which pool what is new goes to. Pure: whoever asks says what time it is.

Owns: the rule and its patience. Must not: know what is written, or do I/O.

Writes tell: how long each took, whether it came to nothing, and how long the oldest one has been on its way. A bad one
counts for trouble, a good one against half of it; so a store is taken for sick when more than a third of what it does
comes late, or when it stops answering, not for one late answer. What is written elsewhere tells nothing of it any more,
so that a sick pool is tried with small writes. It is well again when it has answered some in a row in time and has been
left alone for a while, twice as long each time that it falls sick again soon.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Mapping
from typing import NamedTuple

SICK_AT = 2.0
FORGIVEN = 0.5
"""What a good write takes off the trouble."""
ALLOWED_BYTES_S = 4 * 1024 * 1024
"""A write may take as much longer as its bytes need at this rate."""
TIMES_LATE = 3.0
"""What takes so many times longer than late is taken for no answer."""
PROBE_EVERY_S = 1.0
WELL_AFTER_PROBES = 5
REST_PROBE_EVERY_S = 30.0
"""Of a pool that is well and that nothing is written to."""
FIRST_REST_S = 15.0
LONGEST_REST_S = 600.0
RELAPSE_WITHIN_RESTS = 4.0
WEIGHT_OF_LAST = 0.1


class Rank(enum.IntEnum):
    """How good a place it is; the least is the best."""

    WELL = 0
    SLOW = 1
    FAILING = 2
    UNREACHED = 3
    """It could not be opened yet."""


class _Write(NamedTuple):
    began: float
    size_bytes: int


class PoolHealth:
    """Begins as UNREACHED until `opened`."""

    def __init__(self, late_s: float) -> None:
        self._late_s = late_s
        self._trouble = 0.0
        self._writes: dict[int, _Write] = {}
        self._next = 0
        self._good_in_row = 0
        self._probe_at = 0.0
        self._sick_since = 0.0
        self._well_since = -LONGEST_REST_S * RELAPSE_WITHIN_RESTS
        self._rest_s = FIRST_REST_S
        self.rank = Rank.UNREACHED
        self.reason = "not opened yet"
        """Why it is not well, in words."""
        self.write_s = 0.0
        """What a write takes, about; of those that succeeded."""
        self.falls = 0
        """How often it fell sick."""

    def opened(self, now: float) -> None:
        self.rank, self.reason, self._trouble = Rank.WELL, "", 0.0
        self._probe_at = now + REST_PROBE_EVERY_S

    def unreached(self, reason: str) -> None:
        """It cannot be opened."""
        if self.rank is Rank.UNREACHED:
            self.reason = reason

    def began(self, now: float, size_bytes: int) -> int:
        """A write is on its way. What is returned tells it from others."""
        self._next += 1
        self._writes[self._next] = _Write(now, size_bytes)
        return self._next

    def succeeded(self, write: int, now: float) -> None:
        began, size_bytes = self._writes.pop(write)
        took_s, allowed_s = now - began, self._allowed_s(size_bytes)
        self.write_s = took_s if not self.write_s else self.write_s + WEIGHT_OF_LAST * (took_s - self.write_s)
        if self.rank is Rank.WELL:
            self._probe_at = now + REST_PROBE_EVERY_S
        if took_s > allowed_s:
            self._bad(took_s / allowed_s, now, Rank.SLOW, f"a write took {took_s:.1f} s")
            return
        self._trouble = max(0.0, self._trouble - FORGIVEN)
        self._good_in_row += 1
        if self.rank is Rank.FAILING:
            self.rank, self.reason = Rank.SLOW, "it answers again, and is watched"
        rested = now - self._sick_since >= self._rest_s
        if self.rank is Rank.SLOW and rested and self._good_in_row >= WELL_AFTER_PROBES:
            self.rank, self.reason, self._trouble, self._well_since = Rank.WELL, "", 0.0, now
            self._probe_at = now + REST_PROBE_EVERY_S

    def failed(self, write: int, now: float, reason: str) -> None:
        """It came to nothing, for all that was tried."""
        del self._writes[write]
        self._bad(SICK_AT, now, Rank.FAILING, reason)

    def abandoned(self, write: int, now: float) -> None:
        """Nobody waits for it any more."""
        began, size_bytes = self._writes.pop(write)
        times = (now - began) / self._allowed_s(size_bytes)
        if times > 1:
            self._bad(times, now, _rank_of(times), f"no answer within {now - began:.1f} s")

    def look(self, now: float) -> None:
        """What is on its way tells, too: the oldest of it."""
        if not self._writes:
            return
        times = max((now - began) / self._allowed_s(size_bytes) for began, size_bytes in self._writes.values())
        if times > 1 and self._trouble + int(times) >= SICK_AT:
            oldest = min(write.began for write in self._writes.values())
            self._fall_sick(now, _rank_of(times), f"no answer for {now - oldest:.1f} s")

    def probe_is_due(self, now: float) -> bool:
        """Whether a small write should find out how it is. Each answer of True is to be followed by one."""
        if now < self._probe_at or self.rank is Rank.UNREACHED:
            return False
        self._probe_at = now + (REST_PROBE_EVERY_S if self.rank is Rank.WELL else PROBE_EVERY_S)
        return True

    def _allowed_s(self, size_bytes: int) -> float:
        return self._late_s + size_bytes / ALLOWED_BYTES_S

    def _bad(self, trouble: float, now: float, rank: Rank, reason: str) -> None:
        self._good_in_row = 0
        self._trouble += min(trouble, SICK_AT)
        if self._trouble >= SICK_AT:
            self._fall_sick(now, rank, reason)

    def _fall_sick(self, now: float, rank: Rank, reason: str) -> None:
        if self.rank is Rank.WELL:
            is_relapse = now - self._well_since < RELAPSE_WITHIN_RESTS * self._rest_s
            self._rest_s = min(2 * self._rest_s, LONGEST_REST_S) if is_relapse else FIRST_REST_S
            self._sick_since, self._probe_at, self._good_in_row = now, now + PROBE_EVERY_S, 0
            self.falls += 1
        self._trouble = min(self._trouble, SICK_AT)
        if self.rank is not Rank.UNREACHED:
            self.rank, self.reason = rank, reason


def _rank_of(times_late: float) -> Rank:
    return Rank.FAILING if times_late > TIMES_LATE else Rank.SLOW


def best_pool(ranks: Mapping[str, Rank], drained: Collection[str], tried: Collection[str] = ()) -> str | None:
    """Where what is new goes: of the pools that are not drained the one in the best state, the first of those. None:
    all were tried.

    Where all are drained they are taken as if none was: what was acknowledged needs a place.
    """
    open_ = [pool for pool in ranks if pool not in drained] or list(ranks)
    left = [pool for pool in open_ if pool not in tried]
    return min(left, key=lambda pool: ranks[pool], default=None)
