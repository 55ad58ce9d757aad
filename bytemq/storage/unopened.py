"""What is known of a log that nobody has opened: its segments, from the manifest as it is stored.

Owns: this question alone, so that work over thousands of idle logs (retention) opens none of them. Must not: keep what
it decoded, or publish anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bytemq.storage.log_files import LogFiles
from bytemq.storage.manifest import SegmentInfo
from bytemq.storage.manifest_codec import decode_manifest, directory_of
from bytemq.types import PartitionId


def segments_without_opening(
    partition: PartitionId, logs: Mapping[PartitionId, LogFiles], stored: Mapping[PartitionId, tuple[bytes, int]]
) -> Sequence[SegmentInfo]:
    """The log's segments, then the part in the write-ahead log; empty for a log that is not known.

    `logs`: those that were opened, or that recovery found in the write-ahead log; `stored`: manifests of all others,
    and their revisions. Raises Corrupt.
    """
    files = logs.get(partition)
    if files is not None:
        return files.segments
    value, _ = stored.get(partition, (b"", 0))
    return decode_manifest(value, directory_of(partition)).manifest.segments if value else ()
