"""Frames out of a stream, however it is cut, within a memory budget that half-received frames cannot block."""

from collections.abc import Callable
from random import Random
from struct import pack
from typing import Any

import pytest

from bytemq.broker.frame_reader import POOLED_FROM_BYTES, READ_BYTES, Arena, BadFrame, FrameReader, RequestMemory
from bytemq.protocol import plain_produce
from bytemq.protocol.records.batch import RecordBatch
from bytemq.runtime.buffers import Buffer
from tests.fuzz import fuzz_produced

MIB = 1024 * 1024


class Receiver:
    """A connection as the reader sees it; keeps the frames, and releases them when told."""

    def __init__(self, memory: RequestMemory, limit: int = 1 << 30) -> None:
        self.memory = memory
        self.frames: list[bytes] = []
        self.held: list[tuple[Buffer, int]] = []
        self.wanted = limit
        self.grants = 0
        self.held_in: list[tuple[Arena, int]] = []
        self.taken_of_row: Callable[[int], int] = lambda count: 0
        self.looked_at: list[int] = []
        self.rows: list[int] = []
        self.reader = FrameReader(memory, self)

    def deliver(self, buffer: Buffer, size_bytes: int) -> bool:
        self.frames.append(bytes(memoryview(buffer)[:size_bytes]))
        self.held.append((buffer, size_bytes))
        return len(self.frames) < self.wanted

    def take_plain(self, arena: Arena, position: int, end: int, *, is_whole: bool = False) -> tuple[int, int]:
        self.looked_at.append(position)
        known: Any = ({}, {}, RecordBatch)
        if is_whole:
            requests = plain_produce.whole(arena.view, end, *known)
        else:
            requests = plain_produce.take(arena.view, position, end, self.memory.request_max_bytes, 64, *known)
        if requests is None:
            return position, position
        looked_until = requests.end
        count = self.taken_of_row(requests.count)
        if not count:
            return position, looked_until
        requests.keep(count)
        self.rows.append(count)
        self._hold(arena, requests.end - position)
        if is_whole:
            self.frames.append(bytes(arena.view[:end]))
        while not is_whole and position < requests.end:
            size = int.from_bytes(arena.view[position : position + 4], "big")
            self.frames.append(bytes(arena.view[position + 4 : position + 4 + size]))
            position += 4 + size
        return requests.end, looked_until

    def _hold(self, arena: Arena, size_bytes: int) -> None:
        arena.hold(size_bytes)
        self.held_in.append((arena, size_bytes))

    @property
    def wants_more(self) -> bool:
        return len(self.frames) < self.wanted

    def memory_granted(self) -> None:
        self.grants += 1

    def release(self) -> None:
        held, self.held = self.held, []
        for buffer, size_bytes in held:
            self.memory.release(buffer, size_bytes)
        held_in, self.held_in = self.held_in, []
        for arena, size_bytes in held_in:
            arena.release(size_bytes)

    def feed(self, data: bytes, step: int = 1 << 30) -> int:
        """As a socket would: never more than the buffer takes. Returns how much was taken before it had to stop."""
        sent = 0
        while sent < len(data) and not self.reader.waits_for_memory and not self.reader.has_backlog:
            buffer = self.reader.get_buffer()
            count = min(len(buffer), len(data) - sent, step)
            buffer[:count] = data[sent : sent + count]
            if self.reader.receives_in_place:
                self.reader.received_in_place(count)
            else:
                self.reader.received(*self.memory.filled(count))
            sent += count
        return sent


def frames_of(*payloads: bytes) -> bytes:
    return b"".join(pack(">i", len(payload)) + payload for payload in payloads)


def make(limit_bytes: int = 64 * MIB, request_max_bytes: int = 100 * MIB) -> RequestMemory:
    return RequestMemory(limit_bytes, request_max_bytes)


PAYLOADS = [
    b"",
    b"a",
    bytes(range(256)) * 5,
    b"x" * (POOLED_FROM_BYTES - 4),
    b"y" * (POOLED_FROM_BYTES + 1),
    b"z" * 300_000,
]


@pytest.mark.parametrize("step", [1, 2, 3, 5, 1000, READ_BYTES - 1, 1 << 30])
def test_frame_reader__cuts_frames_however_the_stream_comes(step: int) -> None:
    payloads = PAYLOADS[:3] if step < 1000 else PAYLOADS * 2
    receiver = Receiver(make())
    receiver.feed(frames_of(*payloads), step)
    assert receiver.frames == payloads
    receiver.release()
    assert receiver.memory.budget.used_bytes == 0


