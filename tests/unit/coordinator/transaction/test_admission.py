"""Batches before a closed door: they wait in order, are asked for together, and are refused as clients expect."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from bytemq.broker.coordinator.transaction.adding import Writer
from bytemq.broker.coordinator.transaction.transaction import TopicPartition
from bytemq.broker.transaction_admission import Arrival, TransactionAdmission, refusal
from bytemq.config import BrokerConfig
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.runtime.tasks import Supervisor
from tests.support.virtual_time import LoopClock, run_virtual
from tests.unit.coordinator.transaction.transaction_world import TransactionWorld

Code = ErrorCode
A, B = ("a", 0), ("b", 1)


class FakeShard:
    """A shard whose writes take a while; counts them."""

    is_active = True

    def __init__(self, world: TransactionWorld) -> None:
        self.world = world
        self.writes = 0

    def call(self, operation: Callable[[Any], Any]) -> Any:
        return operation(self.world.shard)

    async def write(self, operation: Callable[[Any], Any]) -> Any:
        outcome = operation(self.world.shard)
        self.writes += 1
        await asyncio.sleep(0.01)
        return self.world.submit(outcome)


class FakeCoordinators:
    """Every id but "elsewhere" is coordinated here."""

    def __init__(self, shard: FakeShard) -> None:
        self._shard = shard

    def shard_if_owned(self, transactional_id: str) -> FakeShard | None:
        return None if transactional_id == "elsewhere" else self._shard

    async def awaited_shard_of(self, transactional_id: str) -> FakeShard:
        shard = self.shard_if_owned(transactional_id)
        if shard is None:
            raise KafkaError(Code.NOT_COORDINATOR)
        return shard


class FakeRemote:
    """The coordinator of "elsewhere"; answers after a while."""

    def __init__(self) -> None:
        self.code = Code.NONE
        self.asked: list[tuple[list[TopicPartition], bool]] = []

    async def add(
        self, writer: Writer, partitions: Sequence[TopicPartition], *, verify_only: bool
    ) -> dict[TopicPartition, ErrorCode]:
        self.asked.append((sorted(partitions), verify_only))
        await asyncio.sleep(0.01)
        return dict.fromkeys(partitions, self.code)


ELSEWHERE = Writer("elsewhere", 9, 0)


class Door:
    def __init__(self) -> None:
        self.world = TransactionWorld()
        self.shard = FakeShard(self.world)
        self.heard: list[tuple[str, ErrorCode]] = []
        self.checked: list[ErrorCode] = []
        clock = LoopClock()
        coordinators = FakeCoordinators(self.shard)
        supervisor = Supervisor(clock, lambda name, error: None)
        self.remote = FakeRemote()
        self.admission = TransactionAdmission(cast(Any, coordinators), self.remote, BrokerConfig, clock, supervisor)

    def enter(self, writer: Writer, partition: tuple[str, int], name: str, *, implicit: bool = True) -> None:
        def append(ended: Callable[[], None]) -> None:
            self.checked.append(self.check(writer, partition))
            self.heard.append((name, Code.NONE))
            ended()

        self.admission.enter(Arrival(writer, partition, implicit, append, lambda code: self.heard.append((name, code))))

    def check(self, writer: Writer, partition: tuple[str, int]) -> ErrorCode:
        batch = SimpleNamespace(producer_id=writer.producer_id, producer_epoch=writer.producer_epoch)
        return self.admission.check(*partition, cast(Any, batch), None)


def test_admission__keeps_the_order_and_asks_once_for_all() -> None:
    async def scenario() -> None:
        door = Door()
        writer = door.world.producer()
        door.enter(writer, A, "a1")
        door.enter(writer, B, "b1")
        door.enter(writer, A, "a2")
        assert door.heard == []
        await asyncio.sleep(0.05)
        assert sorted(door.heard) == [("a1", Code.NONE), ("a2", Code.NONE), ("b1", Code.NONE)]
        assert door.heard.index(("a1", Code.NONE)) < door.heard.index(("a2", Code.NONE))
        assert door.shard.writes == 1
        assert door.world.state.partitions == {A, B}
        assert door.checked == [Code.NONE] * 3
        assert door.check(writer, A) is Code.INVALID_TXN_STATE  # nobody is inside any more

    run_virtual(scenario())


def test_admission__waits_for_the_transaction_before() -> None:
    async def scenario() -> None:
        door = Door()
        writer = door.world.producer()
        door.world.add(writer, A, version=2)
        following = door.world.after(writer, door.world.end(writer, version=2))
        door.enter(following, A, "next")
        asyncio.get_running_loop().call_later(0.05, door.world.write_markers)
        await asyncio.sleep(0.04)
        assert door.heard == []
        await asyncio.sleep(0.06)
        assert door.heard == [("next", Code.NONE)]

    run_virtual(scenario())


def test_admission__gives_up_when_the_markers_take_too_long() -> None:
    async def scenario() -> None:
        door = Door()
        writer = door.world.producer()
        door.world.add(writer, A, version=2)
        following = door.world.after(writer, door.world.end(writer, version=2))
        door.enter(following, A, "one")
        door.enter(following, A, "two")
        await asyncio.sleep(0.2)
        assert door.heard == [("one", Code.CONCURRENT_TRANSACTIONS), ("two", Code.CONCURRENT_TRANSACTIONS)]

    run_virtual(scenario())


def test_admission__only_verifies_for_older_clients() -> None:
    async def scenario() -> None:
        door = Door()
        writer = door.world.producer()
        door.world.add(writer, A)
        door.enter(writer, A, "added", implicit=False)
        door.enter(writer, B, "never added", implicit=False)
        door.enter(writer._replace(producer_epoch=7), A, "stale", implicit=False)
        assert door.heard == [
            ("added", Code.NONE),
            ("never added", Code.TRANSACTION_ABORTABLE),
            ("stale", Code.PRODUCER_FENCED),
        ]
        assert door.shard.writes == 0

    run_virtual(scenario())


@pytest.mark.parametrize("implicit", [True, False])
def test_admission__asks_another_broker_once_for_all_that_wait(implicit: bool) -> None:
    async def scenario() -> None:
        door = Door()
        for partition, name in ((A, "a1"), (B, "b1"), (A, "a2")):
            door.enter(ELSEWHERE, partition, name, implicit=implicit)
        assert door.heard == []
        await asyncio.sleep(0.05)
        assert [name for name, code in door.heard if code is Code.NONE] == ["a1", "a2", "b1"]
        assert door.checked == [Code.NONE] * 3
        assert door.remote.asked == [([A], not implicit), ([B], not implicit)] or door.remote.asked == [
            ([A, B], not implicit)
        ]
        assert door.shard.writes == 0

    run_virtual(scenario())


def test_admission__refuses_what_another_broker_refuses() -> None:
    async def scenario() -> None:
        door = Door()
        door.remote.code = Code.NETWORK_EXCEPTION
        door.enter(ELSEWHERE, A, "a", implicit=False)
        await asyncio.sleep(0.05)
        assert door.heard == [("a", Code.NETWORK_EXCEPTION)]

    run_virtual(scenario())


def test_admission__does_not_trust_an_answer_that_a_marker_has_overtaken() -> None:
    async def scenario() -> None:
        door = Door()
        door.enter(ELSEWHERE, A, "a", implicit=False)
        await asyncio.sleep(0.005)
        door.admission.marker_comes(A, ELSEWHERE.producer_id)
        door.remote.code = Code.TRANSACTION_ABORTABLE
        await asyncio.sleep(0.09)
        assert len(door.remote.asked) == 2
        assert door.heard == [("a", Code.TRANSACTION_ABORTABLE)]

    run_virtual(scenario())


def test_admission__keeps_out_what_was_let_in_before_a_marker() -> None:
    async def scenario() -> None:
        door = Door()
        ended: list[Callable[[], None]] = []
        refuse = cast(Any, None)
        door.admission.enter(Arrival(ELSEWHERE, A, True, ended.append, refuse))
        await asyncio.sleep(0.05)
        assert door.check(ELSEWHERE, A) is Code.NONE
        door.admission.marker_comes(A, 8)
        door.admission.marker_comes(B, ELSEWHERE.producer_id)
        assert door.check(ELSEWHERE, A) is Code.NONE
        door.admission.marker_comes(A, ELSEWHERE.producer_id)
        assert door.check(ELSEWHERE, A) is Code.INVALID_TXN_STATE
        ended[0]()

    run_virtual(scenario())


def test_admission__lets_nobody_in_while_one_of_the_transaction_before_is_inside() -> None:
    async def scenario() -> None:
        door = Door()
        ended: list[Callable[[], None]] = []
        door.admission.enter(Arrival(ELSEWHERE, A, False, ended.append, cast(Any, None)))
        await asyncio.sleep(0.05)
        door.admission.marker_comes(A, ELSEWHERE.producer_id)
        door.enter(ELSEWHERE, A, "next", implicit=False)
        await asyncio.sleep(0.05)
        assert door.check(ELSEWHERE, A) is Code.INVALID_TXN_STATE, "it was let in for another transaction"
        assert door.heard == [("next", Code.CONCURRENT_TRANSACTIONS)]
        ended[0]()
        door.enter(ELSEWHERE, A, "again", implicit=False)
        await asyncio.sleep(0.05)
        assert door.heard[1:] == [("again", Code.NONE)]

    run_virtual(scenario())


@pytest.mark.parametrize(
    ("code", "implicit", "knows_abortable", "answered"),
    [
        (Code.NONE, False, False, Code.NONE),
        (Code.PRODUCER_FENCED, True, True, Code.INVALID_PRODUCER_EPOCH),
        (Code.TRANSACTION_ABORTABLE, False, True, Code.TRANSACTION_ABORTABLE),
        (Code.TRANSACTION_ABORTABLE, False, False, Code.INVALID_TXN_STATE),
        (Code.CONCURRENT_TRANSACTIONS, True, True, Code.CONCURRENT_TRANSACTIONS),
        (Code.CONCURRENT_TRANSACTIONS, False, True, Code.NOT_ENOUGH_REPLICAS),
        (Code.NOT_COORDINATOR, True, True, Code.NOT_ENOUGH_REPLICAS),
        (Code.INVALID_PRODUCER_ID_MAPPING, True, True, Code.INVALID_PRODUCER_ID_MAPPING),
    ],
)
def test_refusal__is_what_clients_can_act_on(
    code: ErrorCode, implicit: bool, knows_abortable: bool, answered: ErrorCode
) -> None:
    assert refusal(code, implicit=implicit, knows_abortable=knows_abortable) is answered
