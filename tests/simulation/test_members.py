"""Members of KIP-848 in simulations of brokers do as Kafka's clients do, and are held to what Kafka promises them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from bytemq.broker.coordinator.group.environment import ConsumerGroupSettings, GroupSettings
from bytemq.protocol.error_codes import ErrorCode
from bytemq.protocol.messages.consumer_group_heartbeat import ConsumerGroupHeartbeatResponse
from tests.simulation.broker.history import BrokerHistory
from tests.simulation.broker.members import ConsumerMember
from tests.simulation.broker.network import Disconnected
from tests.simulation.transcript import Violation
from tests.unit.coordinator.consumer_world import Consumer, ConsumerWorld

PARTITION = ("t", 0)


class LosingMember(ConsumerMember):
    """Asks a coordinator without a broker. `instead` comes in place of the next answer."""

    def __init__(self, coordinator: ConsumerWorld) -> None:
        topic = coordinator.topics.by_name("t")
        assert topic is not None
        world: Any = SimpleNamespace(
            seed=1,
            clock=SimpleNamespace(monotonic=lambda: coordinator.now_ms / 1000),
            history=BrokerHistory(lambda: 0.0),
            place_of=lambda *_: PARTITION,
            topic_ids={"t": topic.topic_id},
        )
        super().__init__(world, "late", "g", "t")
        self.coordinator = coordinator
        self.connection = 1
        self.instead: ErrorCode | None = None

    async def ask(self, request: Any, *_: Any, **__: Any) -> Any:
        [answer] = self.coordinator.heartbeat(request, connection=str(self.connection))
        assert isinstance(answer, ConsumerGroupHeartbeatResponse)
        instead, self.instead = self.instead, None
        if instead is ErrorCode.NETWORK_EXCEPTION:
            self.connection += 1
            raise Disconnected
        return answer if instead is None else ConsumerGroupHeartbeatResponse(error_code=instead)

    async def poll(self) -> set[int]:
        self.coordinator.advance(300)
        return await super().poll()


@pytest.mark.parametrize(
    "instead",
    [ErrorCode.NETWORK_EXCEPTION, ErrorCode.NOT_COORDINATOR, ErrorCode.COORDINATOR_NOT_AVAILABLE],
    ids=lambda code: code.name,
)
async def test_member_whose_assignment_came_as_an_error__is_told_again(instead: ErrorCode) -> None:
    """A coordinator tells an assignment once, when it changes, and then to those who say everything or come by another
    connection. What it has done may be answered with an error: its log had it although the write was said to have
    failed.
    """
    coordinator = ConsumerWorld(GroupSettings(consumer=ConsumerGroupSettings(assignment_interval_ms=0)), t=1)
    first, member = Consumer(coordinator, "first"), LosingMember(coordinator)
    first.heartbeat()
    assert await member.poll() == set()
    first.leave()
    member.instead = instead
    assert await member.poll() == set()
    assert coordinator.group.owners[member.world.topic_ids["t"]] == {0: "late"}
    assert await member.poll() == {0}


def test_partition_given_to_a_second_member__is_told() -> None:
    history = BrokerHistory(lambda: 0.0)
    history.took("g", "one", PARTITION, now=1.0, until=1.6)
    with pytest.raises(Violation, match="t-0 was given to two while one holds it"):
        history.took("g", "two", PARTITION, now=1.5, until=2.1)


def test_answer_that_comes_when_its_member_may_be_believed_dead__gives_nothing() -> None:
    """The coordinator has put out the one that waited, and given its partition to another one, in the meantime."""
    history = BrokerHistory(lambda: 0.0)
    history.took("g", "one", PARTITION, now=2.0, until=2.4)
    history.took("g", "late", PARTITION, now=2.1, until=1.4)
    with pytest.raises(Violation, match="t-0 was given to two while one holds it"):
        history.took("g", "two", PARTITION, now=2.2, until=2.8)
