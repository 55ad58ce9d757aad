"""Cuts what a connection receives into frames: an int32 size, then that many bytes.

Owns the memory of requests until they are delivered. All connections receive into one scratch buffer; a complete frame
is copied out into a buffer of its own, because its batches are patched in place and outlive the read. A frame that is
larger than what the scratch holds is received straight into its own buffer. Plain Produce requests that lie in a row
are copied and delivered as one run; those that nobody takes that way are delivered as frames.

Memory is bounded for all connections together. Of a large frame only what is about to be received is reserved, a step
at a time: announced bytes cost nothing. Half-received frames alone could use up the budget and wait for each other; so
that one always gets on, one reader at a time may exceed the budget until its frame is complete (`overdraft`).
"""

from struct import Struct
from typing import Protocol

from bytemq.protocol import plain_produce
from bytemq.runtime.budget import MemoryBudget, Waiter
from bytemq.runtime.buffers import Buffer, BufferPool

SCRATCH_BYTES = 64 * 1024
EXHAUSTED_READ_BYTES = 4 * 1024
DIRECT_FROM_BYTES = 32 * 1024
"""Missing bytes of a frame from which on they are received in place: below, the copy is cheaper than one more read."""
RESERVE_STEP_BYTES = 1024 * 1024
SCARCE_STEP_BYTES = 128 * 1024
"""The step once half of the memory is used: whoever only announces then holds little."""
MOST_IN_RUN = 64
"""Plain requests that are delivered together."""

_SIZE = Struct(">i")


class BadFrame(Exception):
    """The size in front of a frame is negative or above socket.request.max.bytes. Nothing was allocated for it."""


