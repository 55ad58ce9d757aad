from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest

from bytemq.errors import Fenced, Unavailable
from bytemq.metadata import keys
from bytemq.metadata.embedded import EmbeddedStore
from bytemq.metadata.follower import ImageFollower
from bytemq.metadata.store import MetadataStore, Txn
from bytemq.scheduler.controller import Controller
from bytemq.scheduler.membership import Membership
from tests.support.metadata import broker_value, embedded_store, topic_id, topic_puts
from tests.support.virtual_time import VirtualClock

T1 = topic_id(1)
TTL_S = 3.0


class Cluster:
    """Brokers of one store, each with its own follower and controller, as in as many processes."""

    def __init__(self, store: EmbeddedStore) -> None:
        self.store = store
        self.clock = VirtualClock()
        self.observer = ImageFollower(store, self.clock)
        self._tasks = [asyncio.ensure_future(self.observer.run())]

    async def add(self, broker_id: int) -> Membership:
        member = await Membership.join(self.store, self.clock, broker_id, broker_value(), TTL_S)
        follower = ImageFollower(self.store, self.clock)
        await follower.load()
        controller = Controller(self.store, follower, member, self.clock)
        self._tasks += [asyncio.ensure_future(follower.run()), asyncio.ensure_future(controller.run())]
        return member

    async def until(self, seen: object) -> None:
        """Waits until `seen()` holds of the observer's image."""
        assert callable(seen)
        changed = asyncio.Event()
        self.observer.subscribe(lambda change: changed.set())
        async with asyncio.timeout(5):
            while not seen():
                changed.clear()
                await changed.wait()

    def assigned(self) -> list[int]:
        topic = self.observer.image.topics.get("t")
        return [] if topic is None else [partition.assigned for partition in topic.partitions]

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    async with embedded_store(tmp_path) as store:
        made = Cluster(store)
        yield made
        await made.close()


async def test_controller__assigns_what_nobody_is_to_own(cluster: Cluster) -> None:
    await cluster.add(1)
    await cluster.store.txn([], topic_puts("t", T1, [-1, 9, 1]))
    await cluster.until(lambda: cluster.assigned() == [1, 1, 1])


async def test_controller__is_one_of_the_brokers_and_another_when_it_goes(cluster: Cluster) -> None:
    first = await cluster.add(1)
    await cluster.until(lambda: cluster.observer.image.controller_id == 1)
    await cluster.add(2)
    await cluster.store.txn([], topic_puts("t", T1, [1, 2]))
    await first.leave()
    await cluster.until(lambda: cluster.observer.image.controller_id == 2 and cluster.assigned() == [2, 2])


async def test_membership__of_one_broker_id_is_one_session(cluster: Cluster) -> None:
    first = await cluster.add(1)
    with pytest.raises(Unavailable, match=r"broker id 1 is in use by another node at localhost:9092.*--id"):
        await Membership.join(cluster.store, cluster.clock, 1, broker_value(incarnation="other"), TTL_S)
    await first.leave()
    second = await Membership.join(cluster.store, cluster.clock, 1, broker_value(), TTL_S)
    assert second.session_id > first.session_id


async def test_membership__ends_fenced_when_its_session_is_gone(cluster: Cluster) -> None:
    member = await Membership.join(cluster.store, cluster.clock, 1, broker_value(), TTL_S)
    running = asyncio.ensure_future(member.run())
    await asyncio.sleep(0)
    await member.leave()
    assert await cluster.store.get(keys.broker(1)) is None
    cluster.clock.advance(TTL_S)
    with pytest.raises(Fenced):
        await asyncio.wait_for(running, 5)


async def test_membership__whose_registration_had_no_answer_reads_it_back(cluster: Cluster) -> None:
    class LosesAnswers:
        def __getattr__(self, name: str) -> object:
            return getattr(cluster.store, name)

        async def txn(self, *args: Any) -> Txn:
            await cluster.store.txn(*args)
            raise Unavailable("the answer was lost")

    member = await Membership.join(cast(MetadataStore, LosesAnswers()), cluster.clock, 1, broker_value(), TTL_S)
    held = await cluster.store.get(keys.broker(1))
    assert held is not None and member.session_id == held.revision
    await member.leave()
    assert await cluster.store.get(keys.broker(1)) is None
