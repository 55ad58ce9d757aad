"""How a manifest may change."""

from __future__ import annotations

from bytemq.storage.manifest import (
    Manifest,
    PartitionSnapshot,
    SegmentInfo,
    contradictions,
    with_holes,
    with_leader_epoch,
    with_log_start,
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


def test_log_start__drops_whole_segments_and_never_moves_back() -> None:
    after = with_log_start(MANIFEST, 15)
    assert [one.base_offset for one in after.segments] == [10, 20]
    assert with_log_start(after, 3) == after
    assert with_log_start(MANIFEST, 100).end_offset == 100


def test_leader_epoch__never_goes_back() -> None:
    assert with_leader_epoch(MANIFEST, 7).leader_epoch == 7
    assert with_leader_epoch(MANIFEST, 0).leader_epoch == 1


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
