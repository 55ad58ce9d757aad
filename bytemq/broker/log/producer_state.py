"""Producers of one partition: sequences, epochs, duplicates, open and aborted transactions. Pure.

Kafka's ProducerStateManager, with one difference: a duplicate is a batch with the same sequences *and* the same
checksum. Kafka 4.4.0, comparing sequences alone, was seen to acknowledge and lose a record when a client reused a
sequence after an aborted transaction; here other content under a used sequence is refused with
OUT_OF_ORDER_SEQUENCE_NUMBER and never gets an offset. The checksum is the CRC-32C as the client sent it, before the
broker changed timestamps or compression.

Two views are kept: `current` with every pending append applied, which decides what comes next, and `committed`, which
is what snapshots, readers and a rollback see. Entries are immutable, so rolling back is putting the committed entry
back. `transactions` holds what committed markers mean.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from bytemq.broker.log.producer_budget import ProducerBudget
from bytemq.broker.log.transactions import Transactions
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.protocol.records.batch import TRANSACTIONAL_FLAG, RecordBatch
from bytemq.protocol.records.control import EndTransactionMarker
from bytemq.storage.manifests.manifest import AbortedTxn, ProducerSnapshot

RETAINED_BATCHES = 5
"""Kafka's NUM_BATCHES_TO_RETAIN: max.in.flight.requests.per.connection of an idempotent producer is at most this."""

MAX_AWAITED = 10_000
"""Bound on the producers whose failures are remembered."""
BEHIND_A_FAILURE_MS = 60_000
"""For so long what comes behind a batch that failed may have been sent before its client knew."""

_NONE_AWAITED: dict[int, tuple[int, int]] = {}
"""Of most partitions, which share it: empty, and never put into."""

NO_SEQUENCE = -1
NO_TRANSACTION = -1
_MAX_SEQUENCE = 0x7FFFFFFF
_new = tuple.__new__
"""Makes a named tuple without a call of a Python function, for each batch of an idempotent producer."""


class AppendedBatch(NamedTuple):
    """What is remembered of a batch so that its repetition can be answered. Kafka's BatchMetadata, and the checksum."""

    first_sequence: int
    last_sequence: int
    base_offset: int
    last_offset: int
    timestamp_ms: int
    crc: int


class Producer(NamedTuple):
    """Kafka's ProducerStateEntry. `last_seen_ms` is the broker's clock, not a record's timestamp: replaying history
    from years ago must not make a producer look expired while it still retries.
    """

    producer_id: int
    producer_epoch: int
    coordinator_epoch: int
    last_seen_ms: int
    batches: tuple[AppendedBatch, ...]
    txn_first_offset: int

    def repeats(self, batch: RecordBatch) -> bool:
        """Whether `batch` is one of the last five, content included."""
        if batch.producer_epoch != self.producer_epoch:
            return False
        wanted = (batch.base_sequence, batch.last_sequence, batch.sent_crc)
        return any((known.first_sequence, known.last_sequence, known.crc) == wanted for known in self.batches)

    def admits(self, batch: RecordBatch) -> bool:
        """Whether `batch` goes on with the transaction that is open here, or repeats what is here already."""
        goes_on = self.txn_first_offset >= 0 and self.producer_epoch == batch.producer_epoch
        return goes_on or self.repeats(batch)

    @property
    def last_sequence(self) -> int:
        return self.batches[-1].last_sequence if self.batches else NO_SEQUENCE

    @property
    def last_timestamp_ms(self) -> int:
        """Of its last batch; of its last marker where nothing of its epoch has come yet."""
        return self.batches[-1].timestamp_ms if self.batches else self.last_seen_ms


