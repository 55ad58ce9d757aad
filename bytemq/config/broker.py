"""The configs of one broker as frozen, typed data, with where each value comes from.

Owns the precedence (dynamic of this broker, dynamic of all, static, default), Kafka's synonyms, and the topic
defaults that follow from the broker's configs. It reads no file and no environment: `sources` does.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from types import MappingProxyType
from typing import NoReturn

from bytemq.config.broker_settings import BrokerSettings
from bytemq.config.definitions import ConfigDefinition, broker_definitions, topic_definitions
from bytemq.config.listeners import Endpoint, parse_listeners
from bytemq.config.own import OwnSettings
from bytemq.config.topic import TopicConfig
from bytemq.config.values import InvalidConfig, Value

_NOTHING: Mapping[str, str] = MappingProxyType({})
_CACHED_TOPIC_CONFIGS = 1024


class BrokerConfig(BrokerSettings, OwnSettings):
    """Every broker config, Kafka's and ours, as an attribute (`config.message_max_bytes`); frozen.

    `static` is what file, environment and flags say; `dynamic_default` and `dynamic` are what clients altered for
    all brokers and for this one. Names that no config has are kept in `unknown` (plugins of Kafka's have such) and
    mean nothing here.
    """

    static: Mapping[str, str]
    dynamic_default: Mapping[str, str]
    dynamic: Mapping[str, str]
    unknown: tuple[str, ...]

    def __init__(
        self,
        static: Mapping[str, str] = _NOTHING,
        dynamic_default: Mapping[str, str] = _NOTHING,
        dynamic: Mapping[str, str] = _NOTHING,
    ) -> None:
        """Raises InvalidConfig for a value that a config does not take."""
        definitions = broker_definitions()
        effective = {**static, **dynamic_default, **dynamic}
        attributes: dict[str, object] = {}
        for name, definition in definitions.items():
            text = effective.get(name)
            attributes[name.replace(".", "_")] = definition.default if text is None else definition.parse(text)
        if "node.id" not in effective and effective.get("broker.id", "-1") != "-1":
            attributes["node_id"] = attributes["broker_id"]
        attributes["static"] = dict(static)
        attributes["dynamic_default"] = dict(dynamic_default)
        attributes["dynamic"] = dict(dynamic)
        attributes["unknown"] = tuple(name for name in effective if name not in definitions)
        self.__dict__.update(attributes)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"BrokerConfig is frozen: cannot set {name}")

    def value(self, name: str) -> Value:
        """The value of a config under Kafka's name."""
        found: Value = self.__dict__[name.replace(".", "_")]
        return found

    def with_dynamic(self, dynamic_default: Mapping[str, str], dynamic: Mapping[str, str]) -> BrokerConfig:
        """The same static configs under other dynamic ones. Raises InvalidConfig."""
        return BrokerConfig(self.static, dynamic_default, dynamic)

    def with_node_id(self, node_id: int) -> BrokerConfig:
        """The same configs for a broker that was given this id."""
        static = self.without_node_id().static
        return BrokerConfig({**static, "node.id": str(node_id)}, self.dynamic_default, self.dynamic)

    def without_node_id(self) -> BrokerConfig:
        """The same configs for a broker that has no id yet, whatever they say."""
        static = {name: value for name, value in self.static.items() if name not in ("node.id", "broker.id")}
        return BrokerConfig(static, self.dynamic_default, self.dynamic)

    @cached_property
    def effective(self) -> Mapping[str, str]:
        """What is set anywhere, as text: defaults are not in it."""
        return {**self.static, **self.dynamic_default, **self.dynamic}

    @property
    def data_dir(self) -> str:
        """The node's folder: bytemq.data.dir, or else Kafka's log.dirs or log.dir where the file sets them."""
        if "bytemq.data.dir" in self.static:
            return self.bytemq_data_dir
        if "log.dirs" in self.static and self.log_dirs:
            return self.log_dirs[0]
        if "log.dir" in self.static:
            return self.log_dir[0]
        return self.bytemq_data_dir

    @cached_property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """Where the broker listens: `listeners` without the controller's. Raises InvalidConfig."""
        found = parse_listeners(self.listeners)
        controllers = {name.upper() for name in self.controller_listener_names}
        brokers = tuple(endpoint for endpoint in found if endpoint.listener not in controllers)
        for endpoint in brokers:
            protocol = self._security_protocol(endpoint.listener)
            if protocol != "PLAINTEXT":
                raise InvalidConfig(
                    f"Listener {endpoint.listener} asks for {protocol}; only PLAINTEXT is served so far"
                )
        if not brokers:
            raise InvalidConfig("There is no broker listener in listeners")
        return brokers

    @cached_property
    def advertised_endpoints(self) -> tuple[Endpoint, ...]:
        """What clients are told, one for each of `endpoints`; host or port may still be open (any address, port 0).

        Raises InvalidConfig, also for the name of a listener that does not exist.
        """
        told = parse_listeners(self.advertised_listeners or (), setting="advertised.listeners")
        by_name = {endpoint.listener: endpoint for endpoint in told}
        names = {endpoint.listener for endpoint in self.endpoints}
        for name in by_name:
            if name not in names and name not in {other.upper() for other in self.controller_listener_names}:
                shown = ",".join(sorted(names))
                raise InvalidConfig(
                    "advertised.listeners listener names must be equal to or a subset of the ones defined in listeners."
                    f" Found {name}. The valid options based on the current configuration are {shown}"
                )
        return tuple(by_name.get(endpoint.listener, endpoint) for endpoint in self.endpoints)

    def _security_protocol(self, listener: str) -> str:
        for entry in self.listener_security_protocol_map.split(","):
            name, _, protocol = entry.strip().partition(":")
            if name.upper() == listener:
                return protocol.upper()
        return "PLAINTEXT"

    @cached_property
    def topic_defaults(self) -> Mapping[str, Value]:
        """The value of every topic config for a topic that says nothing, from the broker's configs and their
        synonyms.
        """
        return {name: self._topic_default(definition) for name, definition in topic_definitions().items()}

    def _topic_default(self, definition: ConfigDefinition) -> Value:
        for synonym, factor in definition.synonyms:
            if synonym in self.effective or len(definition.synonyms) == 1:
                value = self.value(synonym)
                if value is None:
                    continue
                # -1 means "no limit" in every unit.
                return value * factor if isinstance(value, int) and factor != 1 and value >= 0 else value
        return definition.default

    def topic_config(self, overrides: Mapping[str, str] = _NOTHING) -> TopicConfig:
        """The configs of a topic that sets `overrides`. Equal overrides share one object. Raises InvalidConfig."""
        key = tuple(sorted(overrides.items()))
        found = self._topic_configs.get(key)
        if found is None:
            if len(self._topic_configs) >= _CACHED_TOPIC_CONFIGS:
                self._topic_configs.clear()
            found = self._topic_configs[key] = TopicConfig(self.topic_defaults, overrides)
        return found

    @cached_property
    def _topic_configs(self) -> dict[tuple[tuple[str, str], ...], TopicConfig]:
        return {}
