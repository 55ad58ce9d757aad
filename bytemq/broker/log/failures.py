"""What a client is told when storage fails: the one place of the log where storage's errors become Kafka's.

Never UNKNOWN_SERVER_ERROR: clients treat it as fatal to the producer. A storage that is full or away is retriable.
"""

from __future__ import annotations

from bytemq.errors import BytemqError, Corrupt, Fenced
from bytemq.protocol.error_codes import ErrorCode


def append_failure(error: BytemqError) -> ErrorCode:
    """For an append that did not become durable, or that nobody can say of whether it did."""
    return ErrorCode.NOT_LEADER_OR_FOLLOWER if isinstance(error, Fenced) else ErrorCode.KAFKA_STORAGE_ERROR


def read_failure(error: BytemqError) -> ErrorCode:
    """For bytes that could not be read, or that are not what was written."""
    if isinstance(error, Fenced):
        return ErrorCode.NOT_LEADER_OR_FOLLOWER
    return ErrorCode.CORRUPT_MESSAGE if isinstance(error, Corrupt) else ErrorCode.KAFKA_STORAGE_ERROR
