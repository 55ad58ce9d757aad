"""Sessions of an operator with Kafka's tools, for test_kafka_cli_transcripts.py: each is typed on a server, and must
print what the tools print with Apache Kafka 4.4.0.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from confluent_kafka import Consumer

from tests.interop.differential import Subject
from tests.interop.terminal import Terminal, Transcript
from tests.interop.transactional_producer import TransactionalProducer, begin

registry: dict[str, Transcript] = {}
HOUR_MS = 3_600_000
JOINED_WITHIN_S = 60.0


def transcript(function: Transcript) -> Transcript:
    """Registers a session under the function's name."""
    registry[function.__name__] = function
    return function


@transcript
def topics(terminal: Terminal) -> None:
    def type_(*arguments: str, about: str = "") -> None:
        terminal.run("kafka-topics", *arguments, about=about)

    name, other = terminal.new_name("topic"), terminal.new_name("topic")
    create = ("--create", "--topic", name, "--partitions", "2", "--replication-factor", "1")
    configs = ("--config", "retention.ms=60000", "--config", "cleanup.policy=compact,delete")
    type_(*create, *configs)
    type_(*create)
    type_(*create, "--if-not-exists")
    for wrong in (("--partitions", "0"), ("--replication-factor", "0"), ("--config", "retention.ms=never")):
        type_("--create", "--topic", other, *wrong)
    type_("--create", "--topic", other, "--config", "no.such.config=1")
    for no_name in ("not a name", "a" * 300, "..", ""):
        type_("--create", "--topic", no_name)
    type_("--describe", "--topic", name)
    type_("--describe", "--topic", name, "--topics-with-overrides")
    for problem in ("under-replicated", "unavailable", "under-min-isr", "at-min-isr"):
        type_("--describe", "--topic", name, f"--{problem}-partitions")
    type_("--alter", "--topic", name, "--partitions", "4")
    type_("--alter", "--topic", name, "--partitions", "4")
    type_("--alter", "--topic", name, "--partitions", "3")
    type_("--alter", "--topic", other, "--partitions", "3")
    type_("--alter", "--topic", other, "--partitions", "3", "--if-exists")
    type_("--describe", "--topic", name)
    type_("--describe", "--topic", f"{name[:-1]}.", "--exclude-internal")
    type_("--describe", "--topic", other)
    type_("--describe", "--topic", other, "--if-exists")
    type_("--describe", "--topic-id", "AAAAAAAAAAAAAAAAAAAAAQ")
    type_("--list", about=name)
    type_("--list", "--topic", f"{name}|{other}")
    type_("--delete", "--topic", other)
    type_("--delete", "--topic", other, "--if-exists")
    type_("--delete", "--topic", name)
    type_("--list", "--topic", name)


@transcript
def configs(terminal: Terminal) -> None:
    def type_(*arguments: str) -> None:
        terminal.run("kafka-configs", *arguments)

    topic = terminal.new_name("topic")
    terminal.quiet("kafka-topics", "--create", "--topic", topic)
    of_topic = ("--entity-type", "topics", "--entity-name", topic)
    type_("--describe", *of_topic)
    type_("--describe", "--all", *of_topic)
    for change in (
        "retention.ms=60000,segment.ms=70000",
        "cleanup.policy=[compact,delete]",
        "compression.type=zstd,compression.zstd.level=5",
        "message.timestamp.type=LogAppendTime",
        "message.timestamp.before.max.ms=1000,message.timestamp.after.max.ms=2000",
    ):
        type_("--alter", *of_topic, "--add-config", change)
    type_("--describe", *of_topic)
    type_("--alter", *of_topic, "--delete-config", "segment.ms,retention.ms")
    type_("--alter", *of_topic, "--delete-config", "flush.ms")
    type_("--describe", "--all", *of_topic)
    for wrong in (
        "segment.ms=x",
        "segment.ms=-1",
        "cleanup.policy=shrink",
        "compression.type=brotli",
        "min.cleanable.dirty.ratio=1.5",
        "no.such.config=1",
        "max.message.bytes=2147483648",
    ):
        type_("--alter", *of_topic, "--add-config", wrong)
    nobody = ("--entity-type", "topics", "--entity-name", f"{topic}-none")
    type_("--describe", *nobody)
    type_("--alter", *nobody, "--add-config", "segment.ms=70000")
    default = ("--entity-type", "brokers", "--entity-default")
    type_("--alter", *default, "--add-config", "message.max.bytes=1500000,log.retention.ms=86400000")
    type_("--describe", *default)
    type_("--describe", "--all", *of_topic)
    type_("--alter", *default, "--delete-config", "message.max.bytes,log.retention.ms")
    type_("--describe", *default)
    type_("--alter", *default, "--add-config", "message.max.bytes=x")
    group = ("--entity-type", "groups", "--entity-name", terminal.new_name("group"))
    type_("--describe", *group)
    type_("--alter", *group, "--add-config", "consumer.session.timeout.ms=50000,consumer.heartbeat.interval.ms=6000")
    type_("--describe", *group)
    type_("--alter", *group, "--add-config", "consumer.session.timeout.ms=1")
    type_("--alter", *group, "--add-config", "consumer.no.such=1")
    type_("--alter", *group, "--delete-config", "consumer.session.timeout.ms")
    type_("--describe", *group)


