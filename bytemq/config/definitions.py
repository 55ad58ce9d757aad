"""What configs exist: every broker, topic, group and client-metrics config of Apache Kafka 4.4, and bytemq's own.

Owns looking them up. The data is in definitions.json (from Kafka's own ConfigDef) and `own`; documentation.json is
read only when someone asks for a text. Loading happens once, at the first use.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from bytemq.config.no_effect import why_no_effect
from bytemq.config.own import DEFAULTS_HERE, OWN_BROKER_SETTINGS, OWN_TOPIC_SETTINGS, OwnSetting
from bytemq.config.values import ConfigType, Value, parse

READ_ONLY = "read-only"
PER_BROKER = "per-broker"
CLUSTER_WIDE = "cluster-wide"


@dataclass(frozen=True, slots=True)
class ConfigDefinition:
    """One config: what Kafka's ConfigKey says, and what else DescribeConfigs shows of it."""

    name: str
    config_type: ConfigType
    default_text: str | None
    default: Value
    importance: str
    validator: Mapping[str, Any] | None
    update_mode: str
    """For broker configs: READ_ONLY, PER_BROKER or CLUSTER_WIDE."""
    synonyms: tuple[tuple[str, int], ...]
    """(broker config, factor) in order of precedence: log.retention.hours times 3600000 gives retention.ms."""
    is_internal: bool
    """Kafka reads it but shows it to nobody."""

    @property
    def is_sensitive(self) -> bool:
        return self.config_type is ConfigType.PASSWORD

    def parse(self, text: str) -> Value:
        """The typed value. Raises InvalidConfig with Kafka's message."""
        return parse(self.name, text, self.config_type, self.validator)


Definitions = Mapping[str, ConfigDefinition]


@cache
def broker_definitions() -> Definitions:
    """Broker configs by name, bytemq's own among them."""
    return _definitions("broker", OWN_BROKER_SETTINGS)


@cache
def topic_definitions() -> Definitions:
    """Topic configs by name, bytemq's own among them."""
    return _definitions("topic", OWN_TOPIC_SETTINGS)


@cache
def group_definitions() -> Definitions:
    return _definitions("group", ())


@cache
def client_metrics_definitions() -> Definitions:
    return _definitions("client_metrics", ())


def documentation(scope: str, name: str) -> str | None:
    """Kafka's text on a config, and ours where it has no effect. `scope` is broker, topic, group or client_metrics."""
    for setting in OWN_BROKER_SETTINGS + OWN_TOPIC_SETTINGS:
        if setting.name == name:
            return setting.documentation
    text: str | None = _documentation()[scope].get(name)
    reason = why_no_effect(name) if scope in ("broker", "topic") else None
    return text if reason is None else f"{text or ''} (In bytemq this changes nothing: {reason}.)".lstrip()


@cache
def _documentation() -> Any:
    return _load("documentation.json")


@cache
def _kafka_definitions() -> Any:
    return _load("definitions.json")


def _load(file: str) -> Any:
    return json.loads(Path(__file__).with_name(file).read_text("utf-8"))


def _definitions(scope: str, own: tuple[OwnSetting, ...]) -> Definitions:
    found = {name: _from_kafka(scope, name, entry) for name, entry in _kafka_definitions()[scope].items()}
    for setting in own:
        found[setting.name] = ConfigDefinition(
            name=setting.name,
            config_type=setting.config_type,
            default_text=setting.default,
            default=parse(setting.name, setting.default, setting.config_type, None),
            importance="MEDIUM",
            validator=setting.validator,
            update_mode=READ_ONLY,
            synonyms=setting.synonyms,
            is_internal=False,
        )
    return found


def _from_kafka(scope: str, name: str, entry: Mapping[str, Any]) -> ConfigDefinition:
    config_type = ConfigType[entry["type"]]
    default_text = entry["default"]
    if scope == "broker":
        default_text = DEFAULTS_HERE.get(name, default_text)
    return ConfigDefinition(
        name=name,
        config_type=config_type,
        default_text=default_text,
        default=None if default_text is None else parse(name, default_text, config_type, None),
        importance=entry["importance"],
        validator=entry.get("validator"),
        update_mode=entry.get("update_mode", READ_ONLY),
        synonyms=tuple((synonym, factor) for synonym, factor in entry.get("synonyms", ())),
        is_internal=entry.get("internal", False),
    )
