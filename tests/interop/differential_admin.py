"""Cases of topics, configs, cluster and metadata."""

from __future__ import annotations

import uuid
from typing import Any

from kafka.protocol.admin import (
    AlterConfigsRequest,
    AlterPartitionReassignmentsRequest,
    CreatePartitionsRequest,
    CreateTopicsRequest,
    DeleteTopicsRequest,
    DescribeClusterRequest,
    DescribeConfigsRequest,
    DescribeLogDirsRequest,
    DescribeQuorumRequest,
    DescribeTopicPartitionsRequest,
    ElectLeadersRequest,
    IncrementalAlterConfigsRequest,
    ListConfigResourcesRequest,
    ListPartitionReassignmentsRequest,
    UpdateFeaturesRequest,
)
from kafka.protocol.metadata import MetadataRequest

from tests.interop.differential import Subject, case

TOPIC, BROKER, GROUP, BROKER_LOGGER, CLIENT_METRICS = 2, 4, 32, 8, 16


def create(subject: Subject, label: str, *rows: dict[str, Any], version: int = 5, **fields: Any) -> Any:
    topics = [{"num_partitions": 1, "replication_factor": 1, "assignments": [], "configs": [], **row} for row in rows]
    return subject.call(label, CreateTopicsRequest, version, **{"topics": topics, "timeout_ms": 10_000, **fields})


@case
def create_topics_names(subject: Subject) -> None:
    names = ["", ".", "..", "a/b", "a b", "ü", "x" * 249, "x" * 250, "a.b-c_d", "__internal", "a\x00b", "café"]
    for name in names:
        create(subject, f"name {name[:20]!r} {len(name)}", {"name": name}, validate_only=True)
    create(subject, "dotted", {"name": "collide.one"})
    create(subject, "collides", {"name": "collide_one"})
    create(subject, "a colliding pair in one request", {"name": "pair.two"}, {"name": "pair_two"})
    create(subject, "twice in one request", {"name": "twice"}, {"name": "twice"}, {"name": "once"})
    create(subject, "exists", {"name": "collide.one"})


@case
def create_topics_shapes(subject: Subject) -> None:
    rows: dict[str, dict[str, Any]] = {
        "no partitions": {"num_partitions": 0},
        "default partitions": {"num_partitions": -1, "replication_factor": -1},
        "partitions -2": {"num_partitions": -2},
        "10,001 partitions": {"num_partitions": 10_001},
        "replication factor 0": {"replication_factor": 0},
        "replication factor -2": {"replication_factor": -2},
        "replication factor 3": {"replication_factor": 3},
        "assignment": _assigned([0], [0]),
        "assignment to an unknown broker": _assigned([7]),
        "assignment with a gap": {
            **_assigned(),
            "assignments": [{"partition_index": 1, "broker_ids": [0]}],
        },
        "assignment twice the same broker": _assigned([0, 0]),
        "empty assignment": _assigned([]),
        "assignment and count": {**_assigned([0]), "num_partitions": 1, "replication_factor": 1},
    }
    for label, row in rows.items():
        create(subject, label, {"name": subject.new_name(), **row}, validate_only=True, version=4)
    create(subject, "timeout 0", {"name": subject.new_name()}, timeout_ms=0)
    create(subject, "timeout -1", {"name": subject.new_name()}, timeout_ms=-1)
    create(subject, "no topics")
    for version in range(2, 8):
        create(subject, f"v{version}", {"name": subject.new_name()}, version=version)


def _assigned(*replicas: list[int]) -> dict[str, Any]:
    rows = [{"partition_index": index, "broker_ids": brokers} for index, brokers in enumerate(replicas)]
    return {"num_partitions": -1, "replication_factor": -1, "assignments": rows}