SHOW_ALL = [
    part
    for name in ("timestamp", "key", "offset", "partition", "headers")
    for part in ("--formatter-property", f"print.{name}=true")
]


@transcript
def console(terminal: Terminal) -> None:
    by_the_broker = ("--config", "message.timestamp.type=LogAppendTime", "--config", "compression.type=gzip")
    for configs in ((), by_the_broker, ("--config", "compression.type=zstd", "--config", "cleanup.policy=compact")):
        topic = terminal.new_name("topic")
        terminal.run("kafka-topics", "--create", "--topic", topic, "--partitions", "1", *configs)
        properties = ("parse.key=true", "parse.headers=true", "null.marker=NULL")
        reading = [part for each in properties for part in ("--reader-property", each)]
        codecs = ("none", "gzip", "snappy", "lz4", "zstd")
        for number, codec in enumerate(codecs):
            typed = f"name:größe,codec:{codec}\tkey {number}\tvalue {number}\nNULL\tkey 0\tNULL\n"
            arguments = ("--topic", topic, "--compression-codec", codec, *reading)
            terminal.run("kafka-console-producer", *arguments, typed=typed)
        limits = ("--max-messages", str(2 * len(codecs)), "--timeout-ms", "30000")
        at_first = ("--topic", topic, "--partition", "0", "--offset", "earliest")
        terminal.run("kafka-console-consumer", *at_first, *limits, *SHOW_ALL)
        terminal.run("kafka-get-offsets", "--topic", topic)
    keyless = ("--topic", topic, "--request-required-acks", "all")
    terminal.run("kafka-console-producer", *keyless, typed="a record without a key for a compacted topic\n")


@transcript
def offsets(terminal: Terminal) -> None:
    topic, other = terminal.new_name("topic"), terminal.new_name("topic")
    terminal.run("kafka-topics", "--create", "--topic", topic, "--partitions", "1")
    terminal.run("kafka-topics", "--create", "--topic", other, "--partitions", "3")
    lines = "".join(f"line {number}\n" for number in range(30))
    terminal.run("kafka-console-producer", "--topic", topic, typed=lines)
    for when in ("latest", "earliest", "-1", "-2", "earliest-local", "latest-tiered", "-4", "0", "never"):
        terminal.run("kafka-get-offsets", "--topic", topic, "--time", when)
    for which in (
        f"{topic}:0",
        f"{topic}:1",
        f"{other}:1-",
        f"{other}:-2",
        f"{topic}|{other}:0,{other}:2",
        f"{topic}-none",
    ):
        terminal.run("kafka-get-offsets", "--topic-partitions", which)
    terminal.run("kafka-get-offsets", "--topic", other, "--partitions", "0,2")
    terminal.run("kafka-get-offsets", "--topic", f"{topic}-none")

    def delete(*rows: tuple[str, int, int]) -> None:
        plan = [{"topic": name, "partition": partition, "offset": offset} for name, partition, offset in rows]
        number = len(terminal.printed)
        path = terminal.file(f"delete-{number}.json", json.dumps({"version": 1, "partitions": plan}))
        terminal.run("kafka-delete-records", "--offset-json-file", path)
        terminal.run("kafka-get-offsets", "--topic", topic, "--time", "earliest")

    delete((topic, 0, 12))
    delete((topic, 0, 5))
    delete((topic, 0, 31))
    delete((topic, 0, -2))
    delete((topic, 0, -1))
    delete((topic, 0, 1), (topic, 0, 2))
    from_zero = ("--topic", topic, "--partition", "0", "--offset", "0", "--timeout-ms", "1500")
    terminal.run("kafka-console-consumer", *from_zero)


@contextmanager
def member(terminal: Terminal, group: str, topic: str, protocol: str) -> Iterator[None]:
    """A running member that has the partitions of the topic."""
    settings = {"bootstrap.servers": terminal.bootstrap, "group.id": group, "client.id": "member"}
    settings |= {"group.protocol": protocol, "enable.auto.commit": "false"}
    if protocol == "classic":
        settings["partition.assignment.strategy"] = "range"
    consumer = Consumer(settings)
    given: list[object] = []
    ends = threading.Event()
    consumer.subscribe([topic], on_assign=lambda _, partitions: given.extend(partitions))
    deadline = time.monotonic() + JOINED_WITHIN_S
    while not given:
        assert time.monotonic() < deadline
        consumer.poll(0.1)
    terminal.hide(consumer.memberid(), "<member>")

    def poll() -> None:
        while not ends.is_set():
            consumer.poll(0.1)

    polling = threading.Thread(target=poll)
    polling.start()
    try:
        yield
    finally:
        ends.set()
        polling.join()
        consumer.close()


