"""What follows a store: the image follower, the identity, the producer ids, and the pieces they rest on."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from bytemq.errors import Invalid, Unavailable
from bytemq.metadata import keys, values
from bytemq.metadata.data_lock import DataLock
from bytemq.metadata.embedded import EmbeddedStore
from bytemq.metadata.features import SUPPORTED
from bytemq.metadata.follower import EVENTS_AT_ONCE, ImageFollower
from bytemq.metadata.history import History
from bytemq.metadata.identity import ensure_identity
from bytemq.metadata.image import ImageChange
from bytemq.metadata.producer_ids import BLOCK_SIZE, ProducerIds
from bytemq.metadata.store import MAX_VALUE_BYTES, Compacted, Event, KeyValue, Put
from bytemq.types import parse_topic_id
from tests.support.metadata import embedded_store, topic_id, topic_puts
from tests.support.virtual_time import VirtualClock

T1 = topic_id(1)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[EmbeddedStore]:
    async with embedded_store(tmp_path) as opened:
        yield opened


@pytest.fixture
async def follower(store: EmbeddedStore) -> AsyncIterator[ImageFollower]:
    following = ImageFollower(store, VirtualClock())
    await following.load()
    running = asyncio.ensure_future(following.run())
    yield following
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_follower__shows_a_transaction_to_whoever_waits_for_it(
    store: EmbeddedStore, follower: ImageFollower
) -> None:
    changes: list[ImageChange] = []
    follower.subscribe(changes.append)
    written = await store.txn([], topic_puts("t", T1, [0]))
    await asyncio.wait_for(follower.wait_for(written.revision), 30)
    assert "t" in follower.image.topics
    assert [change.topics for change in changes] == [{T1}]
    await follower.wait_for(written.revision)


async def test_follower__takes_a_burst_in_slices_of_whole_transactions(follower: ImageFollower) -> None:
    """A hundred thousand partitions that are given other owners come as a few thousand events, at once."""
    changes: list[ImageChange] = []
    follower.subscribe(changes.append)
    names = [f"t{number}" for number in range(5 * EVENTS_AT_ONCE)]
    topics = [values.TopicValue(topic_id(number), 1, 1, {}) for number in range(len(names))]
    events = [
        Event(keys.topic(name), values.encode_topic(topic), 1000 + number // 10)
        for number, (name, topic) in enumerate(zip(names, topics, strict=True))
    ]
    await follower._take(events)
    assert follower.image.topics.keys() == set(names)
    assert [len(change.topics) for change in changes] == [70, 70, 70, 70, 40]


async def test_follower__lists_again_when_the_store_forgot_what_it_missed(
    store: EmbeddedStore, follower: ImageFollower
) -> None:
    filler = Put("cluster/filler", bytes(MAX_VALUE_BYTES))
    await store.txn([], topic_puts("gone", topic_id(2), [0]))
    flood = [store.txn([], [filler]) for _ in range(12)]
    removal = store.txn([], [], [put.key for put in topic_puts("gone", topic_id(2), [0])])
    *_, last = await asyncio.gather(*flood, removal, store.txn([], topic_puts("t", T1, [0])))
    await asyncio.wait_for(follower.wait_for(last.revision), 30)
    assert set(follower.image.topics) == {"t"}


async def test_follower__does_not_go_back_when_it_listed_what_is_still_to_be_watched(store: EmbeddedStore) -> None:
    following = ImageFollower(store, VirtualClock())
    running = asyncio.ensure_future(following.run())
    for number in range(20):
        await store.txn([], [Put(keys.CONTROLLER, values.encode_number(number))])
        await following.load()
        assert following.image.controller_id == number
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


def numbered_bytes() -> Iterator[bytes]:
    yield b"\xf8" + bytes(15)  # in base64 it starts with a dash
    for number in range(1, 9):
        yield bytes([number]) * 16


async def test_identity__is_made_once_in_kafkas_form(store: EmbeddedStore) -> None:
    drawn = numbered_bytes()
    first = await ensure_identity(store, lambda size: next(drawn))
    assert not first.startswith("-") and len(parse_topic_id(first)) == 16
    assert await ensure_identity(store, os.urandom) == first


async def test_identity__of_concurrent_starts_is_one(store: EmbeddedStore) -> None:
    assert len(set(await asyncio.gather(*(ensure_identity(store, os.urandom) for _ in range(5))))) == 1


async def test_identity__that_another_broker_makes_between_two_looks_is_taken(
    store: EmbeddedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    get, made = store.get, list[str]()

    async def get_and_be_overtaken(key: str) -> KeyValue | None:
        found = await get(key)
        if not made:
            made.append("")
            made[0] = await ensure_identity(store, os.urandom)
        return found

    monkeypatch.setattr(store, "get", get_and_be_overtaken)
    assert await ensure_identity(store, os.urandom) == made[0]


async def test_identity__refuses_data_of_a_newer_version(store: EmbeddedStore) -> None:
    await store.txn([], [Put(keys.FEATURE_LEVEL, values.encode_number(SUPPORTED.highest + 1))])
    with pytest.raises(Invalid, match="newer version"):
        await ensure_identity(store, os.urandom)
    assert await store.get(keys.IDENTITY) is None, "nothing was written"


async def test_identity__of_one_machine_raises_the_level_of_older_data(store: EmbeddedStore) -> None:
    identity = await ensure_identity(store, os.urandom)
    await store.txn([], [Put(keys.FEATURE_LEVEL, values.encode_number(SUPPORTED.highest - 1))])
    assert await ensure_identity(store, os.urandom) == identity
    level = await store.get(keys.FEATURE_LEVEL)
    assert level is not None and values.decode_number(level.value) == SUPPORTED.highest


async def test_identity__without_a_level_is_half_of_a_restore(store: EmbeddedStore) -> None:
    await store.txn([], [Put(keys.IDENTITY, b"half")])
    with pytest.raises(Invalid, match="restore was interrupted"):
        await ensure_identity(store, os.urandom)
    assert await store.get(keys.FEATURE_LEVEL) is None, "nothing was written"


async def test_producer_ids__are_never_given_twice(store: EmbeddedStore) -> None:
    brokers = [ProducerIds(store) for _ in range(3)]
    given = await asyncio.gather(*(broker.allocate() for broker in brokers for _ in range(BLOCK_SIZE + 10)))
    assert len(set(given)) == len(given) == 3 * (BLOCK_SIZE + 10)


async def test_producer_ids__are_not_reused_after_a_restart(tmp_path: Path) -> None:
    async with embedded_store(tmp_path) as store:
        before = await ProducerIds(store).allocate()
    async with embedded_store(tmp_path) as store:
        assert await ProducerIds(store).allocate() == before + BLOCK_SIZE


def test_data_lock__names_the_process_that_holds_the_folder(tmp_path: Path) -> None:
    lock = DataLock.acquire(tmp_path / "data")
    with pytest.raises(Unavailable, match=f"in use by another node \\(process {os.getpid()}\\)"):
        DataLock.acquire(tmp_path / "data")
    lock.release()
    DataLock.acquire(tmp_path / "data").release()


def test_data_lock__says_what_to_do_about_an_unusable_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Invalid, match=r"file is not a directory. .* --data"):
        DataLock.acquire(tmp_path / "file")


@pytest.mark.parametrize(("max_bytes", "max_revisions"), [(10**6, 3), (3 * 101, 10**6)])
def test_history__forgets_the_oldest_and_says_so(max_bytes: int, max_revisions: int) -> None:
    history = History(10, max_bytes=max_bytes, max_revisions=max_revisions)
    for revision in range(11, 16):
        history.add(revision, [Event("k", None, revision)])
    assert [event.revision for event in history.since(12, "")] == [13, 14, 15]
    assert history.since(15, "") == history.since(13, "other") == []
    with pytest.raises(Compacted):
        history.since(11, "")
