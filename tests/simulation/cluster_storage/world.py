"""Brokers that die, pause and hand over, on a store and metadata that fail, in virtual time. One seed decides it all.

Each third seed has pools beside the primary store: each is well, slow, failing or dark to each broker by itself,
they come, are drained and take part again; at the end one is drained and must become empty.

What must hold is checked at the end, on what a fresh broker finds: every acknowledged batch is where it was
acknowledged, nothing is there that was not handed over at that offset, nothing that was certainly refused, no offset is
missing, and what is left in the store is what metadata name. In half of the seeds the metadata are lost before that,
and made of an export and of what the store holds; what was refused at the very end may then be there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from random import Random
from unittest.mock import patch

from bytemq.errors import BytemqError, Corrupt, Fenced, NotFound, Unavailable
from bytemq.metadata import keys
from bytemq.metadata.backup import LEFT_OUT, Backup
from bytemq.metadata.pools import PoolUse
from bytemq.metadata.store import Compare, KeyValue, Put, Txn
from bytemq.metadata.values import TopicValue, encode_topic
from bytemq.protocol.records.batch import split_batches
from bytemq.storage.log_files import LogFiles
from bytemq.storage.manifests.manifest_codec import decode_manifest, directory_of, names_of
from bytemq.storage.objects import session_tail, small_segments
from bytemq.storage.objects.roll_forward import roll_forward
from bytemq.storage.objects.session_log import session_of
from bytemq.storage.pools.contents import PoolContents, contents
from bytemq.storage.pools.names import SHOWN_PRIMARY, in_pool, pool_shown_as, shown
from bytemq.storage.stores.remote import RetryPolicy
from bytemq.types import PartitionId
from tests.simulation.broker.loop import SimulationLoop, run_simulated
from tests.simulation.slow_power import SlowPower
from tests.simulation.transcript import Transcript, Violation, failure_of
from tests.support.failing_driver import Fault
from tests.support.log_workload import snapshot_of
from tests.support.power_cut_store import MemoryMetadata
from tests.support.virtual_time import LoopClock
from tests.unit.storage.cluster.cluster_bench import Broker, Cluster, batch, content, pid

ACTIONS = (*[15] * 15, 80)
"""Many short schedules and some long ones find most."""
DEADLINE_S = 100_000
"""Virtual; who has not come to an end by then never will."""
CLEAN_WITHIN_S = 60
DRAINED_WITHIN_S = 200
FAULTS = ("refused", "torn", "twice", "late", "cut")
QUICK = {"wal_flush_interval_ms": 20, "retry_delay_ms": 20}


class FailingMetadata(MemoryMetadata):
    """A transaction may fail, succeed without an answer, or be applied long after its sender was told nothing."""

    def __init__(self, chance: Random) -> None:
        super().__init__(SlowPower(chance.randrange(1 << 30)))
        self.chance = chance
        self.rate = 0.0
        self._late: list[tuple[Sequence[Compare], Sequence[Put], Sequence[str]]] = []

    async def txn(self, compares: Sequence[Compare], puts: Sequence[Put] = (), deletes: Sequence[str] = ()) -> Txn:
        if self._late and self.chance.random() < 0.15:
            await super().txn(*self._late.pop(self.chance.randrange(len(self._late))))
        fate = self.chance.random() / self.rate if self.rate else 1.0
        if fate < 0.3:
            raise Unavailable("no leader")
        if fate < 0.6:
            self._late.append((compares, puts, deletes))
            raise Unavailable("no answer yet")
        outcome = await super().txn(compares, puts, deletes)
        if fate < 1.0:
            raise Unavailable("the answer was lost")
        return outcome


class World:
    def __init__(self, seed: int) -> None:
        self.chance = Random(seed)
        self.cluster = Cluster(LoopClock(), RetryPolicy(attempts=3, timeout_s=2.0))
        self.metadata = self.cluster.metadata = FailingMetadata(self.chance)
        self.history = Transcript(self.cluster.clock.monotonic)
        self._found: Violation | None = None
        """What a callback has seen; the storage that called it must not be hurt by it."""
        partitions = [pid(n) for n in range(self.chance.choice((1, 2, 2, 3)))]
        self.handed: dict[PartitionId, dict[int, set[bytes]]] = {partition: {} for partition in partitions}
        self.acked: dict[PartitionId, dict[int, bytes]] = {partition: {} for partition in partitions}
        self.refused: dict[PartitionId, set[bytes]] = {partition: set() for partition in partitions}
        self.owned: dict[PartitionId, tuple[Broker, LogFiles]] = {}
        self.epochs: dict[LogFiles, int] = {}
        """In which each was opened. The manifest of a fenced owner may be its successor's by now."""
        self.brokers: list[Broker] = []
        self.zombies: list[tuple[Broker, list[LogFiles]]] = []
        self._next_id = 0
        self._number = 0
        self._epoch = 0
        self.meanwhile: asyncio.Task[None] | None = None
        self.actions = self.chance.choice(ACTIONS)
        self.settings = {
            **QUICK,
            "wal_retained_bytes": self.chance.choice((4_000, 40_000)),
            "storage_upkeep_interval_ms": self.chance.choice((300, 1_000, 3_000)),
            "storage_garbage_grace_ms": self.chance.choice((500, 3_000)),
        }
        self.index_flushes = self.chance.choice((1, 1, 2, 32))
        self.fate = Random(f"metadata {seed}")
        self.loses_metadata = self.fate.random() < 0.5
        self.exports: list[tuple[float, Backup]] = []
        """And when each was made."""
        self.coordinators: list[PartitionId] = []
        if seed % 2:
            self.coordinators = partitions[:1]
            self.settings["coordinator_extents"] = 3
        self.pools: list[str] = []
        """Beside the primary."""
        self.pool_chance = Random(seed)
        """By itself: without pools a seed is what it is."""
        if seed % 3 == 2:
            self.pools = ["b", "c"][: self.pool_chance.choice((1, 1, 2))]
            self.cluster.late_ms = self.pool_chance.choice((50, 200))
            self.cluster.fault_of_pool = lambda broker, pool: self._pool_weather(_name(broker), pool)

    async def run(self) -> None:
        for pool in self.pools:
            await self.cluster.set_pool(pool)
        for _ in range(2):
            await self._start_broker()
        if self.chance.random() < 0.5:
            self._change_weather()
        for _ in range(self.actions):
            await self._act()
            self._export()
            if self.pools and self.pool_chance.random() < 0.3:
                await self._change_pools()
            await self.cluster.clock.sleep(self.chance.choice((0, 0, 0.001, 0.02, 0.1, 0.5)))
            self._raise_found()
        await self._check()
        self._raise_found()

    async def _act(self) -> None:
        for partition in self.handed:
            if partition not in self.owned:
                await self._open(partition, self.chance.choice(self.brokers))
        action = self.chance.random()
        if action < 0.62 and self.owned:
            broker, log = self.owned[self.chance.choice(sorted(self.owned))]
            self._append(broker, log)
        elif action < 0.70:
            self._change_weather()
        elif action < 0.77:
            broker = self.chance.choice(self.brokers)
            self.history.note(f"{_name(broker)} checkpoints")
            await _attempt(broker.storage.checkpoint())
        elif action < 0.87 and self.owned:
            await self._move(self.chance.choice(sorted(self.owned)))
        elif action < 0.93:
            await self._lose(self.chance.choice(self.brokers))
        elif action < 0.96 and self.zombies:
            zombie = self.chance.choice(self.zombies)
            for log in zombie[1]:
                self._append(zombie[0], log)
            if zombie[0].storage._wal.has_died:
                self.zombies.remove(zombie)
                await zombie[0].kill()
        else:
            await self._read()

    async def _change_pools(self) -> None:
        """The weather of one pool, the primary among them, as one broker sees it; or whether one is drained."""
        if self.pool_chance.random() < 0.7:
            broker = self.pool_chance.choice(self.brokers)
            pool = self.pool_chance.choice(sorted(broker.drivers))
            driver = broker.drivers[pool]
            driver.fault = self._pool_weather(_name(broker), pool)
            driver.latency_s = self.pool_chance.choice((0.0, 0.0, 0.05, 0.3))
            driver.settle()
            return
        drained = self.pool_chance.choice((None, *self.pools, SHOWN_PRIMARY))
        for pool in (SHOWN_PRIMARY, *self.pools):
            await self._set_pool(pool, PoolUse.DRAINED if pool == drained else PoolUse.IN_USE)

    async def _set_pool(self, pool: str, use: PoolUse) -> None:
        rate, self.metadata.rate = self.metadata.rate, 0.0
        await self.cluster.set_pool(pool, use)
        self.metadata.rate = rate
        self.history.note(f"pool {pool} is {use.value}")

    def _pool_weather(self, broker: str, pool: str) -> Fault:
        rate = self.pool_chance.choice((0.0, 0.0, 0.4, 1.0))
        faults = self.pool_chance.choice((FAULTS, ("refused",), ("silent",)))
        self.history.note(f"{rate:.0%} of what {broker} asks of {shown(pool)} fails: {', '.join(faults)}")
        return lambda operation, name: self.pool_chance.choice(faults) if self.pool_chance.random() < rate else None

    def _change_weather(self) -> None:
        """Well again as often as not: what fails for ever proves nothing."""
        for broker in self.brokers:
            rate = self.chance.choice((0.0, 0.0, 0.3, 0.9))
            broker.driver.fault = lambda operation, name, rate=rate: (
                self.chance.choice(FAULTS) if self.chance.random() < rate else None
            )
            broker.driver.settle()
            self.history.note(f"{rate:.0%} of what {_name(broker)} asks of the store fails")
        self.metadata.rate = self.chance.choice((0.0, 0.0, 0.3))
        self.history.note(f"{self.metadata.rate:.0%} of the transactions fail")

    async def _start_broker(self) -> None:
        self._next_id += 1
        rate, self.metadata.rate = self.metadata.rate, 0.0
        self.brokers.append(await self.cluster.broker(self._next_id, **self.settings))
        self.metadata.rate = rate
        self.history.note(f"{_name(self.brokers[-1])} has started")

    async def _open(self, partition: PartitionId, broker: Broker) -> None:
        self._epoch += 1
        epoch = self._epoch
        if self.chance.random() < 0.3:
            self.meanwhile = asyncio.ensure_future(self._write_behind(broker))
        try:
            log = await broker.storage.open_log(partition, epoch)
        except (Unavailable, Fenced) as error:
            self.history.note(f"{_name(broker)} cannot open {_number(partition)} now: {type(error).__name__}")
            return
        except (Corrupt, NotFound) as error:
            raise self.history.broken(f"{_number(partition)} cannot be opened: {error}") from error
        self.history.note(f"{_name(broker)} has opened {_number(partition)}, which ends at {log.end_offset}")
        log.snapshot_source = lambda: snapshot_of(log)
        log.is_coordinators = log.is_urgent = partition in self.coordinators
        self.owned[partition], self.epochs[log] = (broker, log), epoch

    async def _write_behind(self, broker: Broker) -> None:
        """While one of its logs is being opened."""
        await self.cluster.clock.sleep(self.chance.choice((0, 0.002, 0.01)))
        await _attempt(broker.storage.checkpoint())

    def _append(self, broker: Broker, log: LogFiles) -> None:
        self._number += 1
        partition, offset = log.partition, log.staged_end
        made = batch(offset, self.chance.choice((1, 50, 900)), mark=self._number)
        made.place(offset, self.epochs[log])
        data = bytes(made.view)
        self.handed[partition].setdefault(offset, set()).add(data)

        what = f"batch {self._number} for {offset} of {_number(partition)}"
        self.history.note(f"{_name(broker)} is given {what}")

        def on_durable(error: BytemqError | None) -> None:
            self.history.note(f"{what}: {'durable' if error is None else type(error).__name__}")
            if error is None:
                if self.acked[partition].setdefault(offset, data) != data:
                    self._found = self.history.broken(f"offset {offset} was acknowledged for two batches")
            elif not isinstance(error, Fenced) and not broker.storage._wal.has_died:
                self.refused[partition].add(data)

        broker.storage.append(log, [made], on_durable)

    async def _move(self, partition: PartitionId) -> None:
        if await self._release(partition):
            await self._open(partition, self.chance.choice(self.brokers))

    async def _release(self, partition: PartitionId) -> bool:
        broker, log = self.owned[partition]
        for _ in range(2000):
            if log.staged_end == log.end_offset:
                break
            await self.cluster.clock.sleep(0.01)
        else:
            return False
        del self.owned[partition]
        self.history.note(f"{_name(broker)} releases {_number(partition)}")
        await broker.storage.release_log(partition)
        return True

    async def _lose(self, broker: Broker) -> None:
        """It dies, stops, or is only taken for dead."""
        logs = [log for one, log in self.owned.values() if one is broker]
        self.owned = {partition: held for partition, held in self.owned.items() if held[0] is not broker}
        self.brokers.remove(broker)
        fate = self.chance.random()
        if fate < 0.4:
            self.history.note(f"{_name(broker)} dies")
            await broker.kill()
            self.cluster.end(broker)
        elif fate < 0.6:
            self.history.note(f"{_name(broker)} stops")
            broker.driver.fault = lambda operation, name: None
            rate, self.metadata.rate = self.metadata.rate, 0.0
            await broker.stop()
            self.metadata.rate = rate
        else:
            self.history.note(f"{_name(broker)} is taken for dead, and goes on")
            self.cluster.end(broker)
            self.zombies.append((broker, logs))
        await self._start_broker()

    async def _read(self) -> None:
        """What is served is what was handed over, and never more than was committed."""
        if not self.owned:
            return
        partition = self.chance.choice(sorted(self.owned))
        _, log = self.owned[partition]
        try:
            found = await content(log)
        except Unavailable:
            return
        except (Corrupt, NotFound) as error:
            raise self.history.broken(f"a committed batch cannot be read: {error}") from error
        for offset, data in enumerate(found):
            if data not in self.handed[partition].get(offset, ()):
                raise self.history.broken(f"offset {offset} holds what nobody has written there")

    def _raise_found(self) -> None:
        if self._found is not None:
            raise self._found

    def _export(self) -> None:
        """As `backup.lines_of` has it, with topics."""
        if not self.loses_metadata:
            return
        entries = [(entry.key, entry.value) for entry in self.metadata.entries.values()]
        kept = [(key, value) for key, value in entries if not key.startswith(LEFT_OUT)]
        for partition in self.handed:
            topic = TopicValue(partition.topic_id, 1, 1, {})
            kept.append((keys.topic(_number(partition)), encode_topic(topic)))
        self.exports.append((self.cluster.clock.monotonic(), Backup("cluster", self.metadata.revision, kept)))

    async def _roll_forward(self) -> None:
        """From an export that is younger than the time of grace, as `MetadataExports` sees to it."""
        now, grace_s = self.cluster.clock.monotonic(), self.settings["storage_garbage_grace_ms"] / 1000
        young = [(made_at, export) for made_at, export in self.exports if now - made_at < grace_s]
        if not young:
            return
        made_at, export = self.fate.choice(young)
        self.history.note(f"the metadata are lost; there is an export that is {now - made_at:.3f} s old")
        found = await roll_forward(self.cluster.stores(), export)
        if found.problems:
            raise self.history.broken(f"not everything is found again: {found.problems}")
        self.metadata.revision = found.backup.revision + 1
        self.metadata.entries = {
            key: KeyValue(key, value, self.metadata.revision) for key, value in found.backup.entries
        }
        self.refused = {partition: set() for partition in self.handed}

    async def _check(self) -> None:
        self.history.note("all is well from now on")
        self.metadata.rate = 0.0
        self.cluster.fault_of_pool = lambda broker, pool: lambda operation, name: None
        for broker in self.brokers:
            broker.heal()
        await self.cluster.clock.sleep(self.fate.choice((0.01, 0.1, 0.3)) if self.loses_metadata else 1)
        lives_on = [] if self.loses_metadata else [broker for broker in self.brokers if self.fate.random() < 0.5]
        for broker in [*self.brokers, *(broker for broker, _ in self.zombies)]:
            broker.heal()
            if broker not in lives_on:
                await broker.kill()
                self.cluster.end(broker)
        for partition, (broker, _) in list(self.owned.items()):
            if broker in lives_on and not await self._release(partition):
                raise self.history.broken(f"what {_name(broker)} was given for {_number(partition)} is never written")
        await self._roll_forward()
        heir = await self.cluster.broker(99, **self.settings)
        self.owned = {}
        for partition in self.handed:
            while partition not in self.owned:  # a transaction of who lives on may be applied while it is being opened
                await self._open(partition, heir)
            await self._check_partition(partition, one_by_one=True)
        deadline = self.cluster.clock.monotonic() + CLEAN_WITHIN_S
        live = {broker.session.session_id for broker in (*lives_on, heir)}
        while (wrong := self._wrong_in_store(live)) is not None:
            if self.cluster.clock.monotonic() > deadline:
                raise self.history.broken(wrong)
            await self.cluster.clock.sleep(0.5)
        for partition in self.handed:
            await self._check_partition(partition, one_by_one=False)
        if self.pools:
            await self._drain(heir)
        for broker in (*lives_on, heir):
            await broker.stop()

    async def _drain(self, heir: Broker) -> None:
        """One of the pools, or the primary."""
        drained = self.pool_chance.choice((*self.pools, SHOWN_PRIMARY))
        for pool in (SHOWN_PRIMARY, *self.pools):
            await self._set_pool(pool, PoolUse.DRAINED if pool == drained else PoolUse.IN_USE)
        deadline = self.cluster.clock.monotonic() + DRAINED_WITHIN_S
        name = pool_shown_as(drained)
        while not (left := (await contents(self.metadata)).get(name, PoolContents())).is_empty:
            if self.cluster.clock.monotonic() > deadline:
                raise self.history.broken(f"{drained} does not become empty: {left}")
            await self.cluster.clock.sleep(0.5)
        while (there := self._logs_in(name)) and self.cluster.clock.monotonic() < deadline:
            await self.cluster.clock.sleep(0.5)
        if there:
            raise self.history.broken(f"{drained} is empty, and {there[:3]} are still there")
        for partition in self.handed:
            await self._check_partition(partition, one_by_one=False)

    def _logs_in(self, pool: str) -> list[str]:
        objects = self.cluster.pools[pool] if pool else self.cluster.objects
        return [name for name in objects if not name.endswith(".probe")]

    async def _check_partition(self, partition: PartitionId, *, one_by_one: bool) -> None:
        _, log = self.owned[partition]
        if log.manifest.holes:
            raise self.history.broken(f"offsets are lost: {log.manifest.holes}")
        try:
            found = await content(log) if one_by_one else await _content(log)
        except (Corrupt, NotFound) as error:
            raise self.history.broken(f"a committed batch cannot be read: {error}") from error
        for offset, data in self.acked[partition].items():
            if offset >= len(found):
                raise self.history.broken(f"acknowledged at {offset}, the log ends at {len(found)}")
            if found[offset] != data:
                raise self.history.broken(f"acknowledged at {offset}, where another batch is")
        for offset, data in enumerate(found):
            if data not in self.handed[partition].get(offset, ()):
                raise self.history.broken(f"offset {offset} holds what nobody has written there")
            if data in self.refused[partition]:
                raise self.history.broken(f"offset {offset} holds what was refused")

    def _wrong_in_store(self, live: set[int]) -> str | None:
        """What is there and should not be; garbage takes its time to go. Raises when something is missing."""
        named: set[str] = set()
        for entry in self.metadata.entries.values():
            if entry.key.startswith(keys.MANIFESTS):
                partition = keys.partition_of_manifest(entry.key)
                named.update(names_of(decode_manifest(entry.value, directory_of(partition))))
        there = [in_pool(pool, name) for pool, objects in self.cluster.all_objects for name in objects]
        missing = sorted(named - set(there))
        if missing:
            raise self.history.broken(f"objects are missing: {missing[:3]}")
        tails = {int(key.removeprefix(keys.SESSION_LOGS)) for key in self.metadata.entries if keys.SESSION_LOGS in key}
        if tails != live:
            return f"logs of ended sessions are still there: {sorted(tails - live)}"
        for name in there:
            if name not in named and session_of(name) not in live:
                return f"{name} is garbage, and nobody has found it"
        return None


