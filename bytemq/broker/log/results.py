"""The values a partition answers with. Plain data: no behaviour, no wire format.

Per-partition failures are values here (an `ErrorCode` in the answer), never exceptions: one bad partition must not
spoil a request for a thousand.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from bytemq.protocol.error_codes import ErrorCode

NO_OFFSET = -1
NO_TIMESTAMP = -1
NO_EPOCH = -1


class Origin(enum.IntEnum):
    """Who appends. Kafka's AppendOrigin: a coordinator may write internal topics, control batches and batches without
    a sequence.

    BUMPED_MARKER is a coordinator's marker under transaction version 2 (KIP-890, KIP-1228): its epoch is above that of
    the transaction's records, so it never ends a transaction of its own epoch, which is the next one.
    """

    CLIENT = 0
    COORDINATOR = 1
    BUMPED_MARKER = 2


class AppendResult(NamedTuple):
    """The answer to one append. `log_append_time_ms` is -1 unless the broker set the timestamp or the batch was a
    duplicate.
    """

    error: ErrorCode
    base_offset: int = NO_OFFSET
    log_append_time_ms: int = NO_TIMESTAMP
    log_start_offset: int = NO_OFFSET
    message: str | None = None
    record_errors: Sequence[tuple[int, str | None]] = ()
    """Of a batch that was refused for some of its records: which."""


class Fetched(NamedTuple):
    """Whole record batches for one reader, and the watermarks at the moment of reading.

    `aborted` is None for read_uncommitted; else (producer id, first offset) of every aborted transaction that
    overlaps what was read.
    """

    error: ErrorCode
    buffers: Sequence[memoryview | bytes] = ()
    size_bytes: int = 0
    high_watermark: int = NO_OFFSET
    last_stable_offset: int = NO_OFFSET
    log_start_offset: int = NO_OFFSET
    aborted: list[tuple[int, int]] | None = None


as_fetched: Callable[[tuple[object, ...]], Fetched] = partial(tuple.__new__, Fetched)
"""As `Fetched._make`, in one call of a function and not three: there are hundreds of thousands a second."""


class ListedOffset(NamedTuple):
    """The answer to one ListOffsets question; offset and timestamp are -1 where nothing matches."""

    error: ErrorCode
    offset: int = NO_OFFSET
    timestamp_ms: int = NO_TIMESTAMP
    leader_epoch: int = NO_EPOCH


class EpochEnd(NamedTuple):
    """The answer to OffsetForLeaderEpoch: the largest epoch not above the one asked for, and where it ends; -1, -1 if
    unknown.
    """

    error: ErrorCode
    leader_epoch: int = NO_EPOCH
    end_offset: int = NO_OFFSET


class LowWatermark(NamedTuple):
    """The answer to DeleteRecords: the log start offset afterwards."""

    error: ErrorCode
    low_watermark: int = NO_OFFSET


class ActiveProducer(NamedTuple):
    """One line of DescribeProducers."""

    producer_id: int
    producer_epoch: int
    last_sequence: int
    last_timestamp_ms: int
    coordinator_epoch: int
    current_txn_start_offset: int
