"""What only the local store has to care about."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

import pytest

from bytemq.storage.stores.local import LocalStore


async def test_delete__also_removes_what_a_killed_process_had_half_made(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    await store.create("topics/x/a.log", [b"a"])
    for half_made in ("a.log.123-1.creating", "b.log.123-2.creating", "other.log.123-3.creating"):
        (tmp_path / "topics/x" / half_made).write_bytes(b"half")
    await store.delete(["topics/x/a.log", "topics/x/b.log"])
    assert [path.name for path in (tmp_path / "topics/x").iterdir()] == ["other.log.123-3.creating"]
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
    await asyncio.wait_for(file.write([b"written"], 0, sync=False), 20)
    assert not syncing.done()
    over.set()
    await syncing
    await file.close()
    await store.close()


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
    await asyncio.wait_for(file.write([b"more"], 7, sync=True), 20)
    assert not any(one.done() for one in reading)
    over.set()
    assert {bytes(view) for view in await asyncio.gather(*reading)} == {b"written"}
    await file.close()
    await store.close()
