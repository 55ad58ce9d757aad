"""What every metadata store must do: one suite, run on each implementation.

An implementation takes part by a `StoreUnderTest` and its name in `under_test`.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from itertools import count
from pathlib import Path
from typing import Protocol

import pytest

from bytemq.errors import Fenced, Invalid, NotFound
from bytemq.metadata.data_lock import DataLock
from bytemq.metadata.embedded import EmbeddedStore
from bytemq.metadata.etcd.store import EtcdStore
from bytemq.metadata.served.client import ServedStore
from bytemq.metadata.served.server import MetadataServer
from bytemq.metadata.store import (
    MAX_TXN_OPERATIONS,
    MAX_VALUE_BYTES,
    Compacted,
    Compare,
    Event,
    MetadataStore,
    Put,
)
from tests.support.etcd_process import EtcdProcess, etcd_program


class StoreUnderTest(Protocol):
    store: MetadataStore

    async def start(self) -> None: ...

    async def end_session(self) -> None:
        """Lets the leases of `store` end the hard way; afterwards `store` is a living client again."""

    async def compact(self, prefix: str) -> None:
        """Makes the store forget its history."""

    async def stop(self) -> None: ...


class Embedded:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def start(self) -> None:
        self._lock = DataLock.acquire(self._folder)
        self.store = EmbeddedStore.open(self._lock, "fsync")

    async def end_session(self) -> None:
        """A process that ends without a word is one whose lock is free."""
        await self.stop()
        await self.start()

    async def compact(self, prefix: str) -> None:
        value = bytes(MAX_VALUE_BYTES)
        for _ in range(9):
            await self.store.txn([], [Put(prefix + "filler", value)])

    async def stop(self) -> None:
        await self.store.close()
        self._lock.release()


class Served:
    """The embedded store over a Unix socket, as brokers of one supervisor have it; the broker is this process."""

    def __init__(self, folder: Path) -> None:
        self._embedded = Embedded(folder)
        self._path = folder / "metadata.sock"

    async def start(self) -> None:
        await self._embedded.start()
        self._server = MetadataServer(self._embedded.store, self._path)
        await self._server.start()
        self.store = await ServedStore.open(self._path)

    async def end_session(self) -> None:
        """The connection breaks, which ends nothing; then the process is seen to end."""
        listed = await self._embedded.store.range("")
        await self.store.close()
        assert await self._embedded.store.range("") == listed
        await self._server.process_ended(os.getpid())
        self.store = await ServedStore.open(self._path)

    async def compact(self, prefix: str) -> None:
        await self._embedded.compact(prefix)

    async def stop(self) -> None:
        await self.store.close()
        await self._server.stop()
        await self._embedded.stop()


class Etcd:
    _prefixes = count()

    def __init__(self, etcd: EtcdProcess) -> None:
        self._etcd = etcd
        self._url = etcd.url(f"test-{next(self._prefixes)}")

    async def start(self) -> None:
        self.store = await EtcdStore.open(self._url, {})

    async def end_session(self) -> None:
        """The client goes without a word, and so does etcd."""
        await self.stop()
        self._etcd.kill9()
        self._etcd.start()
        await self.start()
        while await self._has_leased_keys():  # noqa: ASYNC110  (etcd is another process)
            await asyncio.sleep(0.05)

    async def compact(self, prefix: str) -> None:
        filler = await self.store.txn([], [Put(prefix + "filler", b"")])
        await etcdctl(self._etcd, "compact", str(filler.revision))

    async def stop(self) -> None:
        await self.store.close()

    async def _has_leased_keys(self) -> bool:
        listed = json.loads(await etcdctl(self._etcd, "get", "", "--prefix", "--write-out=json"))
        return any(kv.get("lease") for kv in listed["kvs"])


async def etcdctl(etcd: EtcdProcess, *arguments: str) -> bytes:
    command = [str(Path(etcd_program()).with_name("etcdctl")), "--endpoints", etcd.endpoint, *arguments]
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    output, _ = await process.communicate()
    assert process.returncode == 0
    return output


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdProcess]:
    process = EtcdProcess(tmp_path_factory.mktemp("etcd")).start()
    yield process
    process.close()


@pytest.fixture(params=["embedded", "served", "etcd"])
async def under_test(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[StoreUnderTest]:
    implementation: Etcd | Served | Embedded
    if request.param == "etcd":
        implementation = Etcd(request.getfixturevalue("etcd"))
    else:
        implementation = Served(tmp_path) if request.param == "served" else Embedded(tmp_path)
    await implementation.start()
    yield implementation
    await implementation.stop()


@pytest.fixture
def store(under_test: StoreUnderTest) -> MetadataStore:
    return under_test.store


async def put(store: MetadataStore, key: str, value: bytes = b"v") -> int:
    txn = await store.txn([], [Put(key, value)])
    assert txn.succeeded
    return txn.revision


async def take(events: AsyncIterator[list[Event]], count: int) -> list[Event]:
    taken: list[Event] = []
    while len(taken) < count:
        taken += await asyncio.wait_for(anext(events), 30)
    return taken


async def test_get__gives_value_and_the_revision_of_the_last_change(store: MetadataStore) -> None:
    assert await store.get("a") is None
    await put(store, "a", b"1")
    revision = await put(store, "a", b"2")
    await put(store, "b", b"3")
    assert await store.get("a") == ("a", b"2", revision)


async def test_get__of_many_keys_at_once_gives_each_its_own(store: MetadataStore) -> None:
    revisions = {f"k{number}": await put(store, f"k{number}", b"%d" % number) for number in range(0, 300, 2)}
    found = await asyncio.gather(*(store.get(f"k{number}") for number in range(300)))
    assert [None if one is None else one.key for one in found] == [
        f"k{number}" if number % 2 == 0 else None for number in range(300)
    ]
    assert all(one is None or (one.revision, one.value) == (revisions[one.key], one.key[1:].encode()) for one in found)


async def test_range__lists_a_prefix_in_key_order_at_one_revision(store: MetadataStore) -> None:
    for key in ("p/b", "p/a/x", "q", "p", "p0", "p/é"):
        revision = await put(store, key)
    entries, listed_at = await store.range("p/")
    assert [entry.key for entry in entries] == ["p/a/x", "p/b", "p/é"]
    assert listed_at == revision
    assert len((await store.range("")).entries) == 6


async def test_txn__applies_everything_at_one_revision(store: MetadataStore) -> None:
    await put(store, "old")
    txn = await store.txn([], [Put("x", b"1"), Put("y", b"2")], ["old"])
    entries, revision = await store.range("")
    assert [(entry.key, entry.revision) for entry in entries] == [("x", txn.revision), ("y", txn.revision)]
    assert revision == txn.revision


async def test_txn__compares_on_the_revision(store: MetadataStore) -> None:
    revision = await put(store, "a")
    assert (await store.txn([Compare("a", revision)], [Put("a", b"2")])).succeeded
    assert not (await store.txn([Compare("a", revision)], [Put("a", b"3")])).succeeded
    assert (await store.get("a")).value == b"2"


async def test_txn__revision_zero_means_absent(store: MetadataStore) -> None:
    assert (await store.txn([Compare("a", 0)], [Put("a", b"1")])).succeeded
    assert not (await store.txn([Compare("a", 0)], [Put("a", b"2")])).succeeded
    await store.txn([], [], ["a"])
    assert (await store.txn([Compare("a", 0)], [Put("a", b"3")])).succeeded


async def test_txn__with_one_failed_compare_does_nothing(store: MetadataStore) -> None:
    held = await put(store, "held")
    txn = await store.txn([Compare("held", held), Compare("missing", 7)], [Put("new", b"")], ["held"])
    assert not txn.succeeded
    assert txn.revision == held
    assert [entry.key for entry in (await store.range("")).entries] == ["held"]


async def test_txn__of_compares_alone_tells_and_changes_nothing(store: MetadataStore) -> None:
    revision = await put(store, "a")
    assert await store.txn([Compare("a", revision)]) == (True, revision)


async def test_txn__concurrent_claims_of_one_key_have_one_winner(store: MetadataStore) -> None:
    claims = [store.txn([Compare("claim", 0)], [Put("claim", b"%d" % i)]) for i in range(50)]
    outcomes = await asyncio.gather(*claims)
    winners = [i for i, outcome in enumerate(outcomes) if outcome.succeeded]
    assert len(winners) == 1
    assert (await store.get("claim")).value == b"%d" % winners[0]


async def test_txn__holds_the_limits_that_every_store_shares(store: MetadataStore) -> None:
    puts = [Put(f"k{i}", b"") for i in range(MAX_TXN_OPERATIONS)]
    compares = [Compare(put.key, 0) for put in puts]
    assert (await store.txn(compares, puts)).succeeded
    with pytest.raises(Invalid):
        await store.txn([], [*puts, Put("one more", b"")])
    with pytest.raises(Invalid):
        await store.txn([*compares, Compare("one more", 0)])
    with pytest.raises(Invalid):
        await store.txn([], [Put("big", bytes(MAX_VALUE_BYTES + 1))])
    with pytest.raises(Invalid):
        await store.txn([], [Put("a", bytes(MAX_VALUE_BYTES)), Put("b", bytes(MAX_VALUE_BYTES))])
    with pytest.raises(Invalid):
        await store.txn([], [Put("twice", b"")], ["twice"])
    assert len((await store.range("")).entries) == MAX_TXN_OPERATIONS


async def test_txn__takes_a_value_of_a_mebibyte(store: MetadataStore) -> None:
    value = bytes(range(256)) * (MAX_VALUE_BYTES // 256)
    await put(store, "large", value)
    assert (await store.get("large")).value == value


async def test_watch__tells_puts_and_deletes_in_order(store: MetadataStore) -> None:
    start = (await store.range("")).revision
    first = await put(store, "w/a", b"1")
    await put(store, "other")
    second = (await store.txn([], [Put("w/b", b"2")], ["w/a", "w/never"])).revision
    events = await take(store.watch("w/", start), 3)
    assert events[0] == ("w/a", b"1", first)
    assert sorted(events[1:]) == [("w/a", None, second), ("w/b", b"2", second)]


async def test_watch__waits_for_what_is_still_to_come(store: MetadataStore) -> None:
    start = (await store.range("")).revision
    watching = asyncio.ensure_future(take(store.watch("w/", start), 2))
    await asyncio.sleep(0)
    first = await put(store, "w/a")
    await put(store, "elsewhere")
    second = await put(store, "w/b")
    assert [event.revision for event in await watching] == [first, second]


async def test_watch__resumes_after_any_revision_without_gap_or_repeat(store: MetadataStore) -> None:
    revisions = [await put(store, f"w/{i}") for i in range(20)]
    for seen in (0, 7, 18):
        events = await take(store.watch("w/", revisions[seen]), 19 - seen)
        assert [event.revision for event in events] == revisions[seen + 1 :]


async def test_watch__shows_a_transaction_whole(store: MetadataStore) -> None:
    start = (await store.range("")).revision
    await store.txn([], [Put(f"w/{i}", b"") for i in range(100)])
    assert len(await asyncio.wait_for(anext(store.watch("w/", start)), 30)) == 100


async def test_watch__of_a_forgotten_revision_raises_compacted(under_test: StoreUnderTest) -> None:
    store = under_test.store
    old = await put(store, "w/a")
    await under_test.compact("w/")
    with pytest.raises(Compacted):
        await anext(store.watch("w/", old - 1))
    listing = await store.range("w/a")
    watching = asyncio.ensure_future(take(store.watch("w/", listing.revision), 1))
    await put(store, "w/a", b"after")
    assert (await watching)[0].value == b"after"


async def test_lease__revoked_takes_its_keys_along_and_tells_watchers(store: MetadataStore) -> None:
    lease = await store.grant_lease(3.0)
    start = (await store.txn([], [Put("s/a", b"1", lease), Put("s/b", b"2", lease), Put("s/stays", b"3")])).revision
    await store.keep_alive(lease)
    await store.revoke(lease)
    assert [entry.key for entry in (await store.range("s/")).entries] == ["s/stays"]
    assert sorted(await take(store.watch("s/", start), 2)) == [("s/a", None, start + 1), ("s/b", None, start + 1)]
    with pytest.raises(Fenced):
        await store.keep_alive(lease)
    with pytest.raises(NotFound):
        await store.txn([], [Put("s/c", b"", lease)])
    await store.revoke(lease)


async def test_lease__a_key_written_without_it_outlives_it(store: MetadataStore) -> None:
    lease = await store.grant_lease(3.0)
    await store.txn([], [Put("a", b"1", lease)])
    await store.txn([], [Put("a", b"2")])
    await store.revoke(lease)
    assert (await store.get("a")).value == b"2"


async def test_lease__ends_with_its_session_at_a_higher_revision(under_test: StoreUnderTest) -> None:
    lease = await under_test.store.grant_lease(1.0)
    await put(under_test.store, "stays")
    session = (await under_test.store.txn([], [Put("session", b"me", lease)])).revision
    await under_test.end_session()
    store = under_test.store
    assert await store.get("session") is None
    assert await store.get("stays") is not None
    assert (await store.range("")).revision > session


async def test_store__continues_its_revisions_after_a_restart(under_test: StoreUnderTest) -> None:
    revision = await put(under_test.store, "a")
    await under_test.end_session()
    assert (await under_test.store.get("a")).revision == revision
    assert await put(under_test.store, "b") > revision


WRITER = """
import asyncio, sys
from pathlib import Path
from bytemq.metadata.data_lock import DataLock
from bytemq.metadata.embedded import EmbeddedStore
from bytemq.metadata.etcd.store import EtcdStore
from bytemq.metadata.served.client import ServedStore
from bytemq.metadata.served.server import MetadataServer
from bytemq.metadata.store import Put

