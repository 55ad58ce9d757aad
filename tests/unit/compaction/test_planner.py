"""Which part of a log is worth cleaning."""

from __future__ import annotations

from typing import Any

from bytemq.compaction.planner import CleaningPolicy, plan_cleaning, within
from bytemq.storage.manifests.manifest import FileKind, SegmentInfo

NOW_MS = 1_000_000
POLICY = CleaningPolicy(min_dirty_ratio=0.5, min_lag_ms=0, max_lag_ms=1 << 60, delete_retention_ms=1000)


def segment(
    base: int, *, cleaned: bool = False, size_bytes: int = 100, age_ms: int = 500, **fields: Any
) -> SegmentInfo:
    time_ms = NOW_MS - age_ms
    return SegmentInfo(base, base + 9, size_bytes, time_ms, time_ms, f"{base}", True, cleaned, **fields)


def bases(segments: list[SegmentInfo], policy: CleaningPolicy = POLICY, *, stable: int = 1000) -> list[int]:
    return [one.base_offset for one in plan_cleaning(segments, stable, policy, NOW_MS).segments]


def test_newest_segment__is_not_cleaned() -> None:
    assert bases([segment(0), segment(10), segment(20)]) == [0, 10]
    assert bases([segment(0)]) == []
    assert bases([]) == []


def test_last_stable_offset__ends_the_plan_before_its_segment() -> None:
    log = [segment(0), segment(10), segment(20)]
    assert bases(log, stable=20) == [0, 10]
    assert bases(log, stable=19) == [0]


def test_min_compaction_lag__protects_young_records_and_all_behind_them() -> None:
    log = [segment(0, age_ms=900), segment(10, age_ms=100), segment(20, age_ms=900), segment(30)]
    assert bases(log, POLICY._replace(min_lag_ms=500)) == [0]
    assert bases(log, POLICY._replace(min_lag_ms=100)) == [0, 10, 20]


def test_dirty_ratio__counts_what_can_be_cleaned_against_what_was() -> None:
    log = [segment(0, cleaned=True, size_bytes=300), segment(10, size_bytes=100), segment(20, size_bytes=9999)]
    plan = plan_cleaning(log, 1000, POLICY, NOW_MS)
    assert (plan.clean_bytes, plan.dirty_bytes, plan.dirty_ratio) == (300, 100, 0.25)
    assert not plan.is_due(POLICY)
    assert plan.is_due(POLICY._replace(min_dirty_ratio=0.2))
    assert not plan.is_due(POLICY._replace(min_dirty_ratio=0.25)), "more than the ratio, as in Kafka"


def test_max_compaction_lag__makes_it_due_whatever_the_ratio() -> None:
    log = [segment(0, cleaned=True, size_bytes=10**6), segment(10, age_ms=700), segment(20)]
    assert plan_cleaning(log, 1000, POLICY._replace(max_lag_ms=699), NOW_MS).is_due(POLICY)
    assert not plan_cleaning(log, 1000, POLICY._replace(max_lag_ms=700), NOW_MS).is_due(POLICY)
    assert not plan_cleaning(log[:1], 1000, POLICY._replace(max_lag_ms=1), NOW_MS).is_due(POLICY)


def test_expired_tombstones__make_it_due_after_as_long_again() -> None:
    def log(horizon_ms: int) -> list[SegmentInfo]:
        return [segment(0, cleaned=True, delete_horizon_ms=horizon_ms), segment(10)]

    assert plan_cleaning(log(NOW_MS - 1001), 1000, POLICY, NOW_MS).is_due(POLICY)
    assert not plan_cleaning(log(NOW_MS - 1000), 1000, POLICY, NOW_MS).is_due(POLICY)
    assert not plan_cleaning([segment(0, cleaned=True), segment(10)], 1000, POLICY, NOW_MS).is_due(POLICY)


def test_cleaned_segments_behind_a_dirty_one__are_dirty_again() -> None:
    log = [segment(0, cleaned=True), segment(10), segment(20, cleaned=True), segment(30)]
    plan = plan_cleaning(log, 1000, POLICY, NOW_MS)
    assert (plan.clean_bytes, plan.dirty_bytes) == (100, 200)


def test_table__is_planned_as_any_file() -> None:
    table = FileKind.PARQUET
    log = [segment(0, cleaned=True, kind=table), segment(10, kind=table), segment(20), segment(30)]
    assert bases(log) == [0, 10, 20]
    assert plan_cleaning(log, 1000, POLICY, NOW_MS).clean_bytes == 100
    assert bases(log[:2]) == [0, 10], "the newest one, too: nobody writes to it"
    assert bases(log[:2], stable=19) == [0]


def test_within__ends_at_what_is_open_or_not_in_a_snapshot() -> None:
    log = [segment(0), segment(10), segment(20), segment(30)]
    plan = plan_cleaning(log, 1000, POLICY, NOW_MS)
    assert [one.base_offset for one in within(plan, 30)] == [0, 10, 20]
    assert [one.base_offset for one in within(plan, 29)] == [0, 10]
    open_ = plan._replace(segments=(log[0], log[1]._replace(sealed=False), log[2]))
    assert [one.base_offset for one in within(open_, 1000)] == [0]