def _consumer_groups(terminal: Terminal, protocol: str) -> None:
    def type_(*arguments: str, about: str = "") -> str:
        return terminal.run("kafka-consumer-groups", *arguments, about=about)

    topic, other, group = terminal.new_name("topic"), terminal.new_name("topic"), terminal.new_name("group")
    terminal.quiet("kafka-topics", "--create", "--topic", topic, "--partitions", "2")
    terminal.quiet("kafka-topics", "--create", "--topic", other, "--partitions", "1")
    for name in (topic, other):
        lines = "".join(f"key {number % 7}\tline {number}\n" for number in range(20))
        terminal.quiet("kafka-console-producer", "--topic", name, "--reader-property", "parse.key=true", typed=lines)
    type_("--describe", "--group", group)
    type_("--delete", "--group", group)
    type_("--reset-offsets", "--group", group, "--topic", topic, "--to-earliest", "--dry-run")
    limits = ("--max-messages", "20", "--timeout-ms", "30000", "--from-beginning")
    reading = ("--topic", topic, "--group", group, "--command-property", f"group.protocol={protocol}")
    terminal.quiet("kafka-console-consumer", *reading, *limits)
    for what in (
        (),
        ("--offsets",),
        ("--members",),
        ("--members", "--verbose"),
        ("--state",),
        ("--state", "--verbose"),
    ):
        type_("--describe", "--group", group, *what)
    for listed in (("--list",), ("--list", "--state"), ("--list", "--type"), ("--list", "--state", "Empty")):
        type_(*listed, about=group)
    type_("--list", "--type", protocol, about=group)
    for arguments in (("--list",), ("--list", "--consumer"), ("--list", "--protocol", "consumer")):
        terminal.run("kafka-groups", *arguments, about=group)
    terminal.run("kafka-groups", "--list", "--group-type", protocol, about=group)
    terminal.run("kafka-groups", "--list", "--share", about=group)

    reset = ("--reset-offsets", "--group", group, "--topic", topic)
    for how in (
        ("--to-earliest",),
        ("--to-latest",),
        ("--to-current",),
        ("--to-offset", "3"),
        ("--to-offset", "1000"),
        ("--shift-by", "-2"),
        ("--shift-by", "1000"),
        ("--by-duration", "PT1H"),
        ("--to-datetime", "2020-01-01T00:00:00.000"),
        ("--to-datetime", "2099-01-01T00:00:00.000"),
        ("--to-datetime", "yesterday"),
    ):
        type_(*reset, *how, "--execute")
    type_("--reset-offsets", "--group", group, "--topic", f"{topic}:1", "--to-offset", "0", "--execute")
    exported = type_("--reset-offsets", "--group", group, "--all-topics", "--to-offset", "2", "--dry-run", "--export")
    plan = terminal.file("plan.csv", exported)
    type_("--reset-offsets", "--group", group, "--from-file", plan, "--execute")
    type_(*reset, "--to-earliest")
    type_("--describe", "--group", group)
    with member(terminal, group, topic, protocol):
        for what in ((), ("--members",), ("--members", "--verbose"), ("--state",)):
            type_("--describe", "--group", group, *what)
        type_("--list", "--state", about=group)
        type_(*reset, "--to-earliest", "--execute")
        type_("--delete", "--group", group)
        type_("--delete-offsets", "--group", group, "--topic", topic)
    type_("--delete-offsets", "--group", group, "--topic", f"{topic}:0")
    type_("--describe", "--group", group)
    type_("--reset-offsets", "--group", group, "--topic", other, "--to-latest", "--execute")
    type_("--delete", "--group", group, "--group", f"{group}-none")
    type_("--describe", "--group", group)


@transcript
def classic_groups(terminal: Terminal) -> None:
    _consumer_groups(terminal, "classic")


@transcript
def consumer_protocol_groups(terminal: Terminal) -> None:
    _consumer_groups(terminal, "consumer")


@contextmanager
def beginning(terminal: Terminal) -> Iterator[tuple[TransactionalProducer, str]]:
    """A producer in the middle of a transaction of one partition."""
    subject = Subject(terminal.address, terminal.new_name("of"))
    try:
        producer, topic = begin(subject), subject.topic()
        producer.add(topic, 0)
        producer.send(topic, b"of the transaction")
        yield producer, topic
    finally:
        subject.close()


