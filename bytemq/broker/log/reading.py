"""Reading one partition: what may be seen, and what is answered where nothing can be.

Owns the visibility rules of Fetch: nothing at or above the high watermark (read_uncommitted) or the last stable
offset (read_committed), nothing below the log start offset. Must not: know where bytes are, or wait for records to
come.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from bytemq.broker.log.failures import read_failure
from bytemq.broker.log.results import Fetched, as_fetched
from bytemq.errors import BytemqError, Fenced, NotFound
from bytemq.protocol.error_codes import ErrorCode
from bytemq.runtime.logging import LogGate, get_logger

if TYPE_CHECKING:
    from bytemq.broker.log.transactions import Transactions
    from bytemq.storage.log_files import LogFiles
    from bytemq.storage.reading import Read

log = get_logger("broker.log.reading")

READ_UNCOMMITTED = 0
READ_COMMITTED = 1


class Visible(Protocol):
    """What of a log may be seen at this moment, by its owner or by somebody who follows it."""

    @property
    def log_start_offset(self) -> int: ...
    @property
    def last_stable_offset(self) -> int: ...
    @property
    def high_watermark(self) -> int: ...
    @property
    def end_offset(self) -> int: ...
    @property
    def transactions(self) -> Transactions: ...


def readable_end(state: Visible, isolation: int) -> int:
    """The offset at which a reader must stop."""
    return state.last_stable_offset if isolation == READ_COMMITTED else state.high_watermark


def read_cached(
    files: LogFiles,
    state: Visible,
    offset: int,
    max_bytes: int,
    isolation: int,
    at_least_one: bool,
    gate: LogGate,
) -> Fetched | None:
    """See `Partition.read_cached`."""
    answer = _without_bytes(state, offset, isolation)
    if answer is not None:
        return answer
    try:
        read = files.read_cached(offset, max_bytes, readable_end(state, isolation), at_least_one=at_least_one)
    except BytemqError as error:
        return _unreadable(files, state, offset, error, gate)
    return None if read is None else _fetched(state, offset, read, isolation)


def read_in_memory(files: LogFiles, state: Visible, offset: int, max_bytes: int, isolation: int) -> Fetched | None:
    """See `Partition.read_in_memory`."""
    high_watermark = state.high_watermark
    if offset == high_watermark:
        return nothing_new(state, isolation)
    stable_offset, log_start_offset = state.last_stable_offset, state.log_start_offset
    end_offset = stable_offset if isolation == READ_COMMITTED else high_watermark
    if not log_start_offset <= offset < end_offset:
        return None
    read = files.read_in_memory(offset, max_bytes, end_offset)
    if read is None:
        return None
    buffers, size_bytes, _, next_offset = read
    aborted = state.transactions.aborted_between(offset, next_offset) if isolation == READ_COMMITTED else None
    return as_fetched((ErrorCode.NONE, buffers, size_bytes, high_watermark, stable_offset, log_start_offset, aborted))


async def read(
    files: LogFiles,
    state: Visible,
    offset: int,
    max_bytes: int,
    isolation: int,
    at_least_one: bool,
    gate: LogGate,
) -> Fetched:
    """See `Partition.read`."""
    while True:
        answer = _without_bytes(state, offset, isolation)
        if answer is not None:
            return answer
        forgotten_below = state.transactions.forgotten_below
        try:
            found = await files.read(offset, max_bytes, readable_end(state, isolation), at_least_one=at_least_one)
        except BytemqError as error:
            return _unreadable(files, state, offset, error, gate)
        if isolation != READ_COMMITTED or state.transactions.forgotten_below <= max(offset, forgotten_below):
            return _fetched(state, offset, found, isolation)
        # The log was cleaned, or its start moved, while this was read: it may hold what was aborted, and nobody knows.


def failed(state: Visible, code: ErrorCode) -> Fetched:
    """No bytes, and the watermarks as they are: readers of an offset out of range use them to find their way."""
    return Fetched(code, (), 0, state.high_watermark, state.last_stable_offset, state.log_start_offset)


def nothing_new(state: Visible, isolation: int) -> Fetched:
    """The answer to whoever has read everything."""
    aborted: list[tuple[int, int]] | None = [] if isolation == READ_COMMITTED else None
    watermarks = (state.high_watermark, state.last_stable_offset, state.log_start_offset)
    return as_fetched((ErrorCode.NONE, (), 0, *watermarks, aborted))


def _without_bytes(state: Visible, offset: int, isolation: int) -> Fetched | None:
    """The answer where no byte need be read: out of range, or at the end."""
    if not state.log_start_offset <= offset <= state.end_offset:
        return failed(state, ErrorCode.OFFSET_OUT_OF_RANGE)
    if offset < readable_end(state, isolation):
        return None
    return nothing_new(state, isolation)


def _fetched(state: Visible, offset: int, read: Read, isolation: int) -> Fetched:
    aborted = None
    if isolation == READ_COMMITTED:
        aborted = state.transactions.aborted_between(offset, read.next_offset)
    watermarks = (state.high_watermark, state.last_stable_offset, state.log_start_offset)
    return as_fetched((ErrorCode.NONE, read.buffers, read.size_bytes, *watermarks, aborted))


def _unreadable(files: LogFiles, state: Visible, offset: int, error: BytemqError, gate: LogGate) -> Fetched:
    if offset < state.log_start_offset:  # retention or DeleteRecords overtook the reader
        return failed(state, ErrorCode.OFFSET_OUT_OF_RANGE)
    expected = isinstance(error, NotFound | Fenced)  # deleted, or another owner's, meanwhile
    kept_back = None if expected else gate.allow(files.partition)
    if kept_back is not None:
        log.error(
            "a read failed", partition=files.partition, offset=offset, reason=str(error), not_logged_since=kept_back
        )
    return failed(state, read_failure(error))
