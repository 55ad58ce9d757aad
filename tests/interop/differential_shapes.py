"""Cases of odd shapes over many APIs: nothing at all, the same thing twice, names that cannot be, numbers out of range,
no time left.
"""

from __future__ import annotations

import time
import uuid
from typing import Any

from kafka.protocol.admin import (
    AlterConfigsRequest,
    AlterPartitionReassignmentsRequest,
    AlterReplicaLogDirsRequest,
    CreatePartitionsRequest,
    CreateTopicsRequest,
    DeleteGroupsRequest,
    DeleteRecordsRequest,
    DeleteTopicsRequest,
    DescribeConfigsRequest,
    DescribeGroupsRequest,
    DescribeLogDirsRequest,
    DescribeProducersRequest,
    DescribeTopicPartitionsRequest,
    DescribeTransactionsRequest,
    ElectLeadersRequest,
    IncrementalAlterConfigsRequest,
    ListConfigResourcesRequest,
    ListPartitionReassignmentsRequest,
    ListTransactionsRequest,
)
from kafka.protocol.consumer import (
    ListOffsetsRequest,
    OffsetCommitRequest,
    OffsetDeleteRequest,
    OffsetFetchRequest,
    OffsetForLeaderEpochRequest,
)
from kafka.protocol.metadata import FindCoordinatorRequest, MetadataRequest

from tests.interop.differential import Subject, case, wait_for_coordinator
from tests.interop.differential_admin import (
    BROKER,
    BROKER_LOGGER,
    CLIENT_METRICS,
    GROUP,
    TOPIC,
    alter,
    describe_configs,
)
from tests.interop.differential_fetch import fetch, fill
from tests.interop.transactional_producer import begin

NO_ID = uuid.UUID(int=0)
LONGEST_NAME = 249
APPLIED_S = 60.0
PUT, DELETE, APPEND, SUBTRACT = range(4)


@case
def shapes_of_created_topics(subject: Subject) -> None:
    def create(label: str, *rows: dict[str, Any], timeout_ms: int = 5_000, validate_only: bool = True) -> None:
        whole = {"num_partitions": 1, "replication_factor": 1, "assignments": [], "configs": []}
        fields = {"topics": [{**whole, **row} for row in rows], "timeout_ms": timeout_ms}
        subject.call(label, CreateTopicsRequest, 7, **fields, validate_only=validate_only)

    def assigned(*rows: tuple[int, list[int]]) -> dict[str, Any]:
        assignments = [{"partition_index": index, "broker_ids": brokers} for index, brokers in rows]
        return {"num_partitions": -1, "replication_factor": -1, "assignments": assignments}

    name = subject.new_name()
    create("the same name three times", {"name": name}, {"name": name}, {"name": name})
    create("a bad name twice", {"name": "bad name"}, {"name": "bad name"})
    create("bad in every way", {"name": "bad name", "num_partitions": 0, "replication_factor": 0})
    create("no time and bad", {"name": "bad name"}, timeout_ms=0)
    create("the same partition twice", {"name": name, **assigned((0, [0]), (0, [0]))})
    create("a negative partition", {"name": name, **assigned((-1, [0]))})
    create("partitions out of order", {"name": name, **assigned((1, [0]), (0, [0]))})
    create("different replication", {"name": name, **assigned((0, [0]), (1, [0, 0]))})
    create("a negative broker", {"name": name, **assigned((0, [-1]))})
    create("assigned, and a partition count", {"name": name, **assigned((0, [0])), "num_partitions": 5})
    create("assigned, and a replication factor", {"name": name, **assigned((0, [0])), "replication_factor": 1})
    create("an empty config name", {"name": name, "configs": [{"name": "", "value": "1"}]})
    create("a null in one of two configs", {"name": name, "configs": [
        {"name": "retention.ms", "value": None}, {"name": "segment.ms", "value": "x"}]})  # fmt: skip
    create("the log's own topic", {"name": "__cluster_metadata"})