async def _content(log: LogFiles) -> list[bytes]:
    """Every batch of the log, in as few reads as there can be."""
    found: list[bytes] = []
    offset = log.log_start_offset
    while offset < log.end_offset:
        read = await log.read(offset, 1 << 20, log.end_offset)
        found += [bytes(each.view) for each in split_batches(memoryview(b"".join(read.buffers)))]
        offset = read.next_offset
    return found


async def _attempt(work: Awaitable[None]) -> None:
    try:
        await work
    except (Unavailable, Fenced):
        return


def _name(broker: Broker) -> str:
    return f"broker {broker.session.broker_id}"


def _number(partition: PartitionId) -> str:
    return f"partition {int.from_bytes(partition.topic_id, 'big')}"


def simulate(seed: int) -> tuple[list[str], BaseException | None]:
    """The transcript of this seed's run, and what went wrong in it."""
    worlds: list[World] = []

    async def main(_: SimulationLoop) -> None:
        worlds.append(World(seed))
        with (
            patch.object(session_tail, "INDEX_FLUSHES", worlds[0].index_flushes),
            patch.object(small_segments, "MERGED_AT_ONCE", 2),
        ):
            async with asyncio.timeout(DEADLINE_S):
                await worlds[0].run()

    failure = failure_of(lambda: run_simulated(main))
    return worlds[0].history.transcript, failure
