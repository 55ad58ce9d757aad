"""Retention: which segments go."""

import pytest

from bytemq.broker.log.retention import RetentionPolicy, could_retain_less, retained_from
from bytemq.storage.manifests.manifest import SegmentInfo

NOW_MS = 1_000_000
SEGMENTS = [
    SegmentInfo(0, 9, 100, NOW_MS - 5_000, NOW_MS - 5_500),
    SegmentInfo(10, 19, 100, NOW_MS - 3_000, NOW_MS - 3_500),
    SegmentInfo(20, 29, 100, NOW_MS - 4_000, NOW_MS - 2_500),
    SegmentInfo(30, 39, 100, NOW_MS - 1_000, NOW_MS - 1_500),
]


def start_after(retention_ms: int, retention_bytes: int, *, start: int = 0, high_watermark: int = 40) -> int:
    policy = RetentionPolicy(retention_ms, retention_bytes)
    return retained_from(SEGMENTS, policy, log_start_offset=start, high_watermark=high_watermark, now_ms=NOW_MS)


@pytest.mark.parametrize(
    ("retention_ms", "start"),
    [(-1, 0), (10_000, 0), (5_000, 0), (4_999, 10), (3_500, 10), (2_000, 30), (500, 40)],
)
def test_retained_from__stops_at_the_first_segment_young_enough(retention_ms: int, start: int) -> None:
    assert start_after(retention_ms, -1) == start


@pytest.mark.parametrize(
    ("retention_bytes", "start"),
    [(-1, 0), (400, 0), (399, 0), (300, 10), (299, 10), (100, 30), (1, 30), (0, 40)],
)
def test_retained_from__keeps_at_least_retention_bytes(retention_bytes: int, start: int) -> None:
    assert start_after(-1, retention_bytes) == start


def test_retained_from__lets_nothing_go_above_the_high_watermark() -> None:
    assert start_after(0, -1, high_watermark=25) == 20


def test_retained_from__never_goes_back() -> None:
    assert start_after(4_999, -1, start=15) == 15


def test_retained_from__ages_records_without_timestamps_from_when_the_segment_was_made() -> None:
    segments = [SegmentInfo(0, 9, 100, -1, NOW_MS - 5_000, "made")]
    kept, gone = (
        retained_from(segments, RetentionPolicy(retention_ms, -1), log_start_offset=0, high_watermark=10, now_ms=NOW_MS)
        for retention_ms in (6_000, 4_000)
    )
    assert (kept, gone) == (0, 10)


def test_retained_from__keeps_records_without_timestamps_that_are_in_no_segment_yet() -> None:
    segments = [SegmentInfo(0, 9, 100, -1, 0)]
    policy = RetentionPolicy(4_000, -1)
    assert retained_from(segments, policy, log_start_offset=0, high_watermark=10, now_ms=NOW_MS) == 0


@pytest.mark.parametrize(
    ("retention_ms", "retention_bytes", "could"),
    [(-1, -1, False), (5_000, -1, False), (4_999, -1, True), (-1, 301, False), (-1, 300, True)],
)
def test_could_retain_less__of_segments_is_as_retained_from(
    retention_ms: int, retention_bytes: int, could: bool
) -> None:
    segments = [segment._replace(name="segment", sealed=True) for segment in SEGMENTS]
    assert could_retain_less(segments, RetentionPolicy(retention_ms, retention_bytes), NOW_MS) is could
    assert not could_retain_less([], RetentionPolicy(retention_ms, retention_bytes), NOW_MS)


@pytest.mark.parametrize(
    ("retention_ms", "retention_bytes", "could"),
    [(-1, -1, False), (5_500, -1, False), (5_499, -1, True), (-1, 400, False), (-1, 399, True)],
)
def test_could_retain_less__of_the_write_ahead_log_goes_by_its_first_records(
    retention_ms: int, retention_bytes: int, could: bool
) -> None:
    assert could_retain_less(SEGMENTS, RetentionPolicy(retention_ms, retention_bytes), NOW_MS) is could