@case
def shapes_of_deleted_topics(subject: Subject) -> None:
    for version in range(1, 6):
        name = subject.topic()
        rows = [name, name, f"{name}-none", "bad name", ""]
        subject.call(f"v{version}", DeleteTopicsRequest, version, topic_names=rows, timeout_ms=5_000)
        subject.call(f"v{version} without time", DeleteTopicsRequest, version, topic_names=[name], timeout_ms=0)
        subject.call(f"v{version} none", DeleteTopicsRequest, version, topic_names=[], timeout_ms=5_000)

    def by_rows(label: str, *rows: dict[str, Any], timeout_ms: int = 5_000) -> None:
        topics = [{"name": None, "topic_id": NO_ID, **row} for row in rows]
        subject.call(label, DeleteTopicsRequest, 6, topics=topics, timeout_ms=timeout_ms)

    name = subject.topic()
    topic_id = subject.topic_id(name)
    by_rows("the same id twice", {"topic_id": topic_id}, {"topic_id": topic_id})
    by_rows("an unknown id twice", {"topic_id": uuid.UUID(int=77)}, {"topic_id": uuid.UUID(int=77)})
    by_rows("an empty name", {"name": ""})
    by_rows("an empty name with an id", {"name": "", "topic_id": topic_id})
    by_rows("a bad name", {"name": "bad name"})
    by_rows("an unknown name twice", {"name": f"{name}-none"}, {"name": f"{name}-none"})
    by_rows("name and id in one row, and again alone", {"name": name, "topic_id": topic_id}, {"topic_id": topic_id})
    by_rows("the same twice, another way each", {"name": name}, {"topic_id": topic_id}, {"topic_id": topic_id})
    by_rows("without time", {"topic_id": topic_id}, timeout_ms=0)
    by_rows("without time at all", {"name": name}, timeout_ms=-1)
    by_rows("the log's own topic", {"name": "__cluster_metadata"})
    by_rows("it is still there", {"topic_id": topic_id})


@case
def shapes_of_more_partitions(subject: Subject) -> None:
    topic = subject.topic(1)

    def grow(label: str, *rows: dict[str, Any], timeout_ms: int = 5_000, version: int = 3) -> None:
        topics = [{"name": topic, "assignments": None, **row} for row in rows]
        fields = {"topics": topics, "timeout_ms": timeout_ms, "validate_only": True}
        subject.call(label, CreatePartitionsRequest, version, **fields)

    for version in range(4):
        grow(f"v{version}", {"count": 2}, version=version)
        grow(f"v{version} without time", {"count": 2}, timeout_ms=0, version=version)
        grow(f"v{version} none", version=version)
    grow("an empty name", {"name": "", "count": 2})
    grow("a bad name", {"name": "bad name", "count": 2})
    grow("the same unknown name twice", {"name": "nobodys", "count": 2}, {"name": "nobodys", "count": 2})
    grow("no assignments", {"count": 2, "assignments": []})
    grow("an empty assignment", {"count": 2, "assignments": [{"broker_ids": []}]})
    grow("a broker twice", {"count": 2, "assignments": [{"broker_ids": [0, 0]}]})
    grow("a negative broker", {"count": 2, "assignments": [{"broker_ids": [-1]}]})
    grow("too many assignments", {"count": 2, "assignments": [{"broker_ids": [0]}, {"broker_ids": [0]}]})
    grow("assigned fewer", {"count": 1, "assignments": [{"broker_ids": [0]}]})
    grow("one right, one wrong", {"count": 2}, {"name": "nobodys", "count": 2})
    grow("ten thousand more", {"count": 10_001})
    grow("more than that", {"count": 10_002})


@case
def shapes_of_reassignments(subject: Subject) -> None:
    topic = subject.topic(2)

    def reassign(label: str, *rows: tuple[str, int, list[int] | None], version: int = 1, **fields: Any) -> None:
        topics = [{"name": name, "partitions": [{"partition_index": index, "replicas": replicas}]}
                  for name, index, replicas in rows]  # fmt: skip
        full: dict[str, Any] = {"timeout_ms": 5_000, "topics": topics, **fields}
        if version >= 1:
            full.setdefault("allow_replication_factor_change", True)
        subject.call(label, AlterPartitionReassignmentsRequest, version, **full)

    reassign("v1 to where it is", (topic, 0, [0]))
    reassign("v1 to where it is, as many as before", (topic, 0, [0]), allow_replication_factor_change=False)
    reassign("a broker twice", (topic, 0, [0, 0]))
    reassign("a negative broker", (topic, 0, [-1]))
    reassign("one that is there and one that is not", (topic, 0, [0, 7]))
    reassign("a negative partition", (topic, -1, [0]))
    reassign("a topic twice", (topic, 0, [0]), (topic, 0, [0]))
    reassign("an empty name", ("", 0, [0]))
    reassign("a bad name", ("bad name", 0, [0]))
    reassign("none")
    reassign("without time", (topic, 0, [0]), timeout_ms=0)
    reassign("without time, none", timeout_ms=-1)

    def listed(label: str, topics: list[dict[str, Any]] | None, timeout_ms: int = 5_000) -> None:
        subject.call(label, ListPartitionReassignmentsRequest, 0, timeout_ms=timeout_ms, topics=topics)

    listed("listed: no topics", [])
    listed("listed: unknown topic", [{"name": "nobodys", "partition_indexes": [0]}])
    listed("listed: bad name", [{"name": "bad name", "partition_indexes": [0, 0, -1]}])
    listed("listed: without time", None, timeout_ms=0)


