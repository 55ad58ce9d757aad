"""Typed views of configs: precedence, synonyms, topic and group rules."""

from __future__ import annotations

import typing

import pytest

from bytemq.config import BrokerConfig, InvalidConfig, TopicConfig
from bytemq.config.broker_rules import check_broker_config
from bytemq.config.broker_settings import BrokerSettings
from bytemq.config.client_metrics import UnknownClientMetricsConfig, check_client_metrics
from bytemq.config.definitions import broker_definitions, documentation, group_definitions, topic_definitions
from bytemq.config.group import GroupConfig, check_group_config, default_of
from bytemq.config.group_settings import GroupSettings
from bytemq.config.own import OWN_BROKER_SETTINGS, OWN_TOPIC_SETTINGS, OwnSettings, OwnTopicSettings
from bytemq.config.topic import check_topic_config
from bytemq.config.topic_settings import TopicSettings

PYTHON_TYPES = {bool: "BOOLEAN", int: "INT SHORT LONG", float: "DOUBLE", str: "STRING CLASS PASSWORD"}


def test_broker_config__without_anything_has_kafkas_defaults() -> None:
    config = BrokerConfig()
    assert (config.node_id, config.num_partitions, config.auto_create_topics_enable) == (0, 1, True)
    assert (config.message_max_bytes, config.log_retention_hours, config.offsets_topic_num_partitions) == (
        1048588,
        168,
        50,
    )
    check_broker_config(config)


def test_broker_config__the_nearer_source_wins() -> None:
    config = BrokerConfig({"log.retention.ms": "1", "log.segment.bytes": "2000000"}, {"log.retention.ms": "2"})
    assert (config.log_retention_ms, config.log_segment_bytes) == (2, 2000000)
    nearer = config.with_dynamic({"log.retention.ms": "2"}, {"log.retention.ms": "3"})
    assert nearer.log_retention_ms == 3
    assert nearer.with_dynamic({}, {}).log_retention_ms == 1


def test_broker_config__is_frozen_and_keeps_unknown_names() -> None:
    config = BrokerConfig({"some.plugin.secret": "x"})
    assert config.unknown == ("some.plugin.secret",)
    with pytest.raises(AttributeError):
        config.num_partitions = 5


def test_broker_config__broker_id_is_the_old_name_of_node_id() -> None:
    assert BrokerConfig({"broker.id": "7"}).node_id == 7
    with pytest.raises(InvalidConfig, match="must be set to the same value"):
        check_broker_config(BrokerConfig({"broker.id": "7", "node.id": "8"}))


@pytest.mark.parametrize(
    ("static", "folder"),
    [
        ({}, "data"),
        ({"log.dir": "/a,/b"}, "/a"),
        ({"log.dir": "/a", "log.dirs": "/c,/d"}, "/c"),
        ({"log.dirs": "/c", "bytemq.data.dir": "/e"}, "/e"),
    ],
)
def test_data_dir__ours_before_kafkas(static: dict[str, str], folder: str) -> None:
    assert BrokerConfig(static).data_dir == folder


@pytest.mark.parametrize(
    ("static", "retention_ms"),
    [
        ({}, 604_800_000),
        ({"log.retention.hours": "1"}, 3_600_000),
        ({"log.retention.hours": "1", "log.retention.minutes": "2"}, 120_000),
        ({"log.retention.hours": "1", "log.retention.minutes": "2", "log.retention.ms": "3"}, 3),
        ({"log.retention.hours": "-1"}, -1),
    ],
)
def test_topic_defaults__follow_the_brokers_synonyms(static: dict[str, str], retention_ms: int) -> None:
    assert BrokerConfig(static).topic_config().retention_ms == retention_ms


def test_topic_defaults__of_an_unset_broker_are_kafkas_topic_defaults() -> None:
    for name, value in BrokerConfig().topic_defaults.items():
        assert value == topic_definitions()[name].default, name


def test_topic_config__overrides_win_and_equal_ones_are_shared() -> None:
    config = BrokerConfig({"log.retention.ms": "5"})
    topic = config.topic_config({"cleanup.policy": "compact,delete", "compression.type": "zstd"})
    assert (topic.retention_ms, topic.is_compacted, topic.deletes_old_data, topic.target_compression) == (
        5,
        True,
        True,
        4,
    )
    assert config.topic_config({"compression.type": "zstd", "cleanup.policy": "compact,delete"}) is topic
    assert config.topic_config().target_compression is None
    assert topic != config.topic_config() == TopicConfig(config.topic_defaults, {})


