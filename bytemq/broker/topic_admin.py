"""What is done to topics and dynamic configs: checked, written to the metadata, and waited for.

Owns: the steps between a handler and the metadata store. Must not: know the wire, or rules that `metadata.topics` and
the registry of configs have. A transaction that fails because something changed meanwhile is built again from what is
there then; one whose outcome is unknown is not repeated: the client hears that, and asks again.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple

from bytemq.broker.ownership import Ownership
from bytemq.config import BrokerConfig, InvalidConfig
from bytemq.config.topic import check_topic_config
from bytemq.errors import Invalid, Unavailable
from bytemq.metadata import keys, topics, values
from bytemq.metadata.follower import ImageFollower
from bytemq.metadata.image import ClusterImage, TopicImage
from bytemq.metadata.spread import load_of_live_brokers
from bytemq.metadata.store import Compare, MetadataStore, Put, Txn
from bytemq.metadata.topic_names import OFFSETS_TOPIC, TRANSACTION_TOPIC
from bytemq.metadata.topics import TopicChange, TopicDefaults, TopicSpec
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.types import ZERO_TOPIC_ID, TopicId, format_topic_id

MAX_ATTEMPTS = 10
"""How often a change is built anew because another came first."""
SETTLE_TIMEOUT_S = 5.0
CREATED_AT_A_TIME = 50
"""Of the topics of one request: they are checked in one turn of the event loop, and share commits."""

ConfigChange = Callable[[Mapping[str, str]], Mapping[str, str]]
"""From the configs that are set to those that shall be; raises KafkaError to refuse. May be called several times."""


class TopicOutcome(NamedTuple):
    """Of one topic of a request. `topic` is what was, or would be, written."""

    error: ErrorCode
    message: str | None = None
    topic: values.TopicValue | None = None


class TopicAdmin:
    """Used by the handlers of one broker."""

    def __init__(
        self,
        *,
        store: MetadataStore,
        follower: ImageFollower,
        ownership: Ownership,
        config: Callable[[], BrokerConfig],
        random_bytes: Callable[[int], bytes],
    ) -> None:
        self._store = store
        self._follower = follower
        self._ownership = ownership
        self._config = config
        self._random_bytes = random_bytes
        self._creating: dict[str, asyncio.Task[TopicOutcome]] = {}

    @property
    def defaults(self) -> TopicDefaults:
        config = self._config()
        return TopicDefaults(config.num_partitions, config.default_replication_factor)

    async def create(
        self, specs: Sequence[TopicSpec], *, validate_only: bool = False, timeout_ms: int = 60_000
    ) -> list[TopicOutcome]:
        """One outcome for each. Created topics are served when this returns, or the time is up."""
        try:
            topics.check_request_size(specs, self.defaults)
        except KafkaError as error:
            return [TopicOutcome(error.code, error.message)] * len(specs)
        load = load_of_live_brokers(self._image)
        settled_by = asyncio.get_running_loop().time() + min(timeout_ms / 1000, SETTLE_TIMEOUT_S)
        outcomes: list[TopicOutcome] = []
        for start in range(0, len(specs), CREATED_AT_A_TIME):
            some = specs[start : start + CREATED_AT_A_TIME]
            outcomes += await asyncio.gather(*(self._create(spec, load, validate_only, settled_by) for spec in some))
        return outcomes

    async def auto_create(self, name: str) -> TopicImage:
        """The topic, created with the broker's defaults, or as Kafka has it for an internal topic.

        Raises KafkaError. Whether clients may have topics created so is the caller's question.
        """
        existing = self._image.topics.get(name)
        if existing is not None:
            return existing
        creating = self._creating.get(name)
        if creating is None:
            creating = self._creating[name] = asyncio.ensure_future(self._create_alone(self._spec_of(name)))
            creating.add_done_callback(lambda _: self._creating.pop(name, None))
        outcome = await asyncio.shield(creating)
        topic = self._image.topics.get(name)
        if topic is None:
            raise KafkaError(outcome.error or ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, outcome.message)
        return topic

    async def create_partitions(
        self,
        name: str,
        count: int,
        assignments: Sequence[Sequence[int]] | None,
        *,
        validate_only: bool = False,
        timeout_ms: int = 60_000,
    ) -> None:
        """Raises KafkaError."""

        def grow(image: ClusterImage) -> TopicChange:
            return topics.add_partitions(image, self._existing(name), count, assignments)

        change = await self._commit(grow, validate_only)
        if not validate_only:
            await self._settle(change.topic.topic_id, min(timeout_ms / 1000, SETTLE_TIMEOUT_S))

    async def delete(self, topic_id: TopicId) -> None:
        """Raises KafkaError. The topic is no longer served when this returns; its data is deleted behind."""

        def remove(image: ClusterImage) -> TopicChange:
            topic = image.topics_by_id.get(topic_id)
            if topic is None:
                raise KafkaError(ErrorCode.UNKNOWN_TOPIC_ID)
            return topics.delete(image, topic)

        await self._commit(remove)
        await self._settle(topic_id, SETTLE_TIMEOUT_S)

    async def alter_topic_configs(self, name: str, change: ConfigChange, *, validate_only: bool = False) -> None:
        """Raises KafkaError: no such topic, or INVALID_CONFIG."""

        def alter(image: ClusterImage) -> TopicChange:
            topic = self._existing(name)
            configs = change(topic.configs)
            self.check_topic_configs(configs)
            return topics.set_configs(image, topic, configs)

        await self._commit(alter, validate_only)

    async def alter_configs(self, kind: str, name: str, change: ConfigChange, *, validate_only: bool = False) -> None:
        """Dynamic configs of `kind` broker ("" names all brokers), group or client-metrics; `change` checks them.

        Raises KafkaError.
        """
        key = keys.config(kind, name)

        async def write() -> Txn | None:
            current = self._image.configs.get((kind, name), {})
            configs = change(current)
            if validate_only or configs == current:
                return None
            unchanged = [Compare(key, self._image.key_revision(key))]
            if configs:
                return await self._store.txn(unchanged, [Put(key, values.encode_configs(configs))])
            return await self._store.txn(unchanged, [], [key])

        await self._until_written(write)

    def check_topic_configs(self, configs: Mapping[str, str]) -> None:
        """Raises KafkaError INVALID_CONFIG with Kafka's message."""
        try:
            check_topic_config(self._config().topic_config(configs))
        except InvalidConfig as error:
            raise KafkaError(ErrorCode.INVALID_CONFIG, str(error)) from error

    @property
    def _image(self) -> ClusterImage:
        return self._follower.image

    def _existing(self, name: str) -> TopicImage:
        topic = self._image.topics.get(name)
        if topic is None:
            raise KafkaError(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION)
        return topic

    async def _create_alone(self, spec: TopicSpec) -> TopicOutcome:
        (outcome,) = await self.create([spec])
        return outcome

    async def _create(
        self, spec: TopicSpec, load: Counter[int], validate_only: bool, settled_by: float
    ) -> TopicOutcome:
        topic_id = self._new_topic_id()

        def create(image: ClusterImage) -> TopicChange:
            made = topics.create(image, spec, topic_id, self.defaults, load)
            self.check_topic_configs(spec.configs)
            return made

        try:
            change = await self._commit(create, validate_only)
        except KafkaError as error:
            return TopicOutcome(error.code, error.message)
        if not validate_only:
            await self._settle(topic_id, settled_by - asyncio.get_running_loop().time())
        return TopicOutcome(ErrorCode.NONE, None, change.topic)

    async def _commit(self, build: Callable[[ClusterImage], TopicChange], validate_only: bool = False) -> TopicChange:
        """Returns when the image shows the change."""
        change = build(self._image)

        async def write() -> Txn | None:
            nonlocal change
            change = build(self._image)
            return await self._store.txn(change.compares, change.puts, change.deletes)

        if not validate_only:
            await self._until_written(write)
        return change

    async def _until_written(self, write: Callable[[], Awaitable[Txn | None]]) -> None:
        """Calls `write` until it has nothing to write, or what it wrote was applied and is in the image."""
        for _ in range(MAX_ATTEMPTS):
            try:
                written = await write()
                if written is None:
                    return
                if written.succeeded:
                    await self._follower.wait_for(written.revision)
                    return
                await self._follower.load()
            except Unavailable as error:
                raise KafkaError(ErrorCode.REQUEST_TIMED_OUT, "The metadata store did not answer.") from error
            except Invalid as error:  # too large for it
                raise KafkaError(ErrorCode.INVALID_REQUEST, str(error)) from error
        raise KafkaError(ErrorCode.REQUEST_TIMED_OUT, "Others kept changing the same thing.")

    async def _settle(self, topic_id: TopicId, timeout_s: float) -> None:
        """The change is made in any case: who does not wait long enough sees it come."""
        try:
            async with asyncio.timeout(max(0.0, timeout_s)):
                await self._ownership.wait_settled(topic_id)
        except TimeoutError:
            return

    def _new_topic_id(self) -> TopicId:
        """None that a command line takes for an option, as in Kafka; none whose folder readers of Parquet pass over."""
        while True:
            topic_id = TopicId(self._random_bytes(16))
            is_new = topic_id not in self._image.topics_by_id and topic_id != ZERO_TOPIC_ID
            if is_new and not format_topic_id(topic_id).startswith(("-", "_")):
                return topic_id

    def _spec_of(self, name: str) -> TopicSpec:
        """How a topic that nobody described is created."""
        if name not in (OFFSETS_TOPIC, TRANSACTION_TOPIC):
            return TopicSpec(name)
        config = self._config()
        configs = {"cleanup.policy": "compact", "compression.type": "producer"}
        if name == OFFSETS_TOPIC:
            count, factor = config.offsets_topic_num_partitions, config.offsets_topic_replication_factor
            configs["segment.bytes"] = str(config.offsets_topic_segment_bytes)
        else:
            count = config.transaction_state_log_num_partitions
            factor = config.transaction_state_log_replication_factor
            configs["compression.type"] = "uncompressed"
            configs["unclean.leader.election.enable"] = "false"
            configs["min.insync.replicas"] = str(config.transaction_state_log_min_isr)
            configs["segment.bytes"] = str(config.transaction_state_log_segment_bytes)
        return TopicSpec(name, count, factor, configs=configs)