@case
def shapes_of_elections(subject: Subject) -> None:
    topic = subject.topic(2)

    def elect(label: str, *rows: tuple[str, list[int]], version: int = 2, **fields: Any) -> None:
        partitions = [{"topic": name, "partitions": indexes} for name, indexes in rows]
        full = {"topic_partitions": partitions, "timeout_ms": 5_000, **fields}
        if version >= 1:
            full.setdefault("election_type", 0)
        subject.call(label, ElectLeadersRequest, version, **full)

    for version in range(3):
        elect(f"v{version} none", version=version)
        elect(f"v{version} without time", (topic, [0]), version=version, timeout_ms=0)
        elect(f"v{version} the same twice", (topic, [0, 0]), version=version)
        elect(f"v{version} no partitions", (topic, []), version=version)
        elect(f"v{version} a bad name", ("bad name", [0]), version=version)
    elect("a topic twice", (topic, [0]), (topic, [1]))
    elect("a negative partition", (topic, [-1]))
    elect("an election of a kind that there is not", (topic, [0]), election_type=-1)
    elect("unclean, none", election_type=1)


@case
def shapes_of_log_dirs(subject: Subject) -> None:
    topic = subject.topic(2)

    def described(label: str, topics: list[dict[str, Any]] | None) -> None:
        response = subject.quiet(DescribeLogDirsRequest, 4, {"topics": topics})
        found = [(one.name, sorted(row.partition_index for row in one.partitions))
                 for folder in response.results for one in folder.topics if topics is not None]  # fmt: skip
        subject.note(label, [response.error_code, [one.error_code for one in response.results], sorted(found)])

    described("all", None)
    described("none", [])
    described("unknown", [{"topic": "nobodys", "partitions": [0]}])
    described("no partitions", [{"topic": topic, "partitions": []}])
    described("twice", [{"topic": topic, "partitions": [0, 0]}, {"topic": topic, "partitions": [0, 1]}])
    described("negative", [{"topic": topic, "partitions": [-1]}])
    for version in (1, 2):
        rows = [{"name": topic, "partitions": [0, 5]}, {"name": "nobodys", "partitions": [0]}]
        fields = {"dirs": [{"path": "/no/such/folder", "topics": rows}]}
        subject.call(f"v{version} moved to where nobody is", AlterReplicaLogDirsRequest, version, **fields)
        subject.call(f"v{version} nothing moved", AlterReplicaLogDirsRequest, version, dirs=[])


@case
def shapes_of_topic_partitions(subject: Subject) -> None:
    first, second = sorted((subject.topic(3), subject.topic(2)))

    def describe(label: str, names: list[str], limit: int, cursor: tuple[str, int] | None = None) -> None:
        at = None if cursor is None else {"topic_name": cursor[0], "partition_index": cursor[1]}
        topics = [{"name": name} for name in names]
        fields = {"topics": topics, "response_partition_limit": limit, "cursor": at}
        subject.call(label, DescribeTopicPartitionsRequest, 0, **fields)

    describe("twice", [first, first], 2_000)
    describe("a bad name", ["bad name", first], 2_000)
    describe("an empty name", ["", first], 2_000)
    describe("a negative limit", [first], -1)
    describe("as many as there are", [first], 3)
    describe("as many as the first has", [first, second], 3)
    describe("unknown ones behind the limit", [first, f"{second}-none"], 3)
    describe("from behind the last", [first, second], 2_000, (first, 3))
    describe("from far behind the last", [first, second], 2_000, (first, 99))
    describe("from behind all", [first, second], 2_000, (f"{second}-z", 0))
    describe("from a topic that is not asked for", [second], 2_000, (first, 1))
    describe("from a topic that is not there", [first, f"{first}-none", second], 2_000, (f"{first}-none", 1))
    describe("from an empty name", [first], 2_000, ("", 0))


@case
def shapes_of_metadata(subject: Subject) -> None:
    topic = subject.topic()
    topic_id = subject.topic_id(topic)
    rows: dict[str, list[dict[str, Any]]] = {
        "neither name nor id": [{"name": None, "topic_id": NO_ID}],
        "name and id of one": [{"name": topic, "topic_id": topic_id}],
        "name of one, id of none": [{"name": topic, "topic_id": uuid.UUID(int=78)}],
        "by name and by id": [{"name": topic}, {"name": None, "topic_id": topic_id}],
        "by id twice": [{"name": None, "topic_id": topic_id}, {"name": None, "topic_id": topic_id}],
        "an unknown id twice": [{"name": None, "topic_id": uuid.UUID(int=78)}] * 2,
        "a name at its longest": [{"name": "x" * LONGEST_NAME}],
        "dots": [{"name": "."}, {"name": ".."}],
    }
    for version in (10, 11, 12, 13):
        for label, topics in rows.items():
            fields = {"topics": topics, "allow_auto_topic_creation": False}
            subject.call(f"v{version} {label}", MetadataRequest, version, **fields)