def test_frame_reader__gives_each_frame_memory_of_its_own() -> None:
    receiver = Receiver(make())
    receiver.feed(frames_of(b"first", b"second"))
    (first, _), (second, _) = receiver.held
    memoryview(first)[0] = 0
    assert bytes(second) == b"second"


@pytest.mark.parametrize("size", [-1, -(2**31), 100 * MIB + 1, 2**31 - 1, 0x47455420])
def test_frame_reader__refuses_absurd_sizes_before_allocating(size: int) -> None:
    receiver = Receiver(make())
    with pytest.raises(BadFrame):
        receiver.feed(pack(">i", size) + b"x")
    assert receiver.memory.budget.peak_bytes == 0


def test_frame_reader__announced_bytes_cost_next_to_nothing() -> None:
    memory = make(limit_bytes=64 * MIB)
    receivers = [Receiver(memory) for _ in range(40)]
    for receiver in receivers:
        receiver.feed(pack(">i", 100 * MIB) + b"only the start")
    assert memory.budget.used_bytes < 40 * MIB
    assert not memory.anyone_waits
    for receiver in receivers:
        receiver.reader.close()
    assert memory.budget.used_bytes == 0


def test_frame_reader__keeps_what_came_behind_a_pause() -> None:
    receiver = Receiver(make(), limit=1)
    receiver.feed(frames_of(b"one", b"two", b"three"))
    assert receiver.frames == [b"one"]
    assert receiver.reader.has_backlog
    receiver.wanted = 2
    receiver.reader.proceed()
    assert receiver.frames == [b"one", b"two"]
    receiver.wanted = 99
    receiver.reader.proceed()
    assert receiver.frames == [b"one", b"two", b"three"]
    assert not receiver.reader.has_backlog


def test_frame_reader__half_received_frames_do_not_deadlock() -> None:
    """Four frames of 3 MiB in a budget of 4 MiB, all under way at once: one after the other completes."""
    memory = make(limit_bytes=4 * MIB)
    receivers = [Receiver(memory) for _ in range(4)]
    payload = frames_of(bytes(3 * MIB))
    sent = [0] * 4
    for _ in range(20):
        for number, receiver in enumerate(receivers):
            if not receiver.frames:
                sent[number] += receiver.feed(payload[sent[number] : sent[number] + 700_000])
            receiver.release()
        if all(receiver.frames for receiver in receivers):
            break
    assert [len(receiver.frames) for receiver in receivers] == [1, 1, 1, 1]
    assert memory.budget.peak_bytes <= 4 * MIB + 3 * MIB
    assert memory.budget.used_bytes == 0
    assert memory.overdraft is None


def test_frame_reader__the_overdraft_goes_to_the_next_when_its_holder_leaves() -> None:
    memory = make(limit_bytes=1 * MIB)
    first, second, third = (Receiver(memory) for _ in range(3))
    big = pack(">i", 10 * MIB) + bytes(READ_BYTES)
    for receiver in (first, second, third):
        receiver.feed(big)
    assert memory.overdraft is second.reader
    assert third.reader.waits_for_memory
    second.reader.close()
    assert memory.overdraft is third.reader
    assert third.grants == 1
    third.reader.close()
    first.reader.close()
    assert memory.budget.used_bytes == 0
    assert not memory.anyone_waits


def test_frame_reader__closing_gives_back_an_incomplete_frame() -> None:
    receiver = Receiver(make())
    receiver.feed(pack(">i", 5 * MIB) + bytes(READ_BYTES))
    assert receiver.memory.budget.used_bytes > 0
    receiver.reader.close()
    assert receiver.memory.budget.used_bytes == 0


def test_frame_reader__reads_in_small_steps_while_memory_is_exhausted() -> None:
    memory = make(limit_bytes=MIB)
    memory.budget.reserve_anyway(MIB)
    receiver = Receiver(memory)
    assert len(receiver.reader.get_buffer()) < READ_BYTES


def test_request_memory__uses_large_buffers_again_unless_someone_still_looks() -> None:
    receiver = Receiver(make())
    receiver.feed(frames_of(bytes(200_000)))
    buffer = receiver.held[0][0]
    view = memoryview(buffer)
    receiver.release()
    receiver.feed(frames_of(bytes(200_000)))
    assert receiver.held[0][0] is not buffer, "a viewed buffer must not be used again"
    view.release()
    receiver.feed(frames_of(bytes(200_000)))
    assert receiver.held[1][0] is buffer


