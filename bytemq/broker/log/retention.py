"""Which segments have outlived retention.ms and retention.bytes: old log start offset -> new one. Pure.

Kafka's rules (UnifiedLog.deleteOldSegments): whole segments only, oldest first, stopping at the first that must stay;
a segment's age is that of its newest record; nothing at or above the high watermark goes. Unlike Kafka's local log
the newest segment may go as well once it has expired: there is no active file to keep.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from bytemq.storage.manifests.manifest import SegmentInfo

UNLIMITED = -1


class RetentionPolicy(NamedTuple):
    """retention.ms and retention.bytes of the topic; -1 keeps everything."""

    retention_ms: int
    retention_bytes: int


def retained_from(
    segments: Sequence[SegmentInfo], policy: RetentionPolicy, *, log_start_offset: int, high_watermark: int, now_ms: int
) -> int:
    """The log start offset after retention: that of before, or the first offset of the oldest segment that stays."""
    start = log_start_offset
    excess_bytes = sum(segment.size_bytes for segment in segments) - policy.retention_bytes
    for segment in segments:
        next_offset = segment.last_offset + 1
        if next_offset > high_watermark:
            break
        too_much = policy.retention_bytes != UNLIMITED and excess_bytes >= segment.size_bytes
        if not (too_much or _expired(segment, policy.retention_ms, now_ms)):
            break
        excess_bytes -= segment.size_bytes
        start = max(start, next_offset)
    return start


def could_retain_less(segments: Sequence[SegmentInfo], policy: RetentionPolicy, now_ms: int) -> bool:
    """Whether a log that is not open may have something to let go of: False is certain, True is worth opening it.

    How what is not sealed will be cut into segments is its owner's to say. Here it is as old as its first records are,
    and as small as it could be.
    """
    if not segments:
        return False
    oldest = segments[0]
    if not oldest.sealed:
        total_bytes = sum(segment.size_bytes for segment in segments)
        too_much = policy.retention_bytes != UNLIMITED and total_bytes > policy.retention_bytes
        return too_much or _expired(oldest._replace(max_timestamp=oldest.created_ms), policy.retention_ms, now_ms)
    end_offset = segments[-1].last_offset + 1
    return retained_from(segments, policy, log_start_offset=0, high_watermark=end_offset, now_ms=now_ms) > 0


def _is_in_wal(segment: SegmentInfo) -> bool:
    return not segment.name


def _expired(segment: SegmentInfo, retention_ms: int, now_ms: int) -> bool:
    """Records without timestamps (-1) age from when the segment was made, and not at all before that."""
    if segment.max_timestamp < 0 and _is_in_wal(segment):
        return False
    newest_ms = segment.max_timestamp if segment.max_timestamp >= 0 else segment.created_ms
    return retention_ms != UNLIMITED and now_ms - newest_ms > retention_ms
