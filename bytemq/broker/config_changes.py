"""Changing configs: what AlterConfigs and IncrementalAlterConfigs do to one resource.

Owns the operations on single configs and Kafka's checks of the outcome, resource by resource. The change itself is
a metadata transaction of TopicAdmin; whoever reads a config sees it when the image shows it.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from enum import IntEnum
from typing import NamedTuple, Protocol, TypeVar

from bytemq.broker.config_resources import (
    FORMATTED_CLUSTER_CONFIGS,
    KIND_BROKER,
    KIND_CLIENT_METRICS,
    KIND_GROUP,
    LOG_LEVELS,
    ROOT_LOGGER,
    ResourceType,
    broker_id_of,
    loggers,
)
from bytemq.broker.context import Broker
from bytemq.config.broker_rules import check_broker_config
from bytemq.config.client_metrics import UnknownClientMetricsConfig, check_client_metrics
from bytemq.config.definitions import (
    CLUSTER_WIDE,
    READ_ONLY,
    Definitions,
    broker_definitions,
    group_definitions,
    topic_definitions,
)
from bytemq.config.group import GroupConfig, check_group_config, default_of
from bytemq.config.values import ConfigType, InvalidConfig, Value
from bytemq.metadata.topic_names import check_topic_name
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.runtime.turns import Turns, each

MIN_ISR = "min.insync.replicas"
RESOURCES_PER_TURN = 100
"""Altered before others have their turn."""


class Operation(IntEnum):
    """AlterConfigOp.OpType."""

    SET = 0
    DELETE = 1
    APPEND = 2
    SUBTRACT = 3


class Change(NamedTuple):
    """One config of a request."""

    name: str
    operation: int
    value: str | None


Changed = Callable[[Mapping[str, str]], dict[str, str]]
"""From the configs that a resource sets to those that it shall set; raises KafkaError."""


def checked_changes(changes: Sequence[Change]) -> Sequence[Change]:
    """The changes of one resource. Raises KafkaError INVALID_REQUEST for what no resource accepts."""
    if len({change.name for change in changes}) != len(changes):
        raise KafkaError(ErrorCode.INVALID_REQUEST, "Error due to duplicate config keys")
    nulls = [change.name for change in changes if change.value is None and change.operation != Operation.DELETE]
    if nulls:
        raise KafkaError(ErrorCode.INVALID_REQUEST, f"Null value not supported for : {','.join(nulls)}")
    for change in changes:
        if change.operation not in Operation.__members__.values():
            raise KafkaError(ErrorCode.INVALID_REQUEST, f"Unknown config operation {change.operation}")
    return changes


def incremental(changes: Sequence[Change], definitions: Definitions, default: Callable[[str], Value]) -> Changed:
    """Apply the changes one by one; what is appended to or subtracted from is the set value, or else `default`."""

    def changed(current: Mapping[str, str]) -> dict[str, str]:
        result = dict(current)
        for change in changes:
            if change.operation == Operation.DELETE:
                result.pop(change.name, None)
            elif change.operation == Operation.SET:
                result[change.name] = change.value or ""
            else:
                result[change.name] = _with_items(change, result.get(change.name), definitions, default)
        return result

    return changed


def replacing(changes: Sequence[Change]) -> Changed:
    """AlterConfigs: exactly these configs, all others are unset."""
    configs = {change.name: change.value or "" for change in changes}
    return lambda current: dict(configs)


def _with_items(change: Change, current: str | None, definitions: Definitions, default: Callable[[str], Value]) -> str:
    definition = definitions.get(change.name)
    operation = Operation(change.operation)
    if definition is None or definition.config_type is not ConfigType.LIST:
        message = f"Can't {operation.name} to key {change.name} because its type is not LIST."
        raise KafkaError(ErrorCode.INVALID_CONFIG, message)
    value = default(change.name) if current is None else None
    items = list(value) if isinstance(value, tuple) else [item for item in (current or "").split(",") if item]
    named = dict.fromkeys((change.value or "").split(","))
    if operation is Operation.APPEND:
        present = set(items)
        items += [item for item in named if item not in present]
    else:
        items = [item for item in items if item not in named]
    return ",".join(items)


class NamedResource(Protocol):
    """A resource as either request names it."""

    resource_type: int
    resource_name: str


Resource = TypeVar("Resource", bound=NamedResource)


async def alter_each(
    turns: Turns, resources: Sequence[Resource], alter: Callable[[Resource], Awaitable[None]]
) -> list[tuple[int, str | None, int, str]]:
    """What became of each: (error code, message, type, name). Each succeeds or fails alone, and must be named once."""
    named = Counter((resource.resource_type, resource.resource_name) for resource in resources)
    altered: list[tuple[int, str | None, int, str]] = []
    async for resource in each(turns, resources, RESOURCES_PER_TURN):
        kind, name = resource.resource_type, resource.resource_name
        try:
            if named[kind, name] > 1:
                raise KafkaError(ErrorCode.INVALID_REQUEST, "Each resource must appear at most once.")
            await alter(resource)
        except KafkaError as error:
            altered.append((int(error.code), error.message, kind, name))
        else:
            altered.append((int(ErrorCode.NONE), None, kind, name))
    return altered


class ConfigChanger:
    """Alters resources of one broker's cluster. Every method raises KafkaError with Kafka's code and message."""

    def __init__(self, broker: Broker, *, validate_only: bool) -> None:
        self._broker = broker
        self._validate_only = validate_only

    async def incrementally(self, resource_type: int, name: str, changes: Sequence[Change]) -> None:
        """IncrementalAlterConfigs of one resource."""
        if resource_type == ResourceType.BROKER_LOGGER:
            self._set_loggers(name, changes)
            return
        checked_changes(changes)
        if resource_type == ResourceType.TOPIC:
            defaults = self._broker.config.topic_defaults
            changed = incremental(changes, topic_definitions(), lambda key: defaults[key])
        elif resource_type == ResourceType.BROKER:
            changed = incremental(changes, broker_definitions(), self._broker.config.value)
        elif resource_type == ResourceType.GROUP:
            changed = incremental(changes, group_definitions(), lambda key: default_of(self._broker.config, key))
        else:  # Kafka's controller knows no types of these: it takes none for a list
            changed = incremental(changes, {}, lambda key: None)
        await self._alter(resource_type, name, changed)

    async def replace(self, resource_type: int, name: str, changes: Sequence[Change]) -> None:
        """AlterConfigs of one resource."""
        if resource_type == ResourceType.BROKER_LOGGER:
            raise KafkaError(ErrorCode.INVALID_REQUEST, f"Unknown resource type {resource_type}")
        await self._alter(resource_type, name, replacing(checked_changes(changes)))

    async def _alter(self, resource_type: int, name: str, changed: Changed) -> None:
        if resource_type == ResourceType.TOPIC:
            await self._topic(name, changed)
        elif resource_type == ResourceType.BROKER:
            await self._broker_configs(name, changed)
        elif resource_type == ResourceType.CLIENT_METRICS:
            await self._client_metrics(name, changed)
        elif resource_type == ResourceType.GROUP:
            await self._group(name, changed)
        else:
            raise KafkaError(ErrorCode.INVALID_REQUEST, f"Unknown resource type {resource_type}")

    async def _topic(self, name: str, changed: Changed) -> None:
        if not name:
            raise KafkaError(ErrorCode.INVALID_REQUEST, "Default topic resources are not allowed.")
        check_topic_name(name)
        if name not in self._broker.image.topics:
            raise KafkaError(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, f"The topic '{name}' does not exist.")
        await self._broker.topics.alter_topic_configs(name, changed, validate_only=self._validate_only)

    async def _broker_configs(self, name: str, changed: Changed) -> None:
        if name:
            expected = f"Unexpected broker id, expected {self._broker.node_id}, but"
            broker_id_of(self._broker, name, called="Node id", expected=expected)
            name = str(self._broker.node_id)

        def checked(current: Mapping[str, str]) -> dict[str, str]:
            before = dict(current) if name else {**FORMATTED_CLUSTER_CONFIGS, **current}
            after = changed(before)
            self._check_broker_change(name, before, after)
            return after

        await self._broker.topics.alter_configs(KIND_BROKER, name, checked, validate_only=self._validate_only)

    def _check_broker_change(self, name: str, before: Mapping[str, str], after: Mapping[str, str]) -> None:
        """What may be altered at run time, for one or all brokers, and whether the broker could run with it."""
        altered = [key for key in {**before, **after} if before.get(key) != after.get(key)]
        if MIN_ISR in altered and name:
            message = "Broker-level min.insync.replicas cannot be altered while ELR is enabled."
            raise KafkaError(ErrorCode.INVALID_CONFIG, message)
        if MIN_ISR not in after and not name:
            message = "Cluster-level min.insync.replicas cannot be removed while ELR is enabled."
            raise KafkaError(ErrorCode.INVALID_CONFIG, message)
        definitions = broker_definitions()
        known = [key for key in altered if key in after and key in definitions]
        fixed = [key for key in known if definitions[key].update_mode == READ_ONLY]
        if fixed:
            message = f"Cannot update these configs dynamically: [{', '.join(fixed)}]"
            raise KafkaError(ErrorCode.INVALID_REQUEST, message)
        own = [key for key in known if definitions[key].update_mode != CLUSTER_WIDE]
        if own and not name:
            message = (
                f"Cannot update these configs at default cluster level, broker id must be specified: [{', '.join(own)}]"
            )
            raise KafkaError(ErrorCode.INVALID_REQUEST, message)
        image = self._broker.image
        cluster = image.broker_default_configs if name else after
        alone = after if name else image.broker_configs(self._broker.node_id)
        try:
            check_broker_config(self._broker.config.with_dynamic(cluster, alone))
        except InvalidConfig as error:
            raise KafkaError(ErrorCode.INVALID_REQUEST, str(error)) from error

    async def _group(self, name: str, changed: Changed) -> None:
        if not name:
            raise KafkaError(ErrorCode.INVALID_REQUEST, "Default group resources are not allowed.")

        def checked(current: Mapping[str, str]) -> dict[str, str]:
            after = changed(current)
            try:
                check_group_config(GroupConfig(self._broker.config, after), self._broker.config)
            except InvalidConfig as error:
                raise KafkaError(ErrorCode.INVALID_CONFIG, str(error)) from error
            return after

        await self._broker.topics.alter_configs(KIND_GROUP, name, checked, validate_only=self._validate_only)

    async def _client_metrics(self, name: str, changed: Changed) -> None:
        if not name:
            raise KafkaError(ErrorCode.INVALID_REQUEST, "Subscription name can't be empty")

        def checked(current: Mapping[str, str]) -> dict[str, str]:
            after = changed(current)
            try:
                check_client_metrics(after)
            except UnknownClientMetricsConfig as error:
                raise KafkaError(ErrorCode.INVALID_REQUEST, str(error)) from error
            except InvalidConfig as error:
                raise KafkaError(ErrorCode.INVALID_CONFIG, str(error)) from error
            return after

        await self._broker.topics.alter_configs(KIND_CLIENT_METRICS, name, checked, validate_only=self._validate_only)

    def _set_loggers(self, name: str, changes: Sequence[Change]) -> None:
        expected = f"Unexpected node id. Expected {self._broker.node_id}, but"
        broker_id_of(self._broker, name, called="Node id", expected=expected)
        known = loggers()
        levels = [(_logger_of(change, known), _level_of(change)) for change in changes]
        if not self._validate_only:
            for logger, level in levels:
                logger.setLevel(level)


def _logger_of(change: Change, known: Mapping[str, logging.Logger]) -> logging.Logger:
    if change.operation in (Operation.APPEND, Operation.SUBTRACT):
        operation = Operation(change.operation).name
        message = f"{operation} operation is not allowed for the BROKER_LOGGER resource"
        raise KafkaError(ErrorCode.INVALID_REQUEST, message)
    if change.operation not in (Operation.SET, Operation.DELETE):
        raise KafkaError(ErrorCode.INVALID_REQUEST, f"Unknown config operation {change.operation}")
    if change.name not in known:
        raise KafkaError(ErrorCode.INVALID_CONFIG, f"Logger {change.name} does not exist!")
    if change.operation == Operation.DELETE and change.name == ROOT_LOGGER:
        raise KafkaError(ErrorCode.INVALID_REQUEST, "Removing the log level of the root logger is not allowed")
    return known[change.name]


def _level_of(change: Change) -> int:
    """A deleted level is that of the logger above."""
    if change.operation == Operation.DELETE:
        return logging.NOTSET
    level = LOG_LEVELS.get(change.value or "")
    if level is None:
        message = (
            f"Cannot set the log level of {change.name} to {change.value} as it is not a supported log level. "
            f"Valid log levels are {', '.join(sorted(LOG_LEVELS))}"
        )
        raise KafkaError(ErrorCode.INVALID_CONFIG, message)
    return level
