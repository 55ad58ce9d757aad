"""The configs of one group as frozen, typed data, and the rules that they meet.

Owns Kafka's GroupConfig: names, values, the ranges that the broker's configs allow. Where a group says nothing the
broker's configs hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NoReturn

from bytemq.config.broker import BrokerConfig
from bytemq.config.definitions import broker_definitions, group_definitions
from bytemq.config.group_settings import GroupSettings
from bytemq.config.values import InvalidConfig, Value

_PROTOCOLS = ("consumer", "share", "streams")


class GroupConfig(GroupSettings):
    """Every group config as an attribute; frozen. `overrides` is what the group itself says."""

    overrides: Mapping[str, str]

    def __init__(self, broker: BrokerConfig, overrides: Mapping[str, str]) -> None:
        """Raises InvalidConfig: unknown name or value that the config does not take."""
        attributes: dict[str, object] = {}
        for name in overrides:
            if name not in group_definitions():
                raise InvalidConfig(f"Unknown group config name: {name}")
        for name, definition in group_definitions().items():
            text = overrides.get(name)
            attributes[name.replace(".", "_")] = default_of(broker, name) if text is None else definition.parse(text)
        attributes["overrides"] = dict(overrides)
        self.__dict__.update(attributes)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"GroupConfig is frozen: cannot set {name}")

    def value(self, name: str) -> Value:
        """The value of a config under Kafka's name."""
        found: Value = self.__dict__[name.replace(".", "_")]
        return found


def default_of(broker: BrokerConfig, name: str) -> Value:
    """What a group config is where the group does not set it."""
    definition = group_definitions()[name]
    if not definition.synonyms:
        return definition.default
    value = broker.value(definition.synonyms[0][0])
    if isinstance(value, tuple) and not isinstance(definition.default, tuple):
        return value[0] if value else None  # streams.assignor.name is the first of the broker's assignors
    return value


def check_group_config(config: GroupConfig, broker: BrokerConfig) -> None:
    """Values within the broker's bounds (GroupConfig.validateValues). Raises InvalidConfig with Kafka's message."""
    for name in config.overrides:
        _check_range(name, config.value(name), _bound(broker, name, "min"), _bound(broker, name, "max"))
    for protocol in _PROTOCOLS:
        session, heartbeat = f"{protocol}.session.timeout.ms", f"{protocol}.heartbeat.interval.ms"
        if {session, heartbeat} & set(config.overrides) and not _number(config.value(session)) > _number(
            config.value(heartbeat)
        ):
            raise InvalidConfig(f"{session} must be greater than {heartbeat}")
    if config.errors_deadletterqueue_topic_name.startswith("__"):
        raise InvalidConfig("errors.deadletterqueue.topic.name: DLQ topic name must not start with '__'")


def _bound(broker: BrokerConfig, name: str, which: str) -> int | None:
    """group.consumer.min.session.timeout.ms for consumer.session.timeout.ms, and so on, where there is one."""
    protocol, _, rest = name.partition(".")
    bound = f"group.{protocol}.{which}.{rest.removeprefix('num.')}"
    return _number(broker.value(bound)) if bound in broker_definitions() else None


def _number(value: Value) -> int:
    return value if isinstance(value, int) else 0


def _check_range(name: str, value: Value, least: int | None, most: int | None) -> None:
    if not isinstance(value, int):
        return
    too_small = least is not None and value < least
    too_large = most is not None and value > most
    if not too_small and not too_large:
        return
    if least is not None and most is not None:
        raise InvalidConfig(f"{name} must be in the range {least} to {most} inclusive.")
    if too_small:
        raise InvalidConfig(f"{name} must be greater than or equal to {least}")
    raise InvalidConfig(f"{name} must be less than or equal to {most}")
