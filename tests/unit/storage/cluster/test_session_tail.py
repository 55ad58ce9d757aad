"""The tail of a write-ahead log in objects: whatever is under way at once, each flush is named once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from random import Random
from typing import Any, cast

from bytemq.metadata.store import Compare, MetadataStore, Put, Txn
from bytemq.runtime.tasks import Supervisor
from bytemq.storage.objects.session_log import FlushRef, SessionTail
from bytemq.storage.objects.session_tail import INDEX_FLUSHES, SessionTailKeeper
from bytemq.storage.pools.pooled_store import placing_in
from bytemq.storage.stores.interface import ObjectStore
from tests.support.virtual_time import VirtualClock


class SlowMetadata:
    """Every transaction holds; it happens when `answering` is set."""

    def __init__(self) -> None:
        self.answering = opened()
        self._revision = 0

    async def txn(self, compares: Sequence[Compare], puts: Sequence[Put]) -> Txn:
        await self.answering.wait()
        self._revision += 1
        return Txn(True, self._revision)


class SlowObjects:
    """An object is there when `answering` is set."""

    def __init__(self) -> None:
        self.answering = opened()
        self.created: list[str] = []

    async def create(self, name: str, data: Sequence[Any]) -> None:
        await self.answering.wait()
        self.created.append(name)


def opened() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event


def keeper_on(metadata: SlowMetadata, objects: SlowObjects) -> SessionTailKeeper:
    clock = VirtualClock()
    store, meta = cast("ObjectStore", objects), cast("MetadataStore", metadata)
    fence, supervisor = Compare("session", 1), Supervisor(clock, lambda name, error: None)
    return SessionTailKeeper(placing_in(store), meta, SessionTail(0, 7), fence, clock, Random(1), supervisor)


def flush(sequence: int) -> tuple[FlushRef, bytes]:
    return FlushRef(sequence, sequence, 100, 4, sequence), b"head"


def named_by(tail: SessionTail) -> list[int]:
    """The sequences of all flushes that the tail stands for, in its order."""
    indexed = [n for index in tail.indexes for n in range(index.first_sequence, index.last_sequence + 1)]
    return indexed + [ref.sequence for ref in tail.flushes]


async def test_tail__an_index_that_is_finished_during_a_commit_is_the_only_one_of_its_flushes() -> None:
    metadata, objects = SlowMetadata(), SlowObjects()
    keeper = keeper_on(metadata, objects)
    await keeper.begin()
    for sequence in range(1, INDEX_FLUSHES):
        await keeper.commit([flush(sequence)])
    objects.answering.clear()
    await keeper.commit([flush(INDEX_FLUSHES)])  # an index begins to be written
    metadata.answering.clear()
    slow = asyncio.create_task(keeper.commit([flush(INDEX_FLUSHES + 1)]))
    await asyncio.sleep(0)
    objects.answering.set()
    await keeper.idle()  # the index is durable, and the commit under way does not have it
    objects.answering.clear()
    metadata.answering.set()
    await slow
    await keeper.commit([flush(INDEX_FLUSHES + 2)])  # this one has it
    objects.answering.set()
    for sequence in range(INDEX_FLUSHES + 3, 4 * INDEX_FLUSHES):
        await keeper.commit([flush(sequence)])
        await asyncio.sleep(0)
    await keeper.idle()
    await keeper.commit([flush(4 * INDEX_FLUSHES)])
    assert named_by(keeper.tail) == list(range(1, 4 * INDEX_FLUSHES + 1))
    assert len(keeper.tail.indexes) == len(objects.created) >= 3


async def test_index__of_nothing_but_what_was_released_meanwhile_goes_with_it() -> None:
    metadata, objects = SlowMetadata(), SlowObjects()
    keeper = keeper_on(metadata, objects)
    await keeper.begin()
    objects.answering.clear()
    for sequence in range(1, INDEX_FLUSHES + 1):
        await keeper.commit([flush(sequence)])
    assert not await keeper.release_below(INDEX_FLUSHES + 1)
    objects.answering.set()
    await keeper.idle()
    assert await keeper.release_below(INDEX_FLUSHES + 1) == objects.created != []
    await keeper.commit([flush(INDEX_FLUSHES + 1)])
    assert named_by(keeper.tail) == [INDEX_FLUSHES + 1]
