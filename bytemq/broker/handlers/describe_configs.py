"""DescribeConfigs v1-4: the configs of topics, brokers, loggers, client metrics subscriptions and groups.

v1 brought sources and synonyms, v3 types and documentation. An empty list of keys asks for all, as does null. A
resource that is not there is an error of its own result; brokers other than this one are refused, since a client
asks each broker for itself. Sensitive values are never sent.

A few bytes ask for some forty configs, with synonyms and documentation a hundred kilobytes. So each resource is
described once, however often it is asked for, and of many a few at a time, between which others are served.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from bytemq.broker.config_resources import (
    ConfigSource,
    ResourceType,
    broker_id_of,
    cluster_configs,
    level_name,
    loggers,
)
from bytemq.broker.context import Broker, RequestContext
from bytemq.broker.sliced_response import encode_in_turns
from bytemq.config.client_metrics import check_client_metrics
from bytemq.config.definitions import (
    READ_ONLY,
    ConfigDefinition,
    broker_definitions,
    client_metrics_definitions,
    documentation,
    group_definitions,
    topic_definitions,
)
from bytemq.config.group import GroupConfig
from bytemq.config.values import InvalidConfig, Value, to_text
from bytemq.metadata.topic_names import check_topic_name
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.protocol.messages.describe_configs import (
    DescribeConfigsRequest,
    DescribeConfigsResource,
    DescribeConfigsResourceResult,
    DescribeConfigsResponse,
    DescribeConfigsResult,
    DescribeConfigsSynonym,
)

Synonyms = list[DescribeConfigsSynonym]
SLICE_RESOURCES = 8
"""Described at a time: a few milliseconds."""


async def handle(broker: Broker, context: RequestContext, request: DescribeConfigsRequest) -> bytes:
    """The encoded response."""
    describe = _Describer(broker, request)
    results = (_result(describe, resource) for resource in _each_once(request.resources))
    return await encode_in_turns(broker.turns, DescribeConfigsResponse, context.api_version, results, SLICE_RESOURCES)


def _each_once(resources: Iterable[DescribeConfigsResource]) -> Iterable[DescribeConfigsResource]:
    """One for each resource, with all keys that are asked for; of those that ask for all, no keys."""
    found: dict[tuple[int, str], DescribeConfigsResource] = {}
    for resource in resources:
        known = found.setdefault((resource.resource_type, resource.resource_name), resource)
        if known is not resource and known.configuration_keys:
            if resource.configuration_keys:
                known.configuration_keys.extend(resource.configuration_keys)
            else:
                known.configuration_keys = None
    return found.values()


def topic_entries(broker: Broker, overrides: Mapping[str, str]) -> list[DescribeConfigsResourceResult]:
    """The configs that a topic with these overrides has."""
    return list(_Describer(broker, DescribeConfigsRequest()).topic_entries(overrides))


def _result(describe: _Describer, resource: DescribeConfigsResource) -> DescribeConfigsResult:
    result = DescribeConfigsResult(resource_type=resource.resource_type, resource_name=resource.resource_name)
    try:
        wanted = set(resource.configuration_keys or ())
        entries = describe.resource(resource.resource_type, resource.resource_name)
        result.configs = [entry for entry in entries if not wanted or entry.name in wanted]
    except KafkaError as error:
        result.error_code, result.error_message = error.code, error.message
    return result


class _Describer:
    """Builds the entries of one request's resources."""

    def __init__(self, broker: Broker, request: DescribeConfigsRequest) -> None:
        self._broker = broker
        self._config = broker.config
        self._with_synonyms = request.include_synonyms
        self._with_documentation = request.include_documentation
        self._cluster_configs = cluster_configs(broker)
        self._broker_configs = broker.image.broker_configs(broker.node_id)

    def resource(self, resource_type: int, name: str) -> Iterable[DescribeConfigsResourceResult]:
        """Raises KafkaError with Kafka's code and message for a resource that cannot be described."""
        if resource_type == ResourceType.TOPIC:
            return self._topic(name)
        if resource_type == ResourceType.BROKER:
            return self._broker_entries(name)
        if resource_type == ResourceType.BROKER_LOGGER:
            return self._loggers(name)
        if resource_type == ResourceType.CLIENT_METRICS:
            return self._client_metrics(name)
        if resource_type == ResourceType.GROUP:
            return self._group(name)
        raise KafkaError(ErrorCode.INVALID_REQUEST)

    def _topic(self, name: str) -> Iterator[DescribeConfigsResourceResult]:
        check_topic_name(name)
        topic = self._broker.image.topics.get(name)
        if topic is None:
            raise KafkaError(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, "")
        return self.topic_entries(topic.configs)

    def topic_entries(self, overrides: Mapping[str, str]) -> Iterator[DescribeConfigsResourceResult]:
        config = self._config.topic_config(overrides)
        for name, definition in topic_definitions().items():
            if definition.is_internal:
                continue
            synonyms = self._broker_synonyms(definition.synonyms[0][0]) if definition.synonyms else []
            if name in overrides:
                own = DescribeConfigsSynonym(name=name, value=overrides[name], source=ConfigSource.TOPIC)
                synonyms = [own, *synonyms]
            yield self._entry("topic", definition, config.value(name), synonyms)

    def _broker_entries(self, name: str) -> Iterable[DescribeConfigsResourceResult]:
        if name:
            expected = f"Unexpected broker id, expected {self._broker.node_id} or empty string, but"
            broker_id_of(self._broker, name, called="Broker id", expected=expected)
            return [*self._own_broker_entries(), *self._unknown_entries(self._config.unknown)]
        known = [key for key in self._cluster_configs if key in broker_definitions()]
        unknown = [key for key in self._cluster_configs if key not in broker_definitions()]
        return [*map(self._cluster_entry, known), *self._unknown_entries(unknown)]

    def _own_broker_entries(self) -> Iterator[DescribeConfigsResourceResult]:
        for name, definition in broker_definitions().items():
            if not definition.is_internal:
                synonyms = self._broker_synonyms(name)
                yield self._entry("broker", definition, self._config.value(name), synonyms)

    def _cluster_entry(self, name: str) -> DescribeConfigsResourceResult:
        definition = broker_definitions()[name]
        text = self._cluster_configs[name]
        synonyms = [self._synonym(definition, text, ConfigSource.DYNAMIC_DEFAULT_BROKER)]
        return self._entry("broker", definition, definition.parse(text), synonyms)

    def _unknown_entries(self, names: Iterable[str]) -> Iterator[DescribeConfigsResourceResult]:
        """Names that only a plugin could know: they may be secrets, so nothing of them is shown."""
        for name in names:
            source = ConfigSource.STATIC_BROKER if name in self._config.static else ConfigSource.DYNAMIC_DEFAULT_BROKER
            yield DescribeConfigsResourceResult(
                name=name,
                value=None,
                read_only=True,
                config_source=source,
                is_sensitive=True,
                synonyms=[DescribeConfigsSynonym(name=name, value=None, source=source)] if self._with_synonyms else [],
            )

    def _loggers(self, name: str) -> Iterator[DescribeConfigsResourceResult]:
        if not name:
            raise KafkaError(ErrorCode.INVALID_REQUEST, "Broker id must not be empty")
        expected = f"Unexpected broker id, expected {self._broker.node_id} but"
        broker_id_of(self._broker, name, called="Broker id", expected=expected)
        return (
            DescribeConfigsResourceResult(
                name=logger_name, value=level_name(logger), config_source=ConfigSource.BROKER_LOGGER
            )
            for logger_name, logger in sorted(loggers().items())
        )

    def _client_metrics(self, name: str) -> Iterator[DescribeConfigsResourceResult]:
        if not name:
            raise KafkaError(ErrorCode.INVALID_REQUEST, "Client metrics subscription name must not be empty")
        overrides = self._broker.image.configs.get(("client-metrics", name), {})
        try:
            values = check_client_metrics(overrides)
        except InvalidConfig as error:
            raise KafkaError(ErrorCode.INVALID_CONFIG, str(error)) from error
        for key, definition in client_metrics_definitions().items():
            synonyms: Synonyms = []
            if key in overrides:
                synonyms = [self._synonym(definition, overrides[key], ConfigSource.CLIENT_METRICS)]
            yield self._entry("client_metrics", definition, values.get(key, definition.default), synonyms)

    def _group(self, name: str) -> Iterator[DescribeConfigsResourceResult]:
        if not name:
            raise KafkaError(ErrorCode.INVALID_REQUEST, "Group name must not be empty")
        overrides = self._broker.image.group_configs(name)
        config = GroupConfig(self._config, overrides)
        for key, definition in group_definitions().items():
            if definition.is_internal:
                continue
            synonyms = []
            if key in overrides:
                synonyms.append(self._synonym(definition, overrides[key], ConfigSource.GROUP))
            synonyms.extend(self._group_synonyms(definition))
            yield self._entry("group", definition, config.value(key), synonyms)

    def _group_synonyms(self, definition: ConfigDefinition) -> Synonyms:
        if definition.synonyms:
            return self._broker_synonyms(definition.synonyms[0][0])
        return [self._synonym(definition, definition.default_text, ConfigSource.DEFAULT)]

    def _broker_synonyms(self, name: str) -> Synonyms:
        """Every place that says something of a broker config, in order of precedence, from where the config itself
        does.
        """
        found: Synonyms = []
        definition = broker_definitions()[name]
        names = [synonym for synonym, _ in definition.synonyms] or [name]
        for source, configs in (
            (ConfigSource.DYNAMIC_BROKER, self._broker_configs),
            (ConfigSource.DYNAMIC_DEFAULT_BROKER, self._cluster_configs),
            (ConfigSource.STATIC_BROKER, self._config.static),
        ):
            found += [self._synonym(broker_definitions()[n], configs[n], source) for n in names if n in configs]
        defaults = [(other, broker_definitions()[other].default_text) for other in names]
        found += [
            self._synonym(broker_definitions()[other], text, ConfigSource.DEFAULT)
            for other, text in defaults
            if text is not None
        ]
        while found and found[0].name != name:
            del found[0]
        return found

    def _synonym(self, definition: ConfigDefinition, text: str | None, source: ConfigSource) -> DescribeConfigsSynonym:
        value = None if definition.is_sensitive else text
        return DescribeConfigsSynonym(name=definition.name, value=value, source=source)

    def _entry(
        self, scope: str, definition: ConfigDefinition, value: Value, synonyms: Synonyms
    ) -> DescribeConfigsResourceResult:
        return DescribeConfigsResourceResult(
            name=definition.name,
            value=None if definition.is_sensitive else to_text(value),
            read_only=scope == "broker" and definition.update_mode == READ_ONLY,
            config_source=synonyms[0].source if synonyms else ConfigSource.DEFAULT,
            is_sensitive=definition.is_sensitive,
            synonyms=synonyms if self._with_synonyms else [],
            config_type=definition.config_type,
            documentation=documentation(scope, definition.name) if self._with_documentation else None,
        )
