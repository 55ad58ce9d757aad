"""One Fetch request from its first look at the partitions until its answer: reading, waiting, memory.

Owns the life of a long poll and the memory of what was read for it. What a partition may show is the partition's
business, what a session holds fetch_sessions'. A fetch whose batches are in memory is answered without a task or timer.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial

from bytemq.broker.context import Broker
from bytemq.broker.exchange import Exchange
from bytemq.broker.fetch_sessions import FetchContext, WantedPartition, group_by_topic
from bytemq.broker.followers import Beginning
from bytemq.broker.log.followed_partition import FollowedPartition
from bytemq.broker.log.partition import Partition
from bytemq.broker.log.partitions import Awaited, Entry
from bytemq.broker.log.results import Fetched
from bytemq.broker.partition_lookup import (
    HINTED_ERRORS,
    Readable,
    Reader,
    current_leader,
    locate_to_read,
    node_endpoints,
    preferred_reader,
    reads_from_owner,
)
from bytemq.protocol.error_codes import ErrorCode
from bytemq.protocol.fetch import (
    LEADER_HINTS_FROM,
    PREFERRED_REPLICA_FROM,
    FetchRequest,
    PartitionData,
    encode_fetch_response,
)
from bytemq.protocol.leader_hints import NodeEndpoint
from bytemq.runtime.budget import Waiter
from bytemq.runtime.clock import TimerHandle
from bytemq.runtime.logging import get_logger

log = get_logger("broker.fetch")

LEAST_GRANT_BYTES = 1024 * 1024
"""Less memory than this is not worth a read: the fetch waits instead."""

SLICE_BYTES = 2 * 1024 * 1024
"""What one fetch may copy out of the page cache in one turn of the loop; more takes more turns."""

GRANT_DIVISOR = 4
"""A fetch gets at most this part of the free memory: many slow readers come to share, none takes all."""

MEMORY_WAIT_S = 0.5
"""How long a fetch waits for memory, at least; then it is answered without records."""

Answers = list[tuple[WantedPartition, PartitionData]]
Unopened = Awaited | Beginning


class PendingFetch:
    """`start` it once. It answers its exchange, unless that is abandoned before."""

    __slots__ = (
        "_answers",
        "_available",
        "_available_bytes",
        "_broker",
        "_context",
        "_exchange",
        "_found",
        "_granted_bytes",
        "_is_plain",
        "_isolation",
        "_max_bytes",
        "_max_wait_s",
        "_memory_waiter",
        "_min_bytes",
        "_must_answer",
        "_open_errors",
        "_openings",
        "_reader",
        "_refuses_all",
        "_sizes",
        "_starved",
        "_timer",
        "_total_bytes",
        "_waits",
        "_wakes_soon",
    )

    def __init__(self, broker: Broker, exchange: Exchange, request: FetchRequest, context: FetchContext) -> None:
        self._broker = broker
        self._exchange = exchange
        self._context = context
        self._isolation = request.isolation_level
        self._max_bytes = min(request.max_bytes, broker.config.fetch_max_bytes)
        self._min_bytes = min(request.min_bytes, self._max_bytes)
        self._max_wait_s = request.max_wait_ms / 1000
        self._refuses_all = request.replica_id >= 0  # no broker is a replica of another, nor of itself
        self._reader = reader = Reader(request.rack_id, exchange.api_version >= PREFERRED_REPLICA_FROM)
        self._is_plain = not self._refuses_all and reads_from_owner(broker, reader)
        self._found: list[Readable | PartitionData] = []  # for each that is wanted; up to date while nobody waits
        self._answers: Answers = []
        self._sizes: list[tuple[Readable, int]] = []  # of what the answers hold
        self._total_bytes = 0
        self._must_answer = False
        self._granted_bytes = 0
        self._openings = 0  # partitions that are being opened
        self._open_errors: dict[WantedPartition, ErrorCode] = {}
        self._waits = False  # for records; else the next pass answers whatever it finds
        self._wakes_soon = False
        self._available: dict[Readable, tuple[WantedPartition, int]] = {}
        self._available_bytes = 0
        self._timer: TimerHandle | None = None
        self._memory_waiter: Waiter | None = None
        self._starved = False  # no memory could be had: the answer has no records

    def start(self) -> None:
        self._waits = self._max_wait_s > 0 and bool(self._context.wanted)
        self._exchange.on_abandon = self._abandoned
        self._begin()

    def _begin(self) -> None:
        unopened = self._find_all()
        if not unopened:
            self._look()
            return
        self._openings = 1
        for wanted, awaited in unopened:
            self._openings += 1
            awaited.then(partial(self._opened, wanted))
        self._opening_done()

    def _opened(self, wanted: WantedPartition, outcome: Readable | ErrorCode) -> None:
        if isinstance(outcome, ErrorCode):
            self._open_errors[wanted] = outcome
        self._opening_done()

    def _opening_done(self) -> None:
        self._openings -= 1
        if not self._openings and not self._exchange.abandoned:
            self._go_on(self._begin_pass)

    def _begin_pass(self) -> None:
        self._find_all()
        self._look()

    # Finding

    def _find_all(self) -> list[tuple[WantedPartition, Unopened]]:
        """Sees for each partition what can be read, or what is answered. Returns those that would have to be opened."""
        found = self._found = []
        unopened: list[tuple[WantedPartition, Unopened]] = []
        table, is_plain = self._broker.partitions, self._is_plain
        entries: Mapping[int, Entry] = {}
        name: str | None = None
        topic_id: bytes | None = None
        for wanted in self._context.wanted:
            if wanted.name != name or wanted.topic_id != topic_id:
                name, topic_id = wanted.name, wanted.topic_id
                entries = table.of_topic(name, topic_id)
            entry = entries.get(wanted.index)
            if (
                is_plain
                and type(entry) is Partition
                and wanted.last_fetched_epoch < 0
                and (wanted.current_leader_epoch < 0 or wanted.current_leader_epoch == entry.leader_epoch)
            ):
                found.append(entry)
                continue
            located = self._locate(wanted)
            if isinstance(located, Unopened):
                unopened.append((wanted, located))
            found.append(self._checked(wanted, located))
        return unopened

    def _find(self, wanted: WantedPartition) -> Readable | PartitionData:
        """The partition, or the answer where there is none to read."""
        return self._checked(wanted, self._locate(wanted))

    def _locate(self, wanted: WantedPartition) -> Readable | Unopened | ErrorCode:
        return locate_to_read(self._broker, self._reader, wanted.name, wanted.topic_id, wanted.index)

    def _checked(self, wanted: WantedPartition, found: Readable | Unopened | ErrorCode) -> Readable | PartitionData:
        if self._refuses_all:
            return PartitionData(wanted.index, ErrorCode.NOT_LEADER_OR_FOLLOWER)
        if isinstance(found, Unopened):
            return PartitionData(wanted.index, self._open_errors.get(wanted, ErrorCode.NOT_LEADER_OR_FOLLOWER))
        if isinstance(found, ErrorCode):
            return PartitionData(wanted.index, found, aborted_transactions=())
        if wanted.current_leader_epoch >= 0:
            error = found.check_leader_epoch(wanted.current_leader_epoch)
            if error is not ErrorCode.NONE:
                return PartitionData(wanted.index, error)
        if isinstance(found, FollowedPartition):
            if wanted.fetch_offset > found.high_watermark:
                return found  # what its epoch is will be known when that is
        elif found.log_start_offset <= wanted.fetch_offset <= found.high_watermark:
            preferred = preferred_reader(self._broker, self._reader, found)
            if preferred >= 0:
                return _read_there(found, wanted, preferred)
        if wanted.last_fetched_epoch >= 0:
            return _diverging(found, wanted) or found
        return found

    def _look(self) -> None:
        """What was just found is read, unless it is worth waiting for more: then no byte of it is."""
        if self._waits and not self._has_enough():
            self._wait()
        else:
            self._pass()

    def _has_enough(self) -> bool:
        """Whether there is something to be said at once, or enough to read."""
        needed_bytes = self._min_bytes
        for wanted, found in zip(self._context.wanted, self._found, strict=True):
            if isinstance(found, PartitionData):
                return True
            available_bytes = found.available_bytes(wanted.fetch_offset, self._isolation, needed_bytes)
            if available_bytes is None:
                return True
            needed_bytes -= available_bytes
            if needed_bytes <= 0:
                return True
        return False

    # Memory

    def _pass(self) -> None:
        """Takes memory and reads; waits for the one or the other."""
        memory = self._broker.response_memory
        want = self._grant_bytes()
        if memory.try_reserve(want):
            self._granted_bytes = want
            self._read()
        else:
            self._memory_waiter = memory.wait(min(want, LEAST_GRANT_BYTES), self._memory_granted)
            self._timer = self._broker.clock.call_later(max(self._max_wait_s, MEMORY_WAIT_S), self._memory_timeout)

    def _grant_bytes(self) -> int:
        return min(self._max_bytes, max(LEAST_GRANT_BYTES, self._broker.response_memory.free_bytes // GRANT_DIVISOR))

    def _memory_granted(self) -> None:
        waiter, self._memory_waiter = self._memory_waiter, None
        self._cancel_timer()
        assert waiter is not None
        self._granted_bytes = waiter.size_bytes
        self._go_on(self._read_anew)

    def _memory_timeout(self) -> None:
        self._timer = None
        waiter, self._memory_waiter = self._memory_waiter, None
        if waiter is not None:
            waiter.cancel()
        self._starved = True
        self._waits = False  # the client's time is over, too
        self._go_on(self._read_anew)

    def _read_anew(self) -> None:
        """Partitions may have come and gone while memory was waited for."""
        self._find_all()
        self._read()

    def _settle_memory(self, size_bytes: int) -> None:
        """What was read takes the place of what was granted."""
        memory = self._broker.response_memory
        surplus = self._granted_bytes - size_bytes
        self._granted_bytes = size_bytes
        if surplus > 0:
            memory.release(surplus)
        elif surplus < 0:
            memory.reserve_anyway(-surplus)  # one whole batch, whatever the limits

    # Reading

    def _read(self) -> None:
        """Reads what is in memory; leaves the rest to a task when a file has to be waited for, or when it is much.

        Much is not read by a thread: to get the interpreter back takes a thread longer than the copy, for each file.
        """
        self._forget()
        for position, (wanted, found) in enumerate(zip(self._context.wanted, self._found, strict=True)):
            if isinstance(found, PartitionData):
                self._add_refusal(wanted, found)
                continue
            fetched = self._read_cached(wanted, found, SLICE_BYTES - self._total_bytes)
            if fetched is None:
                self._broker.supervisor.start("fetch", self._guarded(self._read_rest(position)))
                return
            self._add(wanted, found, fetched)
        self._read_all()

    def _read_cached(self, wanted: WantedPartition, partition: Readable, slice_left_bytes: int) -> Fetched | None:
        """None for what is not in memory, or more to be copied than is left of the slice."""
        limit_bytes = self._limit_bytes(wanted)
        if limit_bytes > slice_left_bytes:
            enough_bytes = slice_left_bytes + 1
            available_bytes = partition.available_bytes(wanted.fetch_offset, self._isolation, enough_bytes)
            if available_bytes is not None and available_bytes > slice_left_bytes:
                return partition.read_in_memory(wanted.fetch_offset, limit_bytes, isolation=self._isolation)
        return partition.read_cached(
            wanted.fetch_offset, limit_bytes, isolation=self._isolation, at_least_one=self._at_least_one
        )

    def _limit_bytes(self, wanted: WantedPartition) -> int:
        """What the next partition may give."""
        left_bytes = self._granted_bytes - self._total_bytes
        return wanted.max_bytes if wanted.max_bytes < left_bytes else max(0, left_bytes)

    @property
    def _at_least_one(self) -> bool:
        """The next partition gives one batch, whatever its size: nothing was read yet, and there is memory."""
        return not self._total_bytes and not self._starved

    def _go_on(self, step: Callable[[], None]) -> None:
        """As `_guarded`, for what is called back: others may be called behind it, and its caller cannot answer."""
        try:
            step()
        except Exception as error:
            log.error("a fetch crashed", error=error)
            self._give_up()

    async def _guarded(self, reading: Awaitable[None]) -> None:
        """Whatever a reading task raises, its memory goes back and the client is not left waiting."""
        try:
            await reading
        except Exception:
            self._give_up()
            raise

    def _give_up(self) -> None:
        self._settle_memory(0)
        self._exchange.hang_up("internal error")

    async def _read_rest(self, first: int) -> None:
        """Goes on where a read would have blocked or a slice was used up: slice by slice, in threads what has to be
        waited for.
        """
        slice_end_bytes = 0
        try:
            for wanted in self._context.wanted[first:]:
                if self._total_bytes >= slice_end_bytes:
                    await self._broker.turns.next()
                    slice_end_bytes = self._total_bytes + SLICE_BYTES
                if self._exchange.abandoned:
                    return
                partition = self._find(wanted)
                if isinstance(partition, PartitionData):
                    self._add_refusal(wanted, partition)
                    continue
                self._add(wanted, partition, await self._read_waiting(wanted, partition))
        finally:
            if self._exchange.abandoned:
                self._settle_memory(0)
        if not self._exchange.abandoned:
            self._read_all()

    async def _read_waiting(self, wanted: WantedPartition, partition: Readable) -> Fetched:
        """From wherever the bytes are."""
        fetched = self._read_cached(wanted, partition, SLICE_BYTES)
        if fetched is not None:
            return fetched
        limit_bytes = self._limit_bytes(wanted)
        return await partition.read(
            wanted.fetch_offset, limit_bytes, isolation=self._isolation, at_least_one=self._at_least_one
        )

    def _add_refusal(self, wanted: WantedPartition, answer: PartitionData) -> None:
        self._must_answer = True
        if answer.error_code in HINTED_ERRORS and self._exchange.api_version >= LEADER_HINTS_FROM:
            leader = current_leader(self._broker, wanted.name, wanted.topic_id, wanted.index)
            answer = answer._replace(current_leader=leader)
        self._answers.append((wanted, answer))

    def _add(self, wanted: WantedPartition, partition: Readable, fetched: Fetched) -> None:
        if fetched.error is not ErrorCode.NONE:
            self._add_refusal(wanted, PartitionData(wanted.index, fetched.error))
            return
        _, buffers, size_bytes, high_watermark, last_stable_offset, log_start_offset, aborted = fetched
        if wanted.fetch_offset > high_watermark and not self._waits:  # it did not come to be known here in time
            self._add_refusal(wanted, PartitionData(wanted.index, ErrorCode.OFFSET_NOT_AVAILABLE))
            return
        self._total_bytes += size_bytes
        answer = PartitionData(wanted.index, 0, high_watermark, last_stable_offset, log_start_offset, buffers, aborted)
        self._answers.append((wanted, answer))
        if size_bytes:
            self._sizes.append((partition, size_bytes))

    def _forget(self) -> None:
        """What was read so far is not what is answered."""
        self._answers, self._sizes = [], []
        self._total_bytes = 0

    def _read_all(self) -> None:
        """Every partition was looked at: answer, or wait for more."""
        if self._must_wait:
            self._settle_memory(0)
            self._forget()
            self._wait_anew()
        else:
            self._settle_memory(self._total_bytes)
            self._answer()

    # Waiting for records

    def _wait_anew(self) -> None:
        """Partitions may have come and gone while others were read."""
        self._find_all()
        self._wait()

    @property
    def _must_wait(self) -> bool:
        """What was read so far is not worth an answer yet."""
        return self._waits and not self._must_answer and self._total_bytes < self._min_bytes

    def _wait(self) -> None:
        """Registers with every partition. `_available_bytes` is what a pass would find, kept up with each commit."""
        for wanted, found in zip(self._context.wanted, self._found, strict=True):
            if isinstance(found, PartitionData):
                self._wake_soon()  # it was there a moment ago
            else:
                self._register(wanted, found)
        self._timer = self._broker.clock.call_later(self._max_wait_s, self._wake)

    def _register(self, wanted: WantedPartition, partition: Readable) -> None:
        size_bytes = 0
        if self._min_bytes > 1:  # else whoever has something is not waited for
            size_bytes = partition.available_bytes(wanted.fetch_offset, self._isolation, self._min_bytes) or 0
        self._available[partition] = (wanted, size_bytes)
        self._available_bytes += size_bytes
        partition.waiters.register(self._grown)

    def _grown(self, partition: Readable) -> None:
        """A partition has committed more, or is closed."""
        if self._wakes_soon:
            return
        wanted, before = self._available[partition]
        now = partition.available_bytes(wanted.fetch_offset, self._isolation, self._min_bytes)
        if now is None:
            self._wake_soon()
            return
        self._available[partition] = (wanted, now)
        self._available_bytes += now - before
        if self._available_bytes >= max(1, self._min_bytes):
            self._wake_soon()

    def _wake_soon(self) -> None:
        """In the next loop turn: the other commits of this one then go into the same answer."""
        if not self._wakes_soon:
            self._wakes_soon = True
            self._broker.clock.call_later(0, self._wake)

    def _wake(self) -> None:
        """Reads once more and answers whatever there is."""
        if self._waits and not self._exchange.abandoned:
            self._stop_waiting()
            self._go_on(self._begin_pass)

    def _stop_waiting(self) -> None:
        self._waits = False
        self._cancel_timer()
        for partition in self._available:
            partition.waiters.unregister(self._grown)
        self._available.clear()

    def _cancel_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def _abandoned(self) -> None:
        """The client is gone."""
        self._stop_waiting()
        waiter, self._memory_waiter = self._memory_waiter, None
        if waiter is not None:
            waiter.cancel()

    # Answering

    def _answer(self) -> None:
        exchange, broker = self._exchange, self._broker
        exchange.response_reserved_bytes, self._granted_bytes = self._granted_bytes, 0
        for partition, size_bytes in self._sizes:
            broker.traffic.count_out(partition.topic, size_bytes)
            partition.traffic.bytes_out += size_bytes
            partition.traffic.requests += 1
        error, session_id, answers = self._context.finish(self._answers, broker.clock.wall_ms())
        endpoints: Sequence[NodeEndpoint] = ()
        if self._must_answer and exchange.api_version >= LEADER_HINTS_FROM:
            endpoints = node_endpoints(broker, exchange.listener, [answer.current_leader for _, answer in answers])
        exchange.respond(
            *encode_fetch_response(
                exchange.api_version,
                group_by_topic(answers),
                error_code=error,
                session_id=session_id,
                node_endpoints=endpoints,
            )
        )


def _read_there(partition: Partition, wanted: WantedPartition, preferred: int) -> PartitionData:
    """KIP-392: no records; the client goes on at the preferred replica at once."""
    return PartitionData(
        wanted.index,
        ErrorCode.NONE,
        partition.high_watermark,
        partition.last_stable_offset,
        partition.log_start_offset,
        preferred_read_replica=preferred,
    )


def _diverging(partition: Readable, wanted: WantedPartition) -> PartitionData | None:
    """KIP-320, KIP-595: the answer to a client whose last epoch ends below the offset that it asks for."""
    end = partition.offset_for_leader_epoch(wanted.last_fetched_epoch, -1)
    if end.error is not ErrorCode.NONE:
        return PartitionData(wanted.index, end.error)
    if end.leader_epoch < 0 or end.end_offset < 0:
        return PartitionData(wanted.index, ErrorCode.OFFSET_OUT_OF_RANGE)
    if end.leader_epoch >= wanted.last_fetched_epoch and end.end_offset >= wanted.fetch_offset:
        return None
    return PartitionData(
        wanted.index,
        ErrorCode.NONE,
        partition.high_watermark,
        partition.last_stable_offset,
        partition.log_start_offset,
        diverging_epoch=(end.leader_epoch, end.end_offset),
    )
