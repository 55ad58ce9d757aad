"""A log against a list: any mixture of appends, reads, checkpoints, log starts, restarts and crashes."""

from __future__ import annotations

import asyncio

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from bytemq.errors import NotFound
from tests.unit.storage.bench import Bench


class LogMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.bench = Bench()
        self.batches: list[bytes] = []
        self.start = 0
        self.number = 0
        self.restart()

    def do(self, coroutine):  # type: ignore[no-untyped-def]
        return self.loop.run_until_complete(coroutine)

    def restart(self) -> None:
        self.do(self.bench.start(wal_retained_bytes=6 * 16 * 1024))
        self.log = self.do(self.bench.log())

    @rule(sizes=st.lists(st.sampled_from([1, 100, 900, 3000]), min_size=1, max_size=4))
    def append(self, sizes: list[int]) -> None:
        values = []
        for size_bytes in sizes:
            self.number += 1
            values.append(b"%d" % self.number * size_bytes)
        staged = self.bench.append(self.log, *values)
        data = [bytes(batch.view) for batch in staged]
        self.do(self.bench.settle())
        assert self.bench.answers[-1][1] is None
        self.batches.extend(data)

    @rule(
        offset=st.floats(0, 1),
        limit=st.floats(0, 1),
        max_bytes=st.sampled_from([1, 500, 2000, 100_000]),
        cached=st.booleans(),
    )
    def read(self, offset: float, limit: float, max_bytes: int, cached: bool) -> None:
        end = len(self.batches)
        if self.start == end:
            return
        first = self.start + int(offset * (end - self.start - 1))
        stop = int(limit * end)
        read = self.log.read_cached(first, max_bytes, stop) if cached else None
        read = read or self.do(self.log.read(first, max_bytes, stop))
        data = b"".join(read.buffers)
        assert data == b"".join(self.batches[first : read.next_offset])
        assert read.next_offset <= max(stop, first)
        assert data or first >= stop
        assert len(data) <= max_bytes or read.next_offset == first + 1

    @rule()
    def checkpoint(self) -> None:
        assert self.bench.storage is not None
        self.do(self.bench.storage.checkpoint())

    @rule(where=st.floats(0, 1))
    def advance_log_start(self, where: float) -> None:
        self.start = max(self.start, int(where * len(self.batches)))
        self.do(self.log.advance_log_start(self.start))
        if self.start:
            try:
                self.do(self.log.read(self.start - 1, 1, len(self.batches)))
            except NotFound:
                return
            raise AssertionError("served below the log start offset")

    @rule(how=st.sampled_from(["stop", "kill", "power cut"]))
    def stop_and_start(self, how: str) -> None:
        self.do(self.bench.stop() if how == "stop" else self.bench.kill(power_cut=how == "power cut"))
        self.restart()

    @invariant()
    def agrees(self) -> None:
        assert (self.log.log_start_offset, self.log.end_offset) == (self.start, len(self.batches))
        segments = list(self.log.segments)
        assert segments == sorted(segments)
        if segments:
            assert segments[0].base_offset <= self.start
            assert segments[-1].last_offset == len(self.batches) - 1

    def teardown(self) -> None:
        self.do(self.bench.stop())
        self.loop.close()


LogMachine.TestCase.settings = settings(
    max_examples=15, stateful_step_count=25, phases=[Phase.explicit, Phase.reuse, Phase.generate]
)
TestLogMachine = LogMachine.TestCase
