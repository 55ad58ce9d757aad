"""Plain Produce requests that came in a row, from their bytes to their answers: what most of a broker's work is.

Owns the short way: the requests of one read share one object, one look at the clock, one time-out and one answer. In a
connection's order a run stands where an exchange does. Must not: refuse. A request that its partition does not take as
it is has not happened; it goes the general way (`handlers/produce`), and so does what lies behind it in the run. When
storage fails, the general way has the words.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import cast

from bytemq.broker.context import Broker, ClientInfo
from bytemq.broker.exchange import Owner
from bytemq.broker.frame_reader import RequestMemory
from bytemq.broker.handlers.produce import Topics, encode_results, note_refused
from bytemq.broker.log.partition import Partition
from bytemq.broker.log.partitions import Entry
from bytemq.broker.log.results import AppendResult
from bytemq.protocol import plain_produce
from bytemq.protocol.api_keys import ApiKey
from bytemq.protocol.error_codes import ErrorCode
from bytemq.protocol.framing import response_prefix
from bytemq.protocol.primitives import Buffer as WireBuffer
from bytemq.protocol.produce import ProduceResult
from bytemq.runtime.budget import MemoryBudget
from bytemq.runtime.buffers import Buffer
from bytemq.runtime.metrics import Histogram

_PRODUCE = int(ApiKey.PRODUCE)


class ProduceRun:
    """The requests of a `plain_produce.Run`; `size_bytes` of the request memory are reserved for it.

    `answer` is None until all of them have their results, or their time is over; empty with acks=0.
    """

    __slots__ = (
        "_acks",
        "_api_version",
        "_broker",
        "_buffer",
        "_client",
        "_duration",
        "_memory",
        "_missing",
        "_owner",
        "_requests",
        "_results",
        "_size_bytes",
        "_timeout_ms",
        "answer",
        "answer_bytes",
        "request_count",
        "started_at",
    )

    api_key = _PRODUCE
    on_abandon = None
    response_reserved_bytes = 0

    def __init__(
        self,
        broker: Broker,
        client: ClientInfo,
        owner: Owner,
        memory: RequestMemory,
        run: plain_produce.Run,
        size_bytes: int,
        duration: Histogram,
    ) -> None:
        self._api_version, self._acks, self._timeout_ms, buffer, self._requests = run
        self._broker = broker
        self._client = client
        self._owner: Owner | None = owner
        self._memory = memory
        self._buffer: Buffer | None = buffer
        self._size_bytes = size_bytes
        self._duration = duration
        self._results: list[AppendResult | None] = []
        self._missing = 0
        self.started_at = broker.clock.monotonic()
        self.request_count = len(self._requests)
        self.answer: tuple[WireBuffer, ...] | None = None
        self.answer_bytes = 0

    def start(self) -> bool:
        """Appends the first of them, as far as their partitions take them: the run has those alone from
        then on. False if that is none; then nothing has happened.
        """
        broker = self._broker
        now_ms = broker.clock.wall_ms()
        count_in = broker.traffic.count_in
        topic: tuple[str | None, bytes | None] | None = None
        entries: Mapping[int, Entry]
        for _, name, topic_id, index, records, header, _ in self._requests:
            if topic != (name, topic_id):
                topic = name, topic_id
                entries = broker.partitions.of_topic(name, topic_id)
            partition = entries.get(index)
            if not isinstance(partition, Partition):
                break
            done = partial(self._done, self._missing)
            self._results.append(None)  # first: where appending raises, it may be answered all the same
            self._missing += 1
            if not partition.append_plain(records, header, now_ms, done):
                self._results.pop()
                self._missing -= 1
                break
            count_in(partition.topic, len(records))
        self.request_count = len(self._results)
        del self._requests[self.request_count :]
        if self._acks and self._missing:
            broker.deadlines.add(self, max(self._timeout_ms, 0) / 1000)
        return self.request_count > 0

    def expired(self) -> None:
        """The clients' time-out is over. The memory is kept until storage is done with it."""
        timed_out = AppendResult(ErrorCode.REQUEST_TIMED_OUT)
        self._results = [timed_out if result is None else result for result in self._results]
        self._respond()

    def hang_up(self, reason: str) -> None:
        """Closes the connection instead of answering; `reason` goes to the log."""
        owner = self._owner
        self.release_frame()
        if owner is not None:
            owner.hang_up(reason)

    def abandon(self) -> None:
        """The connection is closed: nobody waits for the answer."""
        self._owner = None

    def release_frame(self) -> None:
        """Nobody will look at the requests' bytes again."""
        buffer, self._buffer = self._buffer, None
        if buffer is not None:
            self._memory.release(buffer, self._size_bytes)

    def release_response(self, budget: MemoryBudget) -> None:
        """Answers of this kind take nothing of that budget."""

    def _done(self, number: int, result: AppendResult) -> None:
        """One append has its answer."""
        if result.error.retriable:
            _, name, topic_id, index, records, _, _ = self._requests[number]
            note_refused(self._broker, name, topic_id, index, records)
        if self._results[number] is None:
            self._results[number] = result
        self._missing -= 1
        if not self._missing:
            self._broker.deadlines.discard(self)
            if self.answer is None and self._buffer is not None:  # not hung up on
                self._respond()
            self.release_frame()

    def _respond(self) -> None:
        results = cast("list[AppendResult]", self._results)
        owner = self._owner
        if self._acks:
            frames = plain_produce.answers(self._api_version, self._requests, results)
            if frames is None:
                frames = self._any_answers(results)
            self.answer, self.answer_bytes = (frames,), len(frames)
        else:
            self.answer = ()
            failed = next((result for result in results if result.error), None)
            if failed is not None:
                self.hang_up(f"produce with acks=0 failed: error {failed.error}")
        self._duration.observe(self._broker.clock.monotonic() - self.started_at, self.request_count)
        if owner is not None:
            owner.answered(self)

    def _any_answers(self, results: list[AppendResult]) -> bytearray:
        """The general way of writing the answers, which knows all errors."""
        frames = bytearray()
        for request, result in zip(self._requests, results, strict=True):
            correlation_id, name, topic_id, index, records, _, _ = request
            topics: Topics = [(name, topic_id, [(index, records)])]
            version, listener = self._api_version, self._client.listener
            body = encode_results(self._broker, version, listener, topics, [ProduceResult(index, *result)])
            frames += response_prefix(_PRODUCE, version, correlation_id, len(body))
            frames += body
        return frames
