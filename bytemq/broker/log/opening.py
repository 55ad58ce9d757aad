"""Opening the log of a partition: from what storage recovered to the state its owner works with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bytemq.broker.log.appender import Done
from bytemq.broker.log.leader_epochs import LeaderEpochs
from bytemq.broker.log.partition import Partition
from bytemq.broker.log.producer_budget import ProducerBudget
from bytemq.broker.log.services import LogServices
from bytemq.broker.log.state import LogState
from bytemq.storage.log_opening import NO_OFFSET
from bytemq.types import PartitionId

if TYPE_CHECKING:
    from bytemq.config import TopicConfig
    from bytemq.storage.log_files import RecoveredLog


async def open_partition(
    pid: PartitionId,
    topic: str,
    leader_epoch: int,
    config: TopicConfig,
    services: LogServices,
    *,
    least_end_offset: int = NO_OFFSET,
) -> Partition:
    """Open the log for its owner at `leader_epoch`. Raises BytemqError; nothing is owed to storage then."""
    files = await services.storage.open_log(pid, leader_epoch, least_end_offset=least_end_offset)
    recovered = files.recovered
    assert recovered is not None, "storage opens a log with what it recovered"
    state, epochs = restored(recovered, services.producers, services.clock.wall_ms())
    epochs.assign(leader_epoch, state.end_offset)
    files.recovered = None  # only needed once, and every open partition would hold it
    return Partition(pid, topic, leader_epoch, config, files, state, epochs, services)


def restored(recovered: RecoveredLog, producers: ProducerBudget, now_ms: int) -> tuple[LogState[Done], LeaderEpochs]:
    """The state at the committed end of a log: its snapshot, then what the batches after it say.

    Producers met in those batches count as seen now: how long they had been silent before the crash is not known.
    """
    state: LogState[Done] = LogState(recovered.log_start_offset, recovered.end_offset, producers)
    snapshot = recovered.snapshot
    epochs = LeaderEpochs(recovered.leader_epochs if snapshot is None else snapshot.leader_epochs)
    if snapshot is not None:
        state.producers.restore(snapshot.producers, snapshot.aborted)
        for epoch, start_offset in recovered.leader_epochs:
            epochs.assign(epoch, start_offset)
    for header in recovered.headers:
        state.replay(header, now_ms)
        epochs.assign(header.leader_epoch, header.base_offset)
    state.producers.transactions.forget_below(max(recovered.log_start_offset, recovered.first_dirty_offset))
    epochs.advance_log_start(recovered.log_start_offset)
    return state, epochs
