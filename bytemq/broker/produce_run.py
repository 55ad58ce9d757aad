"""Plain Produce requests of all connections, from their bytes to their answers: what most of a broker's work is.

Owns the short way: what the connections received in one turn of the loop is one run, with one look at the clock, one
time-out, and one object for what each of them sent. In a connection's order its share stands where an exchange does.
Must not: refuse. A request that its partitions do not take as it is has not happened; it goes the general way
(`handlers/produce`), and so does what lies behind it on its connection. When storage fails, the general way has the
words.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any

from bytemq.broker.context import Broker, ClientInfo, Traffic
from bytemq.broker.exchange import Owner, Received
from bytemq.broker.frame_reader import Arena
from bytemq.broker.handlers.produce import encode_results
from bytemq.broker.log.partition import Partition
from bytemq.broker.log.partitions import Known
from bytemq.broker.log.results import AppendResult
from bytemq.broker.log.state import PendingAppend
from bytemq.protocol import plain_produce
from bytemq.protocol.api_keys import ApiKey
from bytemq.protocol.error_codes import ErrorCode
from bytemq.protocol.framing import response_prefix
from bytemq.protocol.primitives import Buffer as WireBuffer
from bytemq.protocol.produce import ProduceResult
from bytemq.protocol.records.batch import RecordBatch, beginning_producer
from bytemq.runtime.budget import MemoryBudget
from bytemq.runtime.metrics import Histogram

Taken = tuple["ProduceShare | None", int, int]
Row = tuple[Any, Sequence[RecordBatch]]
"""A partition, or what there is in its place, and batches for it."""

_PRODUCE = int(ApiKey.PRODUCE)
_TIMED_OUT = AppendResult(ErrorCode.REQUEST_TIMED_OUT)
_size_bytes = attrgetter("size_bytes")


class ProduceShare(Received):
    """What one connection has in a run: requests in a row, in memory that it holds; the `Group` of their appends.

    `answer` is None until the run has its results, or its time is over; empty with acks=0.
    """

    __slots__ = (
        "_appends",
        "_arena",
        "_client",
        "_failed",
        "_requests",
        "_row_of",
        "_rows",
        "_run",
        "_size_bytes",
        "acks",
        "answer",
        "answer_bytes",
        "missing",
        "owner",
        "request_count",
    )

    api_key = _PRODUCE
    on_abandon = None
    response_reserved_bytes = 0

    def __init__(
        self, run: ProduceRun, requests: plain_produce.Requests, arena: Arena, client: ClientInfo, owner: Owner
    ) -> None:
        self._run = run
        self._requests = requests
        self._arena: Arena | None = arena
        self._client = client
        self.owner: Owner | None = owner
        self._size_bytes = 0
        self._rows: list[Row] = []
        self._appends: list[PendingAppend[Any]] = []  # of each row
        self._failed: dict[PendingAppend[Any], AppendResult] | None = None
        self._row_of: dict[PendingAppend[Any], Row] = {}  # of each append, once one has failed
        self.acks = requests.acks
        self.missing = 0
        self.request_count = 0
        self.answer: tuple[WireBuffer, ...] | None = None
        self.answer_bytes = 0

    def start(self, position: int) -> bool:
        """Appends the first of the requests, which begin at `position`, as far as their partitions take them: the share
        has those alone from then on. False if that is none, and nothing has happened.
        """
        requests, arena = self._requests, self._arena
        assert arena is not None
        taken = requests.count
        if not self._prepare(requests.rows):
            taken = self._prepare_some()
            if not taken:
                return False
            if taken < requests.count:
                requests.keep(taken)
        appends = self._appends
        self.missing = len(appends)
        self.request_count = taken
        self._size_bytes = requests.end - position
        arena.hold(self._size_bytes)
        self._run.broker.partitions.services.storage.append_all(
            [row[0].appender.handed_over(row[1], append) for row, append in zip(self._rows, appends, strict=True)]
        )
        return True

    def _prepare(self, rows: Sequence[Row]) -> bool:
        """Prepares an append of each row, or none of them."""
        now_ms = self._run.now_ms
        appends: list[PendingAppend[Any]] = []
        for entry, batches in rows:
            append = entry.appender.prepare_plain(batches, now_ms, self) if isinstance(entry, Partition) else None
            if append is None:
                while appends:
                    before, placed = rows[len(appends) - 1]
                    before.appender.take_back(placed, appends.pop())
                return False
            appends.append(append)
        self._rows += rows
        self._appends += appends
        return True

    def _prepare_some(self) -> int:
        """Not all are taken as they are: one request after the other, each as a whole, up to the first that is not.
        Returns how many.
        """
        first = taken = 0
        entries, batches = self._requests.entries, self._requests.batches
        for count in self._requests.part_counts:
            behind = first + count
            if not self._prepare([(entries[number], (batches[number],)) for number in range(first, behind)]):
                break
            first = behind
            taken += 1
        return taken

    def count_in(self, traffic: Traffic) -> None:
        counters, zone = traffic.bytes_in, self._client.zone
        for entry, batches in self._rows:
            size_bytes = sum(map(_size_bytes, batches))
            of_partition, topic = entry.traffic, entry.topic
            of_partition.requests += len(batches)
            of_partition.bytes_in += size_bytes
            if zone:
                of_partition.count_zone(zone, size_bytes)
            if topic in counters:
                counters[topic].value += size_bytes
            else:
                traffic.count_in(topic, size_bytes)

    def complete(self) -> None:
        """See `Group`."""
        run = self._run
        run.missing -= 1
        if not run.missing:
            run.complete()

    def failed(self, append: PendingAppend[Any], error: ErrorCode, log_start_offset: int) -> None:
        """See `Group`."""
        if not self._row_of:
            self._row_of = dict(zip(self._appends, self._rows, strict=True))
        partition, batches = self._row_of[append]
        producer = beginning_producer(batches[0].view) if error.retriable else None
        if producer is not None:  # it will come again, and nothing else begins for it
            self._run.broker.partitions.beginning_refused(partition.pid, *producer)
        if self._failed is None:
            self._failed = {}
        self._failed.setdefault(append, AppendResult(error, log_start_offset=log_start_offset))
        self.missing -= 1
        if not self.missing:
            self.complete()

    def respond(self) -> None:
        """Writes the answers with what is known by now: what is not decided yet is too late."""
        if self._arena is None:
            return  # hung up on
        requests = self._requests
        for append in self._appends if self.missing else ():
            if append.group is not None:
                self._failed = self._failed or {}
                self._failed[append] = _TIMED_OUT
        if not self.acks:
            self.answer = ()
            if self._failed:
                self.hang_up(f"produce with acks=0 failed: error {next(iter(self._failed.values())).error}")
            return
        entries = requests.entries
        if len(self._rows) == 1:
            log_starts = [entries[0].appender.state.log_start_offset] * len(entries)
        else:
            log_starts = [entry.appender.state.log_start_offset for entry in entries]
        frames = self._any_answers(self._failed, log_starts) if self._failed else requests.answers(log_starts)
        self.answer, self.answer_bytes = (frames,), len(frames)

    def abandon(self) -> None:
        """The connection is closed: nobody waits for the answer."""
        self.owner = None

    def release_frame(self) -> None:
        """Nobody will look at the requests' bytes again."""
        arena, self._arena = self._arena, None
        if arena is not None and self.request_count:
            arena.release(self._size_bytes)

    def release_response(self, budget: MemoryBudget) -> None:
        """Answers of this kind take nothing of that budget."""

    def _any_answers(self, failed: dict[PendingAppend[Any], AppendResult], log_starts: list[int]) -> bytearray:
        """The general way of writing the answers, which knows all errors."""
        frames, requests, number = bytearray(), self._requests, 0
        of_batches = {}
        for (_, batches), append in zip(self._rows, self._appends, strict=True):
            for batch in batches:
                of_batches[id(batch)] = failed.get(append) or AppendResult(ErrorCode.NONE, batch.base_offset)
        for one in range(requests.count):
            correlation_id, topics = requests.request(one)
            results = []
            for _, _, partitions in topics:
                for index, _ in partitions:
                    result = of_batches[id(requests.batches[number])]
                    if result.error is ErrorCode.NONE:
                        result = result._replace(log_start_offset=log_starts[number])
                    results.append(ProduceResult(index, *result))
                    number += 1
            body = encode_results(self._run.broker, requests.version, self._client.listener, topics, results)
            frames += response_prefix(_PRODUCE, requests.version, correlation_id, len(body))
            frames += body
        return frames