class ProducerTable:
    """All producers of one partition. `admit*` prepares, `commit` and `rollback` settle, in the order of the log."""

    __slots__ = ("_awaited", "_budget", "_committed", "_current", "_failed", "transactions")

    def __init__(self, budget: ProducerBudget) -> None:
        self._current: dict[int, Producer] = {}
        self._committed: dict[int, Producer] = {}
        self._awaited = _NONE_AWAITED
        """Producers of which nothing is committed because their first appends failed: epoch and sequence to begin
        with.
        """
        self._failed: dict[int, int] = {}
        """Producers whose last append failed, and when it came."""
        self._budget = budget
        self.transactions = Transactions()

    def __len__(self) -> int:
        return len(self._current)

    def get(self, producer_id: int) -> Producer | None:
        """The producer with pending appends applied."""
        return self._current.get(producer_id)

    def committed(self) -> Iterator[Producer]:
        return iter(self._committed.values())

    def admit(
        self, batch: RecordBatch, base_offset: int, timestamp_ms: int, now_ms: int, *, sequenced: bool = True
    ) -> Producer | AppendedBatch:
        """Apply a data batch that will get `base_offset`; or, for a duplicate, change nothing and return the batch it
        repeats.

        `sequenced` is False for a coordinator's own batches (their sequence is -1). Raises KafkaError 45, 47 or 48 as
        Kafka does.
        """
        producer_id = batch.producer_id
        known = self._current.get(producer_id)
        batches: tuple[AppendedBatch, ...] = ()
        coordinator_epoch = txn_first_offset = -1
        if known is None:
            if self._awaited:
                self._check_awaited(batch, now_ms)
            self._make_room(now_ms)
        else:
            _, producer_epoch, coordinator_epoch, _, batches, txn_first_offset = known
            if batch.producer_epoch < producer_epoch:
                raise _stale_epoch(batch, known)
            if sequenced:
                repeated = self._check_sequence(batch, known, now_ms)
                if repeated is not None:
                    return repeated
            if batch.producer_epoch != producer_epoch:
                batches = ()
            if txn_first_offset >= 0 and not batch.is_transactional:
                raise KafkaError(
                    ErrorCode.INVALID_TXN_STATE, f"Expected transactional write from producer {producer_id}."
                )
        if batch.attributes & TRANSACTIONAL_FLAG and txn_first_offset < 0:
            txn_first_offset = base_offset
        if sequenced:
            first, delta = batch.base_sequence, batch.last_offset_delta
            last = (first + delta) & _MAX_SEQUENCE
            appended = _new(
                AppendedBatch, (first, last, base_offset, base_offset + delta, timestamp_ms, batch.sent_crc)
            )
            batches = (*batches[1 - RETAINED_BATCHES :], appended)
        if self._failed:
            self._failed.pop(producer_id, None)
        fields = producer_id, batch.producer_epoch, coordinator_epoch, now_ms, batches, txn_first_offset
        admitted = self._current[producer_id] = _new(Producer, fields)
        return admitted

    def admit_marker(
        self, batch: RecordBatch, marker: EndTransactionMarker, now_ms: int, *, is_bumped: bool = False
    ) -> Producer:
        """Apply the control batch that ends a producer's transaction. Raises KafkaError 47, or 52 from an old
        coordinator.

        `is_bumped`: the marker's epoch is the one of the next transaction, which it must not end (KIP-1228).
        """
        known = self._current.get(batch.producer_id)
        batches: tuple[AppendedBatch, ...] = ()
        if known is not None:
            is_late = is_bumped and batch.producer_epoch == known.producer_epoch and known.txn_first_offset >= 0
            if batch.producer_epoch < known.producer_epoch or is_late:
                raise _stale_epoch(batch, known)
            if marker.coordinator_epoch < known.coordinator_epoch:
                epochs = f"{marker.coordinator_epoch} is older than the last known {known.coordinator_epoch}"
                raise KafkaError(ErrorCode.TRANSACTION_COORDINATOR_FENCED, f"Coordinator epoch {epochs}.")
            if batch.producer_epoch == known.producer_epoch:
                batches = known.batches
        admitted = Producer(
            batch.producer_id, batch.producer_epoch, marker.coordinator_epoch, now_ms, batches, NO_TRANSACTION
        )
        self._current[batch.producer_id] = admitted
        return admitted

    def commit(self, producer: Producer, marker: EndTransactionMarker | None = None, marker_offset: int = -1) -> None:
        """The append that made `producer` is durable."""
        producer_id = producer.producer_id
        if producer_id not in self._committed:
            self._budget.in_use += 1
            self._awaited.pop(producer_id, None)
        self._committed[producer_id] = producer
        if marker is not None:
            self.transactions.complete(producer_id, marker_offset, aborted=not marker.committed)
        elif producer.txn_first_offset >= 0:
            self.transactions.begin(producer_id, producer.txn_first_offset)

    def rollback(self, producers: Iterable[Producer]) -> None:
        """The appends that made these entries, in order, and all after them, failed."""
        for producer in producers:
            producer_id = producer.producer_id
            if producer.batches:
                self._has_failed(producer)
            before = self._committed.get(producer_id)
            if before is not None:
                self._current[producer_id] = before
            elif self._current.pop(producer_id, None) is not None and producer.batches:
                self.await_beginning(producer_id, producer.producer_epoch, producer.batches[0].first_sequence)

    def take_back(self, producer: Producer, pending: Iterable[Producer | None]) -> None:
        """The newest entry was not needed after all. `pending` are those before it, the newest first."""
        producer_id = producer.producer_id
        before = next((one for one in pending if one is not None and one.producer_id == producer_id), None)
        if before is None:
            before = self._committed.get(producer_id)
        if before is None:
            del self._current[producer_id]
        else:
            self._current[producer_id] = before

    def await_beginning(self, producer_id: int, producer_epoch: int, sequence: int) -> None:
        """An unknown producer may begin anywhere, but not this one: its next batch may be on the wire behind the one
        that failed, and taking it would shut out the retry of that one for ever.
        """
        if producer_id in self._current:
            return
        known = self._awaited.get(producer_id)
        if known is None or known[0] != producer_epoch:
            _make_room_in(self._awaited)
            if self._awaited is _NONE_AWAITED:
                self._awaited = {}
            self._awaited[producer_id] = producer_epoch, sequence

    def restore(self, producers: Sequence[ProducerSnapshot], aborted: Sequence[AbortedTxn]) -> None:
        """Take what a snapshot says as committed. Only for a new table."""
        for snapshot in producers:
            batches = tuple(AppendedBatch(*batch) for batch in snapshot.batches)
            first_offset = snapshot.open_txn_first_offset
            entry = Producer(
                snapshot.producer_id,
                snapshot.producer_epoch,
                snapshot.coordinator_epoch,
                snapshot.last_timestamp,
                batches,
                NO_TRANSACTION if first_offset is None else first_offset,
            )
            self._current[entry.producer_id] = self._committed[entry.producer_id] = entry
        self._budget.in_use += len(self._committed)
        opened = ((p.producer_id, p.txn_first_offset) for p in self._committed.values() if p.txn_first_offset >= 0)
        self.transactions.restore(aborted, opened)

    def snapshot(self) -> list[ProducerSnapshot]:
        """The committed producers, for `restore`."""
        return [
            ProducerSnapshot(
                producer.producer_id,
                producer.producer_epoch,
                producer.coordinator_epoch,
                producer.last_seen_ms,
                list(producer.batches),
                None if producer.txn_first_offset < 0 else producer.txn_first_offset,
            )
            for producer in self._committed.values()
        ]

    def replay(self, batch: RecordBatch, marker: EndTransactionMarker | None, now_ms: int) -> None:
        """Apply a batch found in the log. It was admitted when it was written, so nothing is checked, only
        remembered.
        """
        known = self._current.get(batch.producer_id)
        same_epoch = known is not None and known.producer_epoch == batch.producer_epoch
        batches = known.batches if known is not None and same_epoch else ()
        coordinator_epoch = known.coordinator_epoch if known is not None else -1
        txn_first_offset = known.txn_first_offset if known is not None else NO_TRANSACTION
        if batch.is_control:
            if marker is None:  # a control type of a later version: no meaning for producers
                return
            coordinator_epoch, txn_first_offset = marker.coordinator_epoch, NO_TRANSACTION
        else:
            if batch.is_transactional and txn_first_offset < 0:
                txn_first_offset = batch.base_offset
            if batch.base_sequence >= 0:
                appended = AppendedBatch(
                    batch.base_sequence,
                    batch.last_sequence,
                    batch.base_offset,
                    batch.last_offset,
                    batch.max_timestamp,
                    batch.sent_crc,
                )
                batches = (*batches[1 - RETAINED_BATCHES :], appended)
        entry = Producer(batch.producer_id, batch.producer_epoch, coordinator_epoch, now_ms, batches, txn_first_offset)
        self._current[batch.producer_id] = entry
        self.commit(entry, marker, batch.base_offset)

    def expire(self, now_ms: int, expiration_ms: int) -> int:
        """Forget producers not seen for `expiration_ms` (producer.id.expiration.ms) that have nothing pending or
        open; how many.
        """
        return self._forget(p for p in self._committed.values() if now_ms - p.last_seen_ms >= expiration_ms)

    def release(self) -> None:
        """Give this partition's share of the budget back. Storage may still ask for a snapshot, so nothing is
        forgotten.
        """
        self._budget.in_use -= len(self._committed)
        self._budget = ProducerBudget()

    def _has_failed(self, producer: Producer) -> None:
        if producer.producer_id not in self._failed:
            _make_room_in(self._failed)
        self._failed[producer.producer_id] = producer.last_seen_ms

    def _gap(self, batch: RecordBatch, expected: int, now_ms: int, why: str = "") -> KafkaError:
        """A batch that does not follow. What was on the wire behind one that failed is told the same as that one: for
        librdkafka a gap is a reason to begin another epoch, in which it sends again what was written and whose answer
        was lost meanwhile, of other partitions, too.
        """
        failed_ms = self._failed.get(batch.producer_id)
        is_behind = (batch.base_sequence - expected) & _MAX_SEQUENCE <= _MAX_SEQUENCE // 2
        if failed_ms is not None and is_behind and now_ms - failed_ms < BEHIND_A_FAILURE_MS:
            message = f"What should come before sequence {batch.base_sequence}, from {expected} on, has failed."
            return KafkaError(ErrorCode.KAFKA_STORAGE_ERROR, message)
        return _out_of_order(batch, f"{expected}{why}")

    def _check_awaited(self, batch: RecordBatch, now_ms: int) -> None:
        epoch, sequence = self._awaited.get(batch.producer_id, (NO_SEQUENCE, NO_SEQUENCE))
        if batch.producer_epoch == epoch and batch.base_sequence != sequence:
            raise self._gap(batch, sequence, now_ms, " (which failed before)")

    def _check_sequence(self, batch: RecordBatch, known: Producer, now_ms: int) -> AppendedBatch | None:
        first_sequence = batch.base_sequence
        if batch.producer_epoch != known.producer_epoch:
            if first_sequence != 0:
                raise _out_of_order(batch, f"0 (first of the new epoch {batch.producer_epoch})")
            return None
        batches = known.batches
        if not batches:
            if first_sequence != 0:
                raise _out_of_order(batch, "0 (nothing of this epoch is known)")
            return None
        expected = (batches[-1].last_sequence + 1) & _MAX_SEQUENCE  # 2^31 - 1 is followed by 0
        if first_sequence == expected:
            return None
        last_sequence = batch.last_sequence
        for appended in batches:
            if appended.first_sequence == first_sequence and appended.last_sequence == last_sequence:
                if appended.crc == batch.sent_crc:
                    return appended
                raise _out_of_order(batch, f"{expected} (this sequence was used for other content)")
        raise self._gap(batch, expected, now_ms)

    def _make_room(self, now_ms: int) -> None:
        """Before a new producer comes in: over the limit, those not seen for longest go, an eighth at a time."""
        surplus = self._budget.surplus(len(self._current))
        if surplus:
            idle = sorted((p for p in self._committed.values() if self._is_idle(p)), key=lambda p: p.last_seen_ms)
            evicted = self._forget(idle[:surplus])
            self._budget.evicted += evicted

    def _is_idle(self, producer: Producer) -> bool:
        return producer.txn_first_offset < 0 and self._current.get(producer.producer_id) is producer

    def _forget(self, producers: Iterable[Producer]) -> int:
        gone = [p.producer_id for p in producers if self._is_idle(p)]
        for producer_id in gone:
            del self._current[producer_id]
            del self._committed[producer_id]
        self._budget.in_use -= len(gone)
        return len(gone)


def _make_room_in(remembered: dict[int, Any]) -> None:
    """For one producer more: the one remembered for longest goes."""
    if len(remembered) >= MAX_AWAITED:
        del remembered[next(iter(remembered))]


def _stale_epoch(batch: RecordBatch, known: Producer) -> KafkaError:
    message = (
        f"Epoch of producer {batch.producer_id} is {batch.producer_epoch}, "
        f"which is smaller than the last seen {known.producer_epoch}"
    )
    return KafkaError(ErrorCode.INVALID_PRODUCER_EPOCH, message)


def _out_of_order(batch: RecordBatch, expected: str) -> KafkaError:
    message = (
        f"Out of order sequence number for producer {batch.producer_id}: "
        f"{batch.base_sequence} (incoming seq. number), {expected} expected"
    )
    return KafkaError(ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER, message)