@case
def shapes_of_described_configs(subject: Subject) -> None:
    topic = subject.topic(retention_ms="777")

    def several(label: str, *rows: tuple[int, str], version: int = 4) -> None:
        resources = [{"resource_type": kind, "resource_name": name, "configuration_keys": ["retention.ms"]}
                     for kind, name in rows]  # fmt: skip
        subject.call(label, DescribeConfigsRequest, version, resources=resources)

    several("none")
    several("the same twice", (TOPIC, topic), (TOPIC, topic))
    several("one right, one wrong", (TOPIC, topic), (TOPIC, "nobodys"))
    several("topics by another case", (TOPIC, topic.upper()))
    for kind in (-1, 0, 1, 3, 5, 64):
        several(f"type {kind}", (kind, topic))
    describe_configs(subject, "a key twice", TOPIC, topic, ["retention.ms", "retention.ms"])
    describe_configs(subject, "an empty key", TOPIC, topic, [""])
    describe_configs(subject, "a key by another case", TOPIC, topic, ["RETENTION.MS"])
    keys = ["log.retention.ms", "log.retention.hours", "log.retention.minutes", "num.partitions", "log.segment.bytes"]
    describe_configs(subject, "synonyms of a broker", BROKER, "0", keys, include_synonyms=True)
    names = ["consumer.session.timeout.ms", "consumer.heartbeat.interval.ms"]
    describe_configs(subject, "synonyms of a group", GROUP, "g", names, include_synonyms=True)
    metrics = ["metrics", "interval.ms", "match", "no.such"]
    describe_configs(subject, "synonyms of metrics", CLIENT_METRICS, "none", metrics, include_synonyms=True)
    describe_configs(subject, "no metrics", CLIENT_METRICS, "", None)
    for name in ("00", "+0", " 0", "0x0", "2147483648"):
        describe_configs(subject, f"broker {name!r}", BROKER, name, ["num.partitions"])
        describe_configs(subject, f"loggers of {name!r}", BROKER_LOGGER, name, ["no.such"])
    describe_configs(subject, "loggers of nobody", BROKER_LOGGER, "", ["no.such"])


def wait_for_config(subject: Subject, kind: int, resource_name: str, name: str, value: str | None) -> None:
    """Kafka's brokers come to know of a change after it was answered."""
    resource = {"resource_type": kind, "resource_name": resource_name, "configuration_keys": [name]}
    deadline = time.monotonic() + APPLIED_S
    while time.monotonic() < deadline:
        described = subject.quiet(DescribeConfigsRequest, 4, {"resources": [resource]})
        if described.results[0].configs[0].value == value:
            return
        time.sleep(0.05)
    raise AssertionError(f"{name} of {resource_name} is not {value}")


