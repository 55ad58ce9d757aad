"""The logs of a node on local files: those that are open, and what the metadata said of all others when it started.

Owns: making a log of its manifest, and which ones are offline because that is damaged. Must not: read files, or
publish.
"""

from __future__ import annotations

from bytemq.errors import Corrupt
from bytemq.metadata import keys
from bytemq.metadata.store import MetadataStore
from bytemq.runtime.logging import get_logger
from bytemq.storage.log_files import Files, LogFiles
from bytemq.storage.manifests.manifest import Manifest
from bytemq.storage.manifests.manifest_codec import StoredManifest, decode_manifest, directory_of
from bytemq.storage.wal.wal_files import WalFile
from bytemq.types import PartitionId

log = get_logger("storage")


class KnownLogs:
    def __init__(self, files: Files) -> None:
        self._files = files
        self.opened: dict[PartitionId, LogFiles] = {}
        self.stored: dict[PartitionId, tuple[bytes, int]] = {}
        """Manifests of the others, and their revisions."""
        self.offline: dict[PartitionId, WalFile | None] = {}
        """Logs whose manifest is damaged, with the first file of the write-ahead log that holds something of them."""

    async def read(self, metadata: MetadataStore) -> None:
        for entry in (await metadata.range(keys.MANIFESTS)).entries:
            self.stored[keys.partition_of_manifest(entry.key)] = (entry.value, entry.revision)

    def log(self, partition: PartitionId) -> LogFiles:
        """Open from now on; an empty one if it is not known. Raises Corrupt."""
        files = self.opened.get(partition)
        if files is None:
            files = self.opened[partition] = self._load(partition)
        return files

    def known_log(self, partition: PartitionId) -> LogFiles | None:
        """As `log`; None if it is not known."""
        return self.log(partition) if partition in self.opened or partition in self.stored else None

    def log_for_deletion(self, partition: PartitionId) -> LogFiles | None:
        """Also one whose manifest is damaged: its files are garbage for the next start then."""
        try:
            return self.known_log(partition)
        except Corrupt:
            _, revision = self.stored.pop(partition)
            stored = StoredManifest(Manifest(leader_epoch=-1))
            files = self.opened[partition] = LogFiles(partition, stored, revision, self._files)
            return files

    def _load(self, partition: PartitionId) -> LogFiles:
        value, revision = self.stored.get(partition, (b"", 0))
        stored = StoredManifest(Manifest(leader_epoch=-1))
        if value:
            try:
                stored = decode_manifest(value, directory_of(partition))
            except Corrupt as error:
                if partition not in self.offline:
                    self.offline[partition] = None
                    log.error(
                        "the partition is offline: its manifest is damaged", partition=partition, reason=str(error)
                    )
                raise Corrupt(f"{keys.manifest(partition)}: {error}") from error
        self.stored.pop(partition, None)
        return LogFiles(partition, stored, revision, self._files)
