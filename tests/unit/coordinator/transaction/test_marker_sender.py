"""Markers come through while a session is in doubt: whether this broker is still the coordinator is not known then, and
nobody else may be.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
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
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.protocol.messages.end_txn import EndTxnRequest
from bytemq.protocol.messages.init_producer_id import InitProducerIdRequest
from bytemq.runtime.tasks import Supervisor
from tests.support.virtual_time import LoopClock, run_virtual
from tests.unit.coordinator.fake_partition import FakePartition

HERE, ELSEWHERE = 1, 2
TTL_S = 3.0
EPOCH = 7
PARTITIONS = 1_000


class Owners:
    """Whoever owns the partition of the transaction; answers `answer_s` after it was asked."""

    def __init__(self, clock: LoopClock, answer: Callable[[], ErrorCode], answer_s: float) -> None:
        self._clock = clock
        self._answer = answer
        self._answer_s = answer_s
        self.asked_at: Counter[float] = Counter()

    def write(self, broker_id: int, marker: Marker, partition: TopicPartition, written: Written) -> None:
        self.asked_at[self._clock.monotonic()] += 1
        self._clock.call_later(self._answer_s, lambda: written(self._answer()))


class Ids:
    async def allocate(self) -> int:
        return 1_000


def topics(owner: int) -> ClusterImage:
    owners = {TRANSACTION_TOPIC: [HERE], "t": [owner] * PARTITIONS}
    found = {
        name: SimpleNamespace(partitions=[SimpleNamespace(owner=each) for each in of]) for name, of in owners.items()
    }
    return cast(ClusterImage, SimpleNamespace(topics=found))


class World:
    """The coordinator of the id "app", whose transaction wrote to a partition elsewhere."""

    def __init__(self, answer: Callable[[], ErrorCode], answer_s: float) -> None:
        self.clock = LoopClock()
        self.standing = Standing(self.clock.monotonic)
        self.supervisor = Supervisor(self.clock, lambda name, error: None)
        self.partition = FakePartition()
        self.partition.leader_epoch = EPOCH
        self.owners, image = Owners(self.clock, answer, answer_s), topics(ELSEWHERE)
        self.coordinators = TransactionCoordinators(
            broker_id=HERE,
            config=BrokerConfig,
            image=lambda: image,
            producer_ids=cast(ProducerIds, Ids()),
            markers=lambda coordinators: MarkerSender(
                coordinators, cast(MarkerWriter, None), lambda: image, self.clock, broker_id=HERE, remote=self.owners
            ),
            clock=self.clock,
            supervisor=self.supervisor,
            standing=self.standing,
        )

    async def own(self) -> None:
        self.coordinators.own(cast(Partition, self.partition))
        await asyncio.sleep(0)

    async def initialise(self, transactional_id: str) -> Writer:
        asked = InitProducerIdRequest(transactional_id, 60_000)
        given = await self.coordinators.write(
            transactional_id, lambda machine, new_id: machine.initialising.initialise(asked, new_id)
        )
        return Writer(transactional_id, given.producer_id, given.producer_epoch)

    async def commit_a_transaction(self, partitions: int = 1, *, more: Sequence[TopicPartition] = ()) -> None:
        """The markers are on their way when this returns."""
        writer = await self.initialise("app")
        added = [*(("t", index) for index in range(partitions)), *more]
        await self.coordinators.write("app", lambda machine, _: machine.adding.add(writer, added, 2))
        ending = EndTxnRequest(*writer, True)
        await self.coordinators.write("app", lambda machine, new_id: machine.ending.end(ending, 2, new_id))

    def require_complete(self) -> None:
        assert self.coordinators.state_counts()[TransactionState.COMPLETE_COMMIT] == 1
        assert self.coordinators.unmarked_count == 0

    async def close(self) -> None:
        self.coordinators.close()
        await self.supervisor.close()


@pytest.mark.parametrize(
    ("refused_s", "answer_s"), [(5.0, 0.0), (0.0, 5.0)], ids=["another try in doubt", "an answer in doubt"]
)
def test_markers__of_a_coordinator_whose_session_was_in_doubt_and_lives_on(refused_s: float, answer_s: float) -> None:
    async def scenario() -> None:
        def answer() -> ErrorCode:
            is_refused = world.clock.monotonic() - began < refused_s
            return ErrorCode.NOT_LEADER_OR_FOLLOWER if is_refused else ErrorCode.NONE

        world = World(answer, answer_s)
        began = world.clock.monotonic()
        await world.own()
        world.standing.renew(world.clock.monotonic(), TTL_S)
        await world.commit_a_transaction()
        await asyncio.sleep(6)
        assert not world.standing.holds()
        world.standing.renew(world.clock.monotonic(), TTL_S)
        await asyncio.sleep(2)
        world.require_complete()
        await world.close()

    run_virtual(scenario())


def test_markers__that_are_written_while_too_much_waits_for_the_log_complete_their_transaction(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """New requests are refused then. What was decided before them goes on."""
    monkeypatch.setattr("bytemq.broker.coordinator.runtime._MAX_WAITING_BYTES", 0)

    async def scenario() -> None:
        world = World(lambda: ErrorCode.NONE, answer_s=1.0)
        await world.own()
        await world.commit_a_transaction()
        world.partition.hold = True
        waiting = asyncio.create_task(world.initialise("other"))
        await asyncio.sleep(0.1)
        with pytest.raises(KafkaError) as refused:
            await world.initialise("third")
        assert refused.value.code is ErrorCode.COORDINATOR_NOT_AVAILABLE
        await asyncio.sleep(1)
        world.partition.hold = False
        world.partition.commit()
        await waiting
        await asyncio.sleep(2)
        world.require_complete()
        await world.close()

    run_virtual(scenario())


def test_markers__of_a_transaction_in_many_partitions_are_sent_so_many_at_a_time() -> None:
    """Each is an append: all of them at once would be felt by everybody."""

    async def scenario() -> None:
        world = World(lambda: ErrorCode.NONE, answer_s=0.0)
        await world.own()
        await world.commit_a_transaction(PARTITIONS)
        await asyncio.sleep(1)
        world.require_complete()
        assert world.owners.asked_at.total() == PARTITIONS
        assert max(world.owners.asked_at.values()) <= 100
        await world.close()

    run_virtual(scenario())


def test_markers__for_partitions_that_are_not_there_are_needless() -> None:
    """Nor can be, as a damaged record may say: the id would be taken for ever."""

    async def scenario() -> None:
        world = World(lambda: ErrorCode.NONE, answer_s=0.0)
        await world.own()
        await world.commit_a_transaction(more=[("t", -1), ("t", PARTITIONS), ("gone", 0)])
        await asyncio.sleep(1)
        world.require_complete()
        assert world.owners.asked_at.total() == 1
        await world.close()

    run_virtual(scenario())
