"""What a broker that does not own a log knows of its committed part: watermarks and transactions. Pure.

Owns: how the committed batches of another session's log move what readers may see. Must not: know producers beyond
their open transactions; nobody appends here.

The owner admitted these batches, so nothing is checked, only remembered: in the order of the log the state at any
offset is the owner's at the moment when it had committed that much.
"""

from __future__ import annotations

from collections.abc import Iterable

from bytemq.broker.log.leader_epochs import LeaderEpochs
from bytemq.broker.log.transactions import Transactions
from bytemq.protocol.records.batch import RecordBatch
from bytemq.protocol.records.control import marker_of
from bytemq.storage.manifests.manifest import PartitionSnapshot


class FollowedState:
    """Invariant: log start <= last stable <= high watermark; the high watermark never goes back."""

    __slots__ = ("epochs", "high_watermark", "log_start_offset", "transactions")

    def __init__(self, log_start_offset: int, snapshot: PartitionSnapshot | None) -> None:
        """What an owner had written down of its log; `extend` it by the batches from there on, then `trim` it."""
        self.log_start_offset = log_start_offset
        self.high_watermark = log_start_offset if snapshot is None else snapshot.offset
        self.transactions = Transactions()
        self.epochs = LeaderEpochs(() if snapshot is None else snapshot.leader_epochs)
        if snapshot is not None:
            opened = (
                (producer.producer_id, producer.open_txn_first_offset)
                for producer in snapshot.producers
                if producer.open_txn_first_offset is not None
            )
            self.transactions.restore(snapshot.aborted, opened)

    @property
    def end_offset(self) -> int:
        """Nothing is known to be on its way."""
        return self.high_watermark

    @property
    def last_stable_offset(self) -> int:
        """As the owner's: below the first offset of the oldest open transaction."""
        first_open = self.transactions.first_open_offset()
        return self.high_watermark if first_open is None else max(first_open, self.log_start_offset)

    def extend(self, batches: Iterable[RecordBatch], next_offset: int) -> None:
        """Committed batches follow, up to `next_offset`."""
        for batch in batches:
            self.epochs.assign(batch.leader_epoch, batch.base_offset)
            if batch.is_control:
                marker = marker_of(batch.sent_crc)
                if marker is not None:  # else a control type of a later version
                    self.transactions.complete(batch.producer_id, batch.base_offset, aborted=not marker.committed)
            elif batch.is_transactional:
                self.transactions.begin(batch.producer_id, batch.base_offset)
        self.high_watermark = max(self.high_watermark, next_offset)

    def trim(self, log_start_offset: int, first_dirty_offset: int) -> None:
        """What is below is gone, as far as it was known at all."""
        self.log_start_offset = max(self.log_start_offset, min(log_start_offset, self.high_watermark))
        self.epochs.advance_log_start(self.log_start_offset)
        self.transactions.forget_below(max(self.log_start_offset, first_dirty_offset))
