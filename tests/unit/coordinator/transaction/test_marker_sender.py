"""Markers come through while a session is in doubt: whether this broker is still the coordinator is not known then, and
nobody else may be.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import cast

import pytest

from bytemq.broker.coordinator.marker_sender import MarkerSender
from bytemq.broker.coordinator.marker_writer import Marker, MarkerWriter, Written
from bytemq.broker.coordinator.transaction.adding import Writer
from bytemq.broker.coordinator.transaction.states import TransactionState
from bytemq.broker.coordinator.transaction.transaction import TopicPartition
from bytemq.broker.coordinator.transaction_coordinators import TransactionCoordinators
from bytemq.broker.log.partition import Partition
from bytemq.config import BrokerConfig
from bytemq.metadata.image import ClusterImage
from bytemq.metadata.producer_ids import ProducerIds
from bytemq.metadata.standing import Standing
from bytemq.metadata.topic_names import TRANSACTION_TOPIC
from bytemq.protocol.error_codes import ErrorCode
from bytemq.protocol.messages.end_txn import EndTxnRequest
from bytemq.protocol.messages.init_producer_id import InitProducerIdRequest
from bytemq.runtime.tasks import Supervisor
from tests.support.virtual_time import LoopClock, run_virtual
from tests.unit.coordinator.fake_partition import FakePartition

HERE, ELSEWHERE = 1, 2
TTL_S = 3.0
EPOCH = 7


class Owners:
    """Whoever owns the partition of the transaction; answers `answer_s` after it was asked."""

    def __init__(self, clock: LoopClock, answer: Callable[[], ErrorCode], answer_s: float) -> None:
        self._clock = clock
        self._answer = answer
        self._answer_s = answer_s

    def write(self, broker_id: int, marker: Marker, partition: TopicPartition, written: Written) -> None:
        self._clock.call_later(self._answer_s, lambda: written(self._answer()))


class Ids:
    async def allocate(self) -> int:
        return 1_000


def topics(owner: int) -> ClusterImage:
    partitions = {TRANSACTION_TOPIC: HERE, "t": owner}
    found = {name: SimpleNamespace(partitions=[SimpleNamespace(owner=each)]) for name, each in partitions.items()}
    return cast(ClusterImage, SimpleNamespace(topics=found))


@pytest.mark.parametrize(
    ("refused_s", "answer_s"), [(5.0, 0.0), (0.0, 5.0)], ids=["another try in doubt", "an answer in doubt"]
)
def test_markers__of_a_coordinator_whose_session_was_in_doubt_and_lives_on(refused_s: float, answer_s: float) -> None:
    async def scenario() -> None:
        clock = LoopClock()
        standing, supervisor = Standing(clock.monotonic), Supervisor(clock, lambda name, error: None)
        began = clock.monotonic()

        def answer() -> ErrorCode:
            is_refused = clock.monotonic() - began < refused_s
            return ErrorCode.NOT_LEADER_OR_FOLLOWER if is_refused else ErrorCode.NONE

        owners = Owners(clock, answer, answer_s)
        image = topics(ELSEWHERE)
        coordinators = TransactionCoordinators(
            config=BrokerConfig,
            image=lambda: image,
            producer_ids=cast(ProducerIds, Ids()),
            markers=lambda coordinators: MarkerSender(
                coordinators, cast(MarkerWriter, None), lambda: image, clock, broker_id=HERE, remote=owners
            ),
            clock=clock,
            supervisor=supervisor,
            standing=standing,
        )
        partition = FakePartition()
        partition.leader_epoch = EPOCH
        coordinators.own(cast(Partition, partition))
        await asyncio.sleep(0)
        standing.renew(clock.monotonic(), TTL_S)

        asked = InitProducerIdRequest("app", 60_000)
        given = await coordinators.write("app", lambda machine, new_id: machine.initialising.initialise(asked, new_id))
        writer = Writer("app", given.producer_id, given.producer_epoch)
        await coordinators.write("app", lambda machine, _: machine.adding.add(writer, [("t", 0)], 2))
        ending = EndTxnRequest(*writer, True)
        await coordinators.write("app", lambda machine, new_id: machine.ending.end(ending, 2, new_id))
        await asyncio.sleep(6)
        assert not standing.holds()
        standing.renew(clock.monotonic(), TTL_S)
        await asyncio.sleep(2)
        assert coordinators.state_counts()[TransactionState.COMPLETE_COMMIT] == 1
        assert coordinators.unmarked_count == 0
        coordinators.close()
        await supervisor.close()

    run_virtual(scenario())
