"""The configs of one topic as frozen, typed data, and the rules that they meet together.

Owns Kafka's LogConfig: names, values and the checks across configs, with its messages. Where a topic says nothing
the broker's configs hold: `BrokerConfig.topic_config` builds these views.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NoReturn

from bytemq.config.definitions import topic_definitions
from bytemq.config.own import OwnTopicSettings
from bytemq.config.topic_settings import TopicSettings
from bytemq.config.values import InvalidConfig, Value

COMPRESSION_TYPES = {"uncompressed": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
"""compression.type to the number in a batch's attributes; "producer" keeps what the client chose."""


class TopicConfig(TopicSettings, OwnTopicSettings):
    """Every topic config as an attribute (`topic.retention_ms`); frozen. Two are equal when all values are."""

    overrides: Mapping[str, str]
    """What the topic itself says, as text."""

    def __init__(self, defaults: Mapping[str, Value], overrides: Mapping[str, str]) -> None:
        """Raises InvalidConfig: unknown name or value that the config does not take."""
        definitions = topic_definitions()
        attributes: dict[str, object] = {name.replace(".", "_"): value for name, value in defaults.items()}
        for name, text in overrides.items():
            definition = definitions.get(name)
            if definition is None:
                raise InvalidConfig(f"Unknown topic config name: {name}")
            attributes[name.replace(".", "_")] = definition.parse(text)
        attributes["overrides"] = dict(overrides)
        self.__dict__.update(attributes)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"TopicConfig is frozen: cannot set {name}")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TopicConfig) and self.__dict__ == other.__dict__

    __hash__ = None  # type: ignore[assignment]

    def value(self, name: str) -> Value:
        """The value of a config under Kafka's name."""
        found: Value = self.__dict__[name.replace(".", "_")]
        return found

    @property
    def is_compacted(self) -> bool:
        return "compact" in self.cleanup_policy

    @property
    def deletes_old_data(self) -> bool:
        """cleanup.policy has "delete"; neither it nor "compact" keeps everything (KIP-1005)."""
        return "delete" in self.cleanup_policy

    @property
    def uses_log_append_time(self) -> bool:
        return self.message_timestamp_type == "LogAppendTime"

    @property
    def target_compression(self) -> int | None:
        """Compression that stored batches must have; None keeps the producer's."""
        return COMPRESSION_TYPES.get(self.compression_type)


def check_topic_config(config: TopicConfig) -> None:
    """The rules across configs (LogConfig.validate). Raises InvalidConfig with Kafka's message."""
    if config.min_compaction_lag_ms > config.max_compaction_lag_ms:
        raise InvalidConfig(
            "conflict topic config setting min.compaction.lag.ms "
            f"({config.min_compaction_lag_ms}) > max.compaction.lag.ms ({config.max_compaction_lag_ms})"
        )
    if config.remote_storage_enable:
        raise InvalidConfig(
            "Tiered Storage functionality is disabled in the broker. "
            "Topic cannot be configured with remote log storage."
        )
