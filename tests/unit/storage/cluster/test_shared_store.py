"""A broker that starts finds out whether its storage and its metadata are of the same cluster and moment, while others
go on.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random, SystemRandom

import pytest

from bytemq.errors import Corrupt, Invalid, Unavailable
from bytemq.metadata import features, keys, values
from bytemq.metadata.store import Compare, Put
from bytemq.runtime.clock import Clock, SystemClock
from bytemq.storage.objects import shared_store
from bytemq.storage.objects.agreement import check_agreement
from bytemq.storage.objects.roll_forward import MOST_IN_FLIGHT
from bytemq.storage.objects.session_log import FlushRef, SessionTail, encode_tail, flush_name, with_flushes
from bytemq.storage.objects.shared_store import open_shared_store, require_storage_of
from bytemq.storage.pools.opening import CLUSTER_ID
from bytemq.storage.pools.pooled_store import PooledStore
from bytemq.storage.stores.interface import ObjectStore
from bytemq.storage.stores.self_test import SelfTest
from tests.support.object_store import MemoryObjectStore
from tests.support.power_cut_store import MemoryMetadata, Power


def flush(sequence: int, token: int = 1) -> FlushRef:
    return FlushRef(sequence, token, 1, 1, 1)


async def at_level(level: int, revision: int) -> MemoryMetadata:
    metadata = MemoryMetadata(Power(1))
    metadata.revision = revision - 1
    await metadata.txn([], [Put(keys.IDENTITY, b"cluster"), Put(keys.FEATURE_LEVEL, values.encode_number(level))])
    return metadata


def identified(metadata: MemoryMetadata) -> Callable[[], Awaitable[str]]:
    """As a node does it."""

    async def identify() -> str:
        await metadata.txn([Compare(keys.IDENTITY, 0)], [Put(keys.IDENTITY, b"drawn")])
        entry = await metadata.get(keys.IDENTITY)
        assert entry is not None
        return entry.value.decode()

    return identify


async def open_beside_a_session(
    folder: Path, metadata: MemoryMetadata, patch: pytest.MonkeyPatch, joins: Callable[[], Awaitable[object]]
) -> None:
    """Another broker's session 7 begins and writes while this one starts."""

    async def self_test(store: ObjectStore, clock: Clock, unique: str) -> SelfTest:
        await joins()
        await store.create(flush_name(7, flush(1)), [b"x"])
        return SelfTest(1.0, 1.0, 1.0)

    patch.setattr(shared_store, "self_test", self_test)
    store = await open_shared_store(folder.as_uri(), identified(metadata), metadata, SystemClock(), Random(1))
    await store.close()


async def nobody() -> None:
    return None


@pytest.mark.parametrize("level", [2, features.LAST_SESSION_KNOWN])
async def test_open__is_not_misled_by_a_session_that_begins_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, level: int
) -> None:
    metadata = await at_level(level, 6)
    await open_beside_a_session(
        tmp_path, metadata, monkeypatch, lambda: metadata.txn([], [Put(keys.LAST_SESSION, values.THIS_REVISION)])
    )


async def test_open__refuses_metadata_that_end_before_a_session_of_the_storage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Corrupt, match=r"ahead of the metadata.*session 7.*metadata restore --replace --storage file:"):
        await open_beside_a_session(tmp_path, await at_level(2, 5), monkeypatch, nobody)


async def test_open__knows_older_metadata_also_when_their_revisions_were_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metadata = await at_level(features.LAST_SESSION_KNOWN, 5)
    await metadata.txn([], [Put(keys.LAST_SESSION, values.THIS_REVISION)])
    metadata.revision = 1_000_000_000
    with pytest.raises(Corrupt, match=r"session 7, and they end at session 6"):
        await open_beside_a_session(tmp_path, metadata, monkeypatch, nobody)


async def with_tail(last: int) -> tuple[MemoryMetadata, MemoryObjectStore]:
    """Session 7 has committed so many flushes, all of them in the store."""
    metadata, store = await at_level(2, 10), MemoryObjectStore()
    flushes = [flush(sequence) for sequence in range(1, last + 1)]
    tail = with_flushes(SessionTail(1, 7), flushes)
    await metadata.txn([], [Put(keys.session_log(7), encode_tail(tail))])
    for one in flushes:
        await store.create(flush_name(7, one), [b"x"])
    return metadata, store


@pytest.mark.parametrize(("beyond", "is_older"), [(0, False), (MOST_IN_FLIGHT, False), (MOST_IN_FLIGHT + 1, True)])
async def test_agreement__allows_for_flushes_on_their_way_only(beyond: int, is_older: bool) -> None:
    metadata, store = await with_tail(3)
    for sequence in range(4, 4 + beyond):
        await store.create(flush_name(7, flush(sequence)), [b"x"])
    if not is_older:
        await check_agreement(PooledStore(store, SystemClock()), "s3://b/p", metadata)
        return
    with pytest.raises(Corrupt, match=f"flush {3 + beyond} of session 7, and they end at flush 3"):
        await check_agreement(PooledStore(store, SystemClock()), "s3://b/p", metadata)