def test_topic_config__refuses_in_kafkas_words() -> None:
    with pytest.raises(InvalidConfig, match="Unknown topic config name: nope"):
        BrokerConfig().topic_config({"nope": "1"})
    with pytest.raises(
        InvalidConfig, match=r"Invalid value x for configuration retention.ms: Not a number of type LONG"
    ):
        BrokerConfig().topic_config({"retention.ms": "x"})
    lags = {"min.compaction.lag.ms": "100", "max.compaction.lag.ms": "10"}
    with pytest.raises(InvalidConfig, match=r"min.compaction.lag.ms \(100\) > max.compaction.lag.ms \(10\)"):
        check_topic_config(BrokerConfig().topic_config(lags))
    with pytest.raises(InvalidConfig, match="Tiered Storage functionality is disabled"):
        check_topic_config(BrokerConfig().topic_config({"remote.storage.enable": "true"}))


@pytest.mark.parametrize(
    ("static", "message"),
    [
        ({"log.retention.ms": "0"}, "requirement failed: log.retention.ms must be unlimited"),
        ({"log.roll.ms": "0"}, "log.roll.ms must be greater than or equal to 1"),
        ({"log.cleaner.threads": "1000"}, "at least 1MB per cleaner thread"),
        ({"queued.max.request.bytes": "10"}, "must be larger or equal to socket.request.max.bytes"),
        ({"listeners": "A://h:1,A://h:2"}, "different name"),
        ({"advertised.listeners": "OTHER://h:1"}, "must be equal to or a subset"),
        ({"bytemq.metadata": "etcd://h:2379/c"}, "name the store by --storage"),
    ],
)
def test_check_broker_config__refuses_what_cannot_run(static: dict[str, str], message: str) -> None:
    with pytest.raises(InvalidConfig, match=message):
        check_broker_config(BrokerConfig(static))


def test_group_config__defaults_and_bounds_are_the_brokers() -> None:
    broker = BrokerConfig({"group.consumer.session.timeout.ms": "50000"})
    assert GroupConfig(broker, {}).consumer_session_timeout_ms == 50000
    assert default_of(broker, "streams.assignor.name") == "sticky"
    check_group_config(GroupConfig(broker, {"consumer.session.timeout.ms": "45000"}), broker)
    for name, value, message in (
        ("consumer.session.timeout.ms", "1", "must be in the range 45000 to 60000 inclusive."),
        ("streams.num.standby.replicas", "3", "must be less than or equal to 2"),
        ("streams.task.offset.interval.ms", "5", "must be greater than or equal to 15000"),
        ("errors.deadletterqueue.topic.name", "__x", "DLQ topic name must not start with"),
    ):
        with pytest.raises(InvalidConfig, match=message):
            check_group_config(GroupConfig(broker, {name: value}), broker)
    with pytest.raises(InvalidConfig, match="Unknown group config name: nope"):
        GroupConfig(broker, {"nope": "1"})


def test_client_metrics__names_intervals_and_patterns_are_checked() -> None:
    assert check_client_metrics({"interval.ms": "100", "match": "client_id=a.*"})["match"] == ("client_id=a.*",)
    for configs in ({"nope": "1"}, {"interval.ms": "99"}):
        with pytest.raises(UnknownClientMetricsConfig):
            check_client_metrics(configs)
    for pattern in ("zzz", "foo=bar", "client_id=("):
        with pytest.raises(InvalidConfig, match="Illegal client matching pattern"):
            check_client_metrics({"match": pattern})


def test_definitions__every_default_meets_its_own_rule() -> None:
    for definitions in (broker_definitions(), topic_definitions(), group_definitions()):
        for name, definition in definitions.items():
            if definition.default_text is not None and not name.startswith("controller.quorum"):
                assert definition.parse(definition.default_text) == definition.default, name


def test_definitions__are_all_explained() -> None:
    for setting in OWN_BROKER_SETTINGS + OWN_TOPIC_SETTINGS:
        assert documentation("broker", setting.name)
    undocumented = [name for name in topic_definitions() if not documentation("topic", name)]
    assert undocumented == ["internal.segment.bytes"] or not undocumented


@pytest.mark.parametrize(
    ("annotated", "definitions"),
    [
        ((BrokerSettings, OwnSettings), broker_definitions()),
        ((TopicSettings, OwnTopicSettings), topic_definitions()),
        ((GroupSettings,), group_definitions()),
    ],
)
def test_typed_settings__say_of_every_config_what_the_definition_says(
    annotated: tuple[type, ...], definitions: dict[str, typing.Any]
) -> None:
    hints = {name: hint for settings in annotated for name, hint in typing.get_type_hints(settings).items()}
    assert sorted(hints) == sorted(name.replace(".", "_") for name in definitions)
    for name, definition in definitions.items():
        hint = hints[name.replace(".", "_")]
        optional = type(None) in typing.get_args(hint)
        assert optional == (definition.default_text is None), name
        plain = next((kind for kind in typing.get_args(hint) if kind is not type(None)), hint) if optional else hint
        expected = "LIST" if typing.get_origin(plain) is tuple else PYTHON_TYPES[plain]
        assert definition.config_type.name in expected.split(), name
