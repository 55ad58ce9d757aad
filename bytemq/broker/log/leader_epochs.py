"""Leader epochs of one partition: at which offset each began, and what is answered to those who ask. Pure.

Kafka's LeaderEpochFileCache (KIP-101, KIP-279, KIP-320). An entry is only ever made at the committed end of the log,
by the owner that starts an epoch there, so a rollback of pending appends never touches one.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable

from bytemq.protocol.error_codes import ErrorCode

UNDEFINED_EPOCH = -1
UNDEFINED_OFFSET = -1


def check_leader_epoch(current_leader_epoch: int, leader_epoch: int) -> ErrorCode:
    """What a request naming `current_leader_epoch` (-1: does not care) gets from the owner at `leader_epoch`
    (KIP-320).
    """
    if current_leader_epoch in (UNDEFINED_EPOCH, leader_epoch):
        return ErrorCode.NONE
    if current_leader_epoch < leader_epoch:
        return ErrorCode.FENCED_LEADER_EPOCH
    return ErrorCode.UNKNOWN_LEADER_EPOCH


class LeaderEpochs:
    """(epoch, start offset) pairs, both strictly increasing."""

    __slots__ = ("_entries",)

    def __init__(self, entries: Iterable[tuple[int, int]] = ()) -> None:
        self._entries: list[tuple[int, int]] = []
        for epoch, start_offset in entries:
            self.assign(epoch, start_offset)

    @property
    def entries(self) -> list[tuple[int, int]]:
        return list(self._entries)

    @property
    def latest(self) -> int:
        return self._entries[-1][0] if self._entries else UNDEFINED_EPOCH

    def assign(self, epoch: int, start_offset: int) -> None:
        """Epoch `epoch` begins at `start_offset`. Repeating a known epoch, or naming an older one, changes nothing.

        An epoch that wrote nothing leaves no trace: its start equals the next one's.
        """
        if epoch <= self.latest:
            return
        while self._entries and self._entries[-1][1] >= start_offset:
            self._entries.pop()
        self._entries.append((epoch, start_offset))

    def epoch_at(self, offset: int) -> int:
        """The epoch in which the record at `offset` was written, -1 if before all that is known."""
        position = bisect_right(self._entries, offset, key=_start_offset)
        return self._entries[position - 1][0] if position else UNDEFINED_EPOCH

    def end_offset_for(self, epoch: int, end_offset: int) -> tuple[int, int]:
        """(largest known epoch <= `epoch`, where it ends), as Kafka's OffsetForLeaderEpoch; `end_offset` ends the
        latest epoch.
        """
        if epoch == UNDEFINED_EPOCH or not self._entries:
            return UNDEFINED_EPOCH, UNDEFINED_OFFSET
        if epoch == self.latest:
            return epoch, end_offset
        position = bisect_right(self._entries, epoch, key=_epoch)
        if position == len(self._entries):  # newer than all we know: the asker must look elsewhere
            return UNDEFINED_EPOCH, UNDEFINED_OFFSET
        higher_start = self._entries[position][1]
        if position == 0:  # older than all we know: nothing of it is left
            return epoch, higher_start
        return self._entries[position - 1][0], higher_start

    def advance_log_start(self, log_start_offset: int) -> None:
        """Forget epochs that ended at or below `log_start_offset`; the one that spans it now starts there."""
        position = bisect_right(self._entries, log_start_offset, key=_start_offset)
        if position:
            self._entries[:position] = [(self._entries[position - 1][0], log_start_offset)]


def _epoch(entry: tuple[int, int]) -> int:
    return entry[0]


def _start_offset(entry: tuple[int, int]) -> int:
    return entry[1]