@case
def shapes_of_altered_configs(subject: Subject) -> None:
    topic = subject.topic()
    policy = "cleanup.policy"
    alter(subject, "append two", topic, (policy, APPEND, "compact,delete"))
    alter(subject, "what is set then", topic, validate_only=True)
    wait_for_config(subject, TOPIC, topic, policy, "delete,compact")
    describe_configs(subject, "after two were appended", TOPIC, topic, [policy])
    alter(subject, "append with spaces", topic, (policy, APPEND, " compact , delete "))
    describe_configs(subject, "after spaces", TOPIC, topic, [policy])
    alter(subject, "append nothing", topic, (policy, APPEND, ""))
    describe_configs(subject, "after nothing", TOPIC, topic, [policy])
    alter(subject, "subtract what is not there", topic, (policy, SUBTRACT, "nobodys"))
    alter(subject, "subtract both", topic, (policy, SUBTRACT, "compact,delete"))
    wait_for_config(subject, TOPIC, topic, policy, "compact,delete")
    describe_configs(subject, "after both were subtracted", TOPIC, topic, [policy])
    alter(subject, "append null", topic, (policy, APPEND, None))
    alter(subject, "delete with a value", topic, (policy, DELETE, "ignored"))
    alter(subject, "append to an unknown key", topic, ("no.such", APPEND, "1"))
    alter(subject, "subtract from an unknown key", topic, ("no.such", SUBTRACT, "1"))
    alter(subject, "an empty key", topic, ("", PUT, "1"))
    alter(subject, "a key twice, other operations", topic, (policy, PUT, "delete"), (policy, DELETE, None))
    throttled = "leader.replication.throttled.replicas"
    alter(subject, "append to what nothing is in", topic, (throttled, APPEND, "0:0"))
    alter(subject, "append more", topic, (throttled, APPEND, "1:0,2:0"))
    alter(subject, "subtract from the middle", topic, (throttled, SUBTRACT, "1:0"))
    wait_for_config(subject, TOPIC, topic, throttled, "0:0,2:0")
    describe_configs(subject, "throttled", TOPIC, topic, [throttled])
    alter(subject, "a bad name", "bad name", (policy, PUT, "delete"))
    alter(subject, "an empty name", "", (policy, PUT, "delete"))
    alter(subject, "brokers: append to a list", "0", ("log.cleanup.policy", APPEND, "compact"), resource_type=BROKER)
    alter(subject, "brokers: subtract", "0", ("log.cleanup.policy", SUBTRACT, "delete"), resource_type=BROKER)
    wait_for_config(subject, BROKER, "0", "log.cleanup.policy", "compact")
    describe_configs(subject, "brokers: what is set", BROKER, "0", ["log.cleanup.policy"], include_synonyms=True)
    alter(subject, "brokers: delete", "0", ("log.cleanup.policy", DELETE, None), resource_type=BROKER)
    wait_for_config(subject, BROKER, "0", "log.cleanup.policy", "delete")
    alter(subject, "brokers: unknown key", "0", ("no.such", PUT, "1"), resource_type=BROKER)
    alter(subject, "brokers: delete it", "0", ("no.such", DELETE, None), resource_type=BROKER)
    alter(subject, "brokers: not a number", "0", ("log.retention.ms", PUT, "x"), resource_type=BROKER)
    alter(subject, "all brokers: not a number", "", ("log.retention.ms", PUT, "x"), resource_type=BROKER)
    alter(subject, "all brokers: set", "", ("log.retention.ms", PUT, "12345"), resource_type=BROKER)
    wait_for_config(subject, BROKER, "0", "log.retention.ms", "12345")
    describe_configs(subject, "all brokers: seen at one", BROKER, "0", ["log.retention.ms"], include_synonyms=True)
    alter(subject, "all brokers: delete", "", ("log.retention.ms", DELETE, None), resource_type=BROKER)
    wait_for_config(subject, BROKER, "0", "log.retention.ms", None)
    alter(subject, "broker x", "x", ("log.retention.ms", PUT, "1"), resource_type=BROKER)
    group = subject.new_name("group")
    for value in ("1", "44999", "45000", "60000", "60001", "x", ""):
        timeout = ("consumer.session.timeout.ms", PUT, value)
        alter(subject, f"group's time-out {value!r}", group, timeout, resource_type=GROUP)
    interval = ("consumer.heartbeat.interval.ms", PUT, "50000")
    alter(subject, "a group's interval above its time-out", group, interval, resource_type=GROUP)
    alter(subject, "a group's unknown key", group, ("no.such", PUT, "1"), resource_type=GROUP)
    alter(subject, "a group's unknown key deleted", group, ("no.such", DELETE, None), resource_type=GROUP)
    names = ["consumer.session.timeout.ms", "consumer.heartbeat.interval.ms"]
    wait_for_config(subject, GROUP, group, names[0], "60000")
    describe_configs(subject, "a group's", GROUP, group, names, include_synonyms=True)
    by_default = ("consumer.session.timeout.ms", DELETE, None)
    alter(subject, "a group's time-out deleted", group, by_default, resource_type=GROUP)
    metrics = subject.new_name("metrics")
    for label, change in {
        "interval 100": ("interval.ms", PUT, "100"),
        "interval 99": ("interval.ms", PUT, "99"),
        "interval too large": ("interval.ms", PUT, "3600001"),
        "metrics": ("metrics", PUT, "org.apache"),
        "more metrics": ("metrics", APPEND, "org.other"),
        "match": ("match", PUT, "client_id=x.*"),
        "match that is none": ("match", PUT, "client=x"),
        "match that cannot be": ("match", PUT, "client_id=["),
        "unknown": ("no.such", PUT, "1"),
    }.items():
        alter(subject, f"client metrics: {label}", metrics, change, resource_type=CLIENT_METRICS)
    described = ["metrics", "interval.ms", "match"]
    wait_for_config(subject, CLIENT_METRICS, metrics, "match", "client_id=x.*")
    describe_configs(subject, "client metrics", CLIENT_METRICS, metrics, described, include_synonyms=True)
    changes = [(name, DELETE, None) for name in described]
    alter(subject, "client metrics: deleted", metrics, *changes, resource_type=CLIENT_METRICS)
    for operation in (PUT, DELETE, APPEND, SUBTRACT, 9):
        logger = ("no.such.logger", operation, "INFO")
        alter(subject, f"an unknown logger, {operation}", "0", logger, resource_type=BROKER_LOGGER)
    alter(subject, "loggers of another broker", "7", ("root", PUT, "INFO"), resource_type=BROKER_LOGGER)
    alter(subject, "loggers of nobody", "", ("root", PUT, "INFO"), resource_type=BROKER_LOGGER)


