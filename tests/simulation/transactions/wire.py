"""What is between clients, coordinators and participants: questions and answers come late, or are lost on either way.

What was lost may come all the same, where the protocol has an answer to that: a batch, and a marker of transaction
version 2. A marker of an old client's transaction that was lost is lost for good: nothing tells it from one of the next
transaction once its coordinator has repeated it (docs/testing.md). Each marker may be on its way for so long that its
coordinator has a successor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import TYPE_CHECKING, Any, TypeVar

from bytemq.broker.coordinator.marker_writer import Marker, Written
from bytemq.broker.coordinator.transaction.adding import Writer
from bytemq.broker.coordinator.transaction.transaction import EPOCH_BUMP_VERSION, TopicPartition
from bytemq.protocol.error_codes import ErrorCode
from tests.simulation.broker.loop import SimulationLoop

if TYPE_CHECKING:
    from tests.simulation.transactions.world import World

R = TypeVar("R")
Answer = Callable[[R], None]
DELAYS_S = (0.0, 0.001, 0.001, 0.01)
LATE_S = (0.02, 0.1, 0.3, 1.0)


class Wire:
    """`loss` is how often a question or an answer does not arrive. Implements `RemoteCoordinator` and
    `RemoteMarkers`.
    """

    def __init__(self, world: World, loop: SimulationLoop, random: Random) -> None:
        self.loss = random.choice((0.0, 0.03, 0.12))
        self.late = random.choice((0.0, 0.1, 0.4))
        """How often a marker is."""
        self._world = world
        self._loop = loop
        self._random = random

    def after_a_while(self, call: Callable[..., Any], *arguments: Any) -> None:
        self._loop.call_later(self._random.choice(DELAYS_S), call, *arguments)

    async def ask(self, deliver: Callable[[Answer[R | None]], None], *, lingers: bool = False) -> R | None:
        """The answer that `deliver` calls back with; None when there is none: whether it was carried out nobody knows.
        One that `lingers` may be carried out later, when it was taken for lost.
        """
        answered = self._loop.create_future()

        def resolve(answer: R | None) -> None:
            if not answered.done():
                answered.set_result(answer)

        def answer(answer: R | None) -> None:
            self.after_a_while(resolve, None if self._is_lost() else answer)

        if self._is_lost():
            self.after_a_while(resolve, None)
            if lingers:
                self._loop.call_later(self._random.choice(LATE_S), deliver, answer)
        else:
            self.after_a_while(deliver, answer)
        result: R | None = await answered
        return result

    async def add(
        self, writer: Writer, partitions: Sequence[TopicPartition], *, verify_only: bool
    ) -> dict[TopicPartition, ErrorCode]:
        """A participant asks the coordinator of a transaction."""

        def deliver(answer: Answer[dict[TopicPartition, ErrorCode] | None]) -> None:
            if verify_only:
                self._world.coordinator.verify(writer, partitions, answer)
            else:
                self._world.coordinator.write(
                    lambda machine, _: machine.adding.add(writer, partitions, EPOCH_BUMP_VERSION),
                    lambda code, _: answer(None if code is None else dict.fromkeys(partitions, code)),
                )

        codes = await self.ask(deliver)
        return dict.fromkeys(partitions, ErrorCode.NETWORK_EXCEPTION) if codes is None else codes

    def write(self, broker_id: int, marker: Marker, partition: TopicPartition, written: Written) -> None:
        """A coordinator's marker to whoever owns the partition."""
        participant = self._world.participants[partition]

        def answer(code: ErrorCode) -> None:
            self.after_a_while(written, ErrorCode.NETWORK_EXCEPTION if self._is_lost() else code)

        is_late = self._random.random() < self.late
        if self._is_lost() or (is_late and marker.is_bumped and self._random.random() < 0.5):
            self.after_a_while(written, ErrorCode.NETWORK_EXCEPTION)
            if marker.is_bumped:
                participant.write_marker_late(marker, lambda _: None, self._random.choice(LATE_S))
        elif is_late:
            participant.write_marker_late(marker, answer, self._random.choice(LATE_S))
            self._world.marker_is_late()
        else:
            self.after_a_while(participant.write_marker, marker, answer)

    def _is_lost(self) -> bool:
        return self._random.random() < self.loss
