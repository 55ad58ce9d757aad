"""The metadata store on a real etcd that dies, hangs, restarts, forgets and refuses."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest

from bytemq.errors import Corrupt, Fenced, Invalid, Unavailable
from bytemq.metadata.etcd.store import EtcdStore
from bytemq.metadata.store import Event, Put
from tests.support.etcd_process import EtcdProcess, etcd_program
from tests.support.tcp_relay import relay_to

MAKE = Callable[..., EtcdProcess]
T = TypeVar("T")
DEAD = "127.0.0.1:9"


def switch_authentication_on(etcd: EtcdProcess) -> None:
    """With a root and a user bq who may do anything under c/."""
    program = Path(etcd_program()).with_name("etcdctl")
    for words in (
        "user add root:word",
        "user grant-role root root",
        "role add all",
        "role grant-permission all readwrite c/ c0",
        "user add bq:word",
        "user grant-role bq all",
        "auth enable",
    ):
        command = [str(program), "--endpoints", etcd.endpoint, *words.split()]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


async def take(events: AsyncIterator[list[Event]], count: int) -> list[Event]:
    taken: list[Event] = []
    while len(taken) < count:
        taken += await asyncio.wait_for(anext(events), 30)
    return taken


async def patiently(call: Callable[[], Awaitable[T]]) -> T:
    """The outcome of the first call that finds etcd there."""
    while True:
        try:
            return await call()
        except Unavailable:
            await asyncio.sleep(0.05)


async def until_written(store: EtcdStore, put: Put) -> int:
    return (await patiently(lambda: store.txn([], [put]))).revision


async def test_watch__goes_on_without_gap_or_repeat_when_etcd_is_killed_and_restarted(etcd: EtcdProcess) -> None:
    store = await EtcdStore.open(etcd.url("c"), {})
    events = store.watch("w/", 0)
    first = await until_written(store, Put("w/a", b"1"))
    assert [event.revision for event in await take(events, 1)] == [first]
    etcd.kill9()
    etcd.start()
    second = await until_written(store, Put("w/b", b"2"))
    third = await until_written(store, Put("w/c", b"3"))
    assert [event.revision for event in await take(events, 2)] == [second, third]
    await store.close()


async def test_watch__of_an_etcd_that_lost_its_data_is_corrupt(etcd: EtcdProcess) -> None:
    store = await EtcdStore.open(etcd.url("c"), {})
    for number in range(5):
        reached = (await store.txn([], [Put("w/a", b"%d" % number)])).revision
    etcd.kill9()
    shutil.rmtree(etcd.folder / "data")
    etcd.start()
    with pytest.raises(Corrupt, match="older state"):
        await asyncio.wait_for(anext(store.watch("w/", reached)), 30)
    await store.close()


async def test_store__asks_another_member_when_one_is_down_from_the_start(etcd: EtcdProcess) -> None:
    store = await EtcdStore.open(f"etcd://{DEAD},{etcd.endpoint}/c", {})
    revision = (await store.txn([], [Put("a", b"1")])).revision
    assert (await take(store.watch("a", 0), 1))[0].revision == revision
    await store.close()


async def test_store__moves_on_with_its_watches_when_a_member_hangs(etcd: EtcdProcess) -> None:
    async with relay_to(etcd.endpoint) as relay:
        store = await EtcdStore.open(f"etcd://{relay.endpoint},{etcd.endpoint}/c", {})
        lease = await store.grant_lease(60)
        start = (await store.range("")).revision
        watching = asyncio.ensure_future(take(store.watch("w/", start), 1))
        await asyncio.sleep(0.2)
        relay.hang()
        with pytest.raises(Unavailable):
            await store.keep_alive(lease)
        await store.keep_alive(lease)
        await store.txn([], [Put("w/a", b"1")])
        assert len(await watching) == 1
        await store.close()


async def test_txn__whose_answer_is_lost_is_told_as_unavailable_and_done_once(etcd: EtcdProcess) -> None:
    direct = await EtcdStore.open(etcd.url("c"), {})
    async with relay_to(etcd.endpoint) as relay:
        store = await EtcdStore.open(f"etcd://{relay.endpoint}/c", {})
        before = (await store.txn([], [Put("a", b"0")])).revision
        relay.hang("answers")
        writing = asyncio.ensure_future(store.txn([], [Put("a", b"1")]))
        while (await direct.range("")).revision == before:  # noqa: ASYNC110  (etcd is another process)
            await asyncio.sleep(0.01)
        relay.cut()
        relay.resume()
        with pytest.raises(Unavailable):
            await writing
        assert await patiently(lambda: store.get("a")) == ("a", b"1", before + 1)
        assert (await store.range("")).revision == before + 1
        await store.close()
    await direct.close()


async def test_lease__ends_when_it_is_not_renewed(etcd: EtcdProcess) -> None:
    store = await EtcdStore.open(etcd.url("c"), {})
    lease = await store.grant_lease(2)
    revision = (await store.txn([], [Put("session", b"", lease)])).revision
    ended = await take(store.watch("session", revision), 1)
    assert ended[0].value is None
    with pytest.raises(Fenced):
        await store.keep_alive(lease)
    await store.close()


async def test_range__of_many_pages_is_of_one_revision(etcd: EtcdProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bytemq.metadata.etcd.store.KEYS_PER_PAGE", 7)
    store = await EtcdStore.open(etcd.url("c"), {})
    wanted = [f"k/{number:03d}" for number in range(100)]
    revision = (await store.txn([], [Put(key, b"") for key in wanted])).revision
    listing = await store.range("k/")
    assert [entry.key for entry in listing.entries] == wanted
    assert listing.revision == revision
    await store.close()


async def test_store__logs_in_and_again_after_its_token_is_forgotten(make_etcd: MAKE) -> None:
    etcd = make_etcd(options=["--bcrypt-cost", "4"])
    switch_authentication_on(etcd)
    store = await EtcdStore.open(f"etcd://bq:word@{etcd.endpoint}/c", {})
    lease = await store.grant_lease(30)
    await store.txn([], [Put("a", b"1", lease)])
    etcd.kill9()
    etcd.start()
    await patiently(lambda: store.keep_alive(lease))
    assert await store.get("a") is not None
    await store.close()
    for url, environment in (
        (f"etcd://bq:wrong@{etcd.endpoint}/c", {}),
        (f"etcd://{etcd.endpoint}/c", {}),
        (f"etcd://{etcd.endpoint}/another", {"ETCDCTL_USER": "bq:word"}),
    ):
        with pytest.raises(Invalid, match=etcd.endpoint):
            await EtcdStore.open(url, environment)


async def test_store__over_tls_trusts_whom_it_was_told_to(make_etcd: MAKE) -> None:
    etcd = make_etcd(scheme="https", options=["--auto-tls"])
    certificate = etcd.folder / "data" / "fixtures" / "client" / "cert.pem"
    store = await EtcdStore.open(f"etcds://{etcd.endpoint}/c?ca={certificate}", {})
    await store.txn([], [Put("a", b"1")])
    await store.close()
    with pytest.raises(Unavailable, match=etcd.endpoint):
        await EtcdStore.open(f"etcds://{etcd.endpoint}/c", {}, timeout_s=0)


async def test_store__says_what_is_wrong_when_nobody_or_somebody_else_answers(etcd: EtcdProcess) -> None:
    with pytest.raises(Unavailable, match="Start etcd"):
        await EtcdStore.open(f"etcd://{DEAD}/c", {}, timeout_s=0)
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(Unavailable, match=str(port)):
        await EtcdStore.open(f"etcd://127.0.0.1:{port}/c", {}, timeout_s=0)
    server.close()
