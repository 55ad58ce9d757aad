"""What has configs: topics, brokers, loggers, client metrics subscriptions and groups, with Kafka's numbers for
them and for where a value comes from. Shared by the handlers of DescribeConfigs, AlterConfigs,
IncrementalAlterConfigs and ListConfigResources.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from enum import IntEnum
from types import MappingProxyType

from bytemq.broker.context import Broker
from bytemq.protocol.error_codes import ErrorCode, KafkaError


class ResourceType(IntEnum):
    """org.apache.kafka.common.config.ConfigResource.Type."""

    TOPIC = 2
    BROKER = 4
    BROKER_LOGGER = 8
    CLIENT_METRICS = 16
    GROUP = 32


class ConfigSource(IntEnum):
    """Where the value of a config comes from, as DescribeConfigs sends it."""

    TOPIC = 1
    DYNAMIC_BROKER = 2
    DYNAMIC_DEFAULT_BROKER = 3
    STATIC_BROKER = 4
    DEFAULT = 5
    BROKER_LOGGER = 6
    CLIENT_METRICS = 7
    GROUP = 8


FORMATTED_CLUSTER_CONFIGS: Mapping[str, str] = MappingProxyType({"min.insync.replicas": "1"})
"""What formatting a Kafka cluster writes as a default of all brokers (KIP-966): tools find it there."""

KIND_BROKER = "broker"
KIND_GROUP = "group"
KIND_CLIENT_METRICS = "client-metrics"
"""Kinds under which the metadata keeps dynamic configs."""

_JAVA_INTEGER = re.compile(r"[+-]?\d+")
"""What Integer.parseInt() reads; int() also takes spaces and underscores."""

ROOT_LOGGER = "root"
_OWN_LOGGER = "bytemq"
LOG_LEVELS: Mapping[str, int] = MappingProxyType(
    {
        "TRACE": logging.DEBUG,
        "DEBUG": logging.DEBUG,
        "INFO": logging.INFO,
        "WARN": logging.WARNING,
        "ERROR": logging.ERROR,
        "FATAL": logging.CRITICAL,
    }
)
"""Kafka's log levels as those of `logging`."""


def cluster_configs(broker: Broker) -> dict[str, str]:
    """The dynamic configs of all brokers."""
    return {**FORMATTED_CLUSTER_CONFIGS, **broker.image.broker_default_configs}


def broker_id_of(broker: Broker, resource_name: str, *, called: str, expected: str) -> None:
    """Check that a resource name is this broker's id. Raises KafkaError INVALID_REQUEST with Kafka's message."""
    if len(resource_name) > 11 or _JAVA_INTEGER.fullmatch(resource_name) is None:
        raise KafkaError(ErrorCode.INVALID_REQUEST, f"{called} must be an integer, but it is: {resource_name}")
    if int(resource_name) != broker.node_id:
        raise KafkaError(ErrorCode.INVALID_REQUEST, f"{expected} received {resource_name}")


def loggers() -> dict[str, logging.Logger]:
    """The broker's loggers by the name that clients see: root, and one for each part ("broker.server")."""
    found = {ROOT_LOGGER: logging.getLogger(_OWN_LOGGER)}
    for name, logger in list(logging.root.manager.loggerDict.items()):
        if name.startswith(f"{_OWN_LOGGER}.") and isinstance(logger, logging.Logger):
            found[name.removeprefix(f"{_OWN_LOGGER}.")] = logger
    return found


def level_name(logger: logging.Logger) -> str:
    """Kafka's name of the level that holds for a logger."""
    level = logger.getEffectiveLevel()
    for name in ("DEBUG", "INFO", "WARN", "ERROR"):
        if level <= LOG_LEVELS[name]:
            return name
    return "FATAL"
