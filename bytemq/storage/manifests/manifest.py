"""The manifest of a partition: which files are its log. Pure data and its transitions.

Owns: what a manifest says and how it may change. Must not: read a clock, a file or the metadata store (`publisher`
does).

A manifest is the truth about a log except for its newest part, which is in the write-ahead log. Every transition
returns a new manifest; publishing compares the revision of the one it was made from.

Each file answers for a range of offsets, and the ranges follow each other without gaps: an offset that is in none, and
in no hole, is lost. Within its range a file that was cleaned holds the offsets that the cleaner kept, whichever those
are; any other file holds all of them.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from bytemq.errors import Fenced, Unavailable


class ProducerSnapshot(NamedTuple):
    """State of one producer id in one partition. Times in ms; -1 where there is none."""

    producer_id: int
    producer_epoch: int
    coordinator_epoch: int
    last_timestamp: int
    batches: list[tuple[int, int, int, int, int, int]]
    """Up to five: (first_sequence, last_sequence, base_offset, last_offset, timestamp, crc as the client sent it)."""
    open_txn_first_offset: int | None


class AbortedTxn(NamedTuple):
    producer_id: int
    first_offset: int
    last_offset: int
    last_stable_offset: int


@dataclass(frozen=True, slots=True)
class PartitionSnapshot:
    """What an owner knew of its log when `offset` was the next offset to be committed."""

    offset: int
    leader_epochs: Sequence[tuple[int, int]] = ()
    """(epoch, start offset), ascending."""
    producers: Sequence[ProducerSnapshot] = ()
    aborted: Sequence[AbortedTxn] = ()


class FileKind(enum.IntEnum):
    """In which form a file holds its part of the log. A manifest with a kind that is not listed here is not read."""

    SEGMENT = 0
    """Record batches as they are served, then a footer with their index (`segment_format`)."""
    PARQUET = 1
    """A table's Parquet file and its companion (`table_file`)."""


class SegmentInfo(NamedTuple):
    """One file of the log, or for readers outside the storage, a part that is still in the write-ahead log."""

    base_offset: int
    """First of the offsets that it answers for."""
    last_offset: int
    size_bytes: int
    """Bytes of record batches. In the file a sealed segment's footer follows them."""
    max_timestamp: int
    created_ms: int
    """The time of its first records; when it was made, if they have none."""
    name: str = ""
    """The file's name in the store; "" for the part in the write-ahead log."""
    sealed: bool = False
    is_cleaned: bool = False
    """Written by the cleaner: offsets in its range may be missing. Its last batch ends at `last_offset`."""
    delete_horizon_ms: int = -1
    """Of what the cleaner kept for a while only (tombstones, markers): when the first may go; -1: there is none."""
    kind: FileKind = FileKind.SEGMENT
    details: bytes = b""
    """What a kind needs to say beyond this; its own code knows the meaning."""


class InheritedRange(NamedTuple):
    """Offsets that are in the write-ahead log of an earlier owner's session, until they are written behind."""

    session_id: int
    base_offset: int
    next_offset: int


@dataclass(frozen=True, slots=True)
class Manifest:
    leader_epoch: int
    """The owner's epoch when it was published."""
    log_start_offset: int = 0
    segments: tuple[SegmentInfo, ...] = ()
    """Ascending; only the last one may be open (appended to beyond its `size_bytes`)."""
    snapshot: PartitionSnapshot | None = None
    holes: tuple[tuple[int, int], ...] = ()
    """(first, last) offsets whose bytes are lost to corruption: reported, never skipped in silence."""

    owner_session: int = 0
    """On a storage that several brokers share: the session whose write-ahead log may hold what follows; else 0."""
    inherited: tuple[InheritedRange, ...] = ()
    """Ascending; what follows the segments and comes before what the owner itself has written."""

    @property
    def end_offset(self) -> int:
        """Next offset after the segments; what follows is in the write-ahead log."""
        end = self.segments[-1].last_offset + 1 if self.segments else self.log_start_offset
        for first, last in self.holes:
            if first <= end <= last:
                end = last + 1
        return end

    @property
    def first_dirty_offset(self) -> int:
        """The end of the cleaned part, which the log begins with: Kafka's cleaner checkpoint."""
        return cleaned_end(self.segments, self.log_start_offset)


def cleaned_end(segments: Sequence[SegmentInfo], start_offset: int) -> int:
    """Where the cleaned files end that the log begins with; `start_offset` if there are none."""
    end = start_offset
    for segment in segments:
        if not segment.is_cleaned:
            break
        end = segment.last_offset + 1
    return end


def tables_end(segments: Sequence[SegmentInfo]) -> int:
    """Where the last one that is a table ends; 0 if there is none."""
    return max((segment.last_offset + 1 for segment in segments if segment.kind is FileKind.PARQUET), default=0)


def require_not_superseded(manifest: Manifest, leader_epoch: int) -> None:
    """Raises Fenced for an ownership that somebody holds on to although there was a later one."""
    if leader_epoch < manifest.leader_epoch:
        raise Fenced(f"the log was opened at leader epoch {manifest.leader_epoch}, epoch {leader_epoch} is over")