class ProduceRun:
    """The shares of one turn of the loop that have the same time-out. They are answered together."""

    __slots__ = ("_duration", "_is_awaited", "_shares", "broker", "missing", "now_ms", "started_at", "timeout_ms")

    def __init__(self, broker: Broker, timeout_ms: int, duration: Histogram) -> None:
        self.broker = broker
        self.timeout_ms = timeout_ms
        self._duration = duration
        self._shares: list[ProduceShare] = []
        self._is_awaited = False
        self.missing = 1
        """Shares that miss something, and the run itself until it has `begun`."""
        self.now_ms = broker.clock.wall_ms()
        self.started_at = broker.clock.monotonic()

    def join(self, share: ProduceShare) -> None:
        self._shares.append(share)
        self._is_awaited = self._is_awaited or share.acks != 0
        self.missing += 1

    def begun(self) -> None:
        """Nothing more joins."""
        for share in self._shares:
            share.count_in(self.broker.traffic)
        self.missing -= 1
        if not self.missing:
            self.complete()
        elif self._is_awaited:
            self.broker.deadlines.add(self, max(self.timeout_ms, 0) / 1000)

    def expired(self) -> None:
        """The clients' time-out is over. The memory is kept until storage is done with it."""
        self._respond([share for share in self._shares if share.acks])

    def complete(self) -> None:
        """No share misses anything."""
        self.broker.deadlines.discard(self)
        self._respond([share for share in self._shares if share.answer is None])
        for share in self._shares:
            share.release_frame()
        self._shares.clear()  # they know the run: nobody should have to find out that both are garbage

    def _respond(self, shares: list[ProduceShare]) -> None:
        for share in shares:
            share.respond()
        elapsed_s = self.broker.clock.monotonic() - self.started_at
        self._duration.observe(elapsed_s, sum([share.request_count for share in shares]))
        for share in shares:
            if share.owner is not None:
                share.owner.answered(share)


