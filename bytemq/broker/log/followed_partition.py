"""One partition that another broker owns, as far as it is committed: what readers in this broker's zone get.

Owns: the answers to those who read from a broker that is not the owner. Must not: append, list offsets, or say that an
offset is out of range because it is not known here yet.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bytemq.broker.log import reading
from bytemq.broker.log.followed_state import FollowedState
from bytemq.broker.log.leader_epochs import check_leader_epoch
from bytemq.broker.log.partition import PartitionTraffic
from bytemq.broker.log.results import EpochEnd, Fetched
from bytemq.broker.log.waiters import Waiters
from bytemq.protocol.error_codes import ErrorCode
from bytemq.runtime.logging import LogGate
from bytemq.storage.log_files import LogFiles, RecoveredLog
from bytemq.storage.manifests.manifest import AbortedTxn
from bytemq.storage.wal.format import decode_entries
from bytemq.types import PartitionId


class FollowedPartition:
    """Implements `followed_logs.Follower`, and for Fetch what `Partition` does. Open once `begun` was called."""

    def __init__(
        self,
        pid: PartitionId,
        topic: str,
        leader_epoch: Callable[[], int],
        doubt: Callable[[PartitionId], None],
        gate: LogGate,
    ) -> None:
        """`leader_epoch`: what the cluster's metadata say at this moment. `doubt` is told when files are not what they
        should be: what is known of them may be out of date.
        """
        self.pid = pid
        self.topic = topic
        self.traffic = PartitionTraffic()
        self.waiters: Waiters[FollowedPartition] = Waiters()
        self.is_closed = False
        self.is_read = True
        """Whether somebody wants it as it grows."""
        self.fetched_at = 0.0
        """When somebody last asked, by the monotonic clock."""
        self._leader_epoch = leader_epoch
        self._doubt = doubt
        self._gate = gate
        self._files: LogFiles | None = None
        self._state: FollowedState | None = None

    # What is told of the log.

    def begun(self, files: LogFiles) -> None:
        assert files.recovered is not None
        state = followed_state(files.recovered)
        if self._state is None or state.high_watermark >= self._state.high_watermark:
            self._files, self._state = files, state
        self.waiters.wake(self)

    def committed(self, entries: bytes | memoryview, next_offset: int) -> None:
        state = self._known
        state.extend(decode_entries(entries), next_offset)
        self.waiters.wake(self)

    def trimmed(self, log_start_offset: int, first_dirty_offset: int) -> None:
        self._known.trim(log_start_offset, first_dirty_offset)

    def close(self) -> None:
        """Everybody who waits is told to ask elsewhere."""
        self.is_closed = True
        self.waiters.wake(self)

    @property
    def _known(self) -> FollowedState:
        assert self._state is not None, "the log has begun"
        return self._state

    # What readers are answered.

    @property
    def high_watermark(self) -> int:
        return self._known.high_watermark

    @property
    def last_stable_offset(self) -> int:
        return self._known.last_stable_offset

    @property
    def log_start_offset(self) -> int:
        return self._known.log_start_offset

    @property
    def files(self) -> LogFiles:
        """As `Partition.files`; its owner may have a newer manifest than is known here, or an older one."""
        assert self._files is not None, "the log has begun"
        return self._files

    @property
    def aborted_transactions(self) -> Sequence[AbortedTxn]:
        """As `Partition.aborted_transactions`."""
        return self._known.transactions.aborted

    def read_cached(self, offset: int, max_bytes: int, *, isolation: int, at_least_one: bool = True) -> Fetched | None:
        """As `Partition.read_cached`."""
        early = self._without_reading(offset, isolation)
        if early is not None:
            return early
        assert self._files is not None
        read = reading.read_cached(self._files, self._known, offset, max_bytes, isolation, at_least_one, self._gate)
        return None if read is None else self._or_elsewhere(read)

    def read_in_memory(self, offset: int, max_bytes: int, *, isolation: int) -> Fetched | None:
        """As `Partition.read_in_memory`: what others have committed comes out of their files."""
        return None

    async def read(self, offset: int, max_bytes: int, *, isolation: int, at_least_one: bool = True) -> Fetched:
        """As `Partition.read`."""
        early = self._without_reading(offset, isolation)
        if early is not None:
            return early
        assert self._files is not None
        read = await reading.read(self._files, self._known, offset, max_bytes, isolation, at_least_one, self._gate)
        return self._or_elsewhere(read)

    def _without_reading(self, offset: int, isolation: int) -> Fetched | None:
        """Above what is known here nothing is said: it may be there, and whoever asks may wait for it."""
        if self.is_closed:
            return reading.failed(self._known, ErrorCode.NOT_LEADER_OR_FOLLOWER)
        if offset > self._known.high_watermark:
            return reading.failed(self._known, ErrorCode.NONE)
        return None

    def _or_elsewhere(self, read: Fetched) -> Fetched:
        """What cannot be read here, for whatever reason, is asked of the owner: clients go there with this error."""
        if read.error in (ErrorCode.NONE, ErrorCode.OFFSET_OUT_OF_RANGE):
            return read
        self._doubt(self.pid)
        return read._replace(error=ErrorCode.OFFSET_NOT_AVAILABLE)

    def available_bytes(self, offset: int, isolation: int, enough_bytes: int) -> int | None:
        """As `Partition.available_bytes`."""
        state = self._known
        if self.is_closed or offset < state.log_start_offset:
            return None
        end_offset = reading.readable_end(state, isolation)
        if offset >= end_offset:
            return 0
        assert self._files is not None
        return 1 if enough_bytes <= 1 else max(1, self._files.bytes_between(offset, end_offset, enough_bytes))

    def check_leader_epoch(self, current_leader_epoch: int) -> ErrorCode:
        """As `Partition.check_leader_epoch`, by the metadata as this broker has seen them."""
        return check_leader_epoch(current_leader_epoch, self._leader_epoch())

    def offset_for_leader_epoch(self, epoch: int, current_leader_epoch: int) -> EpochEnd:
        """As `Partition.offset_for_leader_epoch`, within what is known here."""
        error = self.check_leader_epoch(current_leader_epoch)
        if error is not ErrorCode.NONE:
            return EpochEnd(error)
        return EpochEnd(ErrorCode.NONE, *self._known.epochs.end_offset_for(epoch, self._known.high_watermark))


def followed_state(recovered: RecoveredLog) -> FollowedState:
    """The state at the committed end of a log that was looked up."""
    state = FollowedState(recovered.log_start_offset, recovered.snapshot)
    state.extend(recovered.headers, recovered.end_offset)
    state.trim(recovered.log_start_offset, recovered.first_dirty_offset)
    return state
