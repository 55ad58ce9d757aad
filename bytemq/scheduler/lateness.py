"""Owners that are late: what they shall release, and have not for too long. Pure.

Owns: from when on an owner's time counts. Must not: end a session.

An owner with ten thousand partitions to release takes minutes, and that is no fault as long as it gets on: what it
releases of what was asked of it no later than of the others gives these their whole time again. What is asked later
does not: an owner that is stuck with one partition is not saved by all that comes and goes beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from bytemq.runtime.steps import Steps, slices
from bytemq.types import PartitionId

RELEASE_TIMEOUT_S = 30.0
"""How long an owner may take to release the next one of what is wished elsewhere."""


class _Late(NamedTuple):
    owner: int
    asked_at: float
    counts_from: float


class Lateness:
    def __init__(self) -> None:
        self._late: dict[PartitionId, _Late] = {}

    def forget(self) -> None:
        """Another one looks from now on."""
        self._late.clear()

    def look(self, now_s: float, late: Mapping[PartitionId, int]) -> Steps[dict[int, int]]:
        """`late`: owners by partition, as they are now. How many partitions have waited too long, by owner."""
        released: dict[int, float] = {}
        """By owner: when the first of what it has released since the last look had been asked of it."""
        for some in slices(list(self._late.items())):
            for partition, before in some:
                if late.get(partition) != before.owner:
                    released[before.owner] = min(before.asked_at, released.get(before.owner, before.asked_at))
            yield
        found: dict[PartitionId, _Late] = {}
        overdue: dict[int, int] = {}
        for now_late in slices(list(late.items())):
            for partition, owner in now_late:
                known = self._late.get(partition)
                if known is None or known.owner != owner:
                    known = _Late(owner, now_s, now_s)
                elif owner in released and known.asked_at >= released[owner]:
                    known = known._replace(counts_from=now_s)
                found[partition] = known
                if now_s - known.counts_from > RELEASE_TIMEOUT_S:
                    overdue[owner] = overdue.get(owner, 0) + 1
            yield
        self._late = found
        return overdue