@pytest.mark.parametrize("seed", range(20))
def test_frame_reader__delivers_everything_once_and_in_order_whatever_is_taken_of_rows(seed: int) -> None:
    random = Random(seed)
    plain = fuzz_produced.plain_frames()
    payloads = [random.choice(plain) if random.random() < 0.8 else random.randbytes(9) for _ in range(300)]
    receiver = Receiver(make())
    receiver.taken_of_row = lambda count: random.choice((count, count, random.randrange(count + 1)))
    data = frames_of(*payloads)
    while data or receiver.reader.has_backlog:
        receiver.wanted = len(receiver.frames) + random.randrange(1, 40)
        receiver.reader.proceed()
        data = data[receiver.feed(data[: random.randrange(1, 5000)]) :]
    assert receiver.frames == payloads
    assert receiver.memory.budget.used_bytes >= sum(map(len, payloads))
    receiver.release()
    assert receiver.memory.budget.used_bytes == 0
    assert not plain_produce.IS_NATIVE or max(receiver.rows) > 1


def test_frame_reader__a_plain_request_above_the_limit_is_refused_as_any_other() -> None:
    [frame, *_] = fuzz_produced.plain_frames()
    receiver = Receiver(make(request_max_bytes=len(frame) - 1))
    receiver.taken_of_row = lambda count: count
    with pytest.raises(BadFrame):
        receiver.feed(frames_of(frame))


@pytest.mark.skipif(not plain_produce.IS_NATIVE, reason="no compiler here: nothing is plain")
def test_frame_reader__what_was_refused_once_is_not_looked_at_again_however_often_delivery_pauses() -> None:
    [request, *_] = fuzz_produced.plain_frames()
    receiver = Receiver(make(), limit=1)
    receiver.feed(frames_of(*[request] * 128))
    while receiver.reader.has_backlog:
        receiver.wanted += 1
        receiver.reader.proceed()
    assert len(receiver.frames) == 128
    assert len(receiver.looked_at) == 2


@pytest.mark.skipif(not plain_produce.IS_NATIVE, reason="no compiler here: nothing is plain")
def test_frame_reader__what_comes_during_a_pause_is_looked_at_afterwards() -> None:
    [request, *_] = fuzz_produced.plain_frames()
    receiver = Receiver(make())
    receiver.taken_of_row = lambda count: count
    receiver.feed(frames_of(*[request] * 20))
    assert receiver.rows == [20]
    receiver.wanted = len(receiver.frames)
    data = frames_of(*[request] * 10)
    room = receiver.memory.room()
    room[: len(data)] = data
    receiver.reader.received(*receiver.memory.filled(len(data)))
    assert receiver.reader.has_backlog and len(receiver.frames) == 20
    receiver.wanted = 100
    receiver.reader.proceed()
    assert receiver.rows == [20, 10]


def test_arena__counts_what_is_in_work_and_all_of_it_once_nothing_more_is_received() -> None:
    memory = make()
    arena = memory.arena
    for _ in range(3):
        arena.hold(100)
    arena.release(100)
    assert memory.budget.used_bytes == 200
    while memory.arena is arena:
        memory.filled(len(memory.room()))
    assert memory.arena is not arena and memory.budget.used_bytes == len(arena.buffer)
    arena.release(100)
    assert memory.budget.used_bytes == len(arena.buffer), "one request keeps all of it"
    arena.release(100)
    assert memory.budget.used_bytes == 0


def test_arena__is_given_back_once_also_if_it_is_looked_at_after_it_was_full() -> None:
    memory = make()
    arena = memory.arena
    while memory.arena is arena:
        memory.filled(len(memory.room()))
    for _ in range(3):
        arena.hold(100)
        assert memory.budget.used_bytes == len(arena.buffer)
        arena.release(100)
        assert memory.budget.used_bytes == 0
    assert memory.pool.kept_bytes == len(arena.buffer)
    assert memory.pool.take(len(arena.buffer)) is not arena.buffer, "it is still looked at"


def test_frame_reader__what_comes_while_memory_is_waited_for_is_kept_in_order() -> None:
    memory = make(limit_bytes=MIB)
    others = [Receiver(memory) for _ in range(2)]
    receiver = Receiver(memory)
    payload = bytes(range(256)) * 1024
    large, behind = frames_of(bytes(8 * MIB)), frames_of(payload, b"behind")
    for other in others:
        other.feed(large[:100_000])
    receiver.feed(behind[:1000])
    assert receiver.reader.waits_for_memory
    position = 1000
    while position < 200_000:
        room = memory.room()
        count = min(len(room), 200_000 - position)
        room[:count] = behind[position : position + count]
        receiver.reader.received(*memory.filled(count))
        position += count
    assert not receiver.frames and not receiver.reader.has_backlog
    for other in others:
        other.reader.close()
    assert receiver.reader.has_backlog and not receiver.reader.waits_for_memory
    receiver.reader.proceed()
    receiver.feed(behind[position:])
    assert receiver.frames == [payload, b"behind"]
    receiver.release()
    assert memory.budget.used_bytes == 0
