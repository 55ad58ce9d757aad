"""Finding offsets by time: the questions of ListOffsets, answered to the exact record.

Storage finds the batch by its header; the records in it are looked at here, on the executor when there is much to
look at.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

from bytemq.broker.log.failures import read_failure
from bytemq.broker.log.leader_epochs import LeaderEpochs
from bytemq.broker.log.reading import readable_end
from bytemq.broker.log.results import ListedOffset
from bytemq.broker.log.services import LogServices
from bytemq.broker.log.state import LogState
from bytemq.errors import BytemqError
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.protocol.records import reader
from bytemq.protocol.records.batch import LOG_APPEND_TIME, RecordBatch
from bytemq.protocol.records.compression import DecompressedTooLarge
from bytemq.storage.log_timestamps import find_timestamp, max_timestamp_batch

if TYPE_CHECKING:
    from bytemq.storage.log_files import LogFiles

LATEST: Final = -1
EARLIEST: Final = -2
MAX_TIMESTAMP: Final = -3
EARLIEST_LOCAL: Final = -4
LATEST_TIERED: Final = -5

_FEW_RECORDS = 64
_FEW_BYTES = 16 * 1024


class OffsetFinder:
    """One ListOffsets question at a time against one log; made per question, holds nothing of its own."""

    __slots__ = ("_epochs", "_files", "_services", "_state")

    def __init__(
        self,
        files: LogFiles,
        state: LogState[Any],
        epochs: LeaderEpochs,
        services: LogServices,
    ) -> None:
        self._files = files
        self._state = state
        self._epochs = epochs
        self._services = services

    async def find(self, timestamp_ms: int, isolation: int, leader_epoch: int) -> ListedOffset:
        """See `Partition.list_offset`."""
        state = self._state
        end_offset = readable_end(state, isolation)
        if timestamp_ms == LATEST:
            return ListedOffset(ErrorCode.NONE, end_offset, leader_epoch=leader_epoch)
        if timestamp_ms in (EARLIEST, EARLIEST_LOCAL):
            start = state.log_start_offset
            return ListedOffset(ErrorCode.NONE, start, leader_epoch=self._epochs.epoch_at(start))
        if timestamp_ms == LATEST_TIERED:  # nothing of the log is in a remote tier
            return ListedOffset(ErrorCode.NONE)
        if timestamp_ms < 0 and timestamp_ms != MAX_TIMESTAMP:
            return ListedOffset(ErrorCode.UNSUPPORTED_VERSION)
        try:
            async with self._services.lookups:
                if timestamp_ms == MAX_TIMESTAMP:
                    return await self._newest(end_offset)
                return await self._first_at_or_after(timestamp_ms, end_offset)
        except BytemqError as error:
            return ListedOffset(read_failure(error))
        except KafkaError as error:
            return ListedOffset(error.code)

    async def _newest(self, end_offset: int) -> ListedOffset:
        """The first record with the largest timestamp."""
        batch = await max_timestamp_batch(self._files, end_offset)
        if batch is None:
            return ListedOffset(ErrorCode.NONE)
        return await self._within(batch, batch.max_timestamp) or _whole(batch)

    async def _first_at_or_after(self, timestamp_ms: int, end_offset: int) -> ListedOffset:
        start_offset = self._state.log_start_offset
        while True:
            batch = await find_timestamp(self._files, timestamp_ms, end_offset, start_offset=start_offset)
            if batch is None:
                return ListedOffset(ErrorCode.NONE)
            found = await self._within(batch, timestamp_ms)
            if found is not None:
                return found
            if batch.base_offset >= self._state.log_start_offset:
                return _whole(batch)
            start_offset = batch.next_offset  # the records in question were deleted with the front of this batch

    async def _within(self, batch: RecordBatch, timestamp_ms: int) -> ListedOffset | None:
        log_start_offset = self._state.log_start_offset
        if batch.timestamp_type == LOG_APPEND_TIME:
            offset = max(batch.base_offset, log_start_offset)
            return ListedOffset(ErrorCode.NONE, offset, batch.max_timestamp, batch.leader_epoch)
        if not batch.compression and batch.record_count <= _FEW_RECORDS and batch.size_bytes <= _FEW_BYTES:
            found = reader.first_at_or_after(batch, timestamp_ms, log_start_offset)
        else:
            look = partial(_look, batch, timestamp_ms, log_start_offset)
            try:
                found = await self._services.opener.run(batch, look)
            except DecompressedTooLarge:  # not late, at worst early
                offset = max(batch.base_offset, log_start_offset)
                return ListedOffset(ErrorCode.NONE, offset, batch.max_timestamp, batch.leader_epoch)
        return None if found is None else ListedOffset(ErrorCode.NONE, found[0], found[1], batch.leader_epoch)


def _look(batch: RecordBatch, timestamp_ms: int, log_start_offset: int, room_bytes: int) -> tuple[int, int] | None:
    return reader.first_at_or_after(batch, timestamp_ms, log_start_offset, max_decompressed_bytes=room_bytes)


def _whole(batch: RecordBatch) -> ListedOffset:
    """For a header that promises a later record than the batch holds (nobody walked it): not late, at worst early."""
    return ListedOffset(ErrorCode.NONE, batch.base_offset, batch.max_timestamp, batch.leader_epoch)
