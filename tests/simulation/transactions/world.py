"""The transaction coordinator's machine through many lives, and what takes part in transactions. A seed decides it.

Real are the machine, its records, the sender of markers, and of those who take part the producers of their logs, the
admission of batches and the machine of groups. There are no brokers, sockets, bytes of requests or files: two programs
write in transactions of the old flow and of version 2, die, and leave zombies, while coordinators are deposed and go on
for a while, owners of partitions die, writes fail, and answers and markers are late or lost.

What must hold: what the checker of whole brokers knows of transactions (`broker/history.py`), at every commit and at
the end; and

    a coordinator that reads the log knows what this one knows, after each write
    an offset that was given is that of a transaction which shows its records
    of one producer the records of one transaction at a time are open in a partition
    in the end no transaction is open, nothing waits for a marker, and idle ids are forgotten when it is time
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from functools import lru_cache
from random import Random
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import patch

from bytemq.broker.coordinator.timers import TimerQueue
from bytemq.broker.coordinator.transaction import records, shard
from bytemq.broker.coordinator.transaction.records import TransactionRecord
from bytemq.broker.coordinator.transaction.shard import TransactionShard
from bytemq.broker.coordinator.transaction.transaction import LAST_CLIENT_EPOCH, NO_EPOCH, TopicPartition, Transaction
from bytemq.metadata.image import ClusterImage
from bytemq.metadata.topic_names import OFFSETS_TOPIC
from tests.simulation.broker.history import Attempt
from tests.simulation.broker.loop import SimulationClock, SimulationLoop
from tests.simulation.broker.run import GIVE_UP_S, Run
from tests.simulation.transactions.clients import DirectClient, Program
from tests.simulation.transactions.coordinator import ELSEWHERE, SETTINGS, Coordinator
from tests.simulation.transactions.participants import GroupParticipant, Participant
from tests.simulation.transactions.wire import LATE_S, Wire

TOPIC = "t"
_FIRST_PRODUCER_ID = 1_000
_UNAWARE_S = (0.0, 0.0, 0.05, 0.5)
"""How long a deposed coordinator goes on."""


class World(Run):
    zombies = 0.15

    def __init__(self, seed: int, loop: SimulationLoop) -> None:
        super().__init__(loop)
        self.seed = seed
        self.random = random = Random(seed)
        self.clock = SimulationClock(loop)
        self.patience_s = 0.6
        self.gives_up = random.choice((0.1, 0.6))
        self.idle_times_s: tuple[float, ...] = random.choice(((0.0, 0.002), (0.0, 0.02, 0.3)))
        self.transaction_timeouts_ms = random.choice(((20_000,), (400, 5_000), (200,)))
        self.sickness = random.choice((0.0, 0.1, 0.3))
        self.is_well = False
        self.wire = Wire(self, loop, random)
        self.image = cast(
            ClusterImage,
            SimpleNamespace(
                topics={
                    name: SimpleNamespace(partitions=[SimpleNamespace(owner=ELSEWHERE)] * count)
                    for name, count in ((TOPIC, random.choice((1, 2, 3))), (OFFSETS_TOPIC, 1))
                }
            ),
        )
        self.log: list[tuple[bytes, bytes | None]] = []
        """Of the coordinator."""
        self.producer_ids = itertools.count(_FIRST_PRODUCER_ID)
        self._second = TransactionShard(SETTINGS, TimerQueue(lambda: 0), lambda: 0, cast(Any, None), 0)
        """Reads it behind the coordinator that writes it: what it knows is what a restart would find."""
        self._read_to = 0
        self.inputs = [0, 1]
        """Partitions of the programs' inputs, one each, whose offsets they commit."""
        self.newest: dict[str, DirectClient] = {}
        """Of each transactional id, who was started last."""
        self.offset = 0
        self.attempts_by_offset: dict[int, Attempt] = {}
        self.group = GroupParticipant(self, (OFFSETS_TOPIC, 0))
        self.participants: dict[TopicPartition, Participant] = {self.group.place: self.group}
        for index in range(len(self.image.topics[TOPIC].partitions)):
            self.participants[TOPIC, index] = Participant(self, (TOPIC, index))
        self.programs = self._programs()
        self.coordinator = Coordinator(self, 0)

    def _programs(self) -> list[Program]:
        places = [place for place in self.participants if place[0] == TOPIC]
        programs = []
        for number in range(2):
            count = self.random.choice((1, 2, 3, 5))
            program = Program(self, f"tx-{number}", places, count, bumping=self.random.random() < 0.5)
            programs.append(program)
            if self.random.random() < 0.1:  # it has used up almost all of its epochs
                used = Transaction(number, LAST_CLIENT_EPOCH - self.random.randint(0, 2), 60_000)
                record = TransactionRecord(program.name, used._replace(update_ms=self.clock.wall_ms()))
                self.log.append((record.encode_key(), record.encode_value()))
        return programs

    # -- what clients ask of a world

    def place_of(self, topic: str, key: str) -> TopicPartition:
        return topic, 0

    # -- the run

    async def run(self) -> None:
        """Raises Violation."""
        with patch.object(shard, "decode", _decoded):
            await self._run()

    async def _run(self) -> None:
        working = asyncio.gather(*(program.run() for program in self.programs))
        trouble = self.start(self._trouble(working))
        await self._until(working, "a producer does not get on")
        await self._until(trouble, "trouble does not end")
        while self._zombies:
            await self._until(self._zombies.pop(), "a zombie does not get on")
        if self.random.random() < 0.5:
            self._take_over()
        await asyncio.sleep(max(LATE_S))  # a batch that comes late may begin a transaction
        await self._settle()
        self._take_over()
        for participant in self.participants.values():
            participant.crash()
        await self._settle()
        self._check_the_end()
        await asyncio.sleep((SETTINGS.id_expiration_ms + 2 * SETTINGS.remove_expired_interval_ms) / 1000)
        if self.coordinator.machine.environment.entries:
            raise self.history.broken("ids that nobody uses any more are not forgotten")

    async def _settle(self) -> None:
        """Returns when everything that was begun has ended."""
        deadline = self.loop.time() + GIVE_UP_S
        while (waiting := self._unsettled()) is not None:
            if self.errors:
                raise self.errors[0]
            if self.loop.time() > deadline:
                raise self.history.broken(waiting)
            await asyncio.sleep(0.3)
        if self.errors:
            raise self.errors[0]

    def _unsettled(self) -> str | None:
        for participant in self.participants.values():
            if participant.is_open:
                return f"a transaction in {participant.place} does not end"
        if not self.coordinator.is_active:
            return "the coordinator does not load"
        for transactional_id, entry in self.coordinator.machine.environment.entries.items():
            if entry.pending is not None or entry.committed is None or not entry.committed.is_at_rest:
                return f"{transactional_id} does not come to rest"
        return None

    # -- troubles

    async def _trouble(self, working: asyncio.Future[Any]) -> None:
        for _ in range(self.random.randint(2, 12)):
            await asyncio.sleep(self.random.choice((0.002, 0.01, 0.03, 0.1)))
            if working.done():
                break
            self.random.choices((self._take_over, self._crash, self._change_sickness), weights=(4, 3, 1))[0]()
        await asyncio.wait([working], timeout=self.random.choice((0.0, 0.5, 2.0)))
        self.history.note("all is well from now on")
        self.is_well = True
        self.sickness = self.wire.loss = self.wire.late = 0.0
        self.idle_times_s = (0.0, 0.01)

    def _take_over(self) -> None:
        before = self.coordinator
        before.deposed()
        self.loop.call_later(self.random.choice(_UNAWARE_S), before.close)
        self.coordinator = Coordinator(self, before.epoch + 1)
        self.history.note(f"coordinator {self.coordinator.epoch} takes over")

    def marker_is_late(self) -> None:
        """A good moment for a successor, which sends its own before that one comes."""
        if not self.is_well:
            self.loop.call_later(0.0, self._take_over)

    def _crash(self) -> None:
        self.participants[self.random.choice(list(self.participants))].crash()

    def _change_sickness(self) -> None:
        self.sickness = self.random.choice((0.0, 0.1, 0.5))

    # -- what must hold

    def written(self, coordinator: Coordinator) -> None:
        """After each write: whoever loads the log now knows what this one knows."""
        self._second.replay(self.log[self._read_to :])
        self._read_to = len(self.log)
        entries = coordinator.machine.environment.entries
        known = {name: entry.committed for name, entry in entries.items() if entry.committed is not None}
        found = {name: entry.committed for name, entry in self._second.environment.entries.items()}
        if {name: stored(each) for name, each in known.items()} != found:
            raise self.history.broken(f"the log knows {found}, the coordinator {known}")

    def _check_the_end(self) -> None:
        environment = self.coordinator.machine.environment
        states = Counter(entry.committed.state for entry in environment.entries.values() if entry.committed)
        if +environment.state_counts != states or environment.unmarked_count:
            raise self.history.broken(f"{environment.state_counts}, {environment.unmarked_count} markers are counted")
        visible = {}
        for place, participant in self.participants.items():
            if place[0] == TOPIC:
                end = participant.state.high_watermark
                found = {
                    offset: value
                    for batch, values in participant.log
                    for offset, value in enumerate(values or [b""], batch.base_offset)
                }
                self.history.check_log(place, found, end)
                visible[place] = dict(participant.visible(0, end))
                self._check_transactions(participant)
        self.history.check_visible(visible)
        self._check_offsets({value for values in visible.values() for value in values.values()})

    def _check_transactions(self, participant: Participant) -> None:
        """A marker ends one transaction."""
        begun: dict[int, Attempt | None] = {}
        for batch, values in participant.log:
            if batch.is_control:
                begun.pop(batch.producer_id, None)
                continue
            attempt = self.history.sent[values[0]].transaction
            if begun.setdefault(batch.producer_id, attempt) is not attempt:
                raise self.history.broken(f"{values[0]!r} is in a transaction with records of another one")

    def _check_offsets(self, seen: set[bytes]) -> None:
        offsets = self.group.stable_offsets()
        for offset, attempt in self.attempts_by_offset.items():
            given = [index for index, committed in attempt.offsets.items() if offsets.get(index) == committed]
            if attempt.committed and any(offsets.get(index, -1) < each for index, each in attempt.offsets.items()):
                raise self.history.broken(f"offset {offset} of {attempt.name} was committed, {offsets} are")
            hidden = [value for batch in attempt.batches for value in batch.values if value not in seen]
            if given and (attempt.aborted or not attempt.asked_to_commit or hidden):
                raise self.history.broken(f"{attempt.name} has committed offset {offset}, and does not show {hidden}")


_decoded = lru_cache(maxsize=4096)(records.decode)
"""They are values, and each coordinator reads again what the ones before have read."""


def stored(transaction: Transaction | None) -> Transaction | None:
    return None if transaction is None else transaction._replace(last_epoch=NO_EPOCH)
