"""The transactional ids of one partition of `__transaction_state`: the whole machine, as the runtime and the handlers
see it.

Pure: `replay` rebuilds it from the log; requests go to `initialising`, `adding`, `ending` and `describing`, which give
records. A record is on its way from `stage` to `commit`; while it is, no other step of that id is decided.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from bytemq.broker.coordinator.outcome import NOTHING, CoordinatorRecord, Envelope, Outcome, Replayed
from bytemq.broker.coordinator.timers import Timers
from bytemq.broker.coordinator.transaction.adding import Adding
from bytemq.broker.coordinator.transaction.describing import Describing
from bytemq.broker.coordinator.transaction.ending import Ending
from bytemq.broker.coordinator.transaction.environment import (
    Entry,
    Markers,
    TransactionEnvironment,
    TransactionSettings,
    timeout_key,
)
from bytemq.broker.coordinator.transaction.initialising import Initialising
from bytemq.broker.coordinator.transaction.records import TransactionRecord, decode
from bytemq.broker.coordinator.transaction.states import TransactionState
from bytemq.protocol.error_codes import ErrorCode
from bytemq.protocol.primitives import MalformedMessage
from bytemq.protocol.records.walk import plain_records
from bytemq.protocol.records.walk_pure import Buffer

_EXPIRY_KEY = "transactional id expiry"
_SLICE_IDS = 500
_PAUSE_MS = 20


class TransactionShard:
    """One shard. Timers start with `loaded`, and end with `unloaded`."""

    __slots__ = ("_expiring", "adding", "damaged_records", "describing", "ending", "environment", "initialising")

    def __init__(
        self,
        settings: TransactionSettings,
        timers: Timers,
        wall_ms: Callable[[], int],
        markers: Markers,
        coordinator_epoch: int,
        on_timeout: Callable[[], None] = lambda: None,
    ) -> None:
        self.environment = TransactionEnvironment(settings, timers, wall_ms, markers, coordinator_epoch, on_timeout)
        self.ending = Ending(self.environment)
        self.initialising = Initialising(self.environment, self.ending)
        self.adding = Adding(self.environment)
        self.describing = Describing(self.environment)
        self.damaged_records = 0
        self._expiring: list[str] = []

    # -- the log

    def replay(self, records: Iterable[tuple[bytes | None, bytes | None]], envelope: Envelope | None = None) -> None:
        """Keys and values from the log, in its order. Damaged ones are counted and left out."""
        entries = self.environment.entries
        for key, value in records:
            try:
                record = None if key is None or envelope is not None else decode(key, value)
            except MalformedMessage:
                self.damaged_records += 1
                continue
            if record is None:
                continue
            if record.transaction is None:
                entries.pop(record.transactional_id, None)
            else:
                entries[record.transactional_id] = Entry(record.transaction)

    def replay_plain(self, data: Buffer, position: int) -> Replayed:
        """Whole batches from the log, as far as they are neither compressed nor control nor transactional batches."""
        position, next_offset, records = plain_records(data, position)
        self.replay(records)
        return Replayed(position, next_offset, len(records))

    def stage(self, sequence: int, record: CoordinatorRecord) -> None:
        """A record is on its way into the log."""
        assert isinstance(record, TransactionRecord)
        if record.transaction is not None:
            entry = self.environment.entries.setdefault(record.transactional_id, Entry(None))
            assert entry.pending is None, "one step of a transactional id at a time"
            entry.pending = record.transaction

    def commit(self, sequence: int, record: CoordinatorRecord) -> None:
        """A staged record is durable."""
        assert isinstance(record, TransactionRecord)
        transactional_id, transaction = record
        if transaction is None:
            return  # see `_expire`
        entry = self.environment.entries[transactional_id]
        counts = self.environment.state_counts
        if entry.committed is not None:
            counts[entry.committed.state] -= 1
        counts[transaction.state] += 1
        entry.committed, entry.pending = transaction, None
        if transaction.state is TransactionState.ONGOING:
            self.ending.watch(transactional_id, transaction)
        elif transaction.is_at_rest:
            self.environment.timers.cancel(timeout_key(transactional_id))

    def roll_back(self, sequence: int, record: CoordinatorRecord) -> None:
        """A staged record will never be in the log."""
        assert isinstance(record, TransactionRecord)
        entry = self.environment.entries.get(record.transactional_id)
        if entry is not None and record.transaction is not None:
            entry.pending = None
            if entry.committed is None:
                del self.environment.entries[record.transactional_id]

    def loaded(self) -> list[Outcome[None]]:
        """The log has been replayed: what was decided is carried on, what is open is watched."""
        outcomes: list[Outcome[None]] = []
        counts: Counter[int] = Counter()
        for transactional_id, entry in list(self.environment.entries.items()):
            assert entry.committed is not None, "what is replayed is committed"
            state = entry.committed.state
            counts[int(state)] += 1  # of a hundred thousand: the hash of an enum's member is slow
            if state is TransactionState.ONGOING:
                self.ending.watch(transactional_id, entry.committed)
            elif state is TransactionState.PREPARE_COMMIT or state is TransactionState.PREPARE_ABORT:
                outcomes.append(self.ending.resume(transactional_id))
        self.environment.state_counts.update({TransactionState(state): count for state, count in counts.items()})
        self._schedule_expiry(self.environment.settings.remove_expired_interval_ms)
        return outcomes

    def unloaded(self, code: ErrorCode = ErrorCode.NOT_COORDINATOR) -> None:
        """Another broker has the ids. Nobody waits in this machine."""
        for transactional_id in self.environment.entries:
            self.environment.timers.cancel(timeout_key(transactional_id))
        self.environment.timers.cancel(_EXPIRY_KEY)
        self.environment.entries.clear()
        self.environment.state_counts.clear()
        self.environment.unmarked_count = 0

    def topics_deleted(self, topic_ids: Iterable[bytes]) -> None:
        """Nothing to do: a marker to a partition that is gone counts as written."""

    # -- transactional.id.expiration.ms

    def _schedule_expiry(self, delay_ms: int) -> None:
        self.environment.timers.schedule(_EXPIRY_KEY, delay_ms, self._expire)

    def _expire(self) -> Outcome[None]:
        """Tombstones for ids that were at rest for too long, a slice of them at a time."""
        entries, settings = self.environment.entries, self.environment.settings
        if not self._expiring:
            self._expiring = list(entries)
        slice_ids, self._expiring = self._expiring[-_SLICE_IDS:], self._expiring[:-_SLICE_IDS]
        self._schedule_expiry(_PAUSE_MS if self._expiring else settings.remove_expired_interval_ms)
        expired_before_ms = self.environment.wall_ms() - settings.id_expiration_ms
        expired = [each for each in slice_ids if _is_expired(entries.get(each), expired_before_ms)]
        if not expired:
            return NOTHING
        taken = {transactional_id: entries.pop(transactional_id) for transactional_id in expired}
        counts = self.environment.state_counts
        counts.subtract(_states(taken.values()))

        def appended(code: ErrorCode) -> Outcome[None]:
            if code is not ErrorCode.NONE:
                back = {each: entry for each, entry in taken.items() if each not in entries}
                entries.update(back)
                counts.update(_states(back.values()))
            return NOTHING

        return Outcome(None, [TransactionRecord(each, None) for each in expired], appended)


def _states(entries: Iterable[Entry]) -> list[TransactionState]:
    return [entry.committed.state for entry in entries if entry.committed is not None]


def _is_expired(entry: Entry | None, expired_before_ms: int) -> bool:
    if entry is None or entry.pending is not None or entry.committed is None:
        return False
    return entry.committed.is_at_rest and entry.committed.update_ms <= expired_before_ms