def read(terminal: Terminal, topic: str, *, uncommitted: int, committed: int) -> None:
    for isolation, count in (("read_uncommitted", uncommitted), ("read_committed", committed)):
        where = ("--topic", topic, "--partition", "0", "--offset", "earliest", "--isolation-level", isolation)
        limits = ("--max-messages", str(count), "--timeout-ms", "60000") if count else ("--timeout-ms", "2000")
        terminal.run("kafka-console-consumer", *where, *limits)


@transcript
def transactions(terminal: Terminal) -> None:
    def type_(*arguments: str, about: str = "") -> None:
        terminal.run("kafka-transactions", *arguments, about=about)

    with beginning(terminal) as (producer, topic):
        name = producer.transactional_id
        where = ("--topic", topic, "--partition", "0")
        type_("list", about=name)
        type_("list", "--duration-filter", str(HOUR_MS), about=name)
        type_("list", "--transactional-id-pattern", f"{name[:-1]}.")
        type_("list", "--transactional-id-pattern", "(")
        type_("describe", "--transactional-id", name)
        type_("describe", "--transactional-id", f"{name}-none")
        type_("describe-producers", *where)
        type_("find-hanging", *where)
        terminal.run("kafka-console-producer", "--topic", topic, typed="behind it\n")
        read(terminal, topic, uncommitted=2, committed=0)
        producer.end(commit=True)
        type_("list", about=name)
        type_("describe", "--transactional-id", name)
        type_("describe-producers", *where)
        read(terminal, topic, uncommitted=2, committed=2)
        type_("abort", *where, "--start-offset", "0")
        type_("abort", *where, "--start-offset", "99")
    for aborted_by_hand in (True, False):
        with beginning(terminal) as (producer, topic):
            name, where = producer.transactional_id, ("--topic", topic, "--partition", "0")
            if aborted_by_hand:
                type_("abort", *where, "--start-offset", "0")
            else:
                type_("forceTerminateTransaction", "--transactionalId", name)
                producer.settle()
            type_("describe-producers", *where)
            type_("describe", "--transactional-id", name)
            terminal.run("kafka-console-producer", "--topic", topic, typed="behind it\n")
            read(terminal, topic, uncommitted=2, committed=1)
    type_("forceTerminateTransaction", "--transactionalId", f"{name}-none")


@transcript
def hanging_transaction(terminal: Terminal) -> None:
    """One that no coordinator knows of, as brokers before 4.0 could leave it."""
    default = ("--entity-type", "brokers", "--entity-default")
    change = ("kafka-configs", "--alter", *default)
    terminal.run(*change, "--add-config", "transaction.partition.verification.enable=false")
    subject = Subject(terminal.address, terminal.new_name("of"))
    try:
        producer, topic = begin(subject), subject.topic()
        producer.timestamp_ms -= 2 * HOUR_MS
        producer.send(topic, b"hanging")
    finally:
        subject.close()
    terminal.run(*change, "--delete-config", "transaction.partition.verification.enable")
    where = ("--topic", topic, "--partition", "0")
    terminal.run("kafka-console-producer", "--topic", topic, typed="behind it\n")
    read(terminal, topic, uncommitted=2, committed=0)
    terminal.run("kafka-transactions", "describe", "--transactional-id", producer.transactional_id)
    terminal.run("kafka-transactions", "describe-producers", *where)
    terminal.run("kafka-transactions", "find-hanging", *where, "--max-transaction-timeout", "1")
    terminal.run("kafka-transactions", "find-hanging", "--topic", topic, "--max-transaction-timeout", "1")
    terminal.run("kafka-transactions", "abort", *where, "--start-offset", "0")
    terminal.run("kafka-transactions", "find-hanging", *where, "--max-transaction-timeout", "1")
    terminal.run("kafka-transactions", "describe-producers", *where)
    read(terminal, topic, uncommitted=2, committed=1)


@transcript
def features(terminal: Terminal) -> None:
    """Those that we have. Kafka has some of its own: of its replicas, its controllers and its newer kinds of groups."""
    for feature in ("group.version", "metadata.version", "transaction.version"):
        terminal.run("kafka-features", "describe", about=feature)


@transcript
def log_dirs(terminal: Terminal) -> None:
    topic = terminal.new_name("topic")
    terminal.run("kafka-topics", "--create", "--topic", topic, "--partitions", "2")
    terminal.run("kafka-log-dirs", "--describe", "--topic-list", f"{topic}-none", about="Querying")
    printed = terminal.quiet("kafka-log-dirs", "--describe", "--topic-list", topic)
    found = json.loads(printed.splitlines()[-1])
    rows = [row for broker in found["brokers"] for folder in broker["logDirs"] for row in folder["partitions"]]
    shapes = sorted(f"{row['partition']}: {sorted(row)}, future {row['isFuture']}" for row in rows)
    terminal.printed["of log-dirs"] = [*shapes, f"version {found['version']}"]
