"""Writing beside the event loop: the native thread and Python's do the same."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from random import Random
from types import ModuleType

import pytest

from bytemq.storage.stores import file_writer
from bytemq.storage.stores.file_writer import FileWriter
from bytemq.storage.stores.local import IOV_MAX, _write
from tests.unit.records.native import native_part

NATIVE = native_part("file_writer", "bytemq.storage.stores")


@pytest.fixture(params=["native", "python"], autouse=True)
def thread(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType | None:
    """With the native thread, and as where the package could not be compiled."""
    if request.param == "native" and NATIVE is None:
        pytest.skip("no compiler here")
    chosen = NATIVE if request.param == "native" else None
    monkeypatch.setattr(file_writer, "native", chosen)
    return chosen


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    yield fd
    os.close(fd)


def content(fd: int) -> bytes:
    return os.pread(fd, 1 << 24, 0)


@pytest.mark.parametrize("sync", [False, True])
async def test_file_writer__writes_buffers_of_any_number_and_size_one_behind_the_other(fd: int, sync: bool) -> None:
    writer, random, expected = FileWriter(_write), Random(7), bytearray(1 << 16)
    for count in (0, 1, 2, 300, IOV_MAX + 1, 2 * IOV_MAX + 5):
        parts = [random.randbytes(random.randrange(20)) for _ in range(count)]
        position = random.randrange(1 << 10)
        expected[position : position + sum(map(len, parts))] = b"".join(parts)
        views = [memoryview(bytearray(part)) if number % 2 else part for number, part in enumerate(parts)]
        await writer.write([(fd, views, position)], sync=sync)
        end = len(content(fd))
        assert content(fd) == expected[:end] and end >= sum(map(len, parts))
    await writer.close()


async def test_file_writer__what_was_asked_for_later_lies_on_top(fd: int) -> None:
    writer = FileWriter(_write)
    writes = [
        writer.write([(fd, [b"%05d" % number], 0), (fd, [b"%05d" % number], 5)], sync=False) for number in range(500)
    ]
    tasks = [asyncio.ensure_future(write) for write in writes]
    await tasks[250]
    assert all(task.done() for task in tasks[:250])
    await writer.close()
    await asyncio.gather(*tasks)
    assert content(fd) == b"0049900499"


async def test_file_writer__an_error_is_that_of_its_write_and_ends_nothing_else(fd: int) -> None:
    writer = FileWriter(_write)
    full = os.open("/dev/full", os.O_RDWR)
    outcomes = await asyncio.gather(
        writer.write([(fd, [b"before"], 0)], sync=False),
        writer.write([(full, [b"no room"], 0), (fd, [b"not written"], 0)], sync=False),
        writer.write([(fd, [b"behind"], 6)], sync=True),
        writer.write([(full, [b"no room"], 0)], sync=True),
        return_exceptions=True,
    )
    os.close(full)
    await writer.close()
    assert outcomes[0] is outcomes[2] is None
    assert all(isinstance(one, OSError) and one.errno == errno.ENOSPC for one in (outcomes[1], outcomes[3]))
    assert content(fd) == b"beforebehind"


async def test_file_writer__syncs_each_file_where_that_is_asked_for(fd: int) -> None:
    writer = FileWriter(_write)
    null = os.open(os.devnull, os.O_WRONLY)  # takes everything, and cannot be synced
    await writer.write([(null, [b"data"], 0), (fd, [b"data"], 0)], sync=False)
    for writes in ([(null, [b"data"], 0)], [(fd, [b"data"], 0), (null, [b"data"], 0)], [(null, [], 0)]):
        with pytest.raises(OSError, match=os.strerror(errno.EINVAL)):
            await writer.write(writes, sync=True)
    os.close(null)
    await writer.close()


async def test_file_writer__what_is_no_write_is_refused_and_leaves_nothing_behind(fd: int) -> None:
    writer = FileWriter(_write)
    data = bytearray(b"data")
    for wrong in ([(fd, [data, "text"], 0)], [(fd, [data], 0), (fd, [data])], [(fd, 7, 0)], [7]):
        with pytest.raises((TypeError, ValueError)):
            await writer.write(wrong, sync=False)  # type: ignore[arg-type]
    await writer.write([(fd, [data], 0)], sync=False)
    data.append(0)
    assert content(fd) == b"data"
    await writer.close()


async def test_file_writer__a_cancelled_write_is_made_all_the_same(fd: int) -> None:
    writer = FileWriter(_write)
    data = bytearray(8 << 20)
    data[-1] = 7
    task = asyncio.ensure_future(writer.write([(fd, [data], 0)], sync=False))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await writer.write([(fd, [b"later"], 0)], sync=False)
    assert content(fd) == b"later" + data[5:]
    data.append(0)
    await writer.close()


async def test_file_writer__holds_on_to_memory_until_it_is_written(fd: int, thread: ModuleType | None) -> None:
    if thread is None:
        return  # Python's thread has references, and its callers know when they may change what is behind them
    read_fd, wake_fd = os.pipe()
    writer = thread.FileWriter(wake_fd)
    data = bytearray(b"data")
    number = writer.submit([(fd, [data], 0)], False)
    with pytest.raises(BufferError):
        data.append(0)
    assert os.read(read_fd, 1) == b"\0"
    assert writer.finished() == [(number, 0)] and writer.finished() == []
    data.append(0)
    writer.submit([(fd, [data], 4)], True)
    writer.close()
    with pytest.raises(RuntimeError):
        writer.submit([(fd, [data], 0)], False)
    del writer  # finished, and nobody asked
    data.append(0)
    assert content(fd) == b"datadata\0"
    os.close(read_fd)
    os.close(wake_fd)


async def test_file_writer__many_finished_writes_are_told_of_however_late_the_loop_looks(fd: int) -> None:
    writer = FileWriter(_write)
    writes = [asyncio.ensure_future(writer.write([(fd, [b"x"], number)], sync=False)) for number in range(5000)]
    await asyncio.gather(*writes)
    assert content(fd) == b"x" * 5000
    await writer.close()
    with pytest.raises(RuntimeError):
        await writer.write([(fd, [b"x"], 0)], sync=False)
