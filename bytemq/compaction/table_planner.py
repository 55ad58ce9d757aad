"""Which files of a log become a table, or a larger one, next, and how well that is compressed. Pure.

Owns: the choice. Must not: look at a clock, a file or a log.

Two kinds of work, the first before the second:

Segments that are sealed, old enough and decided become Parquet, as many in a row as fit into a file of the target size.

Small Parquet files in a row become one. Files are of a tier by size, each tier eight times the one below; eight in a
row that are of a tier or below are merged, unless one of them is most of it. So a byte is rewritten about once for each
tier, whatever the rate: from 100 KiB to 128 MiB four or five times. Of files below half of the target size, fewer than
eight are merged if no more would fit.

What is small will be written again soon, so it is compressed fast. Other files stay, or are read for long before they
are merged once or twice more, and are compressed as the topic says.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import groupby
from typing import NamedTuple

from bytemq.storage.manifests.manifest import FileKind, SegmentInfo
from bytemq.storage.tables.table_columns import Formats
from bytemq.storage.tables.table_file import CODEC_LEVEL, Codec

TIER_RATIO = 8
SMALLEST_TIER_BYTES = 64 * 1024
EXPECTED_RATIO = 0.3
"""Of Parquet to a segment, before it was tried: typical JSON is below, random bytes are above."""
SMALL_SHARE = 1 / 32
"""Of the target size: what is smaller is written again soon."""
FAST_LEVEL = 3
"""Of zstd at most, for that."""


class TableSettings(NamedTuple):
    """What a topic's configs say."""

    enabled: bool
    after_ms: int
    min_bytes: int
    target_file_bytes: int
    row_group_bytes: int
    codec: Codec
    formats: Formats = Formats()
    codec_level: int = CODEC_LEVEL


def next_files(
    files: Sequence[SegmentInfo], limit_offset: int, settings: TableSettings, given_up: Collection[str] = ()
) -> Sequence[SegmentInfo]:
    """The files to make one of; none when there is nothing to do.

    Only offsets below `limit_offset` are touched. `given_up` are files that cannot be converted.
    """
    for may_be_converted, run in groupby(files, key=lambda file: _is_convertible(file, limit_offset, given_up)):
        if may_be_converted:
            taken = _as_many_as_fit(list(run), settings.target_file_bytes)
            if sum(file.size_bytes for file in taken) >= settings.min_bytes:
                return taken
    return _to_merge(files, settings.target_file_bytes, given_up)


def level_of(chosen: Sequence[SegmentInfo], settings: TableSettings, *, is_late: bool) -> int:
    """The level of compression of the file that these become. Segments that are late become one fast, whatever its
    size.
    """
    is_small = sum(map(_expected_bytes, chosen)) < SMALL_SHARE * settings.target_file_bytes
    is_urgent = is_late and chosen[0].kind is FileKind.SEGMENT
    return min(settings.codec_level, FAST_LEVEL) if is_small or is_urgent else settings.codec_level


def _is_convertible(file: SegmentInfo, limit_offset: int, given_up: Collection[str]) -> bool:
    return (
        file.kind is FileKind.SEGMENT and file.sealed and file.last_offset < limit_offset and file.name not in given_up
    )


def _as_many_as_fit(run: Sequence[SegmentInfo], target_bytes: int) -> Sequence[SegmentInfo]:
    taken: list[SegmentInfo] = []
    expected_bytes = 0.0
    for file in run:
        expected_bytes += _expected_bytes(file)
        if taken and (expected_bytes > target_bytes or file.is_cleaned != taken[0].is_cleaned):
            break
        taken.append(file)
    return taken


def _to_merge(files: Sequence[SegmentInfo], target_bytes: int, given_up: Collection[str]) -> Sequence[SegmentInfo]:
    for limit_bytes in _tiers(target_bytes):
        alike = groupby(files, key=lambda file: (_is_small_table(file, limit_bytes, given_up), file.is_cleaned))
        for (is_small, _), group in alike:
            if is_small:
                run = list(group)
                taken = _as_many_as_fit(run, target_bytes)
                sizes = [file.size_bytes for file in taken]
                is_full = sum(file.size_bytes for file in run[: len(taken) + 1]) > target_bytes
                if is_full or (len(taken) >= TIER_RATIO and 2 * max(sizes) <= sum(sizes)):
                    return taken
    return ()


def _tiers(target_bytes: int) -> Sequence[int]:
    """Their limits, ascending. Counted from the target size down, so that eight files of the last but one are large
    enough for good.
    """
    limits = [target_bytes // 2]
    while limits[0] // TIER_RATIO >= SMALLEST_TIER_BYTES:
        limits.insert(0, limits[0] // TIER_RATIO)
    return limits


def _is_small_table(file: SegmentInfo, limit_bytes: int, given_up: Collection[str]) -> bool:
    return file.kind is FileKind.PARQUET and file.size_bytes < limit_bytes and file.name not in given_up


def _expected_bytes(file: SegmentInfo) -> float:
    return file.size_bytes * (EXPECTED_RATIO if file.kind is FileKind.SEGMENT else 1)