@case
def shapes_of_several_altered_configs(subject: Subject) -> None:
    topic = subject.topic()
    row = {"name": "retention.ms", "value": "1000"}

    def incrementally(label: str, *names: tuple[int, str], configs: int = 1) -> None:
        rows = [{**row, "config_operation": PUT}] * configs
        resources = [{"resource_type": kind, "resource_name": name, "configs": rows} for kind, name in names]
        subject.call(label, IncrementalAlterConfigsRequest, 1, resources=resources, validate_only=True)

    def replaced(label: str, *names: tuple[int, str], configs: int = 1) -> None:
        resources = [{"resource_type": kind, "resource_name": name, "configs": [row] * configs} for kind, name in names]
        subject.call(label, AlterConfigsRequest, 2, resources=resources, validate_only=True)

    for how, change in (("incrementally", incrementally), ("replaced", replaced)):
        change(f"{how}: none")
        if how == "incrementally":  # Kafka 4.4 never answers AlterConfigs that name one twice
            change(f"{how}: the same twice", (TOPIC, topic), (TOPIC, topic))
            change(f"{how}: an unknown type twice", (77, topic), (77, topic))
        change(f"{how}: one right, one unknown", (TOPIC, topic), (TOPIC, "nobodys"))
        change(f"{how}: no configs", (TOPIC, topic), configs=0)
        change(f"{how}: the same config twice", (TOPIC, topic), configs=2)
        change(f"{how}: an unknown type", (77, topic))
        change(f"{how}: a bad name", (TOPIC, "bad name"))
        change(f"{how}: an empty name", (TOPIC, ""))
        change(f"{how}: nothing of a group", (GROUP, "g"), configs=0)
        change(f"{how}: nothing of an empty group", (GROUP, ""), configs=0)
        change(f"{how}: nothing of metrics", (CLIENT_METRICS, "m"), configs=0)
        change(f"{how}: nothing of this broker", (BROKER, "0"), configs=0)
        change(f"{how}: nothing of another broker", (BROKER, "7"), configs=0)
        change(f"{how}: nothing of no broker", (BROKER, "x"), configs=0)
        change(f"{how}: no logger", (BROKER_LOGGER, "0"), configs=0)
    for label, types in {"twice": [CLIENT_METRICS, CLIENT_METRICS], "negative": [-1], "one odd": [TOPIC, 3]}.items():
        response = subject.quiet(ListConfigResourcesRequest, 1, {"resource_types": types})
        subject.note(f"listed: {label}", [response.error_code, len(response.config_resources)])


