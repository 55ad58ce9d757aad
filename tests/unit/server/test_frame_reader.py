"""Frames out of a stream, however it is cut, within a memory budget that half-received frames cannot block."""

from collections.abc import Callable
from random import Random
from struct import pack

import pytest

from bytemq.broker.frame_reader import SCRATCH_BYTES, BadFrame, FrameReader, RequestMemory
from bytemq.protocol import plain_produce
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
        self.taken_of_run: Callable[[int], int] = lambda count: 0
        self.runs: list[int] = []
        self.reader = FrameReader(memory, self)

    def deliver(self, buffer: Buffer, size_bytes: int) -> bool:
        self.frames.append(bytes(memoryview(buffer)[:size_bytes]))
        self.held.append((buffer, size_bytes))
        return len(self.frames) < self.wanted

    def deliver_run(self, run: plain_produce.Run, size_bytes: int) -> bool:
        _, _, _, memory, requests = run
        count = self.taken_of_run(len(requests))
        del requests[count:]
        if not requests:
            return False
        self.runs.append(count)
        is_whole = bytes(memory[:4]) < pack(">i", 14)  # begins with its API key and version, not with its size
        position = 0 if is_whole else 4
        for *_, end in requests:
            self.frames.append(bytes(memoryview(memory)[position:end]))
            position = end + 4
        self.held.append((memory, size_bytes))
        return True

    run_room = 64

    @property
    def wants_more(self) -> bool:
        return len(self.frames) < self.wanted

    def memory_granted(self) -> None:
        self.grants += 1

    def release(self) -> None:
        held, self.held = self.held, []
        for buffer, size_bytes in held:
            self.memory.release(buffer, size_bytes)

    def feed(self, data: bytes, step: int = 1 << 30) -> int:
        """As a socket would: never more than the buffer takes. Returns how much was taken before it had to stop."""
        sent = 0
        while sent < len(data) and not self.reader.waits_for_memory and not self.reader.has_backlog:
            buffer = self.reader.get_buffer()
            count = min(len(buffer), len(data) - sent, step)
            buffer[:count] = data[sent : sent + count]
            self.reader.received(count)
            sent += count
        return sent


def frames_of(*payloads: bytes) -> bytes:
    return b"".join(pack(">i", len(payload)) + payload for payload in payloads)


def make(limit_bytes: int = 64 * MIB, request_max_bytes: int = 100 * MIB) -> RequestMemory:
    return RequestMemory(limit_bytes, request_max_bytes)


PAYLOADS = [b"", b"a", bytes(range(256)) * 5, b"x" * (SCRATCH_BYTES - 4), b"y" * (SCRATCH_BYTES + 1), b"z" * 300_000]


@pytest.mark.parametrize("step", [1, 2, 3, 5, 1000, SCRATCH_BYTES - 1, 1 << 30])
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
    big = pack(">i", 10 * MIB) + bytes(SCRATCH_BYTES)
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
    receiver.feed(pack(">i", 5 * MIB) + bytes(SCRATCH_BYTES))
    assert receiver.memory.budget.used_bytes > 0
    receiver.reader.close()
    assert receiver.memory.budget.used_bytes == 0


def test_frame_reader__reads_in_small_steps_while_memory_is_exhausted() -> None:
    memory = make(limit_bytes=MIB)
    memory.budget.reserve_anyway(MIB)
    receiver = Receiver(memory)
    assert len(receiver.reader.get_buffer()) < SCRATCH_BYTES


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
def test_frame_reader__delivers_everything_once_and_in_order_whatever_is_taken_of_runs(seed: int) -> None:
    random = Random(seed)
    plain = fuzz_produced.plain_frames()
    payloads = [random.choice(plain) if random.random() < 0.8 else random.randbytes(9) for _ in range(300)]
    receiver = Receiver(make())
    receiver.taken_of_run = lambda count: random.choice((count, count, random.randrange(count + 1)))
    data = frames_of(*payloads)
    while data or receiver.reader.has_backlog:
        receiver.wanted = len(receiver.frames) + random.randrange(1, 40)
        receiver.reader.proceed()
        data = data[receiver.feed(data[: random.randrange(1, 5000)]) :]
    assert receiver.frames == payloads
    assert receiver.memory.budget.used_bytes >= sum(map(len, payloads))
    receiver.release()
    assert receiver.memory.budget.used_bytes == 0
    assert fuzz_produced.NATIVE is None or max(receiver.runs) > 1


def test_frame_reader__a_plain_request_above_the_limit_is_refused_as_any_other() -> None:
    [frame, *_] = fuzz_produced.plain_frames()
    receiver = Receiver(make(request_max_bytes=len(frame) - 1))
    receiver.taken_of_run = lambda count: count
    with pytest.raises(BadFrame):
        receiver.feed(frames_of(frame))


def test_frame_reader__what_was_refused_once_is_not_looked_at_again_however_often_delivery_pauses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked_at: list[int] = []
    request = bytes(200)
    refused = (9, 1, 30_000, bytearray(64 * (4 + len(request))), [()] * 64)
    monkeypatch.setattr(plain_produce, "run", lambda data, position, *_: looked_at.append(position) or refused)
    receiver = Receiver(make(), limit=1)
    receiver.feed(frames_of(*[request] * 128))
    while receiver.reader.has_backlog:
        receiver.wanted += 1
        receiver.reader.proceed()
    assert len(receiver.frames) == 128
    assert len(looked_at) == 2
