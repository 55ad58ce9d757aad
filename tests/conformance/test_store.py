"""What every store must do, checked on each: the local file system, and the store of the power-cut tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from bytemq.errors import Invalid, NotFound
from bytemq.storage.interface import Store
from bytemq.storage.local import IOV_MAX, LocalStore
from tests.support.power_cut_store import Power, PowerCutStore


@pytest.fixture(params=["local", "power-cut"])
async def store(request: pytest.FixtureRequest, tmp_path: Path):  # type: ignore[no-untyped-def]
    store = LocalStore(tmp_path / "store") if request.param == "local" else PowerCutStore(Power(1))
    yield store
    await store.close()


async def test_create__makes_a_whole_object_once(store: Store) -> None:
    await store.create("a/b/object", [b"one, ", memoryview(b"two"), b"", bytearray(b"!")])
    assert await store.read("a/b/object") == b"one, two!"
    with pytest.raises(Invalid):
        await store.create("a/b/object", [b"other"])
    assert await store.read("a/b/object") == b"one, two!"


async def test_create__leaves_no_other_name_behind(store: Store) -> None:
    await store.create("a/object", [b"x"])
    with pytest.raises(Invalid):
        await store.create("a/object", [b"x"])
    assert [info.name for info in await store.list("a/")] == ["a/object"]


async def test_read__of_what_does_not_exist_is_not_found(store: Store) -> None:
    for call in (store.read, store.size, store.open_read, store.open_append):
        with pytest.raises(NotFound):
            await call("nothing")
    with pytest.raises(NotFound):
        await store.rename("nothing", "something")
    assert list(await store.list("nothing/")) == []


async def test_list__has_everything_below_a_prefix_in_order(store: Store) -> None:
    for name in ("p/2/b", "p/1/a", "p/2/a", "q/1"):
        await store.create(name, [name.encode()])
    assert [(info.name, info.size_bytes) for info in await store.list("p/")] == [
        ("p/1/a", 5),
        ("p/2/a", 5),
        ("p/2/b", 5),
    ]


async def test_delete__is_no_error_for_what_is_gone(store: Store) -> None:
    await store.create("p/1/a", [b"x"])
    await store.delete(["p/1/a", "p/1/a", "p/never"])
    assert list(await store.list("p/")) == []
    await store.create("p/1/a", [b"again"])
    assert await store.read("p/1/a") == b"again"


async def test_append_file__is_written_at_positions_and_read_while_open(store: Store) -> None:
    file = await store.create_append("wal/1", size_bytes=10_000, zeroed=True)
    await file.write([b"hello ", memoryview(b"world")], 100, sync=True)
    file.write_now([b"W"], 106)
    await file.sync()
    assert bytes(await file.read(98, 15)) == b"\0\0hello World\0\0"
    cached = file.read_cached(100, 11)
    assert cached is None or bytes(cached) == b"hello World"
    assert await store.size("wal/1") == 10_000
    await file.close()
    await file.close()
    reader = await store.open_read("wal/1")
    assert bytes(await reader.read(100, 11)) == b"hello World"
    assert len(await reader.read(9_990, 100)) == 10, "fewer at the end"
    assert reader.read_cached(9_990, 100) is None
    await reader.close()


async def test_append_file__takes_more_buffers_than_the_system_does_at_once(store: Store) -> None:
    file = await store.create_append("wal/1")
    buffers = [b"%05d" % n for n in range(2 * IOV_MAX + 3)]
    await file.write(buffers, 0, sync=True)
    assert bytes(await file.read(0, 1 << 20)) == b"".join(buffers)
    await file.close()


async def test_create_append__refuses_a_name_that_exists(store: Store) -> None:
    file = await store.create_append("wal/1")
    with pytest.raises(Invalid):
        await store.create_append("wal/1")
    await file.close()


async def test_rename__keeps_the_content_and_never_overwrites(store: Store) -> None:
    await store.create("a/1", [b"one"])
    await store.create("b/2", [b"two"])
    with pytest.raises(Invalid):
        await store.rename("a/1", "b/2")
    await store.rename("a/1", "c/d/3")
    assert await store.read("c/d/3") == b"one"
    with pytest.raises(NotFound):
        await store.read("a/1")
    assert await store.free_bytes() > 0