def with_leader_epoch(manifest: Manifest, leader_epoch: int) -> Manifest:
    """After its owner has opened the log. Raises Fenced."""
    require_not_superseded(manifest, leader_epoch)
    return replace(manifest, leader_epoch=leader_epoch)


def with_owner(
    manifest: Manifest, leader_epoch: int, owner_session: int, inherited: Sequence[InheritedRange]
) -> Manifest:
    """After a session has opened the log: `inherited` is all that followed the segments when it looked. Raises Fenced.

    What was written behind since is in segments: naming it again would name a session whose log may be gone.
    """
    owned = replace(with_leader_epoch(manifest, leader_epoch), owner_session=owner_session, inherited=tuple(inherited))
    return with_inherited_from(owned, owned.end_offset)


def with_inherited_from(manifest: Manifest, offset: int) -> Manifest:
    """What was inherited below `offset` is in segments now, or no part of the log any more."""
    left = [one._replace(base_offset=max(one.base_offset, offset)) for one in manifest.inherited]
    return replace(manifest, inherited=tuple(one for one in left if one.base_offset < one.next_offset))


def with_segments(
    manifest: Manifest,
    written: Sequence[SegmentInfo],
    snapshot: PartitionSnapshot | None,
    holes: Sequence[tuple[int, int]] = (),
) -> Manifest:
    """After write-behind: `written` replaces the open segment of the same name, if any, and follows the sealed ones.

    Segments that lie wholly below the log start offset by now (it may have advanced meanwhile) are left out.
    """
    names = {segment.name for segment in written}
    kept = [segment for segment in manifest.segments if segment.name not in names]
    kept.extend(segment for segment in written if segment.last_offset >= manifest.log_start_offset)
    return with_holes(with_snapshot(replace(manifest, segments=tuple(kept)), snapshot), holes)


def with_snapshot(manifest: Manifest, snapshot: PartitionSnapshot | None) -> Manifest:
    """The newer one counts: several changes may be on their way, each with what was known when it began."""
    known = manifest.snapshot
    if snapshot is None or (known is not None and known.offset > snapshot.offset):
        return manifest
    return replace(manifest, snapshot=snapshot)


def with_open_segment_given_up(manifest: Manifest) -> Manifest:
    """The open segment's file is lost: readers of it are told so, and the log goes on in another one."""
    return replace(manifest, segments=tuple(segment._replace(sealed=True) for segment in manifest.segments))


def with_log_start(manifest: Manifest, log_start_offset: int) -> Manifest:
    """Advances the log start offset (never back) and drops the segments and holes wholly below it."""
    start = max(log_start_offset, manifest.log_start_offset)
    return replace(
        with_inherited_from(manifest, start),
        log_start_offset=start,
        segments=tuple(segment for segment in manifest.segments if segment.last_offset >= start),
        holes=tuple(hole for hole in manifest.holes if hole[1] >= start),
    )


def with_replaced(manifest: Manifest, before: Sequence[SegmentInfo], after: Sequence[SegmentInfo]) -> Manifest:
    """Some sealed files in a row become others that answer for the same offsets: cleaned, merged or converted.

    What the log start offset has passed meanwhile stays away. Raises Unavailable when any other of `before` is not in
    the manifest as it was: somebody else was faster, and `after` is garbage.
    """
    remaining = [segment for segment in before if segment.last_offset >= manifest.log_start_offset]
    if not remaining:
        return manifest
    position = next((number for number, one in enumerate(manifest.segments) if one == remaining[0]), -1)
    behind = position + len(remaining)
    if position < 0 or list(manifest.segments[position:behind]) != remaining:
        raise Unavailable("the files of the log changed while they were rewritten")
    written = [segment for segment in after if segment.last_offset >= manifest.log_start_offset]
    return replace(manifest, segments=(*manifest.segments[:position], *written, *manifest.segments[behind:]))


def with_holes(manifest: Manifest, holes: Sequence[tuple[int, int]]) -> Manifest:
    new = [hole for hole in holes if hole[1] >= manifest.log_start_offset]
    return replace(manifest, holes=tuple(sorted({*manifest.holes, *new}))) if new else manifest


def contradictions(manifest: Manifest) -> list[str]:
    """What is wrong with it, in words; empty for every manifest that may be published."""
    found = []
    expected: int | None = None
    for position, segment in enumerate(manifest.segments):
        if segment.last_offset < segment.base_offset or segment.size_bytes <= 0:
            found.append(f"segment {segment.name} is empty or reversed")
        if expected is not None and segment.base_offset < expected:
            found.append(f"segment {segment.name} starts at {segment.base_offset}, before {expected}")
        if (
            expected is not None
            and segment.base_offset > expected
            and not _is_hole(manifest, expected, segment.base_offset - 1)
        ):
            found.append(f"offsets {expected}..{segment.base_offset - 1} are in no segment")
        if not segment.sealed and position < len(manifest.segments) - 1:
            found.append(f"segment {segment.name} is open but not the last")
        expected = segment.last_offset + 1
    if manifest.segments and manifest.segments[0].last_offset < manifest.log_start_offset:
        found.append(f"segment {manifest.segments[0].name} is below the log start offset {manifest.log_start_offset}")
    return found


def _is_hole(manifest: Manifest, first: int, last: int) -> bool:
    return any(hole[0] <= first and last <= hole[1] for hole in manifest.holes)