BAD_TOPIC_CONFIGS: dict[str, tuple[str, str | None]] = {
    "unknown key": ("no.such.config", "1"),
    "not a number": ("retention.ms", "abc"),
    "a fraction": ("retention.ms", "1.5"),
    "retention.ms -2": ("retention.ms", "-2"),
    "retention.ms -1": ("retention.ms", "-1"),
    "segment.bytes 10": ("segment.bytes", "10"),
    "segment.bytes 1048575": ("segment.bytes", "1048575"),
    "segment.bytes 1048576": ("segment.bytes", "1048576"),
    "segment.bytes too large": ("segment.bytes", "2147483648"),
    "max.message.bytes -1": ("max.message.bytes", "-1"),
    "cleanup.policy both": ("cleanup.policy", "compact,delete"),
    "cleanup.policy empty": ("cleanup.policy", ""),
    "cleanup.policy twice": ("cleanup.policy", "delete,delete"),
    "cleanup.policy unknown": ("cleanup.policy", "keep"),
    "compression.type unknown": ("compression.type", "rar"),
    "compression.type zstd": ("compression.type", "zstd"),
    "compression.gzip.level 20": ("compression.gzip.level", "20"),
    "timestamp type unknown": ("message.timestamp.type", "Never"),
    "min.insync.replicas 0": ("min.insync.replicas", "0"),
    "boolean yes": ("preallocate", "yes"),
    "boolean TRUE": ("preallocate", "TRUE"),
    "null value": ("retention.ms", None),
    "empty number": ("retention.ms", ""),
    "spaces": ("retention.ms", " 100 "),
    "local above total retention": ("local.retention.ms", "999999999999"),
    "min.cleanable.dirty.ratio 2": ("min.cleanable.dirty.ratio", "2"),
    "follower throttled": ("follower.replication.throttled.replicas", "0:0"),
    "remote storage": ("remote.storage.enable", "true"),
    "message.format.version": ("message.format.version", "3.0"),
    "dead letter queue": ("errors.deadletterqueue.group.enable", "true"),
}


@case
def create_topics_configs(subject: Subject) -> None:
    for label, (name, value) in BAD_TOPIC_CONFIGS.items():
        row = {"name": subject.new_name(), "configs": [{"name": name, "value": value}]}
        create(subject, label, row, validate_only=True)
    twice = [{"name": "retention.ms", "value": "1"}, {"name": "retention.ms", "value": "2"}]
    create(subject, "the same config twice", {"name": subject.new_name(), "configs": twice}, validate_only=True)


@case
def create_partitions(subject: Subject) -> None:
    topic = subject.topic(2)
    rows: dict[str, dict[str, Any]] = {
        "more": {"count": 4},
        "the same": {"count": 4},
        "fewer": {"count": 1},
        "zero": {"count": 0},
        "negative": {"count": -1},
        "assigned": {"count": 5, "assignments": [{"broker_ids": [0]}]},
        "too few assigned": {"count": 8, "assignments": [{"broker_ids": [0]}]},
        "unknown broker": {"count": 6, "assignments": [{"broker_ids": [9]}]},
        "unknown topic": {"name": f"{topic}-none", "count": 4},
        "internal": {"name": "__no_such_internal", "count": 4},
    }
    for label, row in rows.items():
        topics = [{"name": topic, "assignments": None, **row}]
        subject.call(label, CreatePartitionsRequest, 3, topics=topics, timeout_ms=5_000, validate_only=False)
    topics = [{"name": topic, "count": count, "assignments": None} for count in (9, 10)]
    subject.call("twice", CreatePartitionsRequest, 3, topics=topics, timeout_ms=5_000, validate_only=False)
    topics = [{"name": topic, "count": 20, "assignments": None}]
    subject.call("validate only", CreatePartitionsRequest, 3, topics=topics, timeout_ms=5_000, validate_only=True)
    subject.call("what there is", MetadataRequest, 5, topics=[{"name": topic}], allow_auto_topic_creation=False)


