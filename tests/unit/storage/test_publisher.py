"""Publishing several manifests at once: what is wrong with one of them is its own affair."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from bytemq.errors import BytemqError, Fenced, Invalid, Unavailable
from bytemq.metadata import keys
from bytemq.metadata.store import KeyValue, Txn
from bytemq.storage.manifests.manifest import Manifest, with_holes, with_leader_epoch
from tests.unit.storage.bench import Bench, pid


@pytest.mark.parametrize(("fault", "error"), [("crash", Unavailable), ("too large", Invalid), ("changed", Fenced)])
async def test_publish__fails_one_log_alone(bench: Bench, fault: str, error: type[BytemqError]) -> None:
    storage = await bench.start()
    hit, other = await bench.log(1), await bench.log(2)

    def change(manifest: Manifest) -> Manifest:
        if fault == "crash":
            raise ZeroDivisionError
        holes = [(2 * n, 2 * n) for n in range(70_000)] if fault == "too large" else []
        return with_holes(manifest, holes)

    if fault == "changed":
        key = keys.manifest(pid(1))
        bench.metadata.entries[key] = bench.metadata.entries[key]._replace(revision=1_000_000)
    publish = storage._publisher.publish
    outcomes = await asyncio.wait_for(
        asyncio.gather(
            publish(hit, change),
            publish(other, lambda manifest: with_leader_epoch(manifest, 7)),
            return_exceptions=True,
        ),
        timeout=30,
    )
    assert [type(outcome) for outcome in outcomes] == [error, type(None)]
    assert other.manifest.leader_epoch == 7


async def test_refresh__whose_answer_is_late_takes_nothing_back(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write-behind and the publisher both ask after an outcome that is unknown."""
    storage = await bench.start()
    files = await bench.log(1)
    publisher, get, answered = storage._publisher, bench.metadata.get, asyncio.Event()

    async def late(key: str) -> KeyValue | None:
        entry = await get(key)
        await answered.wait()
        return entry

    files.revision = -1
    with monkeypatch.context() as patch:
        patch.setattr(bench.metadata, "get", late)
        asking = asyncio.ensure_future(publisher.refresh(files))
        await asyncio.sleep(0)
    await publisher.publish(files, lambda manifest: with_leader_epoch(manifest, 7))
    published = files.stored, files.revision
    answered.set()
    await asking
    assert (files.stored, files.revision) == published


async def test_publish__tells_those_who_wait_also_when_something_crashes(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = await bench.start()
    files, publisher = await bench.log(1), storage._publisher

    async def crash(*_: object) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(bench.metadata, "txn", crash)
        first = asyncio.ensure_future(publisher.publish(files, lambda manifest: with_leader_epoch(manifest, 7)))
        await asyncio.sleep(0)
        with pytest.raises(Unavailable):
            await asyncio.wait_for(first, timeout=30)
    await publisher.publish(files, lambda manifest: with_leader_epoch(manifest, 8))
    assert files.manifest.leader_epoch == 8


async def test_release__does_not_wait_for_what_is_published_of_others(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = await bench.start()
    files, other, publisher = await bench.log(1), await bench.log(2), storage._publisher
    txn, rounds = bench.metadata.txn, 0

    async def slow(*transaction: Any) -> Txn:
        nonlocal rounds
        rounds += 1
        await asyncio.sleep(0.01)
        return await txn(*transaction)

    async def publish_on() -> None:
        while True:
            await publisher.publish(other, lambda manifest: with_leader_epoch(manifest, 7))

    monkeypatch.setattr(bench.metadata, "txn", slow)
    publishing = asyncio.gather(publish_on(), publish_on())
    await asyncio.sleep(0.015)
    before = rounds
    await asyncio.wait_for(publisher.release(files), timeout=30)
    assert rounds <= before + 2
    with pytest.raises(Fenced):
        await publisher.publish(files, lambda manifest: with_leader_epoch(manifest, 7))
    publishing.cancel()
    await asyncio.gather(publishing, return_exceptions=True)