async def write():
    store = EmbeddedStore.open(DataLock.acquire(Path(sys.argv[1])), sys.argv[2])
    for i in range(1_000_000):
        await store.txn([], [Put(f"pair/{i}/left", b"%d" % i), Put(f"pair/{i}/right", b"%d" % i)])
        print(i, flush=True)

asyncio.run(write())
"""


def acknowledged_by_a_killed_writer(folder: Path, durability: str) -> list[int]:
    command = [sys.executable, "-c", WRITER, str(folder), durability]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        acknowledged = [int(writer.stdout.readline()) for _ in range(30)]
        writer.send_signal(signal.SIGKILL)
        return acknowledged + [int(line) for line in writer.stdout if line.endswith("\n")]


@pytest.mark.parametrize("durability", ["fsync", "page-cache"])
async def test_embedded__keeps_every_acknowledged_transaction_after_kill_9(tmp_path: Path, durability: str) -> None:
    acknowledged = acknowledged_by_a_killed_writer(tmp_path, durability)
    lock = DataLock.acquire(tmp_path)
    store = EmbeddedStore.open(lock, "fsync")
    kept = {entry.key for entry in (await store.range("pair/")).entries}
    await store.close()
    lock.release()
    assert {f"pair/{i}/{side}" for i in acknowledged for side in ("left", "right")} <= kept
    assert len(kept) % 2 == 0, "a transaction is whole or absent"
