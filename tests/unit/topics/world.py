"""One broker's topics as bytemq/node joins them: a real metadata store, real partitions over storage in memory."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from bytemq.broker.context import Broker, ClientInfo, RequestContext
from bytemq.broker.log.partition import Partition
from bytemq.broker.log.partitions import PartitionTable
from bytemq.broker.log.services import LogServices
from bytemq.broker.ownership import Ownership
from bytemq.broker.topic_admin import TopicAdmin
from bytemq.config import BrokerConfig
from bytemq.metadata import keys
from bytemq.metadata.embedded import EmbeddedStore
from bytemq.metadata.follower import ImageFollower
from bytemq.metadata.producer_ids import ProducerIds
from bytemq.metadata.topic_names import OFFSETS_TOPIC
from bytemq.runtime.turns import Turns
from bytemq.scheduler.controller import Controller
from bytemq.scheduler.membership import Membership
from tests.support.fake_log_storage import Disk, FakeLogStorage
from tests.support.metadata import broker_value, embedded_store
from tests.support.virtual_time import VirtualClock

BROKER_ID = 0


@dataclass
class FakeGroups:
    """Remembers what it was told."""

    owned: list[int] = field(default_factory=list)
    released: list[int] = field(default_factory=list)

    def own(self, partition: Partition) -> None:
        self.owned.append(partition.pid.index)

    async def leave(self, index: int) -> None:
        self.release(index)

    def release(self, index: int) -> None:
        self.released.append(index)

    def expect_nothing(self) -> None:
        pass


@dataclass
class World:
    store: EmbeddedStore
    clock: VirtualClock
    follower: ImageFollower
    membership: Membership
    partitions: PartitionTable
    storage: FakeLogStorage
    groups: FakeGroups
    ownership: Ownership
    topics: TopicAdmin
    broker: Broker
    config: BrokerConfig

    def context(self, version: int) -> RequestContext:
        return RequestContext(0, version, 1, "test", ClientInfo("c", "PLAINTEXT", "127.0.0.1", 1))


@asynccontextmanager
async def session(folder: Path, disk: Disk, **configs: str) -> AsyncIterator[World]:
    """A session on the folder and disk, from joining to a clean end. Config names with underscores."""
    async with embedded_store(folder) as store:
        clock = VirtualClock()
        follower = ImageFollower(store, clock)
        membership = await Membership.join(store, clock, BROKER_ID, broker_value(), 3.0)
        await follower.load()
        config = BrokerConfig({name.replace("_", "."): value for name, value in configs.items()})
        storage = FakeLogStorage(disk)
        executor = ThreadPoolExecutor(1)
        partitions = PartitionTable(LogServices(cast(Any, storage), clock, executor), membership.standing)
        groups = FakeGroups()
        ownership = Ownership(
            broker_id=BROKER_ID,
            session_id=membership.session_id,
            lease=membership.lease,
            store=store,
            follower=follower,
            partitions=partitions,
            coordinators={OFFSETS_TOPIC: cast(Any, groups)},
            topic_config=lambda topic: config.topic_config(topic.configs),
            clock=clock,
        )
        topics = TopicAdmin(
            store=store, follower=follower, ownership=ownership, config=lambda: config, random_bytes=os.urandom
        )
        broker = SimpleNamespace(
            node_id=BROKER_ID,
            config=config,
            image=follower.image,
            topics=topics,
            partitions=partitions,
            producer_ids=ProducerIds(store),
            turns=Turns(),
        )
        controller = Controller(store, follower, membership, clock)
        tasks = [asyncio.ensure_future(work()) for work in (follower.run, controller.run, ownership.run)]
        await ownership.settle()
        yield World(
            store,
            clock,
            follower,
            membership,
            partitions,
            storage,
            groups,
            ownership,
            topics,
            cast(Any, broker),
            config,
        )
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await ownership.close_all()
        await membership.leave()
        executor.shutdown()


async def until(world: World, condition: Callable[[], bool]) -> None:
    """Lets the other tasks go on until it holds; each turn goes through the store, as they do."""
    async with asyncio.timeout(5):
        while not condition():
            await world.store.get(keys.IDENTITY)