@case
def delete_topics(subject: Subject) -> None:
    first, second, third = subject.topic(), subject.topic(), subject.topic()
    second_id, third_id = subject.topic_id(second), subject.topic_id(third)
    subject.call("by name", DeleteTopicsRequest, 4, topic_names=[first], timeout_ms=5_000)
    subject.call("again", DeleteTopicsRequest, 4, topic_names=[first], timeout_ms=5_000)

    def by_rows(label: str, *rows: dict[str, Any]) -> None:
        topics = [{"name": None, "topic_id": uuid.UUID(int=0), **row} for row in rows]
        subject.call(label, DeleteTopicsRequest, 6, topics=topics, timeout_ms=5_000)

    by_rows("by name and id in one row", {"name": second, "topic_id": second_id})
    by_rows("neither", {})
    by_rows("by name and by id", {"name": second}, {"topic_id": second_id})
    by_rows("the same twice", {"name": second}, {"name": second})
    by_rows("unknown id", {"topic_id": uuid.UUID(int=55)})
    by_rows("by id", {"topic_id": second_id})
    by_rows("one good, one unknown", {"topic_id": third_id}, {"name": "no-such-topic"})
    subject.call("no topics", DeleteTopicsRequest, 6, topics=[], timeout_ms=5_000)


@case
def metadata(subject: Subject) -> None:
    topic = subject.topic(2)
    topic_id = subject.topic_id(topic)
    for version in range(1, 14):
        fields: dict[str, Any] = {"allow_auto_topic_creation": False} if version >= 4 else {}
        if version >= 8:
            fields["include_topic_authorized_operations"] = True
        if 8 <= version <= 10:
            fields["include_cluster_authorized_operations"] = True
        subject.call(f"v{version}", MetadataRequest, version, topics=[{"name": topic}], **fields)
        if version >= 4:
            rows = [{"name": name} for name in (f"{topic}-none", "bad name", "", "x" * 250)]
            subject.call(f"v{version} unknown and invalid", MetadataRequest, version, topics=rows, **fields)
        subject.call(f"v{version} none", MetadataRequest, version, topics=[], **fields)
    by_id = {"known": topic_id, "unknown": uuid.UUID(int=56)}
    for label, one in by_id.items():
        rows = [{"topic_id": one, "name": None}]
        subject.call(f"by id, {label}", MetadataRequest, 12, topics=rows, allow_auto_topic_creation=False)
        rows = [{"topic_id": one, "name": ""}]  # as the Java client does
        subject.call(
            f"by id and empty name, {label}", MetadataRequest, 12, topics=rows, allow_auto_topic_creation=False
        )
    rows = [{"name": topic}, {"name": topic}]
    subject.call("twice", MetadataRequest, 9, topics=rows, allow_auto_topic_creation=False)
    rows = [{"name": "bad name"}, {"name": "__consumer_offsets"}]
    subject.call(
        "auto-creation of an invalid name", MetadataRequest, 9, topics=rows[:1], allow_auto_topic_creation=True
    )


@case
def describe_topic_partitions(subject: Subject) -> None:
    first, second = sorted((subject.topic(3), subject.topic(2)))
    names = [{"name": name} for name in (second, first, f"{first}-none")]

    def describe(label: str, topics: list[dict[str, str]], limit: int, cursor: dict[str, Any] | None) -> None:
        fields = {"topics": topics, "response_partition_limit": limit, "cursor": cursor}
        subject.call(label, DescribeTopicPartitionsRequest, 0, **fields)

    describe("all of three", names, 2_000, None)
    describe("limit 2", names, 2, None)
    describe("limit 0", names, 0, None)
    describe("from a cursor", names, 2_000, {"topic_name": first, "partition_index": 1})
    describe("from a cursor of another topic", names, 2_000, {"topic_name": second, "partition_index": 1})
    describe("negative cursor", names, 2_000, {"topic_name": first, "partition_index": -1})


def describe_configs(
    subject: Subject, label: str, resource_type: int, name: str, keys: list[str] | None, version: int = 4, **more: Any
) -> Any:
    resources = [{"resource_type": resource_type, "resource_name": name, "configuration_keys": keys}]
    return subject.call(label, DescribeConfigsRequest, version, resources=resources, **more)