@case
def shapes_of_offsets(subject: Subject) -> None:
    topic = subject.topic(2)
    group = subject.new_name("group")
    wait_for_coordinator(subject, group)

    def commit(label: str, *rows: tuple[str, list[tuple[int, int]]], version: int = 9) -> None:
        topics = [{"name": name, "partitions": [
            {"partition_index": index, "committed_offset": offset, "committed_metadata": "",
             "committed_leader_epoch": -1} for index, offset in partitions]} for name, partitions in rows]  # fmt: skip
        fields = {"group_id": group, "generation_id_or_member_epoch": -1, "member_id": "", "group_instance_id": None}
        subject.call(label, OffsetCommitRequest, version, **fields, topics=topics)

    commit("none")
    commit("no partitions", (topic, []))
    commit("a partition twice", (topic, [(0, 1), (0, 2)]))
    commit("a topic twice", (topic, [(0, 3)]), (topic, [(1, 4)]))
    commit("a negative partition", (topic, [(-1, 3), (0, 5)]))
    commit("an empty name", ("", [(0, 3)]))
    commit("a bad name", ("bad name", [(0, 3)]))

    def fetched(label: str, *groups: tuple[str, list[tuple[str, list[int]]] | None], version: int = 9) -> None:
        def named(topics: list[tuple[str, list[int]]] | None) -> list[dict[str, Any]] | None:
            if topics is None:
                return None
            return [{"name": name, "partition_indexes": indexes} for name, indexes in topics]

        rows = [{"group_id": name, "topics": named(topics)} for name, topics in groups]
        subject.call(label, OffsetFetchRequest, version, groups=rows, require_stable=False)

    for version in (8, 9):
        fetched(f"v{version} of no groups", version=version)
        fetched(f"v{version} of a group twice", (group, None), (group, [(topic, [0])]), version=version)
        fetched(f"v{version} a partition twice", (group, [(topic, [0, 0])]), version=version)
        fetched(f"v{version} a topic twice", (group, [(topic, [0]), (topic, [1])]), version=version)
        fetched(f"v{version} no topics", (group, []), version=version)
        fetched(f"v{version} no partitions", (group, [(topic, [])]), version=version)
        fetched(f"v{version} odd partitions", (group, [(topic, [-1, 7])]), version=version)
        fetched(f"v{version} odd names", (group, [("", [0]), ("bad name", [0])]), version=version)
        fetched(f"v{version} of an unknown group", (f"{group}-none", None), version=version)

    def deleted(label: str, *rows: tuple[str, list[int]], group_id: str = group) -> None:
        topics = [{"name": name, "partitions": [{"partition_index": index} for index in indexes]}
                  for name, indexes in rows]  # fmt: skip
        subject.call(label, OffsetDeleteRequest, 0, group_id=group_id, topics=topics)

    deleted("delete none")
    deleted("delete no partitions", (topic, []))
    deleted("delete a partition twice", (topic, [1, 1]))
    deleted("delete a topic twice", (topic, [0]), (topic, [1]))
    deleted("delete odd ones", (topic, [-1, 9]), ("bad name", [0]), ("", [0]))
    deleted("delete of no group", (topic, [0]), group_id="")
    deleted("delete none of an unknown group", group_id=f"{group}-none")
    fetched("what is left", (group, None))
    for version in (0, 5, 6):
        subject.call(f"described v{version}", DescribeGroupsRequest, version, groups=[group, group])
        subject.call(f"described v{version}, none", DescribeGroupsRequest, version, groups=[])
    subject.call("no groups deleted", DeleteGroupsRequest, 2, groups_names=[])
    subject.call("a group deleted twice", DeleteGroupsRequest, 2, groups_names=[group, group])


@case
def shapes_of_coordinators(subject: Subject) -> None:
    wait_for_coordinator(subject, subject.new_name("group"))
    begin(subject)  # which makes the other internal topic
    for version in (4, 6):
        for key_type in (0, 1, 3, -1):
            for label, keys in {"none": [], "twice": ["one", "one"], "empty": [""]}.items():
                fields = {"key_type": key_type, "coordinator_keys": keys}
                subject.call(f"v{version} type {key_type} {label}", FindCoordinatorRequest, version, **fields)
    for label, ids in {"none": [], "twice": ["nobodys", "nobodys"], "empty": [""]}.items():
        subject.call(f"transactions described: {label}", DescribeTransactionsRequest, 0, transactional_ids=ids)
    listed = {"state_filters": ["nobodys", "Nobodys", "nobodys"], "producer_id_filters": [-5]}
    subject.call("transactions listed", ListTransactionsRequest, 0, **listed)


