"""One run of a compacted log: a seed decides everything that happens in it."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any, NamedTuple

from bytemq.broker.log.results import AppendResult, Origin
from bytemq.protocol.error_codes import ErrorCode
from bytemq.protocol.records.builder import Record, build_batch
from bytemq.protocol.records.control import EndTransactionMarker, end_transaction_batch
from tests.simulation.broker.loop import Process, SimulationLoop, run_simulated
from tests.simulation.compaction.history import CompactedHistory, KeyValue
from tests.simulation.slow_power import SlowPower
from tests.simulation.transcript import failure_of
from tests.support.power_cut_store import MemoryMetadata, PowerCutStore
from tests.unit.compaction.bench import SETTINGS, CleanerBench

TRANSACTIONAL_ID, IDEMPOTENT_ID = 7, 9
DELETE_RETENTION_MS = 3_000
MAP_BYTES = (120, 4_096, 4_096, 4_096)
"""Room for a handful of keys, or for all of them."""
LIVES = (1, 2, 2, 3)
WRITES = (*[8] * 63, 60)
"""In a life. Many short schedules and some long ones find most."""
LOOKS_S = (0.01, 0.05, 0.1)
"""From one look at what there is to clean to the next."""


class _Batch(NamedTuple):
    records: list[KeyValue]
    producer_id: int
    payload: bytes


class World:
    """One partition of a compacted topic through several lives of its broker."""

    def __init__(self, seed: int, loop: SimulationLoop) -> None:
        self.random = random = Random(seed)
        self.loop = loop
        self.bench = bench = CleanerBench()
        bench.power = SlowPower(seed)
        bench.store, bench.metadata = PowerCutStore(bench.power), MemoryMetadata(bench.power)
        bench.segment_bytes = random.choice((400, 600, 1_200))
        bench.settings = SETTINGS._replace(map_bytes=random.choice(MAP_BYTES))
        self.history = CompactedHistory(bench.clock.monotonic, delete_retention_ms=DELETE_RETENTION_MS)
        self.keys = [b"k%d" % n for n in range(random.choice((2, 5, 12)))]
        self.errors: list[BaseException] = []
        self.writes = random.choice(WRITES)
        self.values = 0
        self.sequence = 0
        self.repeatable: tuple[bytes, int] | None = None
        """The idempotent producer's last batch, and its offset."""
        self.on_its_way: _Batch | bool | None = None
        """A batch, or the decision of a marker, that was sent and not answered."""
        self._buried: list[Process] = []
        self.mortal: Process | None = None
        """Who may die now."""

    async def run(self) -> None:
        """Raises Violation."""
        self.loop.set_exception_handler(self._note_exception)
        lives = self.random.choice(LIVES)
        for number in range(lives):
            process = Process(f"life {number}")
            self._buried.append(process)
            died = self.loop.create_future()
            self.loop.died = lambda killed, died=died: died.done() or died.set_result(killed)
            if number < lives - 1 and self.random.random() < 0.8:
                process.steps_left = self.random.choice((50, 300, 1_000)) + self.random.randint(0, 100)
            self.mortal = process if number < lives - 1 else None
            living = process.start(self._live(last=number == lives - 1))
            await asyncio.wait([living, died], return_when=asyncio.FIRST_COMPLETED)
            if self.errors:
                raise self.errors[0]
            if living.done():
                living.result()
            process.alive = False
            self._crash()

    def _crash(self) -> None:
        bench, power_cut = self.bench, self.random.random() < 0.5
        self.history.note("the power goes" if power_cut else "the broker is killed")
        bench.storage = None
        bench.store = bench.store.after_power_cut(bench.power) if power_cut else bench.store.after_kill(bench.power)
        bench.metadata = bench.metadata.after_power_cut(bench.power)

    async def _live(self, *, last: bool) -> None:
        partition = await self.bench.open(delete_retention_ms=str(DELETE_RETENTION_MS))
        self.bench.worker.after = self._replacing
        self._find_out(partition.high_watermark)
        await self._repeat()
        working = asyncio.gather(self._write(), self._read())
        cleaning = asyncio.ensure_future(self._clean())
        await working
        cleaning.cancel()
        await asyncio.gather(cleaning, return_exceptions=True)
        if last:
            await self._end_transaction()
            while await self.bench.cleaner.clean_filthiest():
                await self._read_once()
                self.bench.clock.advance(DELETE_RETENTION_MS)
            await self._read_once()

    def _find_out(self, high_watermark: int) -> None:
        """Whether what was on its way at the crash is in the log."""
        history, sent = self.history, self.on_its_way
        history.note(f"open, from {self.bench.partition.log_start_offset} to {high_watermark}")
        self.on_its_way = None
        if high_watermark == history.end_offset:
            return
        if isinstance(sent, bool):
            history.ended(committed=sent)
        elif sent is not None:
            self._is_written(sent, history.end_offset)
        if high_watermark != history.end_offset:
            raise history.broken(f"the log ended at {history.end_offset}, and ends at {high_watermark} now")

    async def _write(self) -> None:
        for _ in range(self.random.randint(self.writes // 3, self.writes)):
            self.bench.clock.advance(self.random.choice((0, 0.05, 0.5)))
            what = self.random.random()
            if what < 0.1:
                await self._end_transaction()
            elif what < 0.3:
                await self._append(TRANSACTIONAL_ID, transactional=True)
            elif what < 0.6:
                await self._append(IDEMPOTENT_ID)
            else:
                await self._append(-1)
            if self.random.random() < 0.1:
                await self.bench.storage.checkpoint()

    async def _append(self, producer_id: int, *, transactional: bool = False) -> None:
        records: list[KeyValue] = []
        for _ in range(self.random.randint(1, 3)):
            self.values += 1
            value = None if self.random.random() < 0.2 else b"%d" % self.values + b"." * self.random.choice((0, 90))
            records.append((self.random.choice(self.keys), value))
        payload = bytes(
            build_batch(
                [Record(*pair) for pair in records],
                timestamp_ms=self.bench.clock.wall_ms(),
                producer_id=producer_id,
                producer_epoch=-1 if producer_id < 0 else 0,
                base_sequence=self.sequence if producer_id == IDEMPOTENT_ID else -1,
                transactional=transactional,
            )
        )
        self.on_its_way = batch = _Batch(records, producer_id, payload)
        result = await self._send(payload, Origin.COORDINATOR if transactional else Origin.CLIENT)
        self.on_its_way = None
        self._is_written(batch, result.base_offset)

    def _is_written(self, batch: _Batch, base_offset: int) -> None:
        transactional = batch.producer_id == TRANSACTIONAL_ID
        self.history.appended(base_offset, batch.records, self.bench.clock.wall_ms(), transactional=transactional)
        told = ", ".join(
            f"{key.decode()}={value.decode().strip('.') if value else None}" for key, value in batch.records
        )
        self.history.note(f"{told} at {base_offset}{' in a transaction' * transactional}")
        if batch.producer_id == IDEMPOTENT_ID:
            self.sequence += len(batch.records)
            self.repeatable = batch.payload, base_offset

    async def _end_transaction(self) -> None:
        committed = self.random.random() < 0.5
        marker = end_transaction_batch(
            EndTransactionMarker(committed, 0),
            producer_id=TRANSACTIONAL_ID,
            producer_epoch=0,
            timestamp_ms=self.bench.clock.wall_ms(),
        )
        self.on_its_way = committed
        await self._send(bytes(marker), Origin.COORDINATOR)
        self.on_its_way = None
        self.history.ended(committed=committed)
        self.history.note(f"{'committed' if committed else 'aborted'} at {self.history.end_offset - 1}")

    async def _repeat(self) -> None:
        """The idempotent producer never heard of its last batch and sends it again."""
        if self.repeatable is not None:
            payload, offset = self.repeatable
            result = await self._send(payload, Origin.CLIENT)
            if result.base_offset != offset:
                raise self.history.broken(f"a batch at {offset} was repeated and is at {result.base_offset} now")

    async def _send(self, payload: bytes, origin: Origin) -> AppendResult:
        result = await self.bench.send(bytearray(payload), self.bench.partition, origin=origin)
        if result.error is not ErrorCode.NONE:
            raise self.history.broken(f"an append was refused: {result.error.name}")
        return result

    async def _read(self) -> None:
        for _ in range(self.random.randint(1, 6)):
            await asyncio.sleep(self.random.random() * 0.2)
            await self._read_once()

    async def _read_once(self) -> None:
        began_ms, end = self.bench.clock.wall_ms(), self.bench.partition.last_stable_offset
        records = await self.bench.consume(isolation=1)
        answered = [record for record in records if record.offset < self.history.end_offset]
        # A reader may be faster than the producer's answer.
        self.history.read(answered, end, began_ms, committing=self.on_its_way is True)
        early = [(record.key, record.value) for record in records[len(answered) :]]
        sent = self.on_its_way
        if early and not (isinstance(sent, _Batch) and early == sent.records):
            raise self.history.broken(f"{early} was given at {self.history.end_offset}, where {sent} is on its way")

    async def _replacing(self) -> None:
        """What a cleaning has made is about to take the place of what it has read: a good moment to die."""
        if self.mortal is not None and self.random.random() < 0.4:
            self.mortal.steps_left = self.random.randint(0, self.random.choice((10, 40)))

    async def _clean(self) -> None:
        while True:
            if await self.bench.cleaner.clean_filthiest():
                clean_to = self.bench.partition.files.manifest.first_dirty_offset
                self.history.note(f"cleaned up to {clean_to}")
                await self._read_once()
            else:
                await asyncio.sleep(self.random.choice(LOOKS_S))

    def _note_exception(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.errors.append(context.get("exception") or RuntimeError(context["message"]))


def simulate(seed: int) -> tuple[list[str], BaseException | None]:
    """The transcript of this seed's run, and what went wrong in it."""
    worlds: list[World] = []

    async def main(loop: SimulationLoop) -> None:
        worlds.append(World(seed, loop))
        await worlds[0].run()

    failure = failure_of(lambda: run_simulated(main))
    return worlds[0].history.transcript, failure
