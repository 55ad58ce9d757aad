"""Tells the controller, and people, what this broker carries: rates of its partitions, its lag, trouble with storage.

Owns: measuring, smoothing, and writing `loads/<id>` under the session's lease, only when it says something new or from
time to time. Must not: decide anything. Counting is done where the bytes pass (`Partition.traffic`); here counts become
rates, a slice of partitions at a time.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Mapping
from math import exp

from bytemq.broker.context import Broker
from bytemq.broker.log.partition import Partition
from bytemq.errors import BytemqError, Unavailable
from bytemq.metadata import keys
from bytemq.metadata.loads import IDLE, MOST_PARTITIONS, TELL_AT_LEAST_S, LoadReport, Rates, encode_load
from bytemq.metadata.store import Compare, Put
from bytemq.protocol.api_keys import ApiKey
from bytemq.runtime.logging import get_logger
from bytemq.types import PartitionId

log = get_logger("broker.load")

MEASURE_S = 1.0
SMOOTHING_S = 3.0
PARTITIONS_AT_A_TIME = 500
_LEAST_BYTES_S = 1.0
HOME_BYTES_S = 10_000.0
"""Of less nobody need care where it comes from."""
HOME_SHARE = 0.7
"""Of all that is produced to a partition: what comes from a zone is most of it from here on, ..."""
STILL_HOME_SHARE = 0.5
"""... and down to here."""

_Counts = tuple[int, int, int]
_IDLE_COUNTS: _Counts = (0, 0, 0)
"""Of most partitions: one object."""


class LoadReporter:
    """`run` it as a task for as long as the session lives."""

    def __init__(self, broker: Broker, session_id: int, lease: int) -> None:
        self._broker = broker
        self._session = Compare(keys.broker(broker.node_id), session_id)
        self._lease = lease
        self._counts: dict[PartitionId, _Counts] = {}
        self._rates: dict[PartitionId, Rates] = {}
        self._zones: dict[PartitionId, ZoneShares] = {}
        self._near_counts = (0, 0)
        self._near = IDLE
        """Of consumers who stay when partitions move: part of what the broker carries, and of no partition's load."""
        self._told: LoadReport | None = None
        self._told_at = 0.0
        self._lag_s = 0.0
        self._produce = broker.traffic.durations.labels(ApiKey.PRODUCE.name)
        self._produced = (0.0, 0)
        self._commit_s = 0.0

    async def run(self) -> None:
        clock = self._broker.clock
        measured_at = clock.monotonic()
        while True:
            due = clock.monotonic() + MEASURE_S
            await clock.sleep(MEASURE_S)
            now = clock.monotonic()
            self._lag_s = max(now - due, self._lag_s * 0.7)
            await self._measure(now - measured_at)
            self._time_produce()
            measured_at = now
            report = self._report()
            if self._is_due(report, now):
                await self._tell(report, now)

    def _is_due(self, report: LoadReport, now: float) -> bool:
        """A lone broker has nobody who would balance: once in a while is enough."""
        if self._told is None or now - self._told_at > TELL_AT_LEAST_S:
            return True
        return len(self._broker.image.brokers) > 1 and report.differs_from(self._told)

    async def _tell(self, report: LoadReport, now: float) -> None:
        put = Put(keys.load(self._broker.node_id), encode_load(report), self._lease)
        try:
            await self._broker.metadata.txn([self._session], [put])
        except Unavailable:
            return  # the next one comes soon
        except BytemqError as error:
            log.warning("load not told", reason=str(error))
            return
        self._told, self._told_at = report, now

    async def _measure(self, seconds: float) -> None:
        weight = 1 - exp(-seconds / SMOOTHING_S)
        self._measure_near(seconds, weight)
        seen: dict[PartitionId, _Counts] = {}
        rates: dict[PartitionId, Rates] = {}
        for number, partition in enumerate(self._broker.partitions.open_partitions()):
            counts = _counts_of(partition)
            if partition.traffic.by_zone is not None:
                self._zones.setdefault(partition.pid, ZoneShares()).measure(partition.traffic.by_zone, seconds, weight)
            before = self._counts.get(partition.pid, counts)
            smooth = self._rates.get(partition.pid, IDLE)
            seen[partition.pid] = counts
            if counts != before or smooth is not IDLE:
                now = Rates(*((after - earlier) / seconds for after, earlier in zip(counts, before, strict=True)))
                smooth = Rates(*(old + (new - old) * weight for old, new in zip(smooth, now, strict=True)))
                if max(smooth) >= _LEAST_BYTES_S:
                    rates[partition.pid] = smooth
            if number % PARTITIONS_AT_A_TIME == PARTITIONS_AT_A_TIME - 1:
                await asyncio.sleep(0)
        self._counts, self._rates = seen, rates
        self._zones = {pid: zones for pid, zones in self._zones.items() if pid in seen}

    def _measure_near(self, seconds: float, weight: float) -> None:
        traffic, before = self._broker.traffic, self._near_counts
        self._near_counts = counts = traffic.near_bytes_out, traffic.near_answers
        now = Rates(0.0, *((after - earlier) / seconds for after, earlier in zip(counts, before, strict=True)))
        self._near = Rates(*(old + (new - old) * weight for old, new in zip(self._near, now, strict=True)))

    def _time_produce(self) -> None:
        total_s, count = self._produce.total, sum(self._produce.counts)
        if count > self._produced[1]:
            self._commit_s = (total_s - self._produced[0]) / (count - self._produced[1])
        else:
            self._commit_s *= 0.7  # nobody asks any more
        self._produced = (total_s, count)

    def _report(self) -> LoadReport:
        rates = self._rates
        total = Rates(*map(sum, zip(self._near, *rates.values(), strict=True)))
        busiest = rates
        if len(rates) > MOST_PARTITIONS:
            chosen = heapq.nlargest(MOST_PARTITIONS, rates, key=lambda pid: sum(rates[pid]))
            busiest = {pid: rates[pid] for pid in chosen}
        storage = self._broker.partitions.services.storage
        failure = storage.healthy
        return LoadReport(
            self._broker.clock.wall_ms(),
            total,
            busiest,
            lag_ms=self._lag_s * 1000,
            commit_ms=self._commit_s * 1000,
            wal_bytes=storage.wal_bytes,
            problem="" if failure is None else str(failure)[:200],
            pools=storage.pool_states,
            homes={pid: home for pid in busiest if pid in self._zones and (home := self._home_of(pid))},
        )

    def _home_of(self, pid: PartitionId) -> str:
        return self._zones[pid].home(self._rates[pid].bytes_in)


class ZoneShares:
    """Where what is produced to one partition comes from."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._rates: dict[str, float] = {}
        self._home = ""

    def measure(self, by_zone: Mapping[str, int], seconds: float, weight: float) -> None:
        for zone, count in by_zone.items():
            now, smooth = (count - self._counts.get(zone, count)) / seconds, self._rates.get(zone, 0.0)
            self._rates[zone] = smooth + (now - smooth) * weight
        self._counts = dict(by_zone)

    def home(self, bytes_in: float) -> str:
        """Empty where no zone produces most of it."""
        zone = max(self._rates, key=lambda one: self._rates[one], default="")
        share = self._rates.get(zone, 0.0) / max(bytes_in, 1.0)
        needed = STILL_HOME_SHARE if zone == self._home else HOME_SHARE
        self._home = zone if share >= needed and bytes_in >= HOME_BYTES_S else ""
        return self._home


def _counts_of(partition: Partition) -> _Counts:
    traffic = partition.traffic
    return (traffic.bytes_in, traffic.bytes_out, traffic.requests) if traffic.requests else _IDLE_COUNTS
