"""The command line tools of Apache Kafka 4.4.0, unmodified: what an operator types."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.interop.conftest import Server, broker_count, replication_factor
from tests.interop.differential import OWN, Subject
from tests.interop.differential_consumer_groups import subscription
from tests.interop.kafka_cli import TOOLS, Cli
from tests.interop.newer_messages import ConsumerGroupHeartbeatRequest
from tests.support import probe

pytestmark = pytest.mark.interop
NAME = Callable[[str], str]
WITHIN_S = 30.0


@pytest.fixture
def cli(server: Server) -> Cli:
    return Cli(server)


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


@pytest.mark.one_broker
def test_kafka_cli__topics(cli: Cli, unique_name: NAME) -> None:
    topic = unique_name("cli-topics")
    create = ("--create", "--topic", topic, "--partitions", "2", "--config", "retention.ms=60000")
    assert f"Created topic {topic}" in cli.topics(*create)
    assert "already exists" in cli.topics(*create, fails=True)
    assert topic in cli.topics("--list").split()
    described = cli.topics("--describe", "--topic", topic)
    assert "PartitionCount: 2" in described and "retention.ms=60000" in described
    assert len(re.findall(r"Partition: \d\s+Leader: 0\s+Replicas: 0\s+Isr: 0", described)) == 2
    cli.topics("--alter", "--topic", topic, "--partitions", "4")
    assert "PartitionCount: 4" in cli.topics("--describe", "--topic", topic)
    assert cli.topics("--describe", "--under-replicated-partitions", "--topic", topic).strip() == ""
    cli.topics("--delete", "--topic", topic)
    assert "does not exist" in cli.topics("--describe", "--topic", topic, fails=True)


@pytest.mark.one_broker
def test_kafka_cli__describe_agrees_with_the_brokers_that_there_are(
    server: Server, cli: Cli, unique_name: NAME
) -> None:
    topic = unique_name("cli-factor")
    replicas = ("--replication-factor", replication_factor(server), "--config", "min.insync.replicas=1")
    cli.topics("--create", "--topic", topic, "--partitions", "2", *map(str, replicas))
    described = cli.topics("--describe", "--topic", topic)
    assert "ReplicationFactor: 1" in described
    assert len(re.findall(r"Leader: 0\s+Replicas: 0\s+Isr: 0\s+Elr:\s+LastKnownElr:", described)) == 2
    for problem in ("under-replicated", "unavailable", "under-min-isr", "at-min-isr"):
        listed = cli.topics("--describe", f"--{problem}-partitions", "--topic", topic)
        assert (topic in listed) == (problem == "at-min-isr"), problem
    cli.produce(topic, ["line"], "--producer-property", "acks=all")
    assert cli.consume(topic, 1, "--from-beginning") == ["line"]


def test_kafka_cli__console_producer_and_consumer(cli: Cli, unique_name: NAME) -> None:
    topic, group = unique_name("cli-console"), unique_name("group")
    cli.topics("--create", "--topic", topic, "--partitions", "1")
    lines = [f"{number}\tvalue {number} größe" for number in range(200)]
    cli.produce(topic, lines, "--reader-property", "parse.key=true", "--compression-codec", "zstd")
    options = ("--formatter-property", "print.key=true", "--formatter-property", "print.offset=true")
    read = cli.consume(topic, 150, "--group", group, "--from-beginning", *options)
    assert read == [f"Offset:{offset}\t{line}" for offset, line in enumerate(lines[:150])]
    rest = cli.consume(topic, 50, "--group", group, *options)
    assert rest == [f"Offset:{offset}\t{line}" for offset, line in enumerate(lines)][150:]
    described = cli.groups("--describe", "--group", group)
    assert re.search(rf"{group}\s+{topic}\s+0\s+200\s+200\s+0\s", described), described


def test_kafka_cli__consumer_groups(cli: Cli, unique_name: NAME) -> None:
    topic, group = unique_name("cli-groups"), unique_name("group")
    cli.topics("--create", "--topic", topic, "--partitions", "1")
    cli.produce(topic, [f"line {number}" for number in range(20)])
    assert len(cli.consume(topic, 20, "--group", group, "--from-beginning")) == 20
    assert group in cli.groups("--list").split()
    assert "Empty" in cli.groups("--describe", "--group", group, "--state")
    reset = ("--reset-offsets", "--group", group, "--topic", topic, "--to-offset", "5")
    cli.groups(*reset, "--dry-run")
    assert re.search(rf"{topic}\s+0\s+20\s+20\s+0", cli.groups("--describe", "--group", group))
    cli.groups(*reset, "--execute")
    assert re.search(rf"{topic}\s+0\s+5\s+20\s+15", cli.groups("--describe", "--group", group))
    assert cli.consume(topic, 15, "--group", group)[0] == "line 5"
    for how, offset in (("--to-earliest", 0), ("--shift-by=7", 7), ("--to-latest", 20), ("--by-duration=PT1H", 0)):
        reset = ("--reset-offsets", "--group", group, "--topic", f"{topic}:0", *how.split("="), "--execute")
        assert re.search(rf"{group}\s+{topic}\s+0\s+{offset}\b", cli.groups(*reset)), how
    cli.groups("--delete-offsets", "--group", group, "--topic", topic)
    cli.groups("--delete", "--group", group)
    assert group not in cli.groups("--list").split()
    assert group not in cli.run(f"{TOOLS}.GroupsCommand", "--list")


def test_kafka_cli__groups_of_the_consumer_protocol(cli: Cli, unique_name: NAME) -> None:
    topic, group = unique_name("cli-kip848"), unique_name("group")
    cli.topics("--create", "--topic", topic, "--partitions", "1")
    cli.produce(topic, [f"line {number}" for number in range(20)])
    protocol = ("--command-property", "group.protocol=consumer")
    assert cli.consume(topic, 15, "--group", group, "--from-beginning", *protocol)[-1] == "line 14"
    assert re.search(rf"{group}\s+Consumer\s+consumer", cli.run(f"{TOOLS}.GroupsCommand", "--list"))
    assert re.search(r"uniform\s+Empty\s+0", cli.groups("--describe", "--group", group, "--state"))
    assert re.search(rf"{topic}\s+0\s+15\s+20\s+5", cli.groups("--describe", "--group", group))
    reset = ("--reset-offsets", "--group", group, "--topic", topic, "--to-offset", "5", "--execute")
    cli.groups(*reset)
    assert cli.consume(topic, 15, "--group", group, *protocol)[0] == "line 5"
    cli.groups("--delete", "--group", group)
    assert group not in cli.groups("--list").split()


def test_kafka_cli__configs(cli: Cli, unique_name: NAME) -> None:
    topic = unique_name("cli-configs")
    cli.topics("--create", "--topic", topic)
    entity = ("--entity-type", "topics", "--entity-name", topic)
    cli.configs("--alter", *entity, "--add-config", "cleanup.policy=[compact,delete],segment.ms=70000")
    described = cli.configs("--describe", *entity)
    assert "cleanup.policy=compact,delete" in described and "segment.ms=70000" in described
    assert "retention.ms" in cli.configs("--describe", "--all", *entity)
    cli.configs("--alter", *entity, "--delete-config", "segment.ms")
    assert "segment.ms" not in cli.configs("--describe", *entity)
    refused = cli.configs("--alter", *entity, "--add-config", "segment.ms=x", fails=True)
    assert "Invalid value x for configuration segment.ms: Not a number of type LONG" in refused
    default = ("--entity-type", "brokers", "--entity-default")
    cli.configs("--alter", *default, "--add-config", "message.max.bytes=1500000")
    assert "message.max.bytes=1500000" in cli.configs("--describe", *default)
    cli.configs("--alter", *default, "--delete-config", "message.max.bytes")
    assert "log.retention.hours" in cli.configs("--describe", "--all", "--entity-type", "brokers", "--entity-name", "0")
    group = ("--entity-type", "groups", "--entity-name", topic)
    cli.configs("--alter", *group, "--add-config", "consumer.session.timeout.ms=50000")
    assert "consumer.session.timeout.ms=50000" in cli.configs("--describe", *group)
    cli.configs("--alter", *group, "--delete-config", "consumer.session.timeout.ms")


def test_kafka_cli__configs_of_a_group_reach_its_members(server: Server, cli: Cli, unique_name: NAME) -> None:
    """Whom the tool asks does not coordinate the group, where there are several brokers."""
    group = name_of(server, broker_count(server) - 1, unique_name)
    subject = Subject(server.address, group)
    joining = {**subscription(subject.topic(2)), "group_id": group, "member_id": f"{OWN}1", "member_epoch": 0}

    def told_ms() -> int:
        """To a member that joins, as it may again at any time: a tool can take longer than a session."""
        answer = subject.quiet(ConsumerGroupHeartbeatRequest, 1, joining)
        assert answer.error_code == 0, answer
        return int(answer.heartbeat_interval_ms)

    entity, interval = ("--entity-type", "groups", "--entity-name", group), "consumer.heartbeat.interval.ms"
    assert told_ms() <= 5_000
    refused = cli.configs("--alter", *entity, "--add-config", f"{interval}=4000", fails=True)
    assert f"{interval} must be in the range 5000 to 15000 inclusive." in refused
    cli.configs("--alter", *entity, "--add-config", f"{interval}=15000")
    assert f"{interval}=15000" in cli.configs("--describe", *entity)
    wait_until(lambda: told_ms() > 5_000, "the member is told of the longer interval")
    cli.configs("--alter", *entity, "--delete-config", interval)
    assert interval not in cli.configs("--describe", *entity)
    wait_until(lambda: told_ms() <= 5_000, "the member is told of the interval of before")
    subject.close()


def name_of(server: Server, coordinator: int, unique_name: NAME) -> str:
    """A group that this broker coordinates."""
    found: list[str] = []

    def is_its() -> bool:
        found.append(unique_name("cli-group"))
        with probe.connect(server.address) as wire:
            return probe.coordinator(wire, found[-1]) == coordinator

    wait_until(is_its, f"broker {coordinator} coordinates")
    return found[-1]


def test_kafka_cli__offsets_and_records(cli: Cli, unique_name: NAME, tmp_path: Path) -> None:
    topic = unique_name("cli-offsets")
    cli.topics("--create", "--topic", topic, "--partitions", "1")
    cli.produce(topic, [f"line {number}" for number in range(30)])
    assert cli.run(f"{TOOLS}.GetOffsetShell", "--topic", topic).split() == [f"{topic}:0:30"]
    times = {"latest": "30", "-1": "30", "-2": "0", "earliest-local": "0", "0": "0"}
    for when, offset in times.items():
        found = cli.run(f"{TOOLS}.GetOffsetShell", "--topic-partitions", f"{topic}:0", "--time", when).split()
        assert found == [f"{topic}:0:{offset}"], when
    plan = tmp_path / "delete.json"
    rows = [{"topic": topic, "partition": 0, "offset": 12}]
    plan.write_text(json.dumps({"partitions": rows, "version": 1}))
    assert "low_watermark: 12" in cli.run(f"{TOOLS}.DeleteRecordsCommand", "--offset-json-file", str(plan))
    assert cli.run(f"{TOOLS}.GetOffsetShell", "--topic", topic, "--time", "earliest").split() == [f"{topic}:0:12"]
    printed = cli.run(f"{TOOLS}.LogDirsCommand", "--describe", "--topic-list", topic)
    brokers = json.loads(printed.splitlines()[-1])["brokers"]
    sizes = [row for broker in brokers for folder in broker["logDirs"] for row in folder["partitions"]]
    assert [row["partition"] for row in sizes] == [f"{topic}-0"] and sizes[0]["size"] > 0


@pytest.mark.one_broker
def test_kafka_cli__api_versions_and_features(cli: Cli) -> None:
    printed = cli.run(f"{TOOLS}.BrokerApiVersionsCommand")
    assert "Produce(0): 0 to 13 [usable: 13]" in printed and "Fetch(1): 4 to 18" in printed
    assert "UNKNOWN" not in printed
    assert "metadata.version" in cli.run(f"{TOOLS}.FeatureCommand", "describe")
    assert "Cluster ID: " in cli.run_as_it_is(f"{TOOLS}.ClusterTool", "cluster-id", "-b", cli.bootstrap)
    listed = cli.run_as_it_is(f"{TOOLS}.ClusterTool", "list-endpoints", "-b", cli.bootstrap)
    host, port = cli.bootstrap.split(":")
    assert re.search(rf"^0\s+{host}\s+{port}\s", listed, re.MULTILINE), listed


@pytest.mark.one_broker
def test_kafka_cli__metadata_quorum(cli: Cli) -> None:
    printed = cli.run(f"{TOOLS}.MetadataQuorumCommand", "describe", "--status")
    assert re.search(r"^LeaderId:\s+0$", printed, re.MULTILINE), printed
    assert re.search(r"^HighWatermark:\s+[1-9]", printed, re.MULTILINE), printed
    replicas = cli.run(f"{TOOLS}.MetadataQuorumCommand", "describe", "--replication").splitlines()
    assert [line.split("\t")[0].strip() for line in replicas if line.rstrip().endswith("Leader")] == ["0"], replicas


def test_kafka_cli__performance_tools(cli: Cli, unique_name: NAME) -> None:
    topic = unique_name("cli-performance")
    cli.topics("--create", "--topic", topic, "--partitions", "3")
    load = ("--topic", topic, "--num-records", "20000", "--record-size", "200", "--throughput", "-1")
    assert "20000 records sent" in cli.run(f"{TOOLS}.ProducerPerformance", *load)
    read = ("--topic", topic, "--num-records", "20000", "--timeout", "30000")
    last = cli.run(f"{TOOLS}.ConsumerPerformance", *read).splitlines()[-1]
    assert int(float(last.split(",")[4])) >= 20_000, last


def test_kafka_cli__producer_performance_in_transactions(server: Server, cli: Cli, unique_name: NAME) -> None:
    topic = unique_name("cli-performance-txn")
    cli.topics("--create", "--topic", topic, "--partitions", "3")
    load = ("--topic", topic, "--num-records", "5000", "--record-size", "100", "--throughput", "-1")
    cli.run(f"{TOOLS}.ProducerPerformance", *load, "--transaction-duration-ms", "50", "--transactional-id", topic)
    committed = ("--isolation-level", "read_committed", "--from-beginning")
    assert len(cli.consume(topic, 5_000, *committed)) == 5_000
    with probe.connect(server.address) as wire:
        coordinator = probe.coordinator(wire, topic, probe.TRANSACTION)
    assert 0 <= coordinator < broker_count(server)
    listed = cli.run(f"{TOOLS}.TransactionsCommand", "list")
    assert re.search(rf"{topic}\s+{coordinator}\s+\d+\s+CompleteCommit", listed), listed


def test_kafka_cli__end_to_end_latency(cli: Cli, unique_name: NAME) -> None:
    topic = unique_name("cli-latency")
    cli.topics("--create", "--topic", topic, "--partitions", "1")
    printed = cli.run_as_it_is(f"{TOOLS}.EndToEndLatency", cli.bootstrap, topic, "200", "all", "50")
    assert "Percentiles: 50th = " in printed


def test_kafka_cli__verifiable_producer_and_consumer(cli: Cli, unique_name: NAME) -> None:
    topic, group = unique_name("cli-verifiable"), unique_name("group")
    cli.topics("--create", "--topic", topic, "--partitions", "2")
    printed = cli.run(f"{TOOLS}.VerifiableProducer", "--topic", topic, "--max-messages", "500", "--acks", "-1")
    events = [json.loads(line) for line in printed.splitlines()]
    acknowledged = [int(event["value"]) for event in events if event["name"] == "producer_send_success"]
    assert sorted(acknowledged) == list(range(500))
    options = ("--group-id", group, "--max-messages", "500", "--verbose")
    printed = cli.run(f"{TOOLS}.VerifiableConsumer", "--topic", topic, *options)
    events = [json.loads(line) for line in printed.splitlines()]
    read = [int(event["value"]) for event in events if event["name"] == "record_data"]
    assert sorted(read) == list(range(500))
    assert re.search(rf"{group}\s+{topic}", cli.groups("--describe", "--group", group, "--offsets"))


@pytest.mark.one_broker
def test_kafka_cli__elections_and_reassignments(cli: Cli, unique_name: NAME, tmp_path: Path) -> None:
    topic = unique_name("cli-elections")
    cli.topics("--create", "--topic", topic, "--partitions", "1")
    elect = ("--election-type", "preferred", "--topic", topic, "--partition", "0")
    assert "Valid replica already elected" in cli.run(f"{TOOLS}.LeaderElectionCommand", *elect)
    plan = tmp_path / "reassign.json"
    rows = [{"topic": topic, "partition": 0, "replicas": [0]}]
    plan.write_text(json.dumps({"version": 1, "partitions": rows}))
    command = f"{TOOLS}.reassign.ReassignPartitionsCommand"
    assert "No partition reassignments found." in cli.run(command, "--list")
    assert "Successfully started" in cli.run(command, "--execute", "--reassignment-json-file", str(plan))
    assert "is complete" in cli.run(command, "--verify", "--reassignment-json-file", str(plan))
