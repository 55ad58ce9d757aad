"""What a broker asks of the storage of its logs: the face that every implementation has.

Owns: the contract. `log_storage` honours it for one node on local files, `cluster_storage` for many on a shared store.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from bytemq.errors import BytemqError
from bytemq.protocol.records.batch import RecordBatch
from bytemq.storage.following.followed_logs import FollowedLogs
from bytemq.storage.log_files import LogFiles
from bytemq.storage.log_opening import NO_OFFSET
from bytemq.storage.manifests.manifest import SegmentInfo
from bytemq.storage.object_names import ObjectNames
from bytemq.storage.tables.published_columns import ColumnChange
from bytemq.storage.wal.staging import Append, OnDurable
from bytemq.types import PartitionId


class Logs(Protocol):
    """All methods are called on the event loop."""

    async def open_log(
        self, partition: PartitionId, leader_epoch: int, *, least_end_offset: int = NO_OFFSET
    ) -> LogFiles:
        """Publishes the owner's epoch and finds what its state is rebuilt from (`recovered`). Copies no data.

        Raises Corrupt while its manifest is damaged, or the log ends below `least_end_offset`, where its last owner
        left it: that log alone is offline, and all that is named of it stays. Fenced, Unavailable.
        """

    def append(self, files: LogFiles, batches: Sequence[RecordBatch], on_durable: OnDurable) -> None:
        """Stages batches that were placed at the log's next offsets. The storage owns their bytes until `on_durable`.
        Readers of the tail are shown that memory itself then: it is not used again while somebody has it in view.

        `on_durable` is called on the loop, never before this returns, in the order of the appends: with None when the
        bytes are durable and readable, or with an error, and then every later append in flight has failed too, and the
        log's next offset is its `end_offset` again: `files.taken_back` was called for each log involved before any
        append was told.
        Raises Invalid for batches that are not at the next offset.
        """

    def append_all(self, appends: Sequence[Append]) -> None:
        """As `append` of each, in order."""

    def hasten(self) -> None:
        """What was appended until now is urgent, whatever it is: somebody waits for the end of it."""

    async def replace_files(
        self,
        files: LogFiles,
        before: Sequence[SegmentInfo],
        after: Sequence[SegmentInfo],
        columns: ColumnChange | None = None,
    ) -> None:
        """Sealed files of the log are replaced by others that answer for the same offsets, in one step, durably, and
        the columns of their table become what they need.

        The files of `before` go when nobody reads them any more, which is the case when this returns; of `after`, those
        that are not needed after all.
        Raises Unavailable when the log's files are not those of `before`, ColumnsChanged, NotFound after deletion: the
        files of `after` go then; so they do when it is Fenced. Unavailable when it may have been published: what is
        left goes with the next change of the log, when that is known.
        """

    async def seal(self, files: LogFiles) -> None:
        """What is appended from now on goes to another segment. Raises as `replace_files`."""

    async def write_behind(self, files: LogFiles) -> None:
        """What the log has in the write-ahead log now goes into segments, with a snapshot of its owner's state. Raises
        Unavailable.
        """

    def discard(self, names: Sequence[str]) -> None:
        """Objects that somebody created for a log and that were never published: they go, with what is half made."""

    def placed(self, name: str) -> str:
        """The name of something new that is going to be created elsewhere: in the store that is best now."""

    @property
    def names(self) -> ObjectNames:
        """Of what this session makes."""

    async def look_ahead(self, session_id: int) -> None:
        """Logs of that session, which lives, are going to be opened here: what takes time is done now. Raises
        BytemqError, which does no harm.
        """

    async def release_log(self, partition: PartitionId) -> None:
        """This session owns the log no longer. Nothing of it is on its way when this returns, and nothing is published
        for it afterwards: whoever opens it next finds everything that was committed.

        The caller has seen to it that no append is pending.
        """

    async def delete_log(self, partition: PartitionId) -> None:
        """Forgets the log, durably when this returns; its files go when nobody reads them."""

    async def segments_of(self, partition: PartitionId) -> Sequence[SegmentInfo]:
        """As `LogFiles.segments` of a log that this broker owns, without opening it. Raises Corrupt, Unavailable.

        `release_log` is called between an ownership and the next one, also of a log that was not open.
        """

    async def checkpoint(self) -> None:
        """Writes everything committed so far to segments, whatever the limits. Raises Unavailable."""

    async def close(self) -> None:
        """A clean stop: what is staged is written, and whoever comes next has little to find out."""

    @property
    def held_logs(self) -> Collection[PartitionId]:
        """Logs that keep something from going, the write-ahead log of an ended session or a pool that is drained: their
        owners should open them."""

    @property
    def followed(self) -> FollowedLogs | None:
        """What serves readers of logs that others own; None where nobody else has any."""

    @property
    def pending_bytes(self) -> int:
        """Bytes appended but not durable yet."""

    @property
    def pool_states(self) -> Mapping[str, str]:
        """How each of several stores is, in words; empty where there is one."""

    @property
    def recovered_bytes(self) -> int:
        """How much of write-ahead logs was read to find out what counts."""

    @property
    def wal_bytes(self) -> int:
        """Space that the write-ahead log takes."""

    @property
    def healthy(self) -> BytemqError | None:
        """Why appends fail at present; None when they do not."""
