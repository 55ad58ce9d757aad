"""Control records: the markers that end a transaction, and Raft's, which are only named here.

Owns the layout of their keys and values (KIP-98: EndTransactionMarker). A control batch holds one.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final, NamedTuple

from bytemq.protocol.records.builder import Record, build_batch

_KEY = struct.Struct(">hh")
_END_TRANSACTION = struct.Struct(">hi")
_COMMITTED = 1 << 31
_EPOCH_MASK = _COMMITTED - 1
NO_MARKER: Final = 0xFFFFFFFF
"""The word of a control batch that ends no transaction. As a marker it would be a commit by coordinator epoch -1,
which is the epoch of administrators, who only ever abort.
"""


class ControlType(IntEnum):
    """Second number of a control record's key."""

    ABORT = 0
    COMMIT = 1
    LEADER_CHANGE = 2
    SNAPSHOT_HEADER = 3
    SNAPSHOT_FOOTER = 4
    KRAFT_VERSION = 5
    KRAFT_VOTERS = 6


class EndTransactionMarker(NamedTuple):
    committed: bool
    coordinator_epoch: int


def control_type(key: bytes | None) -> int | None:
    """Type of a control record; None for a key that is none, a number without a name for one newer than this
    program.
    """
    if key is None or len(key) < _KEY.size:
        return None
    version, number = _KEY.unpack_from(key)
    return int(number) if version >= 0 else None


def parse_end_transaction(record: Record) -> EndTransactionMarker | None:
    """The marker in a control record, None when it is another kind or its value is cut."""
    found = control_type(record.key)
    if found not in (ControlType.ABORT, ControlType.COMMIT) or record.value is None:
        return None
    if len(record.value) < _END_TRANSACTION.size:
        return None
    _, coordinator_epoch = _END_TRANSACTION.unpack_from(record.value)
    return EndTransactionMarker(found == ControlType.COMMIT, coordinator_epoch)


def end_transaction_key_value(marker: EndTransactionMarker) -> tuple[bytes, bytes]:
    """The marker as a record's key and value."""
    number = ControlType.COMMIT if marker.committed else ControlType.ABORT
    return _KEY.pack(0, number), _END_TRANSACTION.pack(0, marker.coordinator_epoch)


def end_transaction_batch(
    marker: EndTransactionMarker, *, producer_id: int, producer_epoch: int, timestamp_ms: int
) -> bytearray:
    """The control batch that a coordinator writes to a partition of a transaction."""
    return build_batch(
        [Record(*end_transaction_key_value(marker))],
        timestamp_ms=timestamp_ms,
        producer_id=producer_id,
        producer_epoch=producer_epoch,
        transactional=True,
        control=True,
    )


def marker_word(marker: EndTransactionMarker | None) -> int:
    """The 32-bit form of what a control batch says, which storage keeps beside its header: recovery need not open the
    batch.
    """
    if marker is None:
        return NO_MARKER
    return (_COMMITTED if marker.committed else 0) | marker.coordinator_epoch & _EPOCH_MASK


def marker_of(word: int) -> EndTransactionMarker | None:
    """The inverse of `marker_word`."""
    if word == NO_MARKER:
        return None
    coordinator_epoch = word & _EPOCH_MASK
    return EndTransactionMarker(bool(word & _COMMITTED), -1 if coordinator_epoch == _EPOCH_MASK else coordinator_epoch)
