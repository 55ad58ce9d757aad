"""What an operation of a coordinator asks of its runtime. Plain data, shared by all coordinators.

Kafka's `CoordinatorResult`: records to append in one batch, the response to give once they are committed, and what the
machine wants to do when the append has ended.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple, Protocol, TypeVar

from bytemq.protocol.error_codes import ErrorCode

R_co = TypeVar("R_co", covariant=True)


class CoordinatorRecord(Protocol):
    """A record of an internal topic in the machine's own terms."""

    def encode_key(self) -> bytes:
        """The record's key as it is stored."""

    def encode_value(self) -> bytes | None:
        """The record's value as it is stored; None is a tombstone."""


class Envelope(NamedTuple):
    """Whose transaction a batch belongs to. A control batch ends that transaction and has the marker as its one record.

    `is_bumped`: the marker's epoch is above that of the transaction's records (transaction version 2, KIP-890).
    """

    producer_id: int
    producer_epoch: int
    is_control: bool = False
    is_bumped: bool = False


class Outcome(NamedTuple, Generic[R_co]):
    """`response` goes out after the commit of `records`, or at once after everything before it when there are none.

    `on_appended(NONE)` is called when the records are committed, or with the error when they will never be; it may
    change the machine and returns what follows from that. Of an operation that answers by itself and has no records, it
    is called when everything that the operation saw is committed. Records with an `envelope` are written in a
    transaction; they may be refused, as a client's batches are, with no effect on what comes after them.
    """

    response: R_co
    records: Sequence[CoordinatorRecord] = ()
    on_appended: Callable[[ErrorCode], Outcome[None]] | None = None
    envelope: Envelope | None = None


class Replayed(NamedTuple):
    """How far a machine has come in what was read of its log: position and offset behind the batches that it took, and
    how many records these have. The offset is -1 if it took none.
    """

    position: int
    next_offset: int
    records: int


NOTHING: Outcome[None] = Outcome(None)
"""Neither records nor a response: whoever waits, waits on."""

_AS_ANSWERED = {
    ErrorCode.UNKNOWN_TOPIC_OR_PARTITION: ErrorCode.COORDINATOR_NOT_AVAILABLE,
    ErrorCode.NOT_ENOUGH_REPLICAS: ErrorCode.COORDINATOR_NOT_AVAILABLE,
    ErrorCode.REQUEST_TIMED_OUT: ErrorCode.COORDINATOR_NOT_AVAILABLE,
    ErrorCode.NOT_LEADER_OR_FOLLOWER: ErrorCode.NOT_COORDINATOR,
    ErrorCode.KAFKA_STORAGE_ERROR: ErrorCode.NOT_COORDINATOR,
    ErrorCode.MESSAGE_TOO_LARGE: ErrorCode.UNKNOWN_SERVER_ERROR,
    ErrorCode.RECORD_LIST_TOO_LARGE: ErrorCode.UNKNOWN_SERVER_ERROR,
    ErrorCode.INVALID_FETCH_SIZE: ErrorCode.UNKNOWN_SERVER_ERROR,
}


def answered_error(append_error: ErrorCode) -> ErrorCode:
    """What a client of the coordinator is told when an append fails: codes it knows, which make it retry or look
    again.
    """
    return _AS_ANSWERED.get(append_error, append_error)
