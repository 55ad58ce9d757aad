"""Classic bugs of coordinators, planted on purpose: each must be found, or the simulation is not worth its time.

Each is a context manager that breaks the broker while it lasts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from copy import copy
from typing import Any
from unittest.mock import patch

from bytemq.broker.coordinator.group.classic_group import ClassicGroup
from bytemq.broker.coordinator.group.consumer import reconciliation
from bytemq.broker.coordinator.group.offsets import Offsets
from bytemq.broker.coordinator.group.pending_offsets import TransactionalOffsetRecord
from bytemq.broker.coordinator.group.shard import GroupShard
from bytemq.broker.coordinator.marker_sender import MarkerSender
from bytemq.broker.coordinator.outcome import NOTHING, Outcome
from bytemq.broker.coordinator.owned_shards import OwnedShards
from bytemq.broker.coordinator.runtime import ShardRuntime
from bytemq.broker.coordinator.transaction import ending, transaction
from bytemq.broker.coordinator.transaction.adding import Adding
from bytemq.broker.coordinator.transaction.ending import Ending
from bytemq.broker.coordinator.transaction.shard import TransactionShard
from bytemq.broker.log.producer_state import ProducerTable
from bytemq.broker.transaction_admission import TransactionAdmission
from bytemq.protocol.error_codes import ErrorCode

Planted = Callable[[], AbstractContextManager[Any]]


def marker_lost() -> AbstractContextManager[Any]:
    """The sender takes a partition whose marker could not be written for done."""
    written = MarkerSender._written

    def broken(self: MarkerSender, ended: Any, partition: Any, retry_s: float, code: ErrorCode) -> None:
        written(self, ended, partition, retry_s, ErrorCode.NONE)

    return patch.object(MarkerSender, "_written", broken)


def markers_not_sent_again_after_reload() -> AbstractContextManager[Any]:
    """What was decided when the coordinator died has no markers."""
    loaded = TransactionShard.loaded

    def broken(self: TransactionShard) -> list[Outcome[None]]:
        with patch.object(Ending, "resume", lambda *_: NOTHING):
            return loaded(self)

    return patch.object(TransactionShard, "loaded", broken)


def completed_before_all_markers() -> AbstractContextManager[Any]:
    """The first marker that is written completes the transaction."""
    marker_written = Ending.marker_written

    def broken(self: Ending, ended: Any, partition: Any) -> Any:
        entry = self._environment.entries.get(ended.transactional_id)
        if entry is not None:
            entry.unmarked.clear()
        return marker_written(self, ended, partition)

    return patch.object(Ending, "marker_written", broken)


def marker_of_an_older_coordinator_accepted() -> AbstractContextManager[Any]:
    """A deposed coordinator's marker, late, ends the transaction after the one that it is about."""
    admit_marker = ProducerTable.admit_marker

    def broken(self: ProducerTable, batch: Any, marker: Any, now_ms: int, *, is_bumped: bool = False) -> Any:
        known = self.get(batch.producer_id)
        if known is not None and known.coordinator_epoch > marker.coordinator_epoch:
            marker = marker._replace(coordinator_epoch=known.coordinator_epoch)
        return admit_marker(self, batch, marker, now_ms, is_bumped=is_bumped)

    return patch.object(ProducerTable, "admit_marker", broken)


def partition_not_verified() -> AbstractContextManager[Any]:
    """KIP-890's defence of old clients is off: a batch that comes after its transaction has ended begins another one,
    of which the coordinator knows nothing.
    """
    return patch.object(TransactionAdmission, "_verifies", False)


def abort_answered_as_commit() -> AbstractContextManager[Any]:
    """A repeated EndTxn is answered well whatever had been decided."""
    return patch.object(ending, "_check_repeated", lambda current, request, *, may_repeat: None)


def zombie_not_fenced_by_its_successor() -> AbstractContextManager[Any]:
    """The open transaction is aborted without a new epoch."""
    prepared = transaction.Transaction.prepared

    def broken(self: Any, commit: bool, client_version: int, *rest: Any) -> Any:
        if commit:
            return prepared(self, commit, client_version, *rest)
        return prepared(self, commit, client_version, *rest)._replace(producer_epoch=self.producer_epoch)

    return patch.object(transaction.Transaction, "prepared", broken)


def answered_before_durable() -> AbstractContextManager[Any]:
    """A coordinator answers when it has decided."""

    async def broken(self: ShardRuntime[Any], operation: Any) -> Any:
        outcome = operation(self._machine_for_writes())
        self._arm()
        self._submit(outcome, None)
        return outcome.response

    return patch.object(ShardRuntime, "write", broken)


