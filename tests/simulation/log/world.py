"""One run of the simulated log: a seed decides everything that happens in it."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

from bytemq.broker.log.appender import Done
from bytemq.broker.log.opening import open_partition
from bytemq.broker.log.partition import Partition
from bytemq.broker.log.results import AppendResult, Origin
from bytemq.broker.log.services import LogServices
from bytemq.config import BrokerConfig
from bytemq.errors import BytemqError
from bytemq.protocol import plain_produce
from bytemq.protocol.records.batch import TIMESTAMP_TYPE_FLAG, TRANSACTIONAL_FLAG, RecordBatch
from bytemq.protocol.records.reader import iter_records
from bytemq.types import PartitionId, TopicId
from tests.simulation.broker.loop import SimulationLoop, run_simulated
from tests.simulation.failing_log_storage import FailingLogStorage
from tests.simulation.log.clients import (
    LOST_ANSWER,
    REQUEST_TIMEOUT_S,
    LetIn,
    Producer,
    Reader,
    TransactionalProducer,
    answer_into,
)
from tests.simulation.log.history import History
from tests.simulation.transcript import failure_of
from tests.support.fake_log_storage import Disk
from tests.support.virtual_time import LoopClock
from tests.unit.log.harness import HeldExecutor, Together, append_plain

PID = PartitionId(TopicId(b"simulated topic!"), 0)
CONFIG = BrokerConfig().topic_config()
NO_ANSWER = AppendResult(LOST_ANSWER)
GIVE_UP_S = 120.0
"""Virtual seconds after which a producer that did not finish is stuck."""


class World:
    """One partition, the storage under it, its clients, and the troubles that befall them."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.random = Random(seed)
        self.clock = LoopClock()
        self.history = History(self.clock.monotonic)
        self.disk = Disk()
        self.partition: Partition | None = None
        self.leader_epoch = 0
        self.incarnation = 0
        self.sickness = self.random.choice((0.0, 0.1, 0.4))
        self.storage = FailingLogStorage(self.disk, self.random, self.history, self.sickness)
        self.errors: list[BaseException] = []
        self._row: list[tuple[RecordBatch, Done]] = []

    async def run(self) -> None:
        """Raises Violation."""
        asyncio.get_running_loop().set_exception_handler(self._note_exception)
        await self._open()
        producers = [
            Producer(self, "alice", 1, self.random.randint(4, 16)),
            Producer(self, "bob", 2, self.random.randint(4, 16)),
            Producer(self, "plain", -1, self.random.randint(0, 6)),
            TransactionalProducer(self, "tx-a", 3, self.random.choice((0, 3, 9))),
            TransactionalProducer(self, "tx-b", 4, self.random.choice((0, 6))),
        ]
        readers = [Reader(self, "reader", 0), Reader(self, "committed reader", 1)]
        background = [asyncio.create_task(actor) for actor in (*(r.run() for r in readers), self._trouble())]
        working = asyncio.gather(*(producer.run() for producer in producers))
        try:
            await self._race(working, background)
        finally:
            tasks: list[asyncio.Future[Any]] = [working, *background]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await self._check_the_end()

    async def send(self, payload: bytearray, *, origin: Origin = Origin.CLIENT) -> AppendResult:
        """One request: a fresh copy of the bytes, an answer, or none if the broker dies meanwhile."""
        if self.partition is None:
            return AppendResult(LOST_ANSWER)
        answer: asyncio.Future[AppendResult] = asyncio.get_running_loop().create_future()
        self._append(memoryview(bytearray(payload)), answer_into(answer), origin)
        if self.random.random() < 0.05:
            return AppendResult(LOST_ANSWER)  # the connection broke; the request is on its way all the same
        timer = self.clock.call_later(REQUEST_TIMEOUT_S, lambda: answer.done() or answer.set_result(NO_ANSWER))
        result = await answer
        timer.cancel()
        return result

    def _append(self, payload: memoryview, done: Done, origin: Origin) -> None:
        """By the short way, where it takes the batch: alone, or with others that come in the same turn as one row."""
        assert self.partition is not None
        header = plain_produce.batch(payload, len(payload), True) if origin is Origin.CLIENT else None
        if header is None or header[5] & (TRANSACTIONAL_FLAG | TIMESTAMP_TYPE_FLAG):
            self._append_row(self.partition)
            self.partition.append(payload, done, origin=origin)
            return
        if not self._row:
            asyncio.get_running_loop().call_soon(self._append_row, self.partition)
        self._row.append((RecordBatch(payload, header), done))
        if self.random.random() < 0.5:
            self._append_row(self.partition)

    def _append_row(self, partition: Partition) -> None:
        """What has come together; what is not taken so, one after the other."""
        row, self._row = self._row, []
        if not row or partition is not self.partition:
            return  # the broker has died meanwhile
        appender, now_ms = partition.appender, self.clock.wall_ms()
        batches, answers = [batch for batch, _ in row], [done for _, done in row]
        if self.random.random() < 0.2:  # with another partition in its request that does not take its batch
            append = appender.prepare_plain(batches, now_ms, Together(batches, answers))
            if append is not None:
                appender.take_back(batches, append)
        elif append_plain(appender, batches, now_ms, answers):
            return
        for batch, done in row:
            if not append_plain(appender, [batch], now_ms, [done]):
                partition.append(batch.view, done, origin=Origin.CLIENT)

    async def _race(self, working: asyncio.Future[Any], background: list[asyncio.Task[None]]) -> None:
        """Until the producers are done, or anyone finds a promise broken."""
        deadline = self.clock.monotonic() + GIVE_UP_S
        running: set[asyncio.Future[Any]] = {working, *background}
        while not working.done():
            done, running = await asyncio.wait(running, timeout=1.0, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            if self.errors:
                raise self.errors[0]
            if self.clock.monotonic() > deadline:
                raise self.history.broken("a producer does not get on")
        await working

    async def _trouble(self) -> None:
        """Crashes, moves, checkpoints and deletions for a while; then storage is well again."""
        for _ in range(self.random.randint(3, 25)):
            await asyncio.sleep(self.random.choice((0.002, 0.01, 0.03, 0.08)))
            happening = self.random.choices(
                (self._crash, self._move, self._checkpoint, self._delete_records, self._change_sickness),
                weights=(3, 1, 4, 1, 2),
            )[0]
            await happening()
        self.history.note("storage is well from now on")
        self.sickness = self.storage.sickness = 0.0

    async def _crash(self) -> None:
        self.history.note("the broker dies")
        self.partition = None
        self.incarnation += 1
        self.storage.crash()
        self.storage = FailingLogStorage(self.disk, self.random, self.history, self.sickness)
        await asyncio.sleep(self.random.choice((0, 0.05)))
        await self._open()

    async def _move(self) -> None:
        """A clean release, and another broker as owner: what is on the wire does not reach that one."""
        self.history.note("ownership moves")
        self.incarnation += 1
        partition, self.partition = self.partition, None
        if partition is not None:
            await partition.close(drain=True)
        await self._open()

    async def _checkpoint(self) -> None:
        if self.partition is not None:
            self.storage.checkpoint(self.partition._files)  # type: ignore[arg-type]
            self.history.note(f"checkpoint at {self.partition.high_watermark}")

    async def _delete_records(self) -> None:
        if self.partition is not None:
            offset = self.random.randint(0, self.partition.high_watermark)
            answer = await self.partition.delete_records(offset)
            self.history.note(f"records below {offset} deleted: {answer.error.name}")

    async def _change_sickness(self) -> None:
        self.sickness = self.storage.sickness = self.random.choice((0.0, 0.2, 0.8))
        self.history.note(f"storage fails {self.sickness:.0%} of the time")

    async def _open(self) -> None:
        self.leader_epoch += 1
        services = LogServices(self.storage, self.clock, HeldExecutor(), guard=LetIn())  # type: ignore[arg-type]
        while True:
            try:
                self.partition = await open_partition(PID, "simulated", self.leader_epoch, CONFIG, services)
                break
            except BytemqError as error:
                self.history.note(f"cannot open: {error}")
        state = self.partition
        self.history.note(f"open at epoch {self.leader_epoch}, {state.log_start_offset} to {state.high_watermark}")

    async def _check_the_end(self) -> None:
        await self._crash()
        assert self.partition is not None
        stored = self.disk.logs[PID]
        records = [(r.offset, r.value or b"") for batch in stored.batches for r in iter_records(batch)]
        start = self.partition.log_start_offset
        self.history.check_log(records, start, self.partition.high_watermark)
        if self.partition.last_stable_offset != self.partition.high_watermark:
            raise self.history.broken("every transaction has ended, and yet the last stable offset is behind")
        reader = Reader(self, "last reader", 1)
        reader.position = start
        while await reader.read_once():
            pass
        self.history.check_committed(start)

    def _note_exception(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """An exception in a callback, an assertion of the log or of the storage, is the end of the run."""
        self.errors.append(context.get("exception") or RuntimeError(context["message"]))


def simulate(seed: int) -> tuple[list[str], BaseException | None]:
    """The transcript of this seed's run, and what went wrong in it."""
    world = World(seed)

    async def main(_: SimulationLoop) -> None:
        await world.run()

    failure = failure_of(lambda: run_simulated(main))
    return world.history.transcript, failure or (world.errors[0] if world.errors else None)