@case
def describe_configs_of_a_topic(subject: Subject) -> None:
    topic = subject.topic(retention_ms="12345", cleanup_policy="compact,delete")
    describe_configs(subject, "all", TOPIC, topic, None)
    describe_configs(subject, "two keys", TOPIC, topic, ["retention.ms", "no.such"])
    describe_configs(subject, "no keys", TOPIC, topic, [])
    keys = ["retention.ms", "segment.bytes", "min.insync.replicas", "compression.type"]
    describe_configs(subject, "synonyms", TOPIC, topic, keys, include_synonyms=True)
    for version in range(1, 5):
        describe_configs(subject, f"v{version}", TOPIC, topic, ["retention.ms", "segment.ms"], version)
    describe_configs(subject, "unknown topic", TOPIC, f"{topic}-none", None)
    describe_configs(subject, "invalid name", TOPIC, "bad name", None)
    describe_configs(subject, "empty name", TOPIC, "", None)
    describe_configs(subject, "type 0", 0, topic, None)
    describe_configs(subject, "type 99", 99, topic, None)
    described = subject.quiet(
        DescribeConfigsRequest,
        4,
        {
            "resources": [{"resource_type": TOPIC, "resource_name": topic, "configuration_keys": None}],
            "include_documentation": True,
        },
    )
    configs = described.results[0].configs
    kafkas = [one for one in configs if not one.name.startswith("bytemq.")]
    # Where a config has no meaning here, a remark in brackets follows Kafka's text.
    documented = {one.name: one.documentation.partition(" (In bytemq")[0] for one in kafkas}
    subject.answers["documentation"] = documented


@case
def describe_configs_of_brokers_and_groups(subject: Subject) -> None:
    keys = ["log.retention.ms", "message.max.bytes", "num.partitions", "compression.type", "auto.create.topics.enable"]
    for name in ("0", "7", "-1", "x"):
        describe_configs(subject, f"broker {name}", BROKER, name, keys)
    describe_configs(subject, "cluster default", BROKER, "", None)
    describe_configs(subject, "group", GROUP, "any-group", None)
    describe_configs(subject, "empty group", GROUP, "", None)
    describe_configs(subject, "logger of another broker", BROKER_LOGGER, "7", None)
    describe_configs(subject, "client metrics", CLIENT_METRICS, "none", None)


def alter(subject: Subject, label: str, topic: str, *changes: tuple[str, int, str | None], **fields: Any) -> None:
    configs = [{"name": name, "config_operation": operation, "value": value} for name, operation, value in changes]
    kind = fields.pop("resource_type", TOPIC)
    resources = [{"resource_type": kind, "resource_name": topic, "configs": configs}]
    subject.call(label, IncrementalAlterConfigsRequest, 1, resources=resources, **{"validate_only": False, **fields})