async def test_agreement__refuses_a_storage_without_what_the_metadata_name() -> None:
    metadata, store = await with_tail(3)
    await store.delete([flush_name(7, flush(3))])
    with pytest.raises(Corrupt, match=r"older copy of the storage.*metadata restore --replace --storage s3://b/p"):
        await check_agreement(PooledStore(store, SystemClock()), "s3://b/p", metadata)


@pytest.mark.parametrize("answers", [True, False])
async def test_agreement__looks_into_pools_and_asks_nothing_of_one_that_does_not_answer(answers: bool) -> None:
    metadata, store = await with_tail(2)
    in_pool = flush(3)._replace(pool="b")
    tail = with_flushes(SessionTail(1, 7), [flush(1), flush(2), in_pool])
    await metadata.txn([], [Put(keys.session_log(7), encode_tail(tail))])
    pool = MemoryObjectStore()

    async def opened(name: str) -> ObjectStore:
        if not answers:
            raise Unavailable("no answer")
        return pool

    stores = PooledStore(store, SystemClock(), opened)
    stores.set_pools({"b": False})
    if answers:
        with pytest.raises(Corrupt, match="lacks @b/wal/"):
            await check_agreement(stores, "s3://b/p", metadata)
        await stores.create(flush_name(7, in_pool), [b"x"])
    await check_agreement(stores, "s3://b/p", metadata)


async def test_agreement__is_not_misled_by_what_is_released_meanwhile() -> None:
    metadata, store = await with_tail(3)
    released = SessionTail(1, 7, first_sequence=4, last_sequence=3, last_crc=1)
    listing = store.list

    async def list_later(prefix: str) -> object:
        await store.delete([flush_name(7, flush(3))])
        await metadata.txn([], [Put(keys.session_log(7), encode_tail(released))])
        return await listing(prefix)

    store.list = list_later  # type: ignore[assignment,method-assign]
    await check_agreement(PooledStore(store, SystemClock()), "s3://b/p", metadata)


async def test_storage__of_another_cluster_is_told() -> None:
    store = MemoryObjectStore()
    with pytest.raises(Invalid, match="never used by a cluster"):
        await require_storage_of(store, "s3://b/p", "ours")
    await store.create(CLUSTER_ID, [b"theirs"])
    with pytest.raises(Invalid, match="is the storage of cluster theirs"):
        await require_storage_of(store, "s3://b/p", "ours")


async def open_at(folder: Path, metadata: MemoryMetadata) -> None:
    identify = identified(metadata)
    store = await open_shared_store(folder.as_uri(), identify, metadata, SystemClock(), SystemRandom())
    await store.close()


async def test_open__of_a_storage_of_another_cluster_leaves_new_metadata_as_they_are(tmp_path: Path) -> None:
    await open_at(tmp_path, await at_level(features.LAST_SESSION_KNOWN, 5))
    new = MemoryMetadata(Power(1))
    with pytest.raises(Invalid, match=r"the storage of cluster cluster, and these metadata are of no cluster yet\. "):
        await open_at(tmp_path, new)
    assert await new.get(keys.IDENTITY) is None


async def test_open__of_a_storage_that_cannot_be_relied_on_leaves_new_metadata_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def self_test(store: ObjectStore, clock: Clock, unique: str) -> SelfTest:
        raise Invalid("it overwrites")

    monkeypatch.setattr(shared_store, "self_test", self_test)
    new = MemoryMetadata(Power(1))
    with pytest.raises(Invalid, match="it overwrites"):
        await open_at(tmp_path, new)
    assert await new.get(keys.IDENTITY) is None


async def test_open__of_another_storage_than_the_metadata_name_is_refused(tmp_path: Path) -> None:
    metadata = await at_level(features.LAST_SESSION_KNOWN, 5)
    await open_at(tmp_path / "one", metadata)
    await open_at(tmp_path / "one", metadata)
    with pytest.raises(Invalid, match="was never used by a cluster"):
        await open_at(tmp_path / "other", metadata)
    assert not any((tmp_path / "other").rglob("*")), "nothing was written"
    others = await at_level(features.LAST_SESSION_KNOWN, 5)
    await open_at(tmp_path / "other", others)
    with pytest.raises(Invalid, match="is not the storage that these metadata name"):
        await open_at(tmp_path / "other", metadata)


async def test_open__of_metadata_from_before_storages_had_marks_gives_one(tmp_path: Path) -> None:
    metadata = await at_level(features.LAST_SESSION_KNOWN, 5)
    await metadata.txn([], [Put(f"{keys.MANIFESTS}x/0", b"")])
    with pytest.raises(Invalid, match="was never used by a cluster"):
        await open_at(tmp_path, metadata)
    (tmp_path / "cluster").mkdir()
    (tmp_path / CLUSTER_ID).write_bytes(b"cluster")
    await open_at(tmp_path, metadata)
    assert metadata.entries[keys.STORAGE].value.decode() == (tmp_path / shared_store.MARK).read_text()
