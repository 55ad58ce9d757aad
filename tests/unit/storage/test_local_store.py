"""What only the local store has to care about."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

import pytest

from bytemq.storage.stores.interface import ObjectInfo
from bytemq.storage.stores.local import LocalStore


async def test_delete__also_removes_what_a_killed_process_had_half_made(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    await store.create("topics/x/a.log", [b"a"])
    for half_made in ("a.log.123-1.creating", "b.log.123-2.creating", "other.log.123-3.creating"):
        (tmp_path / "topics/x" / half_made).write_bytes(b"half")
    await store.delete(["topics/x/a.log", "topics/x/b.log"])
    assert [path.name for path in (tmp_path / "topics/x").iterdir()] == ["other.log.123-3.creating"]
    await store.close()


async def test_list__leaves_out_what_is_deleted_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LocalStore(tmp_path)
    for name in ("a", "b", "c"):
        await store.create(f"wal/1/{name}", [b"12"])
    scandir = os.scandir

    def then_deleted(path: str) -> list[os.DirEntry[str]]:
        found = list(scandir(path))
        (tmp_path / "wal/1/b").unlink(missing_ok=True)
        return found

    monkeypatch.setattr(os, "scandir", then_deleted)
    assert await store.list("wal/") == [ObjectInfo("wal/1/a", 2), ObjectInfo("wal/1/c", 2)]
    await store.close()


async def test_create_append__makes_a_directory_anew_that_went_meanwhile(tmp_path: Path) -> None:
    """Deleting the last file in one takes it away, in another thread or by another program."""
    store = LocalStore(tmp_path)
    first = await store.create_append("topics/a/0/first")
    (tmp_path / first.name).unlink()
    (tmp_path / "topics/a/0").rmdir()
    second = await store.create_append("topics/a/0/second")
    for file in (first, second):
        await file.close()
    await store.close()


async def test_local_store__an_urgent_write_does_not_wait_for_a_sync_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LocalStore(tmp_path)
    file = await store.create_append("wal/a", urgent=True)
    under_way, over = threading.Event(), threading.Event()

    def slow(fd: int) -> None:
        under_way.set()
        assert over.wait(20)

    monkeypatch.setattr(os, "fdatasync", slow)
    syncing = asyncio.ensure_future(file.sync())
    assert await asyncio.get_running_loop().run_in_executor(None, under_way.wait, 20)
    await asyncio.wait_for(file.write([b"written"], 0, sync=False), 30)
    assert not syncing.done()
    over.set()
    await syncing
    await file.close()
    await store.close()


async def test_local_store__a_cancelled_write_never_goes_to_a_file_that_was_opened_later(tmp_path: Path) -> None:
    """Under the number of the one that was closed."""
    store = LocalStore(tmp_path)
    busy, closed = [await store.create_append(f"wal/{name}", urgent=True) for name in ("busy", "closed")]
    writing = asyncio.ensure_future(busy.write([bytes(128 << 20)], 0, sync=True))
    cancelled = asyncio.ensure_future(closed.write([b"for the closed one"], 0, sync=False))
    await asyncio.sleep(0)
    cancelled.cancel()
    await closed.close()
    later = await store.create_append("wal/later")
    await writing
    await store.close()
    assert (tmp_path / "wal/later").read_bytes() == b""
    assert (tmp_path / "wal/closed").read_bytes() == b"for the closed one"
    for file in (busy, later):
        os.close(file.fd)  # type: ignore[attr-defined]


@pytest.mark.parametrize("how", ["open_read", "open_append", "create_append"])
async def test_local_store__a_file_whose_opening_is_cancelled_does_not_stay_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    store = LocalStore(tmp_path, threads=1)
    if how != "create_append":
        await store.create("wal/a", [b"a"])
    still_open: set[int] = set()
    open_, close = os.open, os.close
    monkeypatch.setattr(os, "open", lambda *call: still_open.add(fd := open_(*call)) or fd)
    monkeypatch.setattr(os, "close", lambda fd: still_open.discard(fd) or close(fd))
    opening = asyncio.ensure_future(getattr(store, how)("wal/a"))
    await asyncio.sleep(0)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    for _ in range(2):
        assert await store.size("wal/a") < 2  # behind it, in the same thread
    assert not still_open
    await store.close()


async def test_local_store__a_cancelled_write_of_several_is_over_before_its_file_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may go on in a thread, piece by piece, under a number that would be another file's."""
    store = LocalStore(tmp_path)
    file = await store.create_append("topics/closed")
    begun, goes_on = threading.Event(), threading.Event()
    pwritev = os.pwritev

    def slow(fd: int, buffers: list[bytes], position: int) -> int:
        begun.set()
        assert goes_on.wait(60)
        return pwritev(fd, buffers, position)

    monkeypatch.setattr(os, "pwritev", slow)
    writing = asyncio.ensure_future(store.write_all([(file, [b"for the closed one"], 0)], sync=True))
    await asyncio.get_running_loop().run_in_executor(None, begun.wait, 60)
    writing.cancel()
    await asyncio.wait([writing])
    closing = asyncio.ensure_future(file.close())
    later = await store.create_append("topics/later")
    assert not closing.done()
    goes_on.set()
    await closing
    assert (tmp_path / "topics/closed").read_bytes() == b"for the closed one"
    assert (tmp_path / "topics/later").read_bytes() == b""
    await later.close()
    await store.close()


async def test_local_store__closed_twice_at_once_closes_no_file_of_others(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    file = await store.create_append("wal/a", urgent=True)
    await file.write([b"written"], 0, sync=True)
    await file.close()
    closed: list[int] = []
    with pytest.MonkeyPatch.context() as patched:
        close = os.close
        patched.setattr(os, "close", lambda fd: (closed.append(fd), close(fd)))
        await asyncio.gather(store.close(), store.close())
    assert len(closed) == len(set(closed))


@pytest.mark.parametrize("urgent", [True, False])
async def test_local_store__no_write_waits_for_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, urgent: bool
) -> None:
    store = LocalStore(tmp_path)
    file = await store.create_append("wal/a", urgent=urgent)
    await file.write([b"written"], 0, sync=False)
    over = threading.Event()
    preadv = os.preadv

    def slow(fd: int, buffers: list[memoryview], position: int) -> int:
        assert over.wait(20)
        return preadv(fd, buffers, position)

    monkeypatch.setattr(os, "preadv", slow)
    reading = [asyncio.ensure_future(file.read(0, 7)) for _ in range(20)]
    await asyncio.wait_for(file.write([b"more"], 7, sync=True), 30)
    assert not any(one.done() for one in reading)
    over.set()
    assert {bytes(view) for view in await asyncio.gather(*reading)} == {b"written"}
    await file.close()
    await store.close()