@case
def incremental_alter_configs(subject: Subject) -> None:
    topic = subject.topic()
    put, delete, append, subtract = range(4)
    alter(subject, "set", topic, ("retention.ms", put, "5000"))
    alter(subject, "append to a list", topic, ("cleanup.policy", append, "compact"))
    alter(subject, "append again", topic, ("cleanup.policy", append, "compact"))
    alter(subject, "subtract", topic, ("cleanup.policy", subtract, "delete"))
    alter(subject, "subtract the last", topic, ("cleanup.policy", subtract, "compact"))
    alter(subject, "append to a number", topic, ("retention.ms", append, "1"))
    alter(subject, "delete", topic, ("retention.ms", delete, None))
    alter(subject, "delete what is not set", topic, ("segment.ms", delete, None))
    alter(subject, "delete an unknown key", topic, ("no.such", delete, None))
    alter(subject, "set an unknown key", topic, ("no.such", put, "1"))
    alter(subject, "operation 9", topic, ("retention.ms", 9, "1"))
    alter(subject, "set to null", topic, ("retention.ms", put, None))
    alter(subject, "twice", topic, ("retention.ms", put, "1"), ("retention.ms", put, "2"))
    alter(subject, "one bad of two", topic, ("segment.ms", put, "77"), ("retention.ms", put, "x"))
    alter(subject, "validate only", topic, ("retention.ms", put, "9"), validate_only=True)
    alter(subject, "unknown topic", f"{topic}-none", ("retention.ms", put, "9"))
    alter(subject, "type 99", topic, ("retention.ms", put, "9"), resource_type=99)
    alter(subject, "broker that is not there", "7", ("log.retention.ms", put, "9"), resource_type=BROKER)
    alter(subject, "read-only broker config", "0", ("broker.id", put, "9"), resource_type=BROKER)
    alter(subject, "empty group", "", ("consumer.session.timeout.ms", put, "50000"), resource_type=GROUP)
    for label, (name, value) in BAD_TOPIC_CONFIGS.items():
        alter(subject, f"value: {label}", topic, (name, put, value), validate_only=True)
    describe_configs(subject, "what is set", TOPIC, topic, ["retention.ms", "cleanup.policy", "segment.ms"])


@case
def alter_configs(subject: Subject) -> None:
    topic = subject.topic(segment_ms="5000")

    def replace(label: str, name: str, *configs: tuple[str, str | None], **fields: Any) -> None:
        rows = [{"name": key, "value": value} for key, value in configs]
        resources = [{"resource_type": TOPIC, "resource_name": name, "configs": rows}]
        subject.call(label, AlterConfigsRequest, 2, resources=resources, **{"validate_only": False, **fields})

    replace("replaces all", topic, ("retention.ms", "1000"))
    replace("bad value", topic, ("retention.ms", "x"))
    replace("null value", topic, ("retention.ms", None))
    replace("unknown topic", f"{topic}-none", ("retention.ms", "1"))
    describe_configs(subject, "what is set", TOPIC, topic, ["retention.ms", "segment.ms"])


@case
def list_config_resources(subject: Subject) -> None:
    for label, types in {"topics": [TOPIC], "brokers": [BROKER], "metrics": [CLIENT_METRICS], "odd": [77]}.items():
        response = subject.quiet(ListConfigResourcesRequest, 1, {"resource_types": types})
        count = len(response.config_resources)
        subject.answers[label] = [response.error_code, count if label != "topics" else count > 0]


@case
def cluster(subject: Subject) -> None:
    for version in range(3):
        kinds = (1, 2, 3) if version >= 1 else (None,)
        for kind in kinds:
            fields: dict[str, Any] = {"include_cluster_authorized_operations": True}
            if kind is not None:
                fields["endpoint_type"] = kind
            subject.call(f"v{version} endpoint {kind}", DescribeClusterRequest, version, **fields)


@case
def log_dirs(subject: Subject) -> None:
    topic = subject.topic(2)
    for version in range(1, 6):
        rows = [{"topic": topic, "partitions": [0, 1, 9]}]
        response = subject.quiet(DescribeLogDirsRequest, version, {"topics": rows})
        [folder] = response.results
        kept = [[found.name, [(p.partition_index, p.partition_size, p.offset_lag) for p in found.partitions]]
                for found in folder.topics]  # fmt: skip
        subject.answers[f"v{version}"] = [response.error_code, folder.error_code, _sorted(kept)]


def _sorted(topics: list[Any]) -> list[Any]:
    return [[name, sorted(list(partition) for partition in partitions)] for name, partitions in sorted(topics)]


