"""A Fetch over very many partitions: the same passes as any other, slice by slice, with others served in between.

Owns what is different when partitions, memory and the client may change in the middle of a pass. A partition is
registered with before it is read, in one step: whatever is committed after that is noticed, whenever the pass ends.
"""

from functools import partial

from bytemq.broker.fetch_sessions import WantedPartition
from bytemq.broker.followers import Beginning
from bytemq.broker.log.partitions import Awaited
from bytemq.broker.pending_fetch import GRANT_DIVISOR, LEAST_GRANT_BYTES, SLICE_BYTES, PendingFetch
from bytemq.protocol.fetch import PartitionData

SLICE_PARTITIONS = 256
"""Looked at in one turn: one to two milliseconds. A fetch of no more than these is not wide."""

OPENINGS_PER_SLICE = 8
"""Partitions that one slice begins to open, each of which takes a good part of a millisecond."""


class WideFetch(PendingFetch):
    """As PendingFetch, for more than SLICE_PARTITIONS partitions."""

    __slots__ = ("_passing",)

    _passing: bool
    """A pass is under way: what wakes this fetch now is seen to at its end."""

    def _begin(self) -> None:
        self._passing = False
        self._broker.supervisor.start("wide fetch", self._guarded(self._open_in_slices()))

    async def _open_in_slices(self) -> None:
        self._openings = 1
        left = 0
        for wanted in self._context.wanted:
            if left <= 0:
                left = SLICE_PARTITIONS
                await self._broker.turns.next()
                if self._exchange.abandoned:
                    return
            left -= 1
            found = self._locate(wanted)
            if isinstance(found, Awaited | Beginning):
                left -= SLICE_PARTITIONS // OPENINGS_PER_SLICE
                self._openings += 1
                found.then(partial(self._opened, wanted))
        self._opening_done()

    def _begin_pass(self) -> None:
        self._pass()  # a look at all of them takes as many turns as to read them

    def _read_anew(self) -> None:
        self._read()

    def _read(self) -> None:
        self._passing = True
        self._broker.supervisor.start("wide fetch", self._guarded(self._read_in_slices()))

    async def _read_in_slices(self) -> None:
        self._forget()
        turns, exchange = self._broker.turns, self._exchange
        slice_end_bytes = SLICE_BYTES
        try:
            for position, wanted in enumerate(self._context.wanted):
                if position % SLICE_PARTITIONS == 0 or self._total_bytes >= slice_end_bytes:
                    await turns.next()
                    slice_end_bytes = self._total_bytes + SLICE_BYTES
                if exchange.abandoned:
                    return
                await self._read_one(wanted)
            await turns.next()  # the answer is a slice, too
        finally:
            self._passing = False
            if exchange.abandoned:
                self._settle_memory(0)
        if not exchange.abandoned:
            self._read_all()

    async def _read_one(self, wanted: WantedPartition) -> None:
        partition = self._find(wanted)
        if isinstance(partition, PartitionData):
            self._add_refusal(wanted, partition)
            return
        if self._must_wait:
            self._register(wanted, partition)
        self._add(wanted, partition, await self._read_waiting(wanted, partition))

    def _grant_bytes(self) -> int:
        return min(self._max_bytes, LEAST_GRANT_BYTES)

    def _limit_bytes(self, wanted: WantedPartition) -> int:
        """Memory is taken as it is needed: a pass has many turns, and most of so many partitions have nothing new."""
        memory = self._broker.response_memory
        left = self._granted_bytes - self._total_bytes
        if 2 * left < LEAST_GRANT_BYTES and self._granted_bytes < memory.free_bytes // GRANT_DIVISOR:
            more = min(LEAST_GRANT_BYTES, self._max_bytes - self._granted_bytes)
            if more > 0 and memory.try_reserve(more):
                self._granted_bytes += more
        return super()._limit_bytes(wanted)

    def _wait_anew(self) -> None:
        self._wait()

    def _wait(self) -> None:
        """Registered it is already, and may have been woken since."""
        if self._wakes_soon:
            self._wake()
        else:
            self._timer = self._broker.clock.call_later(self._max_wait_s, self._wake)

    def _wake(self) -> None:
        if not self._passing:
            super()._wake()

    def _answer(self) -> None:
        self._stop_waiting()
        super()._answer()
