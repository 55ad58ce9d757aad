"""What every store must do, checked on each: local files, S3, what fsspec knows, and the stores of the tests.

What a file system can do beyond that comes second, and is checked on those that can.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from random import Random

import fsspec
import pytest

from bytemq.compaction.local_files import mapped
from bytemq.errors import Invalid, NotFound, Unavailable
from bytemq.runtime.clock import SystemClock
from bytemq.storage.stores.by_url import open_store
from bytemq.storage.stores.fsspec_store import FsspecDriver
from bytemq.storage.stores.interface import ObjectStore, Store
from bytemq.storage.stores.local import IOV_MAX, LocalStore
from bytemq.storage.stores.remote import RemoteStore
from bytemq.storage.stores.self_test import self_test
from tests.support.failing_driver import FailingDriver
from tests.support.power_cut_store import Power, PowerCutStore
from tests.support.s3_server import S3Server, minio_program, running_s3


@pytest.fixture(scope="module")
def seaweedfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with running_s3(tmp_path_factory.mktemp("seaweedfs"), "seaweedfs") as server:
        yield server


@pytest.fixture(scope="module")
def minio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with running_s3(tmp_path_factory.mktemp("minio"), "minio") as server:
        yield server


S3_SERVERS = ["seaweedfs", *(["minio"] if minio_program() else [])]


@pytest.fixture(params=["local", "power-cut", "remote", "memory", *S3_SERVERS])
async def object_store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    clock, random = SystemClock(), Random(1)
    store: ObjectStore
    if request.param == "local":
        store = await open_store((tmp_path / "store").as_uri(), clock, random)
    elif request.param == "power-cut":
        store = PowerCutStore(Power(1))
    elif request.param == "remote":
        store = RemoteStore(FailingDriver(), clock, random)
    elif request.param == "memory":
        store = RemoteStore(FsspecDriver(fsspec.filesystem("memory"), f"/{uuid.uuid4().hex}"), clock, random)
    else:
        for name, value in request.getfixturevalue(request.param).environment.items():
            monkeypatch.setenv(name, value)
        store = await open_store(f"s3://conformance/{uuid.uuid4().hex}/", clock, random)
    yield store
    await store.close()


@pytest.fixture(params=["local", "power-cut"])
async def store(request: pytest.FixtureRequest, tmp_path: Path):  # type: ignore[no-untyped-def]
    store = LocalStore(tmp_path / "store") if request.param == "local" else PowerCutStore(Power(1))
    yield store
    await store.close()


@pytest.mark.parametrize("url", ["memory://records", "local:///tmp/records", "dir::memory://records"])
async def test_a_storage_that_keeps_nothing_for_certain__is_refused(url: str) -> None:
    with pytest.raises(Invalid, match=rf"what is put into {url} is not durable; write file:///FOLDER or s3"):
        await open_store(url, SystemClock(), Random(1))


async def test_a_storage_that_does_not_answer__is_named() -> None:
    with pytest.raises(Unavailable, match=r"the storage ftp://127\.0\.0\.1:1/records cannot be reached"):
        await open_store("ftp://127.0.0.1:1/records", SystemClock(), Random(1))


async def test_self_test__is_passed(object_store: ObjectStore) -> None:
    measured = await self_test(object_store, SystemClock(), "run-1")
    assert min(measured) >= 0
    assert list(await object_store.list("self-test/")) == []


async def test_create__takes_one_view_of_what_is_not_in_memory(object_store: ObjectStore, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(Random(1).randbytes(3 << 20))
    with mapped(source) as view:
        await object_store.create("a/large", [view])
        with pytest.raises(Invalid):
            await object_store.create("a/large", [view])
    assert await object_store.read("a/large") == source.read_bytes()


async def test_create__makes_a_whole_object_once(object_store: ObjectStore) -> None:
    await object_store.create("a/b/object", [b"one, ", memoryview(b"two"), b"", bytearray(b"!")])
    assert await object_store.read("a/b/object") == b"one, two!"
    with pytest.raises(Invalid):
        await object_store.create("a/b/object", [b"other"])
    assert await object_store.read("a/b/object") == b"one, two!"


async def test_create__leaves_no_other_name_behind(object_store: ObjectStore) -> None:
    await object_store.create("a/object", [b"x"])
    with pytest.raises(Invalid):
        await object_store.create("a/object", [b"x"])
    assert [info.name for info in await object_store.list("a/")] == ["a/object"]


async def test_read__of_what_does_not_exist_is_not_found(object_store: ObjectStore) -> None:
    for call in (object_store.read, object_store.size, object_store.open_read):
        with pytest.raises(NotFound):
            await call("nothing")
    assert list(await object_store.list("nothing/")) == []


async def test_list__has_everything_below_a_prefix_in_order(object_store: ObjectStore) -> None:
    for name in ("p/2/b", "p/1/a", "p/2/a", "q/1"):
        await object_store.create(name, [name.encode()])
    assert [(info.name, info.size_bytes) for info in await object_store.list("p/")] == [
        ("p/1/a", 5),
        ("p/2/a", 5),
        ("p/2/b", 5),
    ]


async def test_delete__is_no_error_for_what_is_gone(object_store: ObjectStore) -> None:
    await object_store.create("p/1/a", [b"x"])
    await object_store.delete(["p/1/a", "p/1/a", "p/never"])
    assert list(await object_store.list("p/")) == []
    await object_store.create("p/1/a", [b"again"])
    assert await object_store.read("p/1/a") == b"again"


async def test_open_read__reads_ranges(object_store: ObjectStore) -> None:
    await object_store.create("a/object", [b"0123456789"])
    assert await object_store.size("a/object") == 10
    file = await object_store.open_read("a/object")
    assert bytes(await file.read(3, 4)) == b"3456"
    assert bytes(await file.read(8, 100)) == b"89", "fewer at the end"
    assert bytes(await file.read(10, 1)) == b""
    assert bytes(await file.read(50, 5)) == b""
    assert await object_store.read_range("a/object", 3, 4) == b"3456"
    assert await object_store.read_range("a/object", 8, 100) == b"89"
    with pytest.raises(NotFound):
        await object_store.read_range("a/nothing", 0, 1)
    cached = file.read_cached(3, 4)
    assert cached is None or bytes(cached) == b"3456"
    await file.close()
    await file.close()


async def test_names__outside_the_store_are_refused(tmp_path: Path) -> None:
    for store in (LocalStore(tmp_path / "store"), RemoteStore(FailingDriver(), SystemClock(), Random(1))):
        for name in ("/etc/passwd", "a/../../b"):
            with pytest.raises(Invalid):
                await store.create(name, [b"x"])
        await store.close()


async def test_file__that_does_not_exist_is_not_found(store: Store) -> None:
    with pytest.raises(NotFound):
        await store.open_append("nothing")
    with pytest.raises(NotFound):
        await store.rename("nothing", "something")


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
