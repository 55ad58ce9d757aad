"""What earlier sessions left in their write-ahead logs, on local files, put behind what is known of each log.

Owns: the order of it, session by session, and what becomes of their files. Must not: know which flush counts
(`wal.recovery` does), or how a flush is taken over (`wal.takeover`).
"""

from __future__ import annotations

from contextlib import suppress

from bytemq.errors import Corrupt, Invalid
from bytemq.metadata import keys
from bytemq.metadata.store import MetadataStore
from bytemq.runtime.logging import get_logger
from bytemq.storage.known_logs import KnownLogs
from bytemq.storage.log_files import LogFiles
from bytemq.storage.stores.interface import Store
from bytemq.storage.wal.bulk import BulkFiles
from bytemq.storage.wal.format import Share
from bytemq.storage.wal.recovery import SessionRecovery
from bytemq.storage.wal.takeover import Takeover
from bytemq.storage.wal.wal_files import WalFile, WalFiles
from bytemq.storage.wal.wal_index import TailRecord, decode_tail
from bytemq.types import PartitionId

log = get_logger("storage")


class EarlierSessions:
    def __init__(
        self, store: Store, metadata: MetadataStore, known: KnownLogs, wal_files: WalFiles, bulk: BulkFiles
    ) -> None:
        self._store = store
        self._metadata = metadata
        self._known = known
        self._wal_files = wal_files
        self._bulk = bulk
        self.walked_bytes = 0
        """How much of their logs had to be walked through."""

    async def recover(self, session_id: int) -> None:
        """`session_id` is the new one's. Raises Invalid when it was used before, Corrupt, Unavailable."""
        entries = (await self._metadata.range(keys.WAL_TAILS)).entries
        tails = [(decode_tail(entry.value), entry.revision) for entry in entries]
        for tail, revision in sorted(tails):
            if tail.session_id >= session_id:
                raise Invalid(f"session id {session_id} is not above {tail.session_id}, which was used before")
            await self._recover_one(tail, revision)
        for files in self._known.opened.values():
            _check_end(files)
        for file in self._known.offline.values():
            if file is not None:
                self._wal_files.keep(file)

    async def _recover_one(self, tail: TailRecord, revision: int) -> None:
        takeover = Takeover(self._log_of, self._bulk)
        recovery = SessionRecovery(self._store, tail, self._wal_files.next_ordinal, self._needs, takeover)
        await recovery.run()
        await self._bulk.settle_recovered(file for file in recovery.bulk.values() if file is not None)
        self.walked_bytes += recovery.walked_bytes
        for file in recovery.files:
            if file.heads:
                # After a kill the kernel has what was written; what is served from now on must survive a power cut too.
                await file.writable.sync()
            self._wal_files.adopt(file)
            await self._wal_files.write_index(file)
        if not tail.is_sealed:
            number = recovery.files[-1].number if recovery.files else tail.first_number
            tail = tail._replace(sealed_number=number, sealed_sequence=recovery.sequence)
        await self._wal_files.publish_tail(tail, revision)
        log.info(
            "write-ahead log recovered",
            session=tail.session_id,
            files=len(recovery.files),
            sequence=recovery.sequence,
            walked_bytes=recovery.walked_bytes,
        )

    def _needs(self, share: Share) -> bool:
        """Whether the log of a share still has it from nowhere else."""
        files = None
        with suppress(Corrupt):
            files = self._known.known_log(share.partition)
        return files is not None and share.next_offset > files.manifest.end_offset

    def _log_of(self, partition: PartitionId, file: WalFile) -> LogFiles | None:
        """The log that something in a recovered file is of; None where it was deleted since, or cannot be opened."""
        try:
            return self._known.known_log(partition)
        except Corrupt:
            self._known.offline[partition] = self._known.offline[partition] or file
            return None


def _check_end(files: LogFiles) -> None:
    """A snapshot is published after what it describes became durable: if the log ends before it, bytes are lost."""
    if files.stored.snapshot_offset > files.end_offset:
        files.report_hole(files.end_offset, files.stored.snapshot_offset - 1)
        files.wal.end_offset = files.stored.snapshot_offset
        files.staged_end = files.end_offset