class ProduceRuns:
    """Where the requests of this turn of the loop join, until `begin`."""

    __slots__ = ("_broker", "_duration", "_joining", "_known", "_log_crash", "_request_max_bytes")

    def __init__(
        self,
        broker: Broker,
        request_max_bytes: int,
        duration: Histogram,
        log_crash: Callable[[str, Exception], None],
    ) -> None:
        self._broker = broker
        self._request_max_bytes = request_max_bytes
        self._duration = duration
        self._log_crash = log_crash
        self._joining: dict[int, ProduceRun] = {}
        self._known: Known | None = None  # looked at once in a turn

    def take(self, arena: Arena, position: int, end: int, most: int, client: ClientInfo, owner: Owner) -> Taken:
        """At most so many of the plain requests that lie there in a row; 0: there is one, without its size in front.

        What is answered, or its owner told to hang up, later; None if nothing of them is taken this way, and then
        nothing has happened. Behind it, the positions up to which there is nothing more to take, and up to which
        nothing else is plain.
        """
        known = self._known
        if known is None:
            known = self._known = self._broker.partitions.known()
        most_bytes, view = self._request_max_bytes, arena.view
        if most:
            requests = plain_produce.take(view, position, end, most_bytes, most, *known, RecordBatch)
        else:
            requests = plain_produce.whole(view, end, *known, RecordBatch)
        if requests is None:
            return None, position, position
        looked_until, timeout_ms = requests.end, requests.timeout_ms
        run = self._joining.get(timeout_ms)
        if run is None:
            run = ProduceRun(self._broker, timeout_ms, self._duration)
        share = ProduceShare(run, requests, arena, client, owner)
        try:
            if not share.start(position):
                return None, position, looked_until
        except Exception as error:
            self._log_crash("produce", error)
            share.hang_up("internal error")
        if share.missing:
            self._joining[timeout_ms] = run
            run.join(share)
        return share, requests.end, looked_until

    def begin(self) -> None:
        """What has joined is all: the next ones are another run."""
        self._known = None
        if self._joining:
            runs, self._joining = self._joining, {}
            for run in runs.values():
                run.begun()