@case
def reassignments_and_elections(subject: Subject) -> None:
    topic = subject.topic(2)

    def reassign(label: str, name: str, index: int, replicas: list[int] | None) -> None:
        topics = [{"name": name, "partitions": [{"partition_index": index, "replicas": replicas}]}]
        subject.call(label, AlterPartitionReassignmentsRequest, 0, timeout_ms=5_000, topics=topics)

    reassign("to where it is", topic, 0, [0])
    reassign("to an unknown broker", topic, 0, [9])
    reassign("to nobody", topic, 0, [])
    reassign("cancel nothing", topic, 0, None)
    reassign("unknown partition", topic, 7, [0])
    reassign("unknown topic", f"{topic}-none", 0, [0])
    subject.call("all in progress", ListPartitionReassignmentsRequest, 0, timeout_ms=5_000, topics=None)
    rows = [{"name": topic, "partition_indexes": [0]}]
    subject.call("one in progress", ListPartitionReassignmentsRequest, 0, timeout_ms=5_000, topics=rows)
    for version in range(3):
        kinds = (0, 1, 2) if version >= 1 else (None,)
        for kind in kinds:
            partitions = [{"topic": topic, "partitions": [0, 9]}, {"topic": f"{topic}-none", "partitions": [0]}]
            fields: dict[str, Any] = {"topic_partitions": partitions, "timeout_ms": 5_000}
            if kind is not None:
                fields["election_type"] = kind
            subject.call(f"v{version} election {kind}", ElectLeadersRequest, version, **fields)


@case
def update_features(subject: Subject) -> None:
    """What changes nothing, and what is refused."""

    def update(label: str, version: int, *updates: tuple[str, int, int], timeout_ms: int = 5_000) -> None:
        rows = []
        for name, level, kind in updates:
            row: dict[str, Any] = {"feature": name, "max_version_level": level}
            row |= {"upgrade_type": kind} if version else {"allow_downgrade": kind != 1}
            rows.append(row)
        fields: dict[str, Any] = {"timeout_ms": timeout_ms, "feature_updates": rows}
        if version:
            fields["validate_only"] = True
        subject.call(f"v{version} {label}", UpdateFeaturesRequest, version, **fields)

    for version in range(3):
        update("nothing", version)
        update("as it is", version, ("group.version", 1, 1))
        update("two as they are", version, ("group.version", 1, 1), ("transaction.version", 2, 1))
        update("too high", version, ("group.version", 7, 1))
        update("negative", version, ("group.version", -1, 1))
        update("lower", version, ("group.version", 0, 1))
        update("unknown", version, ("nobodys.version", 1, 1))
        update("one right, one wrong", version, ("group.version", 1, 1), ("transaction.version", 9, 1))
        update("without time", version, ("group.version", 1, 1), timeout_ms=0)
    for version in (1, 2):
        update("as it is, downgraded", version, ("group.version", 1, 2))
        update("no such type", version, ("group.version", 1, 9))


@case
def describe_quorum(subject: Subject) -> None:
    """Who leads, and that there are numbers: which ones is each server's own affair."""

    def ask(label: str, version: int, *names: tuple[str, list[int]]) -> Any:
        topics = [
            {"topic_name": name, "partitions": [{"partition_index": index} for index in indexes]}
            for name, indexes in names
        ]
        return subject.quiet(DescribeQuorumRequest, version, {"topics": topics})

    topic = subject.topic()
    for version in (0, 1, 2):
        response = ask("right", version, ("__cluster_metadata", [0]))
        [answered] = response.topics
        [partition] = answered.partitions
        voters = [[voter.replica_id, voter.log_end_offset >= 0] for voter in partition.current_voters]
        numbers = [partition.leader_epoch > 0, partition.high_watermark > 0]
        leader = [answered.topic_name, partition.error_code, partition.leader_id]
        subject.note(f"v{version}", [response.error_code, leader, numbers, voters])
        for label, names in {
            "another topic": [(topic, [0])],
            "another partition": [("__cluster_metadata", [1])],
            "two partitions": [("__cluster_metadata", [0, 1])],
            "two topics": [("__cluster_metadata", [0]), (topic, [0])],
            "no topic": [],
            "no partition": [("__cluster_metadata", [])],
        }.items():
            subject.note(f"v{version} {label}", ask(label, version, *names))
