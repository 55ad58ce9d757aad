"""Which brokers are slow or erring, compared with the others, so that partitions are better elsewhere. Pure.

Owns: the rule and its patience: a broker is taken for sick after some looks in a row, and for well after more. When
many are in trouble at once it is what they share that is sick, and moving partitions would not help: then nobody is.

A broker that has much to do is slower than one that has nothing to do, and not sick for that: who carries more than the
others is the balance's business (`balance.py`). So a broker is compared with those that do about as much as it does, or
more. Where there are none, only what its own work does not explain tells against it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

from bytemq.metadata.loads import LoadReport, Rates

SICK_AFTER_LOOKS = 10
WELL_AFTER_LOOKS = 30
SLOW_LAG_MS = 500.0
SLOW_COMMIT_MS = 1000.0
TIMES_SLOWER = 5.0
"""Than the median of its peers."""
PEER_SHARE = 0.5
"""A peer of a broker does at least this part of what it does."""
EASY = Rates(1_000_000.0, 1_000_000.0, 300.0)
"""What any broker does without being late."""


class HealthWatch:
    """Looks come once a second or so."""

    def __init__(self) -> None:
        self._bad_looks: dict[int, int] = {}
        self._good_looks: dict[int, int] = {}
        self._sick: dict[int, str] = {}

    def look(self, reports: Mapping[int, LoadReport]) -> dict[int, str]:
        """The sick brokers, and why, in words."""
        for broker in (self._bad_looks.keys() | self._sick.keys()) - reports.keys():
            self._forget(broker)
        for broker, report in reports.items():
            others = [other for at, other in reports.items() if at != broker]
            trouble = _trouble(broker, report, others)
            if trouble:
                self._good_looks[broker] = 0
                self._bad_looks[broker] = self._bad_looks.get(broker, 0) + 1
                if self._bad_looks[broker] >= SICK_AFTER_LOOKS:
                    self._sick[broker] = trouble
            else:
                self._bad_looks[broker] = 0
                self._good_looks[broker] = self._good_looks.get(broker, 0) + 1
                if self._good_looks[broker] >= WELL_AFTER_LOOKS:
                    self._sick.pop(broker, None)
        return dict(self._sick) if 3 * len(self._sick) <= len(reports) else {}

    def _forget(self, broker: int) -> None:
        for looks in (self._bad_looks, self._good_looks):
            looks.pop(broker, None)
        self._sick.pop(broker, None)


def _trouble(broker: int, report: LoadReport, others: Sequence[LoadReport]) -> str:
    if report.problem:
        return f"broker {broker} cannot write: {report.problem}"
    peers = [other for other in others if _does_as_much(other.total, report.total)]
    is_busy = any(rate > easy for rate, easy in zip(report.total, EASY, strict=True))
    # How late the event loop is tells of an idle broker, too; how long a produce takes, only of one that has some.
    compared = peers if is_busy else others
    if compared:
        usual_lag_ms = median(other.lag_ms for other in compared)
        if report.lag_ms > max(SLOW_LAG_MS, TIMES_SLOWER * usual_lag_ms):
            return f"broker {broker} is {report.lag_ms:.0f} ms late with everything, others {usual_lag_ms:.0f} ms"
    writers = [other for other in peers if other.total.bytes_in]
    if writers:
        usual_commit_ms = median(other.commit_ms for other in writers)
        if report.commit_ms > max(SLOW_COMMIT_MS, TIMES_SLOWER * usual_commit_ms):
            return f"broker {broker} takes {report.commit_ms:.0f} ms for a produce, others {usual_commit_ms:.0f} ms"
    return ""


def _does_as_much(one: Rates, other: Rates) -> bool:
    return all(rate >= PEER_SHARE * wanted for rate, wanted in zip(one, other, strict=True))
