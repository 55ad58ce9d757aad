"""How a manifest may change."""

from __future__ import annotations

import pytest

from bytemq.errors import Fenced, Unavailable
from bytemq.storage.manifests.manifest import (
    InheritedRange,
    Manifest,
    PartitionSnapshot,
    SegmentInfo,
    contradictions,
    with_holes,
    with_leader_epoch,
    with_log_start,
    with_owner,
    with_replaced,
    with_segments,
)


def segment(base: int, last: int, name: str = "", *, sealed: bool = True) -> SegmentInfo:
    return SegmentInfo(base, last, 100, 0, 0, name or f"{base}", sealed)


MANIFEST = Manifest(1, 5, (segment(0, 9), segment(10, 19), segment(20, 24, sealed=False)))


def test_segments__replace_the_open_one_and_follow_the_sealed() -> None:
    after = with_segments(MANIFEST, [segment(20, 29), segment(30, 31, sealed=False)], PartitionSnapshot(40))
    assert [one.last_offset for one in after.segments] == [9, 19, 29, 31]
    assert (after.end_offset, after.snapshot) == (32, PartitionSnapshot(40))
    assert contradictions(after) == []


def test_segments__below_the_log_start_by_now_are_left_out() -> None:
    moved = with_log_start(MANIFEST, 31)
    assert moved.segments == ()
    after = with_segments(moved, [segment(25, 30), segment(31, 40, sealed=False)], None)
    assert [one.base_offset for one in after.segments] == [31]


def test_owner__inherits_nothing_that_was_written_behind_while_the_log_was_being_opened() -> None:
    found = [InheritedRange(7, 20, 22), InheritedRange(8, 22, 30)]
    assert with_owner(MANIFEST, 6, 9, found).inherited == (InheritedRange(8, 25, 30),)
    assert with_owner(MANIFEST, 6, 9, found[:1]).inherited == ()


def test_log_start__drops_whole_segments_and_never_moves_back() -> None:
    after = with_log_start(MANIFEST, 15)
    assert [one.base_offset for one in after.segments] == [10, 20]
    assert with_log_start(after, 3) == after
    assert with_log_start(MANIFEST, 100).end_offset == 100


def test_leader_epoch__never_goes_back() -> None:
    assert with_leader_epoch(MANIFEST, 7).leader_epoch == 7
    with pytest.raises(Fenced):
        with_leader_epoch(MANIFEST, 0)


def test_holes__count_as_part_of_the_log() -> None:
    after = with_holes(MANIFEST, [(25, 27)])
    assert after.end_offset == 28
    assert contradictions(with_segments(after, [segment(28, 30)], None)) != []  # the open one is not the last
    assert with_log_start(after, 30).holes == ()


def test_contradictions__names_gaps_overlaps_and_open_segments_in_the_middle() -> None:
    assert contradictions(MANIFEST) == []
    for wrong in (
        (segment(0, 9), segment(11, 12)),
        (segment(0, 9), segment(9, 12)),
        (segment(0, 9, sealed=False), segment(10, 12)),
        (segment(0, 4),),
        (segment(9, 8),),
    ):
        assert contradictions(Manifest(1, 5, wrong)), wrong


def test_replaced__files_in_a_row_become_others_for_the_same_offsets() -> None:
    first, second, last = MANIFEST.segments
    merged = segment(0, 19, "merged")._replace(is_cleaned=True)
    after = with_replaced(MANIFEST, [first, second], [merged])
    assert after.segments == (merged, last)
    assert (after.first_dirty_offset, MANIFEST.first_dirty_offset) == (20, 5)
    assert contradictions(after) == []
    for changed in ([second, first], [first, last], [first._replace(size_bytes=7), second], [merged]):
        with pytest.raises(Unavailable):
            with_replaced(MANIFEST, changed, [merged])


def test_replaced__files_that_the_log_start_has_passed_meanwhile_stay_away() -> None:
    first, second, last = MANIFEST.segments
    written = [segment(0, 9, "a"), segment(10, 19, "b")]
    assert with_replaced(with_log_start(MANIFEST, 12), [first, second], written).segments == (written[1], last)
    assert with_replaced(with_log_start(MANIFEST, 20), [first, second], written).segments == (last,)


def test_first_dirty_offset__is_where_the_first_file_that_was_not_cleaned_begins() -> None:
    cleaned = [segment(0, 9)._replace(is_cleaned=True), segment(10, 19), segment(20, 29)._replace(is_cleaned=True)]
    assert Manifest(1, 5, tuple(cleaned)).first_dirty_offset == 10
    assert Manifest(1, 5, tuple(cleaned[:1])).first_dirty_offset == 10
    assert Manifest(1, 5).first_dirty_offset == 5
