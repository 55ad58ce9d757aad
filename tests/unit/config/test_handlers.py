# ruff: noqa: E501 -- Kafka's answers are tables: one a line
"""DescribeConfigs and its relatives over a cluster image in memory, as Apache Kafka 4.4.0 was seen to answer."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from bytemq.broker.handlers import (
    alter_configs,
    describe_configs,
    incremental_alter_configs,
    list_config_resources,
)
from bytemq.config import BrokerConfig, InvalidConfig
from bytemq.config.topic import check_topic_config
from bytemq.protocol.codec import decode
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.protocol.messages import alter_configs as replace_messages
from bytemq.protocol.messages import describe_configs as describe_messages
from bytemq.protocol.messages import incremental_alter_configs as alter_messages
from bytemq.protocol.messages.list_config_resources import ListConfigResourcesRequest

TOPIC, BROKER, LOGGER, METRICS, GROUP = 2, 4, 8, 16, 32
SET, DELETE, APPEND, SUBTRACT = 0, 1, 2, 3
Change = Callable[[Mapping[str, str]], Mapping[str, str]]


@dataclass
class FakeTopic:
    configs: Mapping[str, str]


@dataclass
class FakeImage:
    topics: dict[str, FakeTopic] = field(default_factory=dict)
    configs: dict[tuple[str, str], Mapping[str, str]] = field(default_factory=dict)
    brokers: dict[int, object] = field(default_factory=lambda: {1: object()})

    @property
    def broker_default_configs(self) -> Mapping[str, str]:
        return self.configs.get(("broker", ""), {})

    def broker_configs(self, broker_id: int) -> Mapping[str, str]:
        return self.configs.get(("broker", str(broker_id)), {})

    def group_configs(self, group_id: str) -> Mapping[str, str]:
        return self.configs.get(("group", group_id), {})

    def config_names(self, kind: str) -> list[str]:
        return sorted(name for of, name in self.configs if of == kind)


class FakeTurns:
    def __init__(self) -> None:
        self.given = 0

    async def next(self) -> None:
        self.given += 1


class FakeBroker:
    """Stands for the broker and its TopicAdmin: changes show in the image at once."""

    def __init__(self) -> None:
        self.turns = FakeTurns()
        self.node_id = 1
        self.static = {"num.partitions": "3"}
        self.image = FakeImage({"t": FakeTopic({"retention.ms": "1000"})})
        self.topics = self

    @property
    def config(self) -> BrokerConfig:
        return BrokerConfig(self.static, self.image.broker_default_configs, self.image.broker_configs(1))

    async def alter_topic_configs(self, name: str, change: Change, *, validate_only: bool) -> None:
        configs = change(self.image.topics[name].configs)
        try:
            check_topic_config(self.config.topic_config(configs))
        except InvalidConfig as error:
            raise KafkaError(ErrorCode.INVALID_CONFIG, str(error)) from error
        if not validate_only:
            self.image.topics[name] = FakeTopic(configs)

    async def alter_configs(self, kind: str, name: str, change: Change, *, validate_only: bool) -> None:
        configs = change(self.image.configs.get((kind, name), {}))
        if not validate_only:
            self.image.configs[kind, name] = configs


class FakeContext:
    api_version = 1


@pytest.fixture
def broker() -> FakeBroker:
    return FakeBroker()


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    found = logging.getLogger("bytemq.broker.test_part")
    yield found
    found.setLevel(logging.NOTSET)


def describe(broker: Any, resource_type: int, name: str, *keys: str, **options: bool) -> Any:
    resource = describe_messages.DescribeConfigsResource(resource_type, name, list(keys) or None)
    options.setdefault("include_synonyms", True)
    request = describe_messages.DescribeConfigsRequest([resource], **options)
    (result,) = described(broker, request)
    return result


def described(broker: Any, request: describe_messages.DescribeConfigsRequest) -> Any:
    context = FakeContext()
    context.api_version = 4
    work = describe_configs.handle(broker, context, request)  # type: ignore[arg-type]
    try:
        while True:
            work.send(None)  # nothing is waited for but turns, which `FakeBroker` gives at once
    except StopIteration as done:
        return decode(describe_messages.DescribeConfigsResponse, 4, memoryview(done.value)).results


def test_describe_configs__each_resource_once_and_few_in_a_turn(broker: FakeBroker) -> None:
    """Eleven bytes ask for a hundred kilobytes: repeated in a request they would keep everybody else waiting."""
    resource = describe_messages.DescribeConfigsResource
    asked = [resource(TOPIC, "t", ["retention.ms"]) for _ in range(10_000)] + [resource(TOPIC, "t", ["segment.ms"])]
    (result,) = described(broker, describe_messages.DescribeConfigsRequest(asked))
    assert {found.name for found in result.configs} == {"retention.ms", "segment.ms"}
    assert broker.turns.given == 0
    (result,) = described(broker, describe_messages.DescribeConfigsRequest([*asked, resource(TOPIC, "t", None)]))
    assert len(result.configs) > 20, "all of them"
    broker.image.topics.update({f"t{number}": FakeTopic({}) for number in range(100)})
    names = [*broker.image.topics, "missing"]
    results = described(broker, describe_messages.DescribeConfigsRequest([resource(TOPIC, name) for name in names]))
    assert [found.resource_name for found in results] == names
    assert [found.error_code for found in results] == [0] * 101 + [ErrorCode.UNKNOWN_TOPIC_OR_PARTITION]
    assert broker.turns.given == 101 // describe_configs.SLICE_RESOURCES


def entry(broker: Any, resource_type: int, name: str, key: str) -> tuple[Any, ...]:
    (found,) = describe(broker, resource_type, name, key).configs
    return found.value, found.config_source, [(s.name, s.value, s.source) for s in found.synonyms]


async def alter(
    broker: Any, resource_type: int, name: str, *changes: tuple[str, int, str | None], **options: bool
) -> Any:
    configs = [alter_messages.AlterableConfig(*change) for change in changes]
    resource = alter_messages.AlterConfigsResource(resource_type, name, configs)
    request = alter_messages.IncrementalAlterConfigsRequest([resource], **options)
    (response,) = (await incremental_alter_configs.handle(broker, Any, request)).responses  # type: ignore[arg-type]
    return response.error_code, response.error_message


async def replace(broker: Any, resource_type: int, name: str, *configs: tuple[str, str | None]) -> Any:
    alterable = [replace_messages.AlterableConfig(*config) for config in configs]
    resource = replace_messages.AlterConfigsResource(resource_type, name, alterable)
    request = replace_messages.AlterConfigsRequest([resource])
    (response,) = (await alter_configs.handle(broker, Any, request)).responses  # type: ignore[arg-type]
    return response.error_code, response.error_message


def test_describe__topic_shows_where_each_value_comes_from(broker: FakeBroker) -> None:
    assert entry(broker, TOPIC, "t", "retention.ms") == ("1000", 1, [("retention.ms", "1000", 1)])
    assert entry(broker, TOPIC, "t", "cleanup.policy") == ("delete", 5, [("log.cleanup.policy", "delete", 5)])
    assert entry(broker, TOPIC, "t", "segment.ms") == ("604800000", 5, [])
    min_isr = [("min.insync.replicas", "1", 3), ("min.insync.replicas", "1", 5)]
    assert entry(broker, TOPIC, "t", "min.insync.replicas") == ("1", 3, min_isr)


async def test_describe__topic_follows_dynamic_broker_configs(broker: FakeBroker) -> None:
    await alter(broker, BROKER, "", ("log.retention.ms", SET, "55"))
    await alter(broker, BROKER, "1", ("log.retention.ms", SET, "66"))
    await alter(broker, TOPIC, "t", ("retention.ms", DELETE, None))
    synonyms = [("log.retention.ms", "66", 2), ("log.retention.ms", "55", 3), ("log.retention.hours", "168", 5)]
    assert entry(broker, TOPIC, "t", "retention.ms") == ("66", 2, synonyms)
    assert entry(broker, BROKER, "1", "log.retention.ms") == ("66", 2, synonyms)
    assert entry(broker, BROKER, "1", "log.retention.hours") == ("168", 5, [("log.retention.hours", "168", 5)])


def test_describe__broker_tells_static_from_default_and_hides_internals(broker: FakeBroker) -> None:
    synonyms = [("num.partitions", "3", 4), ("num.partitions", "1", 5)]
    assert entry(broker, BROKER, "1", "num.partitions") == ("3", 4, synonyms)
    entries = {found.name: found for found in describe(broker, BROKER, "1").configs}
    assert "unstable.api.versions.enable" not in entries
    assert entries["num.partitions"].read_only and not entries["log.retention.ms"].read_only
    assert (entries["ssl.key.password"].is_sensitive, entries["ssl.key.password"].value) == (True, None)


def test_describe__secrets_never_leave(broker: FakeBroker) -> None:
    broker.static.update({"ssl.keystore.password": "hush", "plugin.secret": "hush"})
    result = describe(broker, BROKER, "1", include_documentation=True)
    assert "hush" not in repr(result)
    assert {found.name for found in result.configs} >= {"ssl.keystore.password", "plugin.secret"}


def test_describe__types_documentation_and_chosen_keys(broker: FakeBroker) -> None:
    (found,) = describe(broker, TOPIC, "t", "retention.ms", "nope", include_documentation=True).configs
    assert (found.config_type, found.documentation[:26]) == (5, "This configuration control")
    (plain,) = describe(broker, TOPIC, "t", "retention.ms", include_synonyms=False).configs
    assert (plain.synonyms, plain.documentation) == ([], None)


@pytest.mark.parametrize(
    ("resource_type", "name", "code", "message"),
    [
        (TOPIC, "none", 3, ""),
        (TOPIC, "", 17, "Topic name is invalid: the empty string is not allowed"),
        (BROKER, "77", 42, "Unexpected broker id, expected 1 or empty string, but received 77"),
        (BROKER, "abc", 42, "Broker id must be an integer, but it is: abc"),
        (BROKER, "9" * 5000, 42, None),
        (LOGGER, "", 42, "Broker id must not be empty"),
        (LOGGER, "77", 42, "Unexpected broker id, expected 1 but received 77"),
        (METRICS, "", 42, "Client metrics subscription name must not be empty"),
        (GROUP, "", 42, "Group name must not be empty"),
        (99, "x", 42, None),
    ],
)
def test_describe__refuses_in_kafkas_words(
    broker: FakeBroker, resource_type: int, name: str, code: int, message: str | None
) -> None:
    result = describe(broker, resource_type, name)
    assert result.error_code == code and not result.configs
    assert message is None or result.error_message == message


@pytest.mark.parametrize("operation", [APPEND, SUBTRACT])
async def test_alter__of_long_lists_takes_work_in_proportion_to_their_length(operation: int) -> None:
    """A list grows to a megabyte by requests of 32 KB; one more kept every client waiting for half a minute."""
    broker = FakeBroker()
    key = "leader.replication.throttled.replicas"
    broker.image.topics["t"] = FakeTopic({key: ",".join(f"1:{number}" for number in range(100_000))})
    began = time.process_time()
    others = ",".join(f"2:{number}" for number in range(100_000))
    assert await alter(broker, TOPIC, "t", (key, operation, others)) == (0, None)
    assert time.process_time() - began < 20


async def test_alter__list_operations_start_from_the_default(broker: FakeBroker) -> None:
    assert await alter(broker, TOPIC, "t", ("cleanup.policy", APPEND, "compact")) == (0, None)
    assert broker.image.topics["t"].configs["cleanup.policy"] == "delete,compact"
    await alter(broker, TOPIC, "t", ("cleanup.policy", APPEND, "compact"))
    await alter(broker, TOPIC, "t", ("cleanup.policy", SUBTRACT, "delete"))
    assert broker.image.topics["t"].configs["cleanup.policy"] == "compact"
    await alter(broker, TOPIC, "t", ("cleanup.policy", SUBTRACT, "compact"))
    assert broker.image.topics["t"].configs["cleanup.policy"] == ""


async def test_alter__list_operations_keep_the_spaces_of_items_as_kafka_does(broker: FakeBroker) -> None:
    """ " compact " is another item than "compact": what was appended so is subtracted so."""
    assert await alter(broker, TOPIC, "t", ("cleanup.policy", APPEND, "compact, compact")) == (0, None)
    assert broker.image.topics["t"].configs["cleanup.policy"] == "delete,compact, compact"
    await alter(broker, TOPIC, "t", ("cleanup.policy", SUBTRACT, "compact,delete"))
    assert broker.image.topics["t"].configs["cleanup.policy"] == " compact"


async def test_alter__validate_only_changes_nothing(broker: FakeBroker) -> None:
    assert await alter(broker, TOPIC, "t", ("segment.ms", SET, "1"), validate_only=True) == (0, None)
    assert (await alter(broker, TOPIC, "t", ("segment.ms", SET, "x"), validate_only=True))[0] == 40
    assert broker.image.topics["t"].configs == {"retention.ms": "1000"}


ALTERATIONS = [
    (TOPIC, "t", [("retention.ms", SET, "abc")], 40, "Invalid value abc for configuration retention.ms: Not a number of type LONG"),
    (TOPIC, "t", [("nope", SET, "1")], 40, "Unknown topic config name: nope"),
    (TOPIC, "t", [("nope", DELETE, None)], 0, None),
    (TOPIC, "t", [("retention.ms", SET, None)], 42, "Null value not supported for : retention.ms"),
    (TOPIC, "t", [("segment.ms", SET, "1"), ("segment.ms", SET, "2")], 42, "Error due to duplicate config keys"),
    (TOPIC, "t", [("retention.ms", APPEND, "1")], 40, "Can't APPEND to key retention.ms because its type is not LIST."),
    (TOPIC, "t", [("retention.ms", 9, "1")], 42, "Unknown config operation 9"),
    (TOPIC, "none", [("segment.ms", SET, "1")], 3, "The topic 'none' does not exist."),
    (TOPIC, "", [("segment.ms", SET, "1")], 42, "Default topic resources are not allowed."),
    (99, "x", [("a", SET, "b")], 42, "Unknown resource type 99"),
    (BROKER, "1", [("num.partitions", SET, "5")], 42, "Cannot update these configs dynamically: [num.partitions]"),
    (BROKER, "", [("listeners", SET, "PLAINTEXT://:1")], 42, "Cannot update these configs at default cluster level, broker id must be specified: [listeners]"),
    (BROKER, "", [("unknown.x", SET, "5")], 0, None),
    (BROKER, "77", [("log.retention.ms", SET, "1")], 42, "Unexpected broker id, expected 1, but received 77"),
    (BROKER, "abc", [("log.retention.ms", SET, "1")], 42, "Node id must be an integer, but it is: abc"),
    (BROKER, "", [("log.retention.ms", SET, "x")], 42, "Invalid value x for configuration log.retention.ms: Not a number of type LONG"),
    (BROKER, "", [("log.retention.ms", SET, "0")], 42, "requirement failed: log.retention.ms must be unlimited (-1) or, greater than or equal to 1"),
    (BROKER, "1", [("min.insync.replicas", SET, "1")], 40, "Broker-level min.insync.replicas cannot be altered while ELR is enabled."),
    (BROKER, "", [("min.insync.replicas", DELETE, None)], 40, "Cluster-level min.insync.replicas cannot be removed while ELR is enabled."),
    (BROKER, "\u00a01", [("log.retention.ms", SET, "1")], 42, "Node id must be an integer, but it is: \u00a01"),
    (BROKER, " 1", [("log.retention.ms", SET, "1")], 42, "Node id must be an integer, but it is:  1"),
    (BROKER, "0_1", [("log.retention.ms", SET, "1")], 42, "Node id must be an integer, but it is: 0_1"),
    (BROKER, "+01", [("log.retention.ms", SET, "1")], 0, None),
    (METRICS, "m", [("metrics", APPEND, "a")], 40, "Can't APPEND to key metrics because its type is not LIST."),
    (METRICS, "", [("metrics", SET, "a")], 42, "Subscription name can't be empty"),
    (METRICS, "m", [("interval.ms", SET, "1")], 42, "Invalid value 1 for interval.ms, interval must be between 100 and 3600000 (1 hour)"),
    (METRICS, "m", [("match", SET, "zzz")], 40, "Illegal client matching pattern: zzz"),
    (GROUP, "", [("consumer.session.timeout.ms", SET, "50000")], 42, "Default group resources are not allowed."),
    (GROUP, "g", [("nope", SET, "1")], 40, "Unknown group config name: nope"),
    (GROUP, "g", [("consumer.session.timeout.ms", SET, "1")], 40, "consumer.session.timeout.ms must be in the range 45000 to 60000 inclusive."),
    (LOGGER, "1", [("kafka.x", SET, "DEBUG")], 40, "Logger kafka.x does not exist!"),
    (LOGGER, "1", [("root", SET, "loud")], 40, "Cannot set the log level of root to loud as it is not a supported log level. Valid log levels are DEBUG, ERROR, FATAL, INFO, TRACE, WARN"),
    (LOGGER, "1", [("root", DELETE, None)], 42, "Removing the log level of the root logger is not allowed"),
    (LOGGER, "1", [("root", APPEND, "DEBUG")], 42, "APPEND operation is not allowed for the BROKER_LOGGER resource"),
    (LOGGER, "77", [("root", SET, "DEBUG")], 42, "Unexpected node id. Expected 1, but received 77"),
]  # fmt: skip


@pytest.mark.parametrize(("resource_type", "name", "changes", "code", "message"), ALTERATIONS)
async def test_alter__answers_as_kafka(
    broker: FakeBroker, resource_type: int, name: str, changes: list[Any], code: int, message: str | None
) -> None:
    assert await alter(broker, resource_type, name, *changes) == (code, message)


async def test_alter__the_same_resource_twice_is_refused_both_times(broker: FakeBroker) -> None:
    change = alter_messages.AlterableConfig("segment.ms", SET, "5")
    resource = alter_messages.AlterConfigsResource(TOPIC, "t", [change])
    request = alter_messages.IncrementalAlterConfigsRequest([resource, resource])
    response = await incremental_alter_configs.handle(broker, Any, request)  # type: ignore[arg-type]
    assert [answer.error_code for answer in response.responses] == [42, 42]


async def test_replace__unsets_what_is_not_named(broker: FakeBroker) -> None:
    assert await replace(broker, TOPIC, "t", ("segment.ms", "5000")) == (0, None)
    assert broker.image.topics["t"].configs == {"segment.ms": "5000"}
    assert await replace(broker, TOPIC, "t") == (0, None)
    assert broker.image.topics["t"].configs == {}
    assert await replace(broker, LOGGER, "1", ("root", "DEBUG")) == (42, "Unknown resource type 8")
    assert await replace(broker, TOPIC, "t", ("segment.ms", None)) == (42, "Null value not supported for : segment.ms")


async def test_loggers__levels_change_at_once(broker: FakeBroker, logger: logging.Logger) -> None:
    assert await alter(broker, LOGGER, "1", ("broker.test_part", SET, "ERROR"), validate_only=True) == (0, None)
    assert logger.level == logging.NOTSET
    assert await alter(broker, LOGGER, "1", ("broker.test_part", SET, "ERROR")) == (0, None)
    assert logger.level == logging.ERROR
    assert entry(broker, LOGGER, "1", "broker.test_part") == ("ERROR", 6, [])
    assert await alter(broker, LOGGER, "1", ("broker.test_part", DELETE, None)) == (0, None)
    assert logger.level == logging.NOTSET


async def test_list__what_has_configs(broker: FakeBroker) -> None:
    await alter(broker, METRICS, "m", ("interval.ms", SET, "10000"))
    await alter(broker, GROUP, "g", ("consumer.session.timeout.ms", SET, "50000"))

    def listed(version: int, *types: int) -> Any:
        context: Any = FakeContext()
        context.api_version = version
        answer = list_config_resources.handle(broker, context, ListConfigResourcesRequest(list(types)))  # type: ignore[arg-type]
        return answer.error_code, [(r.resource_type, r.resource_name) for r in answer.config_resources]

    assert listed(1) == (0, [(2, "t"), (4, "1"), (8, "1"), (16, "m"), (32, "g")])
    assert listed(0) == (0, [(16, "m")])
    assert listed(1, GROUP, METRICS) == (0, [(16, "m"), (32, "g")])
    assert listed(1, TOPIC, 99) == (35, [])
