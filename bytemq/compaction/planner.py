"""Which part of a compacted log is worth cleaning, and how much. Pure.

Kafka's LogCleanerManager and its rules: nothing of the newest segment, nothing at or above the last stable offset,
nothing that min.compaction.lag.ms protects; due when the dirty part is more than min.cleanable.dirty.ratio of the
whole, or older than max.compaction.lag.ms allows. Two rules are ours: a log without much that is dirty is also due when
what was kept for a while only (tombstones, markers) could have gone for as long again; and the newest file is cleaned,
too, once it is a table.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import NamedTuple

from bytemq.storage.manifests.manifest import FileKind, SegmentInfo


class CleaningPolicy(NamedTuple):
    """A topic's min.cleanable.dirty.ratio, min.compaction.lag.ms, max.compaction.lag.ms, delete.retention.ms."""

    min_dirty_ratio: float
    min_lag_ms: int
    max_lag_ms: int
    delete_retention_ms: int


class CleaningPlan(NamedTuple):
    segments: tuple[SegmentInfo, ...]
    """What a cleaning would read: from the beginning of the log, in a row."""
    clean_bytes: int
    dirty_bytes: int
    is_overdue: bool
    """Whatever the ratio: records, or what was kept for a while only, are older than the policy allows."""

    @property
    def dirty_ratio(self) -> float:
        return self.dirty_bytes / (self.clean_bytes + self.dirty_bytes) if self.dirty_bytes else 0.0

    def is_due(self, policy: CleaningPolicy) -> bool:
        return self.is_overdue or self.dirty_ratio > policy.min_dirty_ratio


def plan_cleaning(
    segments: Sequence[SegmentInfo], last_stable_offset: int, policy: CleaningPolicy, now_ms: int
) -> CleaningPlan:
    """`segments`: all of the log, what is in the write-ahead log as it would be cut."""
    finished = _finished(segments)
    clean = [*takewhile(lambda segment: segment.is_cleaned, finished)]
    dirty = []
    for segment in finished[len(clean) :]:
        is_protected = policy.min_lag_ms > 0 and segment.max_timestamp > now_ms - policy.min_lag_ms
        if segment.last_offset >= last_stable_offset or is_protected:
            break
        dirty.append(segment)
    oldest_ms = min((segment.created_ms for segment in dirty), default=now_ms)
    horizons = [segment.delete_horizon_ms for segment in clean if segment.delete_horizon_ms >= 0]
    is_overdue = now_ms - oldest_ms > policy.max_lag_ms
    has_expired = bool(horizons) and now_ms - min(horizons) > policy.delete_retention_ms
    return CleaningPlan(
        (*clean, *dirty),
        sum(segment.size_bytes for segment in clean),
        sum(segment.size_bytes for segment in dirty),
        is_overdue or has_expired,
    )


def within(plan: CleaningPlan, snapshot_offset: int) -> tuple[SegmentInfo, ...]:
    """Those of its segments that can be cleaned now: sealed, and with a snapshot that knows their producers."""
    ready = []
    for segment in plan.segments:
        if not segment.sealed or segment.last_offset >= snapshot_offset:
            break
        ready.append(segment)
    return tuple(ready)


def _finished(segments: Sequence[SegmentInfo]) -> Sequence[SegmentInfo]:
    """Without the one that is written to, or was last: as a table it has its form for good, and what comes will be in
    another file.
    """
    return segments if segments and segments[-1].kind is FileKind.PARQUET else segments[:-1]
