"""The group coordinators of one broker: a shard for each partition of `__consumer_offsets` that it owns.

Owns: which shard serves a group, starting shards when partitions come and closing them when they go, what to tell
clients while one loads, and the figures for metrics. Must not know the group protocol (group/) or how records are
written (runtime.py).
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from random import Random
from typing import NamedTuple

from bytemq.broker.coordinator.group.consumer.steps import ASSIGNORS
from bytemq.broker.coordinator.group.consumer.topics import TopicInfo
from bytemq.broker.coordinator.group.environment import ConsumerGroupSettings, GroupSettings
from bytemq.broker.coordinator.group.memory import MembershipMemory
from bytemq.broker.coordinator.group.records import CommittedOffset
from bytemq.broker.coordinator.group.shard import GroupShard
from bytemq.broker.coordinator.owned_shards import OwnedShards
from bytemq.broker.coordinator.runtime import ShardRuntime, ShardState
from bytemq.broker.coordinator.timers import Timers
from bytemq.broker.log.partition import Partition
from bytemq.config import BrokerConfig
from bytemq.config.group import GroupConfig
from bytemq.metadata.image import ClusterImage, ImageChange, TopicImage
from bytemq.metadata.replicas import replicas
from bytemq.metadata.standing import Standing
from bytemq.metadata.topic_names import OFFSETS_TOPIC
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.protocol.primitives import MalformedMessage
from bytemq.runtime.clock import Clock
from bytemq.runtime.tasks import Supervisor
from bytemq.types import ZERO_TOPIC_ID, TopicId

GroupRuntime = ShardRuntime[GroupShard]


class GroupOffset(NamedTuple):
    """One committed offset, for lag figures."""

    group_id: str
    topic: str
    partition: int
    offset: int


class GroupCoordinators(OwnedShards[GroupShard]):
    """All shards of this broker. `own` and `release` follow the ownership of partitions."""

    def __init__(
        self,
        *,
        broker_id: int,
        config: Callable[[], BrokerConfig],
        image: Callable[[], ClusterImage],
        clock: Clock,
        random: Random,
        supervisor: Supervisor,
        standing: Standing,
    ) -> None:
        super().__init__(OFFSETS_TOPIC, broker_id, image, clock, supervisor, standing, self._make_runtime)
        self._config = config
        self._random = random
        self._memory = MembershipMemory()
        self._consumer_settings: dict[str | None, tuple[BrokerConfig, Mapping[str, str], ConsumerGroupSettings]] = {}
        """By group id, with what they were made of; None: groups without configs of their own."""

    def on_image_change(self, change: ImageChange) -> None:
        """Offsets of deleted topics are forgotten; groups that read what changed look again."""
        super().on_image_change(change)
        for runtime in self._shards.values():
            if change.topics and runtime.is_active:
                runtime.machine.consumers.topics_changed()
        deleted = change.topics - self._image().topics_by_id.keys()
        if deleted:
            for runtime in self._shards.values():
                runtime.topics_deleted(deleted)

    # -- requests

    def shard_of_named(self, group_id: str) -> GroupRuntime:
        """As `shard_of`, for what needs a group with a name: INVALID_GROUP_ID, whoever would coordinate it."""
        _check_name(group_id)
        return self.shard_of(group_id)

    async def awaited_shard_of_named(self, group_id: str) -> GroupRuntime:
        """As `awaited_shard_of` and `shard_of_named`."""
        _check_name(group_id)
        return await self.awaited_shard_of(group_id)

    def consumer_settings_of(self, group_id: str) -> ConsumerGroupSettings:
        """Made once for each state of the configs: every heartbeat asks."""
        config, overrides = self._config(), self._image().group_configs(group_id)
        key = group_id if overrides else None
        known = self._consumer_settings.get(key)
        if known is None or known[0] is not config or known[1] is not overrides:
            known = (config, overrides, consumer_settings(config, overrides))
            self._consumer_settings[key] = known
        return known[2]

    # -- figures

    def committed_offsets(self) -> Iterator[GroupOffset]:
        """Every committed offset of the loaded shards."""
        for runtime in self._shards.values():
            if not runtime.is_active:
                continue
            store = runtime.machine.store
            for group_id in store.group_ids():
                for topic, partitions in store.committed_topics(group_id).items():
                    for partition, encoded in partitions.items():
                        try:
                            yield GroupOffset(group_id, topic, partition, CommittedOffset.decode(encoded).offset)
                        except MalformedMessage:
                            continue

    def group_counts(self) -> dict[str, int]:
        """Groups by state, of the loaded shards."""
        counts: dict[str, int] = {}
        for runtime in self._shards.values():
            if runtime.is_active:
                for group in runtime.machine.groups.values():
                    counts[group.state.value] = counts.get(group.state.value, 0) + 1
                for consumers in runtime.machine.environment.consumer_groups.values():
                    counts[consumers.state.value] = counts.get(consumers.state.value, 0) + 1
        return counts

    @property
    def loading_count(self) -> int:
        return sum(runtime.state is ShardState.LOADING for runtime in self._shards.values())

    @property
    def offset_count(self) -> int:
        return sum(runtime.machine.store.count for runtime in self._shards.values())

    @property
    def damaged_records(self) -> int:
        """Records of __consumer_offsets that loading left out because they make no sense."""
        return sum(runtime.damaged_records for runtime in self._shards.values())

    @property
    def membership_bytes(self) -> int:
        """What members keep in memory, see MembershipMemory."""
        return self._memory.used_bytes

    # -- within

    def _make_runtime(self, partition: Partition) -> GroupRuntime:
        commit_timeout_s = self._config().offsets_commit_timeout_ms / 1000
        make = partial(self._make_shard, partition)
        return ShardRuntime(partition, make, self._clock, commit_timeout_s=commit_timeout_s)

    def _make_shard(self, partition: Partition, timers: Timers) -> GroupShard:
        return GroupShard(
            group_settings(self._config()),
            timers,
            self._clock.wall_ms,
            self._new_uuid,
            self._memory,
            self._is_gone,
            ImageTopics(self._image),
            self.consumer_settings_of,
            lambda: partition.config.max_message_bytes,
        )

    def _new_uuid(self) -> str:
        return str(uuid.UUID(int=self._random.getrandbits(128), version=4))

    def _is_gone(self, topic: str, topic_id: bytes) -> bool:
        present = self._image().topics.get(topic)
        return present is None or (topic_id != ZERO_TOPIC_ID and topic_id != present.topic_id)


def _check_name(group_id: str) -> None:
    if not group_id:
        raise KafkaError(ErrorCode.INVALID_GROUP_ID)


class ImageTopics:
    """The cluster's topics as coordinators look at them."""

    __slots__ = ("_image",)

    def __init__(self, image: Callable[[], ClusterImage]) -> None:
        self._image = image

    @property
    def version(self) -> int:
        return self._image().revision

    def by_name(self, name: str) -> TopicInfo | None:
        return _info(self._image().topics.get(name))

    def by_id(self, topic_id: bytes) -> TopicInfo | None:
        return _info(self._image().topics_by_id.get(TopicId(topic_id)))

    def names(self) -> Collection[str]:
        return self._image().topics

    def racks(self, topic_id: bytes) -> Sequence[frozenset[str]]:
        """The zones of the brokers that clients are told as the partition's replicas."""
        image = self._image()
        topic = image.topics_by_id.get(TopicId(topic_id))
        if topic is None:
            return []
        return [_zones(image, replicas(image, topic, index)) for index in range(len(topic.partitions))]


