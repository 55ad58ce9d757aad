"""A broker's configs as they are now: what it was started with, and the dynamic configs of the metadata over that.

Owns: the config of the moment. Must not: tell anybody that it changed.
"""

from __future__ import annotations

from bytemq.config import BrokerConfig, InvalidConfig, TopicConfig
from bytemq.metadata import keys
from bytemq.metadata.image import ClusterImage, TopicImage
from bytemq.metadata.store import MetadataStore
from bytemq.runtime.logging import get_logger

log = get_logger("node")


class LiveConfig:
    def __init__(self, given: BrokerConfig) -> None:
        self.now = given

    def claim(self, broker_id: int) -> None:
        """The id that this node was given, whatever it had asked for."""
        self.now = self.now.with_node_id(broker_id)

    async def read(self, store: MetadataStore) -> None:
        """Before there is an image: it is made once, when our session is in it."""
        entries, revision = await store.range(keys.CONFIGS)
        image = ClusterImage()
        image.apply(image.events_from_listing(entries, revision))
        self.take(image)

    def take(self, image: ClusterImage) -> None:
        """The dynamic configs of `image`; where they contradict each other, those of before stay."""
        dynamic = image.broker_configs(self.now.node_id)
        try:
            self.now = self.now.with_dynamic(image.broker_default_configs, dynamic)
        except InvalidConfig as error:
            log.error("dynamic configs are ignored", reason=str(error))

    def of_topic(self, topic: TopicImage) -> TopicConfig:
        """A topic whose configs this version does not take keeps working, with the broker's defaults."""
        try:
            return self.now.topic_config(topic.configs)
        except InvalidConfig as error:
            log.error("configs of a topic are ignored", topic=topic.name, reason=str(error))
            return self.now.topic_config()
