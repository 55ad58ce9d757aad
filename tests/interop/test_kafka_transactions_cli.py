"""kafka-transactions of Apache Kafka 4.4.0, unmodified: finding, describing and ending transactions as an operator."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.interop.conftest import Server
from tests.interop.differential import Subject
from tests.interop.kafka_cli import TOOLS, Cli
from tests.interop.transactional_producer import TransactionalProducer, begin

pytestmark = [pytest.mark.interop, pytest.mark.one_broker]
NAME = Callable[[str], str]
TOOL = f"{TOOLS}.TransactionsCommand"


@pytest.fixture
def subject(server: Server, unique_name: NAME) -> Iterator[Subject]:
    made = Subject(server.address, unique_name("cli-txn"))
    yield made
    made.close()


@pytest.fixture
def cli(server: Server) -> Cli:
    return Cli(server)


def row(printed: str, first: str) -> list[str]:
    """The columns of the row that begins with `first`."""
    [found] = [line.split() for line in printed.splitlines() if line.split()[:1] == [first]]
    return found


def opened(subject: Subject) -> tuple[TransactionalProducer, str]:
    producer, topic = begin(subject), subject.topic()
    producer.add(topic, 0)
    producer.send(topic)
    return producer, topic


def test_kafka_transactions__shows_what_is_open(cli: Cli, subject: Subject) -> None:
    producer, topic = opened(subject)
    name, number = producer.transactional_id, str(producer.producer_id)
    assert row(cli.run(TOOL, "list"), name) == [name, "0", number, "Ongoing"]
    described = row(cli.run(TOOL, "describe", "--transactional-id", name), "0")
    assert described[1:6] == [name, number, "0", "Ongoing", "60000"]
    assert described[-1] == f"{topic}-0"
    producers = row(cli.run(TOOL, "describe-producers", "--topic", topic, "--partition", "0"), number)
    assert producers[1] == "0" and producers[-1] == "0"  # epoch; where the transaction begins
    producer.end(commit=True)
    assert row(cli.run(TOOL, "list"), name)[-1] == "CompleteCommit"


def test_kafka_transactions__aborts_one_that_hangs(cli: Cli, subject: Subject) -> None:
    producer, topic = opened(subject)
    cli.run(TOOL, "abort", "--topic", topic, "--partition", "0", "--start-offset", "0")
    number = str(producer.producer_id)
    shown = row(cli.run(TOOL, "describe-producers", "--topic", topic, "--partition", "0"), number)
    assert shown[-1] == "None"
    producer.end(commit=False)


def test_kafka_transactions__finds_none_that_hangs_where_the_coordinator_knows_it(cli: Cli, subject: Subject) -> None:
    producer, topic = begin(subject), subject.topic()
    producer.timestamp_ms -= 2 * 3_600_000
    producer.add(topic, 0)
    producer.send(topic)
    for where in (("--topic", topic, "--partition", "0"), ("--broker-id", "0")):
        found = cli.run(TOOL, "find-hanging", *where, "--max-transaction-timeout", "1")
        assert [line.split()[0] for line in found.splitlines()] == ["Topic"], found
    cli.run(TOOL, "forceTerminateTransaction", "--transactionalId", producer.transactional_id)
    producer.settle()
    assert row(cli.run(TOOL, "list"), producer.transactional_id)[-1] == "Empty", "aborted, and then initialised"


def test_kafka_transactions__copies_exactly_and_commits_what_it_read(cli: Cli, subject: Subject) -> None:
    """TransactionalMessageCopier of Kafka's system tests, which aborts at random."""
    source, target, group = subject.topic(), subject.topic(), subject.new_name("group")
    lines = [f"line {number}" for number in range(1_000)]
    cli.produce(source, lines)
    names = ("--input-topic", source, "--input-partition", "0", "--output-topic", target, "--consumer-group", group)
    how = ("--transaction-size", "70", "--transactional-id", subject.new_name("copier"), "--enable-random-aborts")
    copier = f"{TOOLS}.TransactionalMessageCopier"
    printed = cli.run_as_it_is(copier, "--broker-list", cli.bootstrap, *names, *how, "--use-group-metadata")
    assert '"remaining":0' in printed.splitlines()[-1], printed
    assert cli.consume(target, 1_000, "--isolation-level", "read_committed", "--from-beginning") == lines
    assert f"{target}:0:" in cli.run(f"{TOOLS}.GetOffsetShell", "--topic", target)