class RequestMemory:
    """What all connections receive into: the scratch buffer, the pool of large buffers, and the budget of both."""

    __slots__ = ("budget", "overdraft", "pool", "request_max_bytes", "scratch", "scratch_small", "waiting")

    def __init__(self, limit_bytes: int, request_max_bytes: int) -> None:
        self.budget = MemoryBudget(limit_bytes)
        self.pool = BufferPool(keep_bytes=limit_bytes // 8)
        self.request_max_bytes = request_max_bytes
        self.scratch = memoryview(bytearray(SCRATCH_BYTES))
        self.scratch_small = self.scratch[:EXHAUSTED_READ_BYTES]
        self.overdraft: FrameReader | None = None
        """The reader whose frame may exceed the budget."""
        self.waiting: dict[FrameReader, Waiter] = {}

    def release(self, buffer: Buffer, size_bytes: int) -> None:
        """Takes back a delivered frame that nobody needs any more."""
        if size_bytes > SCRATCH_BYTES:
            self.pool.give_back(buffer)
        self.budget.release(size_bytes)

    @property
    def anyone_waits(self) -> bool:
        return bool(self.waiting)

    def reserve(self, reader: "FrameReader", size_bytes: int) -> bool:
        """Reserves for a frame under way; False when `reader.granted` will be called later."""
        if self.overdraft is reader:
            self.budget.reserve_anyway(size_bytes)
        elif not self.budget.try_reserve(size_bytes):
            if self.overdraft is not None:
                self.waiting[reader] = self.budget.wait(size_bytes, lambda: self._granted(reader, size_bytes))
                return False
            self.overdraft = reader
            self.budget.reserve_anyway(size_bytes)
        return True

    def leave(self, reader: "FrameReader") -> None:
        """The reader's frame is complete or given up: the next in the queue may exceed the budget."""
        waiter = self.waiting.pop(reader, None)
        if waiter is not None:
            waiter.cancel()
        if self.overdraft is not reader:
            return
        self.overdraft = next(iter(self.waiting), None)
        if self.overdraft is not None:
            waiter = self.waiting[self.overdraft]
            waiter.cancel()
            self.budget.reserve_anyway(waiter.size_bytes)
            self._granted(self.overdraft, waiter.size_bytes)

    def _granted(self, reader: "FrameReader", size_bytes: int) -> None:
        del self.waiting[reader]
        reader.granted(size_bytes)


class Receiver(Protocol):
    """Who gets the frames, all of them in memory that is reserved in the budget already."""

    def deliver(self, buffer: Buffer, size_bytes: int) -> bool:
        """A frame: the first `size_bytes` of `buffer`. Returns whether the next may follow at once."""

    def deliver_run(self, run: plain_produce.Run, size_bytes: int) -> bool:
        """Requests in a row, in `size_bytes` of memory. Those that are taken, from the first on, are what stays in the
        run's list; False if that is none, and nothing has happened.
        """

    @property
    def run_room(self) -> int:
        """How many requests a run may have that is delivered now; 0: none is taken."""

    @property
    def wants_more(self) -> bool:
        """Whether something may follow a run at once."""

    def memory_granted(self) -> None:
        """`waits_for_memory` has ended."""


class FrameReader:
    """The frames of one connection.

    What a receiver does not want at once is kept until `proceed`.
    """

    __slots__ = (
        "_backlog",
        "_buffer",
        "_filled",
        "_general_until",
        "_memory",
        "_position",
        "_prefix",
        "_receiver",
        "_receiving_in_place",
        "_reserved",
        "_size",
        "_view",
        "received_bytes",
    )

    def __init__(self, memory: RequestMemory, receiver: Receiver) -> None:
        self._memory = memory
        self._receiver = receiver
        self._prefix = b""  # of a size, fewer than four bytes
        self._backlog: memoryview | None = None  # received but not yet looked at, from _position on
        self._position = 0
        self._general_until = 0  # of what is being looked at: up to here somebody has refused to take a run
        self._buffer: Buffer | None = None  # of the frame that is being received
        self._view: memoryview | None = None
        self._size = 0
        self._filled = 0
        self._reserved = 0
        self._receiving_in_place = False
        self.received_bytes = 0

    @property
    def has_backlog(self) -> bool:
        return self._backlog is not None

    @property
    def mid_frame(self) -> bool:
        """A frame has begun and is not complete: it holds memory."""
        return self._buffer is not None

    @property
    def waits_for_memory(self) -> bool:
        return self in self._memory.waiting

    @property
    def takes_more(self) -> bool:
        """Whether it may be received into: there is neither a backlog, nor is memory waited for."""
        return self._backlog is None and self not in self._memory.waiting

    def get_buffer(self) -> memoryview:
        """Where the next bytes go; `received` must follow. Only when it `takes_more`."""
        view = self._view
        if view is not None and self._size - self._filled >= DIRECT_FROM_BYTES:
            self._receiving_in_place = True
            return view[self._filled : self._reserved]
        memory = self._memory
        return memory.scratch_small if memory.budget.exhausted else memory.scratch

    def received(self, count: int) -> None:
        """`count` bytes have come. Raises BadFrame."""
        self.received_bytes += count
        if self._receiving_in_place:
            self._receiving_in_place = False
            self._filled += count
            if self._filled == self._size:
                self._complete()
            elif self._filled == self._reserved:
                self._reserve_step()
            return
        data = self._memory.scratch
        if self._prefix:
            data = memoryview(self._prefix + bytes(data[:count]))
            count = len(data)
            self._prefix = b""
        self._general_until = 0
        position = self._take(data, 0, count)
        if position < count:
            self._backlog = memoryview(bytes(data[position:count]))
            self._position = 0
            self._general_until -= position

    def proceed(self) -> None:
        """Goes on with the backlog. Raises BadFrame."""
        backlog = self._backlog
        if backlog is None:
            return
        self._backlog = None
        position = self._take(backlog, self._position, len(backlog))
        if position < len(backlog):
            self._backlog = backlog
            self._position = position

    def close(self) -> None:
        """Gives back what an incomplete frame holds."""
        self._memory.leave(self)
        reserved, self._reserved = self._reserved, 0
        self._view = self._buffer = self._backlog = None
        if reserved:
            self._memory.budget.release(reserved)

    def granted(self, size_bytes: int) -> None:
        """The memory that was waited for is there."""
        self._reserved += size_bytes
        self._receiver.memory_granted()

    def _take(self, data: memoryview, position: int, end: int) -> int:
        """Takes frames out of data[position:end]; returns up to where, short of `end` when delivery must pause."""
        if self._view is not None:
            taken = min(self._size - self._filled, end - position)
            self._view[self._filled : self._filled + taken] = data[position : position + taken]
            self._filled += taken
            position += taken
            if self._filled < self._size or not self._complete():
                return position
        memory, receiver = self._memory, self._receiver
        while end - position >= 4:
            if position >= self._general_until and (most := min(MOST_IN_RUN, receiver.run_room)) > 0:
                run = plain_produce.run(data, position, end, memory.request_max_bytes, most)
                if run is not None:
                    run_bytes, requests = len(run[3]), run[4]
                    self._general_until = position + run_bytes
                    memory.budget.reserve_anyway(run_bytes)
                    if receiver.deliver_run(run, run_bytes):
                        position += requests[-1][-1]
                        if position < end and not receiver.wants_more:
                            return position
                        continue
                    memory.budget.release(run_bytes)
            size: int = _SIZE.unpack_from(data, position)[0]
            if not 0 <= size <= memory.request_max_bytes:
                raise BadFrame(f"a request of {size} bytes; the limit is {memory.request_max_bytes}")
            position += 4
            if end - position < size:
                self._begin(size, data[position:end])
                return end
            memory.budget.reserve_anyway(size)
            next_position = position + size
            if not receiver.deliver(bytearray(data[position:next_position]), size):
                return next_position
            position = next_position
        self._prefix = bytes(data[position:end])
        return end

    def _begin(self, size: int, first_bytes: memoryview) -> None:
        """A frame of which only the first bytes are here."""
        memory = self._memory
        self._buffer = memory.pool.take(size)
        self._view = memoryview(self._buffer)[:size]
        self._size = size
        self._filled = len(first_bytes)
        self._view[: self._filled] = first_bytes
        if size <= SCRATCH_BYTES:
            # No waiting for so little: the connection reads in small steps while the budget is exhausted.
            self._reserved = size
            memory.budget.reserve_anyway(size)
        else:
            self._reserved = 0
            self._reserve_step()

    def _reserve_step(self) -> None:
        missing = self._size - self._reserved
        budget = self._memory.budget
        step = RESERVE_STEP_BYTES if 2 * budget.used_bytes < budget.limit_bytes else SCARCE_STEP_BYTES
        if missing < 2 * step:
            step = missing  # no small rest at the end
        if self._memory.reserve(self, step):
            self._reserved += step

    def _complete(self) -> bool:
        buffer, self._buffer, self._view = self._buffer, None, None
        assert buffer is not None
        self._reserved = 0  # now the frame's own, released by whoever handles it
        self._memory.leave(self)
        run = plain_produce.whole(buffer, self._size) if self._receiver.run_room > 0 else None
        if run is not None and self._receiver.deliver_run(run, self._size):
            return self._receiver.wants_more
        return self._receiver.deliver(buffer, self._size)
