"""What the coordinator knows of one transactional id, and the steps it can take. Pure, immutable.

Kafka's TransactionMetadata. A step gives the next value, which is written to the log and holds once it is committed.
Who may take which step when is decided by `initialising`, `adding` and `ending`.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from bytemq.broker.coordinator.transaction.states import AT_REST, TransactionState

NO_PRODUCER_ID: Final = -1
NO_EPOCH: Final = -1
NO_TIMESTAMP: Final = -1
MAX_EPOCH: Final = 0x7FFF
LAST_CLIENT_EPOCH: Final = MAX_EPOCH - 1
"""Clients never get the largest epoch, so that one is always left to fence them with."""
NO_TIMEOUT_MS: Final = 0x7FFF_FFFF
"""A distributed two-phase commit (KIP-939): never aborted by time."""

EPOCH_BUMP_VERSION: Final = 2
"""From this transaction version on the epoch is bumped at every end (KIP-890)."""

TopicPartition = tuple[str, int]


class Transaction(NamedTuple):
    """Times in ms since 1970. `partitions` of a prepared transaction are all that take part, marked or not."""

    producer_id: int
    producer_epoch: int
    timeout_ms: int
    state: TransactionState = TransactionState.EMPTY
    partitions: frozenset[TopicPartition] = frozenset()
    start_ms: int = NO_TIMESTAMP
    update_ms: int = NO_TIMESTAMP
    previous_producer_id: int = NO_PRODUCER_ID
    next_producer_id: int = NO_PRODUCER_ID
    """Where the epochs are used up: the id that the producer goes on with once this transaction has ended."""
    last_epoch: int = NO_EPOCH
    """The epoch before the last bump. It is not stored, as in Kafka."""
    client_version: int = 0
    """The transaction version (KIP-890) of the client that took the last step."""

    @property
    def is_at_rest(self) -> bool:
        return self.state in AT_REST

    @property
    def is_epoch_exhausted(self) -> bool:
        return self.producer_epoch >= LAST_CLIENT_EPOCH

    @property
    def is_commit(self) -> bool:
        """Of a prepared or completed transaction."""
        return self.state in (TransactionState.PREPARE_COMMIT, TransactionState.COMPLETE_COMMIT)

    def emptied(self, producer_id: int, epoch: int, last_epoch: int, timeout_ms: int, now_ms: int) -> Transaction:
        """InitProducerId: a producer begins anew under this id and epoch."""
        return self._replace(
            producer_id=producer_id,
            producer_epoch=epoch,
            last_epoch=last_epoch,
            timeout_ms=timeout_ms,
            state=TransactionState.EMPTY,
            partitions=frozenset(),
            start_ms=NO_TIMESTAMP,
            update_ms=now_ms,
            previous_producer_id=self.producer_id,
            next_producer_id=NO_PRODUCER_ID,
        )

    def with_partitions(self, added: frozenset[TopicPartition], client_version: int, now_ms: int) -> Transaction:
        """The transaction goes on, or begins, with these partitions in it."""
        return self._replace(
            state=TransactionState.ONGOING,
            partitions=self.partitions | added,
            start_ms=now_ms if self.is_at_rest else self.start_ms,
            update_ms=now_ms,
            previous_producer_id=self.producer_id,
            client_version=client_version,
        )

    def prepared(self, commit: bool, client_version: int, next_producer_id: int, now_ms: int) -> Transaction:
        """Decided: from here on there is no way but to the markers."""
        bumps = client_version >= EPOCH_BUMP_VERSION
        return self._replace(
            state=TransactionState.PREPARE_COMMIT if commit else TransactionState.PREPARE_ABORT,
            producer_epoch=min(self.producer_epoch + 1, MAX_EPOCH) if bumps else self.producer_epoch,
            last_epoch=self.producer_epoch if bumps else self.last_epoch,
            next_producer_id=next_producer_id,
            previous_producer_id=self.producer_id,
            start_ms=now_ms if self.is_at_rest else self.start_ms,
            update_ms=now_ms,
            client_version=client_version,
        )

    def completed(self, now_ms: int) -> Transaction:
        """Every partition has its marker."""
        rotates = self.client_version >= EPOCH_BUMP_VERSION and self.next_producer_id != NO_PRODUCER_ID
        return self._replace(
            state=TransactionState.COMPLETE_COMMIT if self.is_commit else TransactionState.COMPLETE_ABORT,
            producer_id=self.next_producer_id if rotates else self.producer_id,
            producer_epoch=0 if rotates else self.producer_epoch,
            next_producer_id=NO_PRODUCER_ID,
            previous_producer_id=self.producer_id,
            partitions=frozenset(),
            update_ms=now_ms,
        )
