"""A partition that keeps its log in memory, and commits an append when the test says so."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

from bytemq.broker.log.results import AppendResult, Fetched, Origin
from bytemq.errors import Unavailable
from bytemq.protocol.error_codes import ErrorCode
from bytemq.protocol.records.batch import RecordBatch, parse_header
from bytemq.types import PartitionId, TopicId

Done = Callable[[AppendResult], None]


class FakePartition:
    """What the runtime uses of a Partition. `hold`: appends wait for `commit` or `fail`."""

    def __init__(self, index: int = 0, max_message_bytes: int = 1_048_588) -> None:
        self.pid = PartitionId(TopicId(bytes(16)), index)
        self.topic = "__consumer_offsets"
        self.config = SimpleNamespace(max_message_bytes=max_message_bytes, bytemq_skip_damage=False)
        self.leader_epoch = 0
        self.is_closed = False
        self.log_start_offset = 0
        self.high_watermark = 0
        self.batches: list[RecordBatch] = []
        self.hold = False
        self.refuse: ErrorCode | None = None
        self.unreadable = 0
        self.unseen = 0
        """So often what is behind a damage cannot be looked at."""
        self.damaged: set[int] = set()
        """Base offsets of batches whose bytes are not what was written."""
        self.held: list[tuple[RecordBatch, Done]] = []
        self.append_count = 0

    def append(self, payload: memoryview, done: Done, *, origin: Origin) -> None:
        assert origin is Origin.COORDINATOR
        self.append_count += 1
        if self.refuse is not None:
            done(AppendResult(self.refuse))
            return
        self.held.append((parse_header(payload), done))
        if not self.hold:
            self.commit()

    def commit(self, count: int | None = None) -> None:
        for _ in range(len(self.held) if count is None else count):
            batch, done = self.held.pop(0)
            batch.place(self.high_watermark, 0)
            self.high_watermark = batch.next_offset
            self.batches.append(batch)
            done(AppendResult(ErrorCode.NONE, batch.base_offset))

    def fail(self, code: ErrorCode = ErrorCode.KAFKA_STORAGE_ERROR) -> None:
        failed, self.held = self.held, []
        for _, done in failed:
            done(AppendResult(code))

    def read_cached(self, offset: int, max_bytes: int, *, isolation: int, at_least_one: bool = True) -> Fetched | None:
        return None

    async def bring_near(self, offset: int, size_bytes: int) -> int:
        return self.high_watermark

    async def behind_damage(self, offset: int) -> int:
        if self.unseen:
            self.unseen -= 1
            raise Unavailable("the store is down")
        return next(batch.next_offset for batch in self.batches if batch.next_offset > offset)

    async def read(self, offset: int, max_bytes: int, *, isolation: int, at_least_one: bool = True) -> Fetched:
        if self.unreadable:
            self.unreadable -= 1
            return Fetched(ErrorCode.KAFKA_STORAGE_ERROR)
        buffers: list[memoryview] = []
        for batch in self.batches:
            if batch.next_offset > offset and batch.base_offset in self.damaged:
                if not buffers:
                    return Fetched(ErrorCode.CORRUPT_MESSAGE)
                break
            if batch.next_offset > offset and (not buffers or sum(map(len, buffers)) + len(batch.view) <= max_bytes):
                buffers.append(batch.view)
        return Fetched(ErrorCode.NONE, buffers, sum(map(len, buffers)), self.high_watermark)
