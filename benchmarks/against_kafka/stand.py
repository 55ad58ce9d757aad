"""Runs rows: both servers in turn, A B A B, each warmed up, with the machine's limits of the same minutes."""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from benchmarks import machine, memory
from benchmarks.against_kafka.contenders import Bytemq, Contender, Durability, Kafka
from benchmarks.against_kafka.measures import Figures, Pace, produce, quiet, to_the_end
from benchmarks.against_kafka.rows import COLD, FLAT_OUT, Row
from benchmarks.loader import BENCH, LoadFailed
from benchmarks.workloads import BATCHES_16K, LARGE_4, STEADY

WARM_UP = Pace(seconds=0.5, warmup_s=0.5)


@dataclass(frozen=True)
class Spread:
    """Of the runs of one row on one server."""

    median: float
    least: float
    most: float


@dataclass(frozen=True)
class RowResult:
    row: Row
    ours: dict[str, Spread]
    theirs: dict[str, Spread]
    machine: dict[str, float]
    commit: str
    measured: str
    """When, and how often for how long."""


def spread(runs: Sequence[Figures]) -> dict[str, Spread]:
    return {
        figure: Spread(statistics.median(values), min(values), max(values))
        for figure in runs[0]
        for values in [[run[figure] for run in runs]]
    }


class Stand:
    """The servers, running, and the pace of the runs."""

    def __init__(
        self, folder: Path, kafka_heap: str, pace: Pace, repeats: int, console: Console, commit: str = ""
    ) -> None:
        self._folder = folder
        self._commit = commit
        self._pace = pace
        self._repeats = repeats
        self._console = console
        self._started: list[Contender] = []
        self.kafka = Kafka(folder / "kafka", kafka_heap)
        self._ours: dict[Durability, Bytemq] = {
            "page-cache": Bytemq(folder / "bytemq", "page-cache"),
            "fsync": Bytemq(folder / "bytemq-fsync", "fsync"),
        }

    @contextmanager
    def running(self) -> Iterator[None]:
        servers: list[Contender] = [self.kafka, *self._ours.values()]
        try:
            for server in servers:
                server.start()
                self._started.append(server)
            yield
        finally:
            self._started.clear()
            for server in servers:
                server.close()
            shutil.rmtree(self._folder, ignore_errors=True)
            memory.empty(BENCH)

    def mend(self) -> None:
        """After a workload that failed: starts whoever of those that were started is not there any more."""
        for server in self._started:
            if not server.is_running():
                server.start()

    def warm_up(self, seconds: float) -> None:
        """A virtual machine needs it before it is at its best; the other server gets the same."""
        pace = Pace(seconds / 8, 0.2)
        steps = [produce(LARGE_4, "page-cache"), produce(BATCHES_16K, "page-cache"), to_the_end(FLAT_OUT, 2)]
        for step in [*steps, produce(STEADY, "fsync")]:
            for _ in range(2):
                with suppress(LoadFailed):  # a cold one may fall behind
                    step(self.kafka, pace)
        for step in steps:
            step(self._ours["page-cache"], Pace(1.0, 0.2))

    def _pair(self, row: Row) -> tuple[Contender, Contender]:
        return self._ours[row.durability], self.kafka

    def run(self, row: Row) -> RowResult:
        pace = Pace(row.seconds or self._pace.seconds, self._pace.warmup_s)
        repeats = min(row.repeats or self._repeats, self._repeats)
        ours: list[Figures] = []
        theirs: list[Figures] = []
        limits = machine.limits(BENCH)
        if row.measure is not None and row not in COLD and not row.is_long and repeats > 1:
            for server in self._pair(row):
                row.measure(server, WARM_UP)
        for number in range(repeats):
            self._console.print(f"  {row.name}: run {number + 1} of {repeats}", style="dim")
            if row.comparison is not None:
                for figures, runs in zip(row.comparison(pace), (ours, theirs), strict=True):
                    runs.append(figures)
            else:
                for server, runs in zip(self._pair(row), (ours, theirs), strict=True):
                    runs.append(_measured(row, server, pace))
        if repeats > 1:
            again = machine.limits(BENCH)
            limits = {name: statistics.mean((value, again[name])) for name, value in limits.items()}
        measured = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {repeats} x {pace.seconds:g} s"
        return RowResult(row, spread(ours), spread(theirs), limits, self._commit, measured)


def _measured(row: Row, server: Contender, pace: Pace) -> Figures:
    assert row.measure is not None
    quiet(server)
    try:
        return _with_derived(row.measure(server, pace))
    except (LoadFailed, AssertionError) as error:
        raise LoadFailed(f"{server.name}: {error}") from error


def _with_derived(figures: Figures) -> Figures:
    if "written/byte" in figures:
        return {**figures, "written MB/s": figures["written/byte"] * figures["MB/s"]}
    return figures
