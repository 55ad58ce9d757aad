from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from bytemq.broker.log.partition import Partition
from bytemq.broker.orphans import Orphans
from bytemq.metadata import keys
from bytemq.metadata.store import Put
from bytemq.metadata.topics import TopicSpec
from bytemq.metadata.values import encode_assignments, encode_broker
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.storage.manifests.manifest import Manifest
from bytemq.storage.manifests.manifest_codec import StoredManifest, directory_of, encode_manifest
from bytemq.types import PartitionId, TopicId, format_topic_id
from tests.support.fake_log_storage import Disk
from tests.support.metadata import broker_value
from tests.unit.topics.world import World, session, until


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with session(tmp_path, Disk()) as made:
        yield made


async def test_create__topics_are_served_when_it_returns(world: World) -> None:
    outcomes = await world.topics.create([TopicSpec("a", 3), TopicSpec("b", 300)])
    assert [outcome.error for outcome in outcomes] == [ErrorCode.NONE] * 2
    assert world.partitions.get("a", 2) is not None and world.partitions.get("b", 299) is not None
    image = world.follower.image.topics["b"]
    assert {partition[:2] for partition in image.partitions} == {(0, 0)}


async def test_create__no_id_begins_with_what_programs_read_as_something_else(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Spark, Hive and pyarrow pass over folders that begin with "_", command lines take "-" for an option."""
    offered = [b"\xf8" + bytes(15), b"\xfc" + bytes(15), b"\x04" + bytes(15)]
    assert [format_topic_id(each)[0] for each in offered] == ["-", "_", "B"]
    ids = iter(offered)
    monkeypatch.setattr(world.topics, "_random_bytes", lambda _: next(ids))
    (outcome,) = await world.topics.create([TopicSpec("t")])
    assert outcome.topic is not None and outcome.topic.topic_id == offered[2]


async def test_create__one_refused_topic_does_not_hold_up_the_others(world: World) -> None:
    outcomes = await world.topics.create(
        [TopicSpec("good"), TopicSpec("bad name"), TopicSpec("bad", configs={"segment.bytes": "1"})]
    )
    assert [outcome.error for outcome in outcomes] == [
        ErrorCode.NONE,
        ErrorCode.INVALID_TOPIC_EXCEPTION,
        ErrorCode.INVALID_CONFIG,
    ]
    assert set(world.follower.image.topics) == {"good"}


async def test_create__what_the_metadata_store_does_not_take_is_refused_alone(world: World) -> None:
    throttled = {"leader.replication.throttled.replicas": ",".join(["0:0"] * 300_000)}
    good, large = await world.topics.create([TopicSpec("good"), TopicSpec("large", configs=throttled)])
    assert (good.error, large.error) == (ErrorCode.NONE, ErrorCode.INVALID_REQUEST)
    with pytest.raises(KafkaError) as refused:
        await world.topics.alter_configs("group", "g", lambda current: throttled)
    assert refused.value.code is ErrorCode.INVALID_REQUEST


async def test_create__a_colliding_pair_in_one_request_is_created_as_in_kafka(world: World) -> None:
    outcomes = await world.topics.create([TopicSpec("a.b"), TopicSpec("a_b")])
    assert [outcome.error for outcome in outcomes] == [ErrorCode.NONE] * 2


async def test_create__validate_only_says_what_would_be_and_writes_nothing(world: World) -> None:
    (outcome,) = await world.topics.create([TopicSpec("t", 5)], validate_only=True)
    assert outcome.topic is not None and outcome.topic.partitions == 5
    assert world.follower.image.topics == {}


async def test_create__of_one_name_by_many_at_once_has_one_winner(world: World) -> None:
    outcomes = await asyncio.gather(*(world.topics.create([TopicSpec("t")]) for _ in range(10)))
    errors = sorted(outcome.error for (outcome,) in outcomes)
    assert errors == [ErrorCode.NONE] + [ErrorCode.TOPIC_ALREADY_EXISTS] * 9


async def test_auto_create__concurrent_callers_get_the_same_topic(world: World) -> None:
    topics = await asyncio.gather(*(world.topics.auto_create("t") for _ in range(10)))
    assert len({topic.topic_id for topic in topics}) == 1
    with pytest.raises(KafkaError):
        await world.topics.auto_create("bad name")


async def test_auto_create__makes_the_offsets_topic_as_kafka_does(world: World) -> None:
    topic = await world.topics.auto_create("__consumer_offsets")
    assert (len(topic.partitions), topic.is_internal) == (50, True)
    assert topic.configs == {"cleanup.policy": "compact", "compression.type": "producer", "segment.bytes": "104857600"}
    assert sorted(world.groups.owned) == list(range(50))


async def test_create_partitions__are_served_when_it_returns(world: World) -> None:
    await world.topics.create([TopicSpec("t", 1)])
    await world.topics.create_partitions("t", 4, None)
    assert world.partitions.get("t", 3) is not None
    with pytest.raises(KafkaError) as caught:
        await world.topics.create_partitions("t", 4, None)
    assert caught.value.code is ErrorCode.INVALID_PARTITIONS


async def test_delete__is_no_longer_served_and_frees_the_data(world: World) -> None:
    ((outcome,), _) = await asyncio.gather(
        world.topics.create([TopicSpec("t", 2)]), world.topics.auto_create("__consumer_offsets")
    )
    assert outcome.topic is not None
    pid = PartitionId(outcome.topic.topic_id, 1)
    await world.partitions.open("t", 1)
    await world.topics.delete(outcome.topic.topic_id)
    assert world.partitions.get("t", 1) is None
    assert pid not in world.storage.disk.logs
    with pytest.raises(KafkaError) as caught:
        await world.topics.delete(outcome.topic.topic_id)
    assert caught.value.code is ErrorCode.UNKNOWN_TOPIC_ID


async def test_delete__of_a_coordinators_topic_releases_its_groups(world: World) -> None:
    topic = await world.topics.auto_create("__consumer_offsets")
    await world.topics.delete(topic.topic_id)
    assert sorted(world.groups.released) == list(range(50))


async def test_alter_topic_configs__reaches_open_partitions(world: World) -> None:
    await world.topics.create([TopicSpec("t")])
    partition = await world.partitions.open("t", 0)
    await world.topics.alter_topic_configs("t", lambda current: {**current, "retention.ms": "5"})
    await until(world, lambda: partition.config.retention_ms == 5)
    with pytest.raises(KafkaError) as caught:
        await world.topics.alter_topic_configs("t", lambda current: {"retention.ms": "soon"})
    assert caught.value.code is ErrorCode.INVALID_CONFIG


async def test_alter_configs__concurrent_changes_all_happen(world: World) -> None:
    def adding(number: int, current: Mapping[str, str]) -> Mapping[str, str]:
        return {**current, f"c{number}": "1"}

    await asyncio.gather(
        *(world.topics.alter_configs("group", "g/1", lambda current, n=n: adding(n, current)) for n in range(5))
    )
    assert sorted(world.follower.image.group_configs("g/1")) == [f"c{n}" for n in range(5)]
    await world.topics.alter_configs("group", "g/1", lambda current: {})
    assert world.follower.image.config_names("group") == []


async def test_ownership__a_new_session_takes_everything_at_the_next_leader_epoch(tmp_path: Path) -> None:
    disk = Disk()
    async with session(tmp_path, disk) as first:
        await first.topics.create([TopicSpec("t", 300)])
        assert (await first.partitions.open("t", 299)).leader_epoch == 0
    async with session(tmp_path, disk) as second:
        assert (await second.partitions.open("t", 299)).leader_epoch == 1
        assert second.membership.session_id > first.membership.session_id


async def test_ownership__closes_what_it_no_longer_holds(world: World) -> None:
    await world.topics.create([TopicSpec("t")])
    partition = await world.partitions.open("t", 0)
    await world.store.txn([], [], [keys.broker(0)])
    await until(world, lambda: world.partitions.get("t", 0) is None or partition.is_closed)
    assert isinstance(partition, Partition) and partition.is_closed


def orphans_of(world: World, deleted: list[PartitionId]) -> Orphans:
    async def delete_log(pid: PartitionId) -> None:
        deleted.append(pid)
        await world.store.txn([], [], [keys.manifest(pid)])

    world.storage.delete_log = delete_log  # type: ignore[method-assign]
    return Orphans(world.store, world.follower, world.partitions, 0, world.membership.session_id, world.clock)


async def left_by(world: World, pid: PartitionId, session_id: int) -> None:
    """A manifest, as that session would have published it last."""
    stored = StoredManifest(Manifest(1, owner_session=session_id))
    await world.store.txn([], [Put(keys.manifest(pid), encode_manifest(stored, directory_of(pid)))])


def orphan(number: int) -> PartitionId:
    return PartitionId(TopicId(b"o" * 16), number)


async def test_orphans__data_of_topics_that_are_gone_is_freed_at_the_start(world: World) -> None:
    (outcome,) = await world.topics.create([TopicSpec("t")])
    assert outcome.topic is not None
    kept = PartitionId(outcome.topic.topic_id, 0)
    for pid in (kept, orphan(3)):
        await left_by(world, pid, 0)
    deleted: list[PartitionId] = []
    task = asyncio.ensure_future(orphans_of(world, deleted).run())
    await until(world, lambda: bool(deleted))
    task.cancel()
    assert deleted == [orphan(3)]


async def test_orphans__data_of_a_deleted_topic_whose_owner_is_dead_is_freed_while_the_cluster_runs(
    world: World,
) -> None:
    deleted: list[PartitionId] = []
    orphans = orphans_of(world, deleted)
    (outcome,) = await world.topics.create([TopicSpec("t", 2)])
    assert outcome.topic is not None
    topic_id = outcome.topic.topic_id
    await world.topics.delete(topic_id)
    deleted.clear()  # by the owner; but two have been left by one that is dead
    left = [PartitionId(topic_id, index) for index in range(2)]
    for pid in left:
        await left_by(world, pid, 1 << 40)
    assert await orphans.free() == 2
    assert deleted == left
    assert await orphans.free() == 0


async def test_orphans__are_freed_by_whoever_wrote_them_last_or_else_by_the_controller(world: World) -> None:
    (outcome,) = await world.topics.create([TopicSpec("t")])
    assert outcome.topic is not None
    deleted: list[PartitionId] = []
    orphans = orphans_of(world, deleted)
    own, dead = world.membership.session_id, 1 << 40
    await world.store.txn([], [Put(keys.broker(7), encode_broker(broker_value()))])
    await until(world, lambda: 7 in world.follower.image.brokers)
    live = world.follower.image.brokers[7].epoch
    for number, session_id in enumerate((own, dead, live)):
        await left_by(world, orphan(number), session_id)
    await world.store.txn([], [Put(keys.manifest(orphan(3)), b"damaged")])
    orphans._gone.add(orphan(0).topic_id)
    world.follower.image.controller_id = 7
    assert await orphans.free() == 1
    assert deleted == [orphan(0)]
    world.follower.image.controller_id = 0
    assert await orphans.free() == 2
    assert deleted == [orphan(0), orphan(1), orphan(3)], "the session that lives frees its own"
    await world.store.txn([], [], [keys.broker(7)])
    await until(world, lambda: 7 not in world.follower.image.brokers)
    assert await orphans.free() == 1


async def test_orphans__a_topic_that_the_image_does_not_show_yet_keeps_its_data(world: World) -> None:
    deleted: list[PartitionId] = []
    orphans = orphans_of(world, deleted)
    await left_by(world, orphan(0), 1 << 40)
    orphans._gone.add(orphan(0).topic_id)
    await world.store.txn([], [Put(keys.assignments(orphan(0).topic_id, 0), encode_assignments([7]))])
    assert await orphans.free() == 0
    assert deleted == []
