"""One Fetch request from its first look at the partitions until its answer: which step comes after which.

Owns: the order of opening, taking memory, reading and waiting, and how much of it happens in one turn of the loop. What
a partition may show is the partition's business, what a session holds fetch_sessions'.

A fetch whose batches are in memory is answered at once, without a task or timer. What takes longer (files, much to
copy, very many partitions) goes on in slices, with others served in between; partitions, memory and the client may
change between two of them. There a partition is watched before it is read, in one step: whatever is committed after
that is noticed, whenever the pass ends.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

from bytemq.broker.context import Broker
from bytemq.broker.exchange import Exchange
from bytemq.broker.fetch_sessions import FINAL_EPOCH, FetchContext, WantedPartition
from bytemq.broker.fetching.answer import FetchAnswer
from bytemq.broker.fetching.answer_memory import AnswerMemory
from bytemq.broker.fetching.long_poll import LongPoll
from bytemq.broker.fetching.lookup import FetchLookup, Found, Unopened
from bytemq.broker.log.results import Fetched
from bytemq.broker.partition_lookup import Readable
from bytemq.protocol.error_codes import ErrorCode
from bytemq.protocol.fetch import FetchRequest, PartitionData
from bytemq.runtime.clock import TimerHandle
from bytemq.runtime.logging import get_logger

log = get_logger("broker.fetch")

SLICE_BYTES = 2 * 1024 * 1024
"""What one fetch may copy out of the page cache in one turn of the loop; more takes more turns."""

SLICE_PARTITIONS = 256
"""Looked at in one turn: one to two milliseconds. A fetch of more is wide: its very first look takes several."""

OPENINGS_PER_SLICE = 8
"""Partitions that one slice begins to open, each of which takes a good part of a millisecond."""

OPENING_PATIENCE_S = 0.1
"""How long a fetch waits until all partitions are open. Then it goes on with those that are, and the others are to it
as those that have nothing new: of five hundred that move to a broker, the first ones are read while the last ones come.
"""


class PendingFetch:
    """`start` it once. It answers its exchange, unless that is abandoned before."""

    __slots__ = (
        "_answer",
        "_broker",
        "_context",
        "_exchange",
        "_found",
        "_is_wide",
        "_isolation",
        "_lookup",
        "_max_wait_s",
        "_memory",
        "_min_bytes",
        "_openings",
        "_openings_timer",
        "_poll",
    )

    def __init__(self, broker: Broker, exchange: Exchange, request: FetchRequest, context: FetchContext) -> None:
        self._broker = broker
        self._exchange = exchange
        self._context = context
        self._isolation = request.isolation_level
        self._max_wait_s = request.max_wait_ms / 1000
        self._is_wide = is_wide = len(context.wanted) > SLICE_PARTITIONS
        max_bytes = min(request.max_bytes, broker.config.fetch_max_bytes)
        self._min_bytes = min(request.min_bytes, max_bytes)
        self._lookup = FetchLookup(broker, request, exchange.api_version)
        self._memory = AnswerMemory(broker.response_memory, broker.clock, max_bytes, is_gradual=is_wide)
        says_all = request.session_epoch == FINAL_EPOCH  # it has no session
        self._answer = FetchAnswer(broker, exchange, says_all=says_all, stays=self._lookup.reader_stays)
        waits = request.max_wait_ms > 0 and bool(context.wanted)
        newcomers = broker.partitions.newcomers
        self._poll = LongPoll(broker.clock, newcomers, self._min_bytes, self._isolation, is_on=waits)
        self._found: list[Found] = []  # for each that is wanted, in the turn in which it was looked up
        self._openings = 0  # partitions that are being opened
        self._openings_timer: TimerHandle | None = None  # while nothing else is done than wait for them

    def start(self) -> None:
        """Whatever it raises is the caller's to answer, and nothing is kept then."""
        self._exchange.on_abandon = self._abandoned
        try:
            self._begin()
        except Exception:
            self._memory.settle(0)
            raise

    def _begin(self) -> None:
        if self._is_wide:
            self._wait_for_openings()
            self._go_on_in_turns(self._open_in_slices())
            return
        self._found, unopened = self._lookup.all(self._context.wanted)
        if not unopened:
            self._look()
            return
        self._wait_for_openings()
        for wanted, awaited in unopened:
            self._open(wanted, awaited)
        self._opening_done()

    # Opening

    def _wait_for_openings(self) -> None:
        self._poll.begin()
        self._openings = 1  # until all were begun
        self._openings_timer = self._broker.clock.call_later(OPENING_PATIENCE_S, self._end_openings)

    async def _open_in_slices(self) -> None:
        left = 0
        self._lookup.begins_to_open()
        for wanted in self._context.wanted:
            if left <= 0:
                left = SLICE_PARTITIONS
                await self._broker.turns.next()
                if self._exchange.abandoned:
                    return
            left -= 1
            awaited = self._lookup.unopened(wanted)
            if awaited is not None:
                left -= SLICE_PARTITIONS // OPENINGS_PER_SLICE
                self._open(wanted, awaited)
            elif self._openings_timer is None and self._poll.is_on:
                self._opened_late(wanted)  # by somebody else, perhaps after the pass came by
        self._lookup.has_begun_to_open()
        self._opening_done()

    def _open(self, wanted: WantedPartition, awaited: Unopened) -> None:
        self._openings += 1
        self._lookup.begun_to_open(wanted)
        awaited.then(partial(self._opened, wanted))

    def _opened(self, wanted: WantedPartition, outcome: Readable | ErrorCode) -> None:
        self._lookup.opened(wanted, outcome)
        if self._openings_timer is None and self._poll.is_on:
            self._go_on(partial(self._opened_late, wanted))
        self._opening_done()

    def _opened_late(self, wanted: WantedPartition) -> None:
        """Others are being read, or waited for."""
        found = self._lookup.one(wanted)
        if isinstance(found, PartitionData):
            self._poll.wake_soon()
        elif found is not None:
            self._poll.watch_late(wanted, found)

    def _opening_done(self) -> None:
        self._openings -= 1
        if not self._openings:
            self._end_openings()

    def _end_openings(self) -> None:
        """Nothing is left to be opened, or it takes long."""
        if self._stop_waiting_for_openings():
            self._go_on(self._begin_pass)

    def _stop_waiting_for_openings(self) -> bool:
        timer, self._openings_timer = self._openings_timer, None
        if timer is not None:
            timer.cancel()
        return timer is not None

    # A pass

    def _begin_pass(self) -> None:
        if self._is_wide:
            self._take_memory()  # a look at all of them takes as many turns as to read them
        else:
            self._find()
            self._look()

    def _find(self) -> None:
        self._found, _ = self._lookup.all(self._context.wanted)

    def _look(self) -> None:
        """What was just found is read, unless it is worth waiting for more: then no byte of it is."""
        if self._poll.is_on and not self._has_enough():
            self._wait_for_all()
        else:
            self._take_memory()

    def _has_enough(self) -> bool:
        """Whether there is something to be said at once, or enough to read."""
        needed_bytes = self._min_bytes
        for wanted, found in zip(self._context.wanted, self._found, strict=True):
            if found is None:
                continue
            if isinstance(found, PartitionData):
                return True
            available_bytes = found.available_bytes(wanted.fetch_offset, self._isolation, needed_bytes)
            if available_bytes is None:
                return True
            needed_bytes -= available_bytes
            if needed_bytes <= 0:
                return True
        return False

    def _take_memory(self) -> None:
        if self._memory.take():
            self._read()
        else:
            self._poll.begin()
            self._memory.wait(self._max_wait_s, self._memory_waited)

    def _memory_waited(self) -> None:
        if self._memory.is_refused:
            self._poll.end()  # the client's time is over, too
        self._go_on(self._read_anew)

    def _read_anew(self) -> None:
        """Partitions may have come and gone while memory was waited for."""
        if not self._is_wide:
            self._find()
        self._read()

    def _read(self) -> None:
        """Reads what is in memory; leaves the rest to a task when a file has to be waited for, or when it is much.

        Much is not read by a thread: to get the interpreter back takes a thread longer than the copy, for each file.
        """
        self._answer.forget()
        if self._is_wide:
            self._go_on_in_turns(self._read_in_slices(0))
            return
        answer, is_last = self._answer, not self._poll.is_on
        for position, (wanted, found) in enumerate(zip(self._context.wanted, self._found, strict=True)):
            if found is None or isinstance(found, PartitionData):
                self._add_without_records(wanted, found)
                continue
            fetched = self._read_cached(wanted, found, self._limit_bytes(wanted), SLICE_BYTES - answer.total_bytes)
            if fetched is None:
                self._watch(position)
                self._go_on_in_turns(self._read_in_slices(position))
                return
            answer.add(wanted, found, fetched, is_last=is_last)
        if self._must_wait:
            self._wait_for_all()
        else:
            self._send()

    async def _read_in_slices(self, first: int) -> None:
        """Goes on where a read would have blocked or a slice was used up. Those before are watched already."""
        turns, exchange, answer = self._broker.turns, self._exchange, self._answer
        left, slice_end_bytes = 0, 0
        try:
            for wanted in self._context.wanted[first:]:
                if not left or answer.total_bytes >= slice_end_bytes:
                    await turns.next()
                    left, slice_end_bytes = SLICE_PARTITIONS, answer.total_bytes + SLICE_BYTES
                if exchange.abandoned:
                    return
                left -= 1
                await self._read_one(wanted)
            if self._is_wide:
                await turns.next()  # the answer is a slice, too
        finally:
            if exchange.abandoned:
                self._memory.settle(0)
        if exchange.abandoned:
            return
        if self._must_wait:
            self._wait()
        else:
            self._send()

    async def _read_one(self, wanted: WantedPartition) -> None:
        partition = self._lookup.one(wanted)
        if partition is None or isinstance(partition, PartitionData):
            self._add_without_records(wanted, partition)
            return
        if self._must_wait:
            self._poll.watch(wanted, partition)
        fetched = await self._read_waiting(wanted, partition)
        self._answer.add(wanted, partition, fetched, is_last=not self._poll.is_on)

    async def _read_waiting(self, wanted: WantedPartition, partition: Readable) -> Fetched:
        """From wherever the bytes are."""
        limit_bytes = self._limit_bytes(wanted)
        fetched = self._read_cached(wanted, partition, limit_bytes, SLICE_BYTES)
        if fetched is not None:
            return fetched
        return await partition.read(
            wanted.fetch_offset, limit_bytes, isolation=self._isolation, at_least_one=self._at_least_one
        )

    def _read_cached(
        self, wanted: WantedPartition, partition: Readable, limit_bytes: int, slice_left_bytes: int
    ) -> Fetched | None:
        """None for what is not in memory, or more to be copied than is left of the slice."""
        offset, isolation = wanted.fetch_offset, self._isolation
        fetched = partition.read_in_memory(offset, limit_bytes, isolation=isolation)
        if fetched is not None:
            return fetched
        if limit_bytes > slice_left_bytes:
            available_bytes = partition.available_bytes(offset, isolation, slice_left_bytes + 1)
            if available_bytes is not None and available_bytes > slice_left_bytes:
                return None
        return partition.read_cached(offset, limit_bytes, isolation=isolation, at_least_one=self._at_least_one)

    def _limit_bytes(self, wanted: WantedPartition) -> int:
        """What the next partition may give."""
        return min(wanted.max_bytes, self._memory.left_bytes(self._answer.total_bytes))

    @property
    def _at_least_one(self) -> bool:
        """The next partition gives one batch, whatever its size: nothing was read yet, and there is memory."""
        return not self._answer.total_bytes and not self._memory.is_refused

    def _add_without_records(self, wanted: WantedPartition, answer: PartitionData | None) -> None:
        if answer is None:
            self._answer.add_unknown(wanted)
        else:
            self._answer.refuse(wanted, answer)

    # Waiting for records

    @property
    def _must_wait(self) -> bool:
        """What was read so far is not worth an answer yet."""
        return self._poll.is_on and not self._answer.must_be_sent and self._answer.total_bytes < self._min_bytes

    def _wait_for_all(self) -> None:
        """Of what was found in this turn."""
        self._watch(len(self._found))
        self._wait()

    def _watch(self, count: int) -> None:
        """The first `count`, which were found in this turn."""
        if self._must_wait:
            looked_up = zip(self._context.wanted[:count], self._found, strict=False)
            self._poll.watch_all(
                [
                    (wanted, found)
                    for wanted, found in looked_up
                    if found is not None and not isinstance(found, PartitionData)
                ]
            )

    def _wait(self) -> None:
        """Every partition is watched. What was read is not kept: there may be more of it then, or it may be gone."""
        self._memory.settle(0)
        self._answer.forget()
        self._poll.wait(self._max_wait_s, self._woken)

    def _woken(self) -> None:
        """Reads once more and answers whatever there is."""
        self._go_on(self._begin_pass)

    # Ends

    def _send(self) -> None:
        self._poll.end()
        self._memory.settle(self._answer.total_bytes)
        self._exchange.response_reserved_bytes = self._memory.hand_over()
        self._answer.send(self._context)

    def _abandoned(self) -> None:
        """The client is gone."""
        self._stop_waiting_for_openings()
        self._poll.end()
        self._memory.abandon()

    def _go_on(self, step: Callable[[], None]) -> None:
        """As `_guarded`, for what is called back: others may be called behind it, and its caller cannot answer."""
        try:
            step()
        except Exception as error:
            log.error("a fetch crashed", error=error)
            self._give_up()

    def _go_on_in_turns(self, work: Awaitable[None]) -> None:
        self._poll.begin()
        self._broker.supervisor.start("fetch", self._guarded(work))

    async def _guarded(self, work: Awaitable[None]) -> None:
        """Whatever a task raises, its memory goes back and the client is not left waiting."""
        try:
            await work
        except Exception:
            self._give_up()
            raise

    def _give_up(self) -> None:
        self._memory.settle(0)
        self._exchange.hang_up("internal error")
