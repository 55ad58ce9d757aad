"""Which files become a table next."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from bytemq.compaction.table_planner import FAST_LEVEL, TableSettings, level_of, next_files
from bytemq.storage.manifests.manifest import FileKind, SegmentInfo

KIB, MIB = 1024, 1024 * 1024
SETTINGS = TableSettings(True, 1000, 0, 128 * MIB, 32 * MIB, "zstd")
EVERYTHING = 1 << 60


def files(*sizes: tuple[str, int]) -> list[SegmentInfo]:
    """Kinds: s segment, o open segment, c cleaned segment, p Parquet; ten offsets each."""
    return [
        SegmentInfo(
            10 * number,
            10 * number + 9,
            size,
            0,
            0,
            f"file {number}",
            sealed=kind != "o",
            is_cleaned=kind == "c",
            kind=FileKind.PARQUET if kind == "p" else FileKind.SEGMENT,
        )
        for number, (kind, size) in enumerate(sizes)
    ]


def bases(chosen: Sequence[SegmentInfo]) -> list[int]:
    return [file.base_offset for file in chosen]


def test_next_files__sealed_segments_below_the_limit() -> None:
    log = files(("s", MIB), ("s", MIB), ("o", MIB))
    assert bases(next_files(log, EVERYTHING, SETTINGS)) == [0, 10]
    assert bases(next_files(log, 20, SETTINGS)) == [0, 10]
    assert bases(next_files(log, 19, SETTINGS)) == [0]
    assert bases(next_files(log, 9, SETTINGS)) == []


def test_next_files__as_many_as_are_expected_to_fit() -> None:
    log = files(*[("s", 100 * MIB)] * 9)
    assert bases(next_files(log, EVERYTHING, SETTINGS)) == [0, 10, 20, 30]
    assert bases(next_files(files(("s", 1000 * MIB)), EVERYTHING, SETTINGS)) == [0]


def test_next_files__cleaned_and_uncleaned_stay_apart() -> None:
    assert bases(next_files(files(("c", MIB), ("s", MIB)), EVERYTHING, SETTINGS)) == [0]


def test_next_files__what_is_too_little_waits() -> None:
    settings = SETTINGS._replace(min_bytes=2 * MIB)
    assert bases(next_files(files(("s", MIB)), EVERYTHING, settings)) == []
    assert bases(next_files(files(("s", MIB), ("s", MIB)), EVERYTHING, settings)) == [0, 10]


def test_next_files__what_cannot_be_converted_is_passed_over() -> None:
    assert bases(next_files(files(("s", MIB), ("s", MIB)), EVERYTHING, SETTINGS, {"file 0"})) == [10]


def test_next_files__eight_small_tables_in_a_row_become_one() -> None:
    assert bases(next_files(files(*[("p", 10 * KIB)] * 7), 0, SETTINGS)) == []
    assert bases(next_files(files(*[("p", 10 * KIB)] * 8), 0, SETTINGS)) == [10 * n for n in range(8)]
    assert bases(next_files(files(*[("p", 10 * KIB)] * 4, ("s", 1), *[("p", 10 * KIB)] * 4), 0, SETTINGS)) == []


def test_next_files__tables_of_the_target_size_are_left_alone() -> None:
    assert bases(next_files(files(*[("p", 128 * MIB)] * 20), 0, SETTINGS)) == []


def test_merging__rewrites_a_byte_a_few_times_only() -> None:
    """A file of 100 KiB every time: what is written, until all are large enough, is some tiers' worth."""
    log: list[SegmentInfo] = []
    written = produced = 0
    for number in range(3000):
        log.append(files(("p", 100 * KIB))[0]._replace(name=f"new {number}"))
        produced += 100 * KIB
        while chosen := next_files(log, 0, SETTINGS):
            size = sum(file.size_bytes for file in chosen)
            at = log.index(chosen[0])
            log[at : at + len(chosen)] = [chosen[0]._replace(size_bytes=size, name=f"merged {number}")]
            written += size
    assert written < 5 * produced
    assert len(log) < 16
    assert min(file.size_bytes for file in log[:3]) >= 64 * MIB


@pytest.mark.parametrize("size", [17 * MIB, 30 * MIB, 63 * MIB])
def test_next_files__of_tables_of_which_eight_would_be_too_large_as_many_become_one_as_fit(size: int) -> None:
    fitting = 128 * MIB // size
    assert bases(next_files(files(*[("p", size)] * fitting), 0, SETTINGS)) == [], "one more may fit"
    assert bases(next_files(files(*[("p", size)] * (fitting + 1)), 0, SETTINGS)) == [10 * n for n in range(fitting)]


def test_level__is_what_the_topic_says_for_what_stays_and_fast_for_what_is_merged_soon() -> None:
    settings = SETTINGS._replace(codec_level=9)
    assert level_of(files(*[("p", MIB // 2)] * 7), settings, is_late=False) == FAST_LEVEL
    assert level_of(files(*[("p", MIB // 2)] * 8), settings, is_late=False) == 9
    assert level_of(files(("s", 13 * MIB)), settings, is_late=False) == FAST_LEVEL
    assert level_of(files(("s", 14 * MIB)), settings, is_late=False) == 9
    assert level_of(files(("s", MIB)), settings._replace(codec_level=1), is_late=False) == 1


def test_level__of_segments_that_are_late_is_fast_but_not_that_of_merges() -> None:
    settings = SETTINGS._replace(codec_level=9)
    assert level_of(files(("s", 400 * MIB)), settings, is_late=True) == FAST_LEVEL
    assert level_of(files(*[("p", 2 * MIB)] * 8), settings, is_late=True) == 9


def test_next_files__tables_are_merged_behind_a_few_that_were_cleaned() -> None:
    """As when a topic was compacted once: these stay as they are for as long as it keeps them."""
    log = files(*[("p", 10 * KIB)] * 11)
    log[:3] = [file._replace(is_cleaned=True) for file in log[:3]]
    assert bases(next_files(log, 0, SETTINGS)) == [10 * n for n in range(3, 11)]
