"""Topics as a whole: each partition at hand, ours or followed, with all that was committed before the question."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest

from bytemq.broker import whole_topics
from bytemq.broker.followers import Followers
from bytemq.broker.log.followed_partition import FollowedPartition
from bytemq.broker.log.partition import Partition
from bytemq.broker.whole_topics import WholeTopics
from bytemq.errors import Unavailable
from bytemq.metadata import keys
from bytemq.metadata.image import PartitionImage
from bytemq.metadata.store import KeyValue, Listing
from bytemq.types import PartitionId
from tests.unit.server.harness import NODE_ID, Cluster, make_cluster
from tests.unit.server.test_nearest_reader import FakeFollowedLogs

OTHER = 7
OTHERS_SESSION = 70


class FollowedLogs(FakeFollowedLogs):
    """Commits that are not told before somebody asks."""

    def __init__(self) -> None:
        super().__init__()
        self.untold: dict[PartitionId, int] = {}
        self.asked: list[Mapping[PartitionId, int]] = []

    async def refresh(self, owners: Mapping[PartitionId, int]) -> None:
        self.asked.append(dict(owners))
        for partition in owners:
            for _ in range(self.untold.pop(partition, 0)):
                self.commit(partition)


class World:
    """One broker and a topic of which it owns partition 0, the other one partition 1."""

    def __init__(self) -> None:
        self.cluster: Cluster = make_cluster()
        self.logs = FollowedLogs()
        self.revisions: dict[str, int] = {}
        self.on_image_at: Callable[[int], None] = lambda revision: None
        broker = self.cluster.broker
        image = self.cluster.image
        self.followers = followers = Followers(
            self.logs,  # type: ignore[arg-type]
            lambda: image,
            NODE_ID,
            broker.standing,
            broker.clock,
            broker.supervisor,
        )
        self.whole = WholeTopics(broker.partitions, followers, self, lambda: image, self.image_at, NODE_ID)  # type: ignore[arg-type]

    async def begin(self) -> PartitionId:
        topic = await self.cluster.add_topic("t", 2)
        await self.cluster.move("t", 1, OTHER)
        self.owned("t", 1, OTHER)
        return PartitionId(topic.topic_id, 1)

    def owned(self, name: str, index: int, owner: int) -> None:
        topic = self.cluster.image.topics[name]
        partitions = list(topic.partitions)
        partitions[index] = PartitionImage(owner, 1, OTHERS_SESSION if owner == OTHER else 1, owner)
        changed = replace(topic, partitions=tuple(partitions))
        self.cluster.image.topics[name] = self.cluster.image.topics_by_id[topic.topic_id] = changed

    # As metadata and follower of the image.

    async def get(self, key: str) -> KeyValue | None:
        return KeyValue(key, b"", self.revisions[key]) if key in self.revisions else None

    async def range(self, prefix: str) -> Listing:
        found = [KeyValue(key, b"", revision) for key, revision in self.revisions.items() if key.startswith(prefix)]
        return Listing(found, 99)

    async def image_at(self, revision: int) -> None:
        self.on_image_at(revision)


async def test_topic__has_what_others_had_committed_before_the_question() -> None:
    world = World()
    pid = await world.begin()
    found = (await world.whole.at_hand(["t", "no topic"]))["t"]
    assert [type(one) for one in found] == [Partition, FollowedPartition]
    assert found[1].last_stable_offset == 0
    world.logs.untold[pid] = 3
    assert [one.last_stable_offset for one in (await world.whole.at_hand(["t"]))["t"]] == [0, 3]
    assert world.logs.asked[-1] == {pid: OTHERS_SESSION}
    assert world.whole.partition("t", 1) is found[1]
    assert world.whole.partition("t", 2) is world.whole.partition("no topic", 0) is None


async def test_topic__is_looked_up_by_the_owners_of_the_moment() -> None:
    """What the image does not show yet was decided before the question."""
    world = World()
    pid = await world.begin()
    world.revisions[keys.owners(pid.topic_id, 0)] = 42

    def image_at(revision: int) -> None:
        assert revision == 42
        world.owned("t", 0, OTHER)

    world.on_image_at = image_at
    found = (await world.whole.at_hand(["t"]))["t"]
    assert [type(one) for one in found] == [FollowedPartition, FollowedPartition]


async def test_topic__that_was_created_elsewhere_just_now_is_there() -> None:
    world = World()
    world.revisions[keys.topic("t")] = 7
    made = await world.cluster.add_topic("t", 1)
    topics = world.cluster.image.topics
    del topics["t"]
    world.on_image_at = lambda revision: topics.update(t=made) if revision == 7 else None
    assert len((await world.whole.at_hand(["t"]))["t"]) == 1


async def test_topic__whose_partition_moves_meanwhile_is_looked_up_again() -> None:
    world = World()
    await world.begin()
    refresh = world.logs.refresh

    async def moved(owners: Mapping[PartitionId, int]) -> None:
        world.owned("t", 0, OTHER)
        await world.cluster.broker.partitions.release(PartitionId(world.cluster.image.topics["t"].topic_id, 0))
        await refresh(owners)

    world.logs.refresh = moved  # type: ignore[method-assign]
    found = (await world.whole.at_hand(["t"]))["t"]
    assert [type(one) for one in found] == [FollowedPartition, FollowedPartition]
    assert len(world.logs.asked[-1]) == 2


async def test_topic__is_not_read_where_nobody_knows_what_is_committed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whole_topics, "PATIENCE_S", 0.2)
    world = World()
    await world.begin()
    await world.whole.at_hand(["t"])
    world.cluster.broker.standing.end()
    with pytest.raises(Unavailable):
        await world.whole.at_hand(["t"])
    assert world.whole.partition("t", 0) is world.whole.partition("t", 1) is None


async def test_topic__costs_no_reading_before_a_consumer_comes() -> None:
    world = World()
    pid = await world.begin()
    [_, followed] = (await world.whole.at_hand(["t"]))["t"]
    assert not world.logs.read
    assert world.followers.get(world.cluster.image.topics["t"], 1) is followed
    assert world.logs.read == {pid}
