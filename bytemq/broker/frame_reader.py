"""Cuts what a connection receives into frames: an int32 size, then that many bytes.

Owns the memory of requests until they are delivered. All connections receive into one arena, one behind the other.
Plain Produce requests that lie in a row there are delivered where they are, with the arena's memory; those that nobody
takes that way, and all other frames, are copied out into buffers of their own, because their bytes may be changed and
outlive the arena. A frame of which much is missing is received straight into its own buffer.

Memory is bounded for all connections together. Of a large frame only what is about to be received is reserved, a step
at a time: announced bytes cost nothing. Half-received frames alone could use up the budget and wait for each other; so
that one always gets on, one reader at a time may exceed the budget until its frame is complete (`overdraft`).
"""

from struct import Struct
from typing import Protocol

from bytemq.runtime.budget import MemoryBudget, Waiter
from bytemq.runtime.buffers import Buffer, BufferPool

ARENA_BYTES = 512 * 1024
READ_BYTES = 96 * 1024
"""Most that is received in one read, where it is not known yet what it is."""
LEAST_READ_BYTES = 48 * 1024
"""An arena with less room is not received into any more."""
POOLED_FROM_BYTES = 64 * 1024
EXHAUSTED_READ_BYTES = 4 * 1024
DIRECT_FROM_BYTES = 32 * 1024
"""Missing bytes of a frame from which on they are received in place: below, the copy is cheaper than one more read."""
RESERVE_STEP_BYTES = 1024 * 1024
SCARCE_STEP_BYTES = 128 * 1024
"""The step once half of the memory is used: whoever only announces then holds little."""

_SIZE = Struct(">i")


class BadFrame(Exception):
    """The size in front of a frame is negative or above socket.request.max.bytes. Nothing was allocated for it."""


class Arena:
    """Memory that requests are worked on in where they were received; given back when nobody does any more.

    What is in work counts in the budget: as many bytes as that is while the arena is still being filled, all of it
    afterwards, since then it is nothing else that keeps the memory.
    """

    __slots__ = (
        "_is_filling",
        "_is_given_back",
        "_memory",
        "_reserved_bytes",
        "_users",
        "buffer",
        "filled_bytes",
        "view",
    )

    def __init__(
        self, memory: "RequestMemory", buffer: Buffer, *, is_filling: bool = False, reserved_bytes: int = 0
    ) -> None:
        self.buffer = buffer
        self.view = memoryview(buffer)
        self.filled_bytes = 0
        self._memory = memory
        self._is_filling = is_filling
        self._is_given_back = False
        self._reserved_bytes = reserved_bytes
        self._users = 0

    def hold(self, size_bytes: int) -> None:
        """Requests of so many bytes are worked on in it."""
        self._users += 1
        if self._is_filling:
            self._reserve(size_bytes)
        elif not self._reserved_bytes:
            self._reserve(len(self.buffer))

    def release(self, size_bytes: int) -> None:
        """Those are done with."""
        self._users -= 1
        if self._is_filling:
            self._reserved_bytes -= size_bytes
            self._memory.budget.release(size_bytes)
        elif not self._users:
            self._end()

    def retire(self) -> None:
        """Nothing more is received into it."""
        self._is_filling = False
        if self._users:
            self._reserve(len(self.buffer) - self._reserved_bytes)
        else:
            self._end()

    def _reserve(self, size_bytes: int) -> None:
        self._reserved_bytes += size_bytes
        self._memory.budget.reserve_anyway(size_bytes)

    def _end(self) -> None:
        """Nobody works on anything in it just now. It may happen again, where something in it is looked at only now:
        until then `view` keeps others from its buffer, also when that was given back.
        """
        reserved_bytes, self._reserved_bytes = self._reserved_bytes, 0
        if self._is_given_back:
            self._memory.budget.release(reserved_bytes)
        else:
            self._is_given_back = True
            self._memory.release(self.buffer, reserved_bytes)