@case
def shapes_of_log_requests(subject: Subject) -> None:
    topic = subject.topic(2)
    fill(subject, topic, 2)

    def ends(label: str, *rows: tuple[str, list[tuple[int, int]]], version: int = 4, replica_id: int = -1) -> None:
        topics = [{"topic": name, "partitions": [
            {"partition": index, "current_leader_epoch": -1, "leader_epoch": epoch} for index, epoch in partitions]}
            for name, partitions in rows]  # fmt: skip
        fields: dict[str, Any] = {"topics": topics}
        if version >= 3:
            fields["replica_id"] = replica_id
        subject.call(label, OffsetForLeaderEpochRequest, version, **fields)

    for version in (2, 3, 4):
        ends(f"v{version} ends of none", version=version)
        ends(f"v{version} ends of a partition twice", (topic, [(0, 0), (0, 5)]), version=version)
        ends(f"v{version} ends of a topic twice", (topic, [(0, 0)]), (topic, [(1, 0)]), version=version)
        ends(f"v{version} ends of odd ones", (topic, [(-1, 0)]), ("nobodys", [(0, 0)]), version=version)
        ends(f"v{version} ends of negative epochs", (topic, [(0, -2)]), version=version)
        ends(f"v{version} ends of odd names", ("", [(0, 0)]), ("bad name", [(0, 0)]), version=version)
    for replica_id in (-2, 0, 5):
        ends(f"ends for {replica_id}", (topic, [(0, 0)]), replica_id=replica_id)

    def listed(label: str, *rows: tuple[str, list[int]], version: int = 9, **more: Any) -> None:
        topics = [{"name": name, "partitions": [
            {"partition_index": index, "current_leader_epoch": -1, "timestamp": -1} for index in indexes]}
            for name, indexes in rows]  # fmt: skip
        fields = {"replica_id": -1, "isolation_level": 0, "topics": topics, **more}
        subject.call(label, ListOffsetsRequest, version, **fields)

    listed("offsets of none")
    listed("offsets of no partitions", (topic, []))
    listed("offsets of a topic twice", (topic, [0]), (topic, [1]))
    listed("offsets of a topic twice, the same", (topic, [0]), (topic, [0]))
    listed("offsets of odd ones", (topic, [-1, 9]), ("nobodys", [0]), ("bad name", [0]), ("", [0]))
    for replica_id in (-3, -2, 0, 5):
        listed(f"offsets for {replica_id}", (topic, [0]), replica_id=replica_id)

    def cut(label: str, *rows: tuple[str, list[tuple[int, int]]], timeout_ms: int = 5_000) -> None:
        topics = [
            {"name": name, "partitions": [{"partition_index": index, "offset": offset} for index, offset in partitions]}
            for name, partitions in rows
        ]
        subject.call(label, DeleteRecordsRequest, 2, topics=topics, timeout_ms=timeout_ms)

    cut("records of none deleted")
    cut("records of no partitions deleted", (topic, []))
    cut("records deleted, odd ones", (topic, [(-1, 0), (9, 0)]), ("bad name", [(0, 0)]), ("", [(0, 0)]))
    cut("records deleted without time", (topic, [(0, 1)]), timeout_ms=0)
    producers = [{"name": topic, "partition_indexes": [-1, 0]}, {"name": "bad name", "partition_indexes": [0]}]
    subject.call("producers, odd ones", DescribeProducersRequest, 0, topics=producers)
    subject.call("producers of none", DescribeProducersRequest, 0, topics=[])
    twice = [{"name": topic, "partition_indexes": [0, 0]}]
    subject.call("producers of one twice", DescribeProducersRequest, 0, topics=twice)


@case
def fetch_sessions_that_forget(subject: Subject) -> None:
    topic = subject.topic(3)
    fill(subject, topic, 1, 0)
    opened = fetch(subject, "open", [(topic, 0, 0), (topic, 1, 0)], session_epoch=0)
    follow = {"session_id": opened.session_id}
    again = [(topic, [0])]
    fetch(subject, "forget and ask for the same", [(topic, 0, 0)], session_epoch=1, forgotten=again, **follow)
    fetch(subject, "what came of that", [], session_epoch=2, **follow)
    fetch(subject, "forget what is not in it", [], session_epoch=3, forgotten=[("nobodys", [0])], **follow)
    fetch(subject, "a partition twice", [(topic, 0, 1), (topic, 0, 0)], session_epoch=4, **follow)
    fetch(subject, "forget twice", [], session_epoch=5, forgotten=[(topic, [1, 1])], **follow)
    fetch(subject, "an epoch before", [], session_epoch=5, **follow)
    fetch(subject, "forget all", [], session_epoch=6, forgotten=[(topic, [0])], **follow)
    fetch(subject, "after all was forgotten", [(topic, 0, 0)], session_epoch=7, **follow)
    fetch(subject, "open with nothing", [], session_epoch=0)
    fetch(subject, "close what is not open", [], session_id=99, session_epoch=-1)
    fetch(subject, "no session, forgetting", [(topic, 0, 0)], forgotten=[(topic, [0])])
    topic_id = subject.topic_id(topic)
    opened = fetch(subject, "by id: open", [(topic_id, 0, 0), (topic_id, 1, 0)], session_epoch=0, version=17)
    by_id = {"session_id": opened.session_id, "version": 17}
    fetch(subject, "by id: forget", [(topic_id, 0, 1)], session_epoch=1, forgotten=[(topic_id, [1])], **by_id)
    fill(subject, topic, 1, 1)
    fetch(subject, "by id: what was forgotten has grown", [], session_epoch=2, **by_id)
    fetch(subject, "by id: no id", [(NO_ID, 0, 0)], session_epoch=3, **by_id)
    subject.quiet(DeleteTopicsRequest, 4, {"topic_names": [topic], "timeout_ms": 5_000})
    subject.topic_named(topic, 3)
    fetch(subject, "by id: deleted, and created again", [], session_epoch=4, **by_id)
    fetch(subject, "by id: and once more", [], session_epoch=5, **by_id)
