"""Whoever follows a log sees what its owner saw at the same offset: watermarks, aborted transactions, leader epochs."""

from __future__ import annotations

from random import Random

import pytest

from bytemq.broker.log.followed_partition import followed_state
from bytemq.broker.log.followed_state import FollowedState
from bytemq.broker.log.leader_epochs import LeaderEpochs
from bytemq.broker.log.producer_budget import ProducerBudget
from bytemq.broker.log.state import LogState
from bytemq.protocol.records.batch import RecordBatch, parse_header
from bytemq.protocol.records.builder import Record, build_batch
from bytemq.protocol.records.control import EndTransactionMarker, end_transaction_batch, marker_word
from bytemq.storage.log_files import RecoveredLog
from bytemq.storage.manifests.manifest import PartitionSnapshot


class OwnedLog:
    """A log as its owner's state machine has it, and the batches that were committed."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.state: LogState[None] = LogState(0, 0, ProducerBudget())
        self.epochs = LeaderEpochs()
        self.batches: list[RecordBatch] = []
        self.epoch = 0
        self.open: set[int] = set()

    def step(self) -> None:
        if self.random.random() < 0.1:
            self.epoch += 1
        producer = self.random.randrange(4)
        if producer in self.open and self.random.random() < 0.4:
            marker = EndTransactionMarker(self.random.random() < 0.5, 1)
            made = end_transaction_batch(marker, producer_id=producer, producer_epoch=0, timestamp_ms=1)
            batch = parse_header(memoryview(made))
            batch.sent_crc = marker_word(marker)
            self.open.discard(producer)
        else:
            transactional = self.random.random() < 0.6 or producer in self.open
            records = [Record(None, b"v")] * self.random.randrange(1, 4)
            batch = parse_header(
                memoryview(
                    build_batch(
                        records,
                        timestamp_ms=1,
                        producer_id=producer,
                        producer_epoch=0,
                        base_sequence=0,
                        transactional=transactional,
                    )
                )
            )
            if transactional:
                self.open.add(producer)
        batch.place(self.state.high_watermark, self.epoch)
        self.state.replay(batch, 0)
        self.epochs.assign(self.epoch, batch.base_offset)
        self.state.high_watermark = self.state.end_offset = batch.last_offset + 1
        self.batches.append(batch)

    def snapshot(self) -> PartitionSnapshot:
        producers = self.state.producers
        aborted = producers.transactions.aborted
        return PartitionSnapshot(self.state.high_watermark, self.epochs.entries, producers.snapshot(), aborted)


def seen(state: LogState[None] | FollowedState, epochs: LeaderEpochs) -> tuple[object, ...]:
    end = state.last_stable_offset
    aborted = [state.transactions.aborted_between(offset, end) for offset in range(state.log_start_offset, end)]
    return state.log_start_offset, state.high_watermark, end, aborted, epochs.entries


@pytest.mark.parametrize("seed", range(40))
def test_followed_state__is_the_owners_at_every_offset(seed: int) -> None:
    random = Random(seed)
    owned = OwnedLog(random)
    for _ in range(random.randrange(20)):
        owned.step()
    snapshot = owned.snapshot() if random.random() < 0.7 else None
    known = len(owned.batches)
    for _ in range(random.randrange(5)):
        owned.step()
    headers = owned.batches[known:] if snapshot is not None else owned.batches
    recovered = RecoveredLog(0, owned.state.high_watermark, [], snapshot, headers)
    followed = followed_state(recovered)
    assert seen(followed, followed.epochs) == seen(owned.state, owned.epochs)
    for _ in range(40):
        owned.step()
        followed.extend(owned.batches[-1:], owned.state.high_watermark)
        if random.random() < 0.1:
            start = random.randrange(owned.state.last_stable_offset + 1)
            owned.state.advance_log_start(start)
            owned.epochs.advance_log_start(owned.state.log_start_offset)
            followed.trim(owned.state.log_start_offset, 0)
        assert seen(followed, followed.epochs) == seen(owned.state, owned.epochs)


def test_followed_state__knows_no_log_start_above_what_it_knows() -> None:
    followed = followed_state(RecoveredLog(0, 5, [], None))
    followed.trim(9, 0)
    assert (followed.log_start_offset, followed.high_watermark) == (5, 5)