class RequestMemory:
    """What all connections receive into: the arena, the pool of large buffers, and the budget of both."""

    __slots__ = ("arena", "budget", "overdraft", "pool", "request_max_bytes", "waiting")

    def __init__(self, limit_bytes: int, request_max_bytes: int) -> None:
        self.budget = MemoryBudget(limit_bytes)
        self.pool = BufferPool(keep_bytes=limit_bytes // 8)
        self.request_max_bytes = request_max_bytes
        self.arena = Arena(self, self.pool.take(ARENA_BYTES), is_filling=True)
        """The one that is received into."""
        self.overdraft: FrameReader | None = None
        """The reader whose frame may exceed the budget."""
        self.waiting: dict[FrameReader, Waiter] = {}

    def room(self) -> memoryview:
        """Where in the arena the next bytes go. Changes nothing: transports ask for it in the middle of a read."""
        arena = self.arena
        position = arena.filled_bytes
        most = EXHAUSTED_READ_BYTES if self.budget.exhausted else READ_BYTES
        return arena.view[position : position + most]

    def filled(self, count: int) -> tuple[Arena, int, int]:
        """So many bytes have come into the room: where they lie."""
        arena = self.arena
        position = arena.filled_bytes
        arena.filled_bytes = end = position + count
        if ARENA_BYTES - end < LEAST_READ_BYTES:
            self.arena = Arena(self, self.pool.take(ARENA_BYTES), is_filling=True)
            arena.retire()
        return arena, position, end

    def release(self, buffer: Buffer, size_bytes: int) -> None:
        """Takes back a delivered frame, or an arena, that nobody needs any more."""
        if len(buffer) > POOLED_FROM_BYTES:
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

    def take_plain(self, arena: Arena, position: int, end: int, *, is_whole: bool = False) -> tuple[int, int]:
        """What is there begins with a frame, or is one without the size in front of it (`is_whole`). Takes plain
        Produce requests, from the first on, and holds the arena for them. Returns the position behind them, and up to
        where there are others that it need not be asked about again.
        """

    @property
    def wants_more(self) -> bool:
        """Whether something may follow at once."""

    def memory_granted(self) -> None:
        """`waits_for_memory` has ended."""


class FrameReader:
    """The frames of one connection: `get_buffer`, then `received` or `received_in_place`, as `receives_in_place` says.

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
        "_reserved",
        "_size",
        "_view",
        "received_bytes",
        "receives_in_place",
    )

    def __init__(self, memory: RequestMemory, receiver: Receiver) -> None:
        self._memory = memory
        self._receiver = receiver
        self._prefix = b""  # of a size, fewer than four bytes
        self._backlog: Arena | None = None  # received but not yet looked at, from _position on
        self._position = 0
        self._general_until = 0  # of what is being looked at: up to here nothing is plain
        self._buffer: Buffer | None = None  # of the frame that is being received
        self._view: memoryview | None = None
        self._size = 0
        self._filled = 0
        self._reserved = 0
        self.receives_in_place = False
        """The bytes that `get_buffer` was last asked to make room for belong to the frame under way."""
        self.received_bytes = 0

    @property
    def has_backlog(self) -> bool:
        """Whether there is something that `proceed` can go on with."""
        return self._backlog is not None and self not in self._memory.waiting

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
        """Where the next bytes go."""
        view = self._view
        if view is not None and self._size - self._filled >= DIRECT_FROM_BYTES and self._filled < self._reserved:
            self.receives_in_place = True
            return view[self._filled : self._reserved]
        self.receives_in_place = False
        return self._memory.room()

    def received_in_place(self, count: int) -> None:
        """`count` bytes have come of the frame under way."""
        self.received_bytes += count
        self._filled += count
        if self._filled == self._size:
            self._complete()
        elif self._filled == self._reserved:
            self._reserve_step()

    def received(self, arena: Arena, position: int, end: int) -> None:
        """What lies there has come. Raises BadFrame."""
        self.received_bytes += end - position
        waits = self._backlog is not None or (self._memory.waiting and self in self._memory.waiting)
        if waits or not self._receiver.wants_more:  # more than one read may have come in a turn
            looked_at = self._general_until - self._position if self._backlog is not None else 0
            self._general_until = max(looked_at, 0)  # of the backlog; what has come now was not looked at
            self._backlog, self._position = self._joined(arena.view[position:end]), 0
            return
        if self._prefix:
            arena = self._joined(arena.view[position:end])
            position, end = 0, len(arena.buffer)
        self._general_until = position
        reached = self._take(arena, position, end)
        if reached < end:
            self._backlog = self._copied(arena.view[reached:end])
            self._position = 0
            self._general_until -= reached

    def proceed(self) -> None:
        """Goes on with the backlog. Raises BadFrame."""
        backlog = self._backlog
        if backlog is None:
            return
        self._backlog = None
        end = len(backlog.buffer)
        position = self._take(backlog, self._position, end)
        if position < end:
            self._backlog = backlog
            self._position = position

    def _joined(self, data: memoryview) -> Arena:
        """With what is here already and was not looked at yet."""
        before = self._prefix if self._backlog is None else self._backlog.view[self._position :]
        self._prefix, self._backlog = b"", None
        return self._copied(before, data)

    def _copied(self, *parts: bytes | memoryview) -> Arena:
        return Arena(self._memory, bytearray(b"".join(parts)))

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

    def _take(self, arena: Arena, position: int, end: int) -> int:
        """Takes frames out of what lies there; returns up to where, short of `end` when delivery must pause."""
        data, memory, receiver = arena.view, self._memory, self._receiver
        while True:
            while (view := self._view) is not None:
                taken = min(self._reserved - self._filled, end - position)
                view[self._filled : self._filled + taken] = data[position : position + taken]
                self._filled += taken
                position += taken
                if self._filled == self._size:
                    if not self._complete():
                        return position
                elif self._filled < self._reserved or not self._reserve_step():
                    return position
            if end - position < 4:
                break
            if position >= self._general_until:
                taken_until, self._general_until = receiver.take_plain(arena, position, end)
                if taken_until > position:
                    position = taken_until
                    if position < end and not receiver.wants_more:
                        return position
                    continue
            size: int = _SIZE.unpack_from(data, position)[0]
            if not 0 <= size <= memory.request_max_bytes:
                raise BadFrame(f"a request of {size} bytes; the limit is {memory.request_max_bytes}")
            position += 4
            if end - position < size:
                self._begin(size)
                continue
            memory.budget.reserve_anyway(size)
            next_position = position + size
            if not receiver.deliver(bytearray(data[position:next_position]), size):
                return next_position
            position = next_position
        self._prefix = bytes(data[position:end])
        return end

    def _begin(self, size: int) -> None:
        """A frame of which only the first bytes are here."""
        memory = self._memory
        self._buffer = memory.pool.take(size)
        self._view = memoryview(self._buffer)[:size]
        self._size = size
        self._filled = self._reserved = 0
        if size <= POOLED_FROM_BYTES:
            # No waiting for so little: the connection reads in small steps while the budget is exhausted.
            self._reserved = size
            memory.budget.reserve_anyway(size)

    def _reserve_step(self) -> bool:
        """Whether there is more memory now; else `granted` will say so."""
        missing = self._size - self._reserved
        budget = self._memory.budget
        step = RESERVE_STEP_BYTES if 2 * budget.used_bytes < budget.limit_bytes else SCARCE_STEP_BYTES
        if missing < 2 * step:
            step = missing  # no small rest at the end
        if not self._memory.reserve(self, step):
            return False
        self._reserved += step
        return True

    def _complete(self) -> bool:
        buffer, self._buffer, self._view = self._buffer, None, None
        assert buffer is not None
        self._reserved = 0  # now the frame's own, released by whoever handles it
        self._memory.leave(self)
        arena = Arena(self._memory, buffer, reserved_bytes=self._size)
        if self._receiver.take_plain(arena, 0, self._size, is_whole=True)[0]:
            return self._receiver.wants_more
        return self._receiver.deliver(buffer, self._size)