def failed_step_not_taken_back() -> AbstractContextManager[Any]:
    return patch.object(TransactionShard, "roll_back", lambda self, sequence, record: None)


@contextmanager
def served_while_loading() -> Iterator[None]:
    """A coordinator answers from what it has read so far, and nobody waits until it has read all."""
    is_between = OwnedShards._is_between

    def unless_it_is_here(self: OwnedShards[Any], index: int) -> bool:
        return index not in self._shards and is_between(self, index)

    with (
        patch.object(OwnedShards, "_is_between", unless_it_is_here),
        patch.object(ShardRuntime, "serving_machine", lambda self: self.machine),
    ):
        yield


def offset_committed_before_its_marker() -> AbstractContextManager[Any]:
    commit = GroupShard.commit

    def broken(self: GroupShard, sequence: int, record: Any) -> None:
        commit(self, sequence, record)
        if isinstance(record, TransactionalOffsetRecord):
            self.store.apply(record.offset)

    return patch.object(GroupShard, "commit", broken)


def pending_offsets_dropped_at_reload() -> AbstractContextManager[Any]:
    return patch.object(GroupShard, "_replay_transactional", lambda self, records, envelope: None)


def unstable_offsets_given() -> AbstractContextManager[Any]:
    fetch = Offsets.fetch
    return patch.object(Offsets, "fetch", lambda self, request, *, require_stable=False: fetch(self, request))


def generation_not_checked() -> AbstractContextManager[Any]:
    """A classic group takes offsets from members of the past."""

    def broken(self: ClassicGroup, *_: Any) -> None:
        return None

    stack = ExitStack()
    stack.enter_context(patch.object(ClassicGroup, "validate_member", broken))
    stack.enter_context(patch.object(ClassicGroup, "generation_id", _EqualsAll()))
    return stack


class _Equal(int):
    """A generation that is everybody's."""

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False

    __hash__ = int.__hash__


class _EqualsAll:
    def __get__(self, group: Any, owner: Any = None) -> _Equal:
        return _Equal(group.__dict__.get("generation", -1))

    def __set__(self, group: Any, value: int) -> None:
        group.__dict__["generation"] = value


def partition_given_before_it_is_revoked() -> AbstractContextManager[Any]:
    """KIP-848: a partition goes to its next member although another one has it."""
    towards = reconciliation._towards

    def broken(current: Any, target: Any, target_epoch: int, is_free: Any, owned: Any) -> Any:
        return towards(current, target, target_epoch, lambda *_: True, owned)

    return patch.object(reconciliation, "_towards", broken)


def zombie_may_end_the_transaction() -> AbstractContextManager[Any]:
    """EndTxn and AddPartitionsToTxn of an earlier epoch are taken."""
    current = Adding._current

    def broken(self: Adding, writer: Any) -> Any:
        _, known = self._environment.known(writer.transactional_id)
        return current(self, writer._replace(producer_epoch=known.producer_epoch))

    end = Ending.end

    def end_broken(self: Ending, request: Any, client_version: int, new_producer_id: int | None) -> Any:
        _, known = self._environment.known(request.transactional_id)
        if not ending._is_repeated(known, request):
            request = copy(request)
            request.producer_epoch = known.producer_epoch
        return end(self, request, client_version, new_producer_id)

    stack = ExitStack()
    stack.enter_context(patch.object(Adding, "_current", broken))
    stack.enter_context(patch.object(Ending, "end", end_broken))
    return stack


PLANTED: dict[Planted, int] = {
    marker_lost: 15,
    markers_not_sent_again_after_reload: 37,
    abort_answered_as_commit: 2,
    zombie_not_fenced_by_its_successor: 1,
    answered_before_durable: 2,
    failed_step_not_taken_back: 13,
    served_while_loading: 121,
    offset_committed_before_its_marker: 3,
    pending_offsets_dropped_at_reload: 3,
    unstable_offsets_given: 13,
    generation_not_checked: 0,
    partition_given_before_it_is_revoked: 30,
    zombie_may_end_the_transaction: 28,
}

IN_TRANSACTIONS: dict[Planted, int] = {
    completed_before_all_markers: 20,
    marker_of_an_older_coordinator_accepted: 27,
    partition_not_verified: 0,
}
"""Those that take many transactions to be seen."""
