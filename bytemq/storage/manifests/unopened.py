"""What is known of a log that nobody has opened: its segments, from the manifest as it is stored.

Owns: this question alone, so that work over thousands of idle logs (retention, the cleaner) opens none of them. Must
not: keep what it decoded, or publish anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bytemq.metadata import keys
from bytemq.metadata.store import MetadataStore
from bytemq.storage.log_files import LogFiles
from bytemq.storage.manifests.manifest import SegmentInfo
from bytemq.storage.manifests.manifest_codec import decode_manifest, directory_of
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
    return _segments(partition, value)


class UnopenedLogs:
    """Of the logs that this session owns on a shared storage and has not opened. Each manifest is read when somebody
    first asks for it and stays as it is until it is forgotten: nobody else publishes it, and we do not while it is not
    open.
    """

    def __init__(self, metadata: MetadataStore) -> None:
        self._metadata = metadata
        self._manifests: dict[PartitionId, _Manifest] = {}

    async def segments_of(self, partition: PartitionId) -> Sequence[SegmentInfo]:
        """Raises Corrupt, Unavailable."""
        manifest = self._manifests.get(partition)
        if manifest is None:
            manifest = self._manifests[partition] = _Manifest()
        if manifest.value is None:
            entry = await self._metadata.get(keys.manifest(partition))
            # If it was forgotten meanwhile, this one is remembered by nobody.
            manifest.value = entry.value if entry is not None else b""
        return _segments(partition, manifest.value)

    def forget(self, partition: PartitionId) -> None:
        """It is being opened, or its ownership has ended or begins anew."""
        self._manifests.pop(partition, None)


class _Manifest:
    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: bytes | None = None
        """None: not read yet; empty: there is none."""


def _segments(partition: PartitionId, value: bytes) -> Sequence[SegmentInfo]:
    return decode_manifest(value, directory_of(partition)).manifest.segments if value else ()