def _zones(image: ClusterImage, brokers: Iterable[int]) -> frozenset[str]:
    live = (image.brokers.get(broker) for broker in brokers)
    return frozenset(broker.zone for broker in live if broker is not None and broker.zone is not None)


def _info(topic: TopicImage | None) -> TopicInfo | None:
    return None if topic is None else TopicInfo(topic.name, topic.topic_id, len(topic.partitions))


def consumer_settings(config: BrokerConfig, overrides: Mapping[str, str]) -> ConsumerGroupSettings:
    """The broker's settings, or a group's own where it has any, within what the broker allows now."""
    settings = ConsumerGroupSettings(
        session_timeout_ms=config.group_consumer_session_timeout_ms,
        heartbeat_interval_ms=config.group_consumer_heartbeat_interval_ms,
        assignment_interval_ms=config.group_consumer_assignment_interval_ms,
        regex_refresh_interval_ms=config.group_consumer_regex_refresh_interval_ms,
        max_size=config.group_consumer_max_size,
        assignors=known_assignors(config.group_consumer_assignors),
        upgrades=config.group_consumer_migration_policy.lower() in ("upgrade", "bidirectional"),
        downgrades=config.group_consumer_migration_policy.lower() in ("downgrade", "bidirectional"),
    )
    if not overrides:
        return settings
    group = GroupConfig(config, overrides)
    return settings._replace(
        session_timeout_ms=_within(
            group.consumer_session_timeout_ms,
            config.group_consumer_min_session_timeout_ms,
            config.group_consumer_max_session_timeout_ms,
        ),
        heartbeat_interval_ms=_within(
            group.consumer_heartbeat_interval_ms,
            config.group_consumer_min_heartbeat_interval_ms,
            config.group_consumer_max_heartbeat_interval_ms,
        ),
        assignment_interval_ms=_within(
            group.consumer_assignment_interval_ms,
            config.group_consumer_min_assignment_interval_ms,
            config.group_consumer_max_assignment_interval_ms,
        ),
    )


def _within(value: int, least: int, most: int) -> int:
    return max(least, min(value, most))


def known_assignors(names: Iterable[str]) -> tuple[str, ...]:
    """Those that are built in; a class name of Java's stands for nothing here."""
    return tuple(name for name in names if name in ASSIGNORS) or tuple(ASSIGNORS)


def group_settings(config: BrokerConfig) -> GroupSettings:
    """The broker's settings as the group machine takes them."""
    return GroupSettings(
        min_session_timeout_ms=config.group_min_session_timeout_ms,
        max_session_timeout_ms=config.group_max_session_timeout_ms,
        initial_rebalance_delay_ms=config.group_initial_rebalance_delay_ms,
        max_size=config.group_max_size,
        offset_metadata_max_bytes=config.offset_metadata_max_bytes,
        offsets_retention_ms=config.offsets_retention_minutes * 60_000,
        offsets_retention_check_interval_ms=config.offsets_retention_check_interval_ms,
    )
