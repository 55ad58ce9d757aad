"""`bytemq consume`: records of a topic as lines."""

from __future__ import annotations

import argparse
import json
import re
import signal
import sys
from typing import TYPE_CHECKING, Any

from bytemq.cli.options import Commands, Failed, add_server_options, seconds, whole_number
from bytemq.cli.output import counted

if TYPE_CHECKING:
    from confluent_kafka import Consumer, TopicPartition

_DESCRIPTION = """\
Print the records of a topic. Without --group all partitions are read and nothing is committed: from now on, or
with --from-beginning from the first record. With --group the reading is shared with the group's other members and
their offsets are committed.
"""
_EXAMPLES = """\
examples:
  bytemq consume clicks --from-beginning
  bytemq consume clicks --partition 0 --offset 1000 --max-messages 10
  bytemq consume clicks --group my-group --timeout 5
  bytemq consume clicks --from-beginning --format '%p %o %T %k: %s %h\\n'
  bytemq consume clicks --from-beginning --json

format: %s value, %k key, %h headers, %t topic, %p partition, %o offset, %T timestamp in ms, %% a percent sign;
        \\n and \\t as usual; a null is shown as NULL, in --json as null; bytes come out as they are, but in --json
        those that are no UTF-8 become U+FFFD
"""
_ESCAPES = {"\\n": "\n", "\\t": "\t", "\\\\": "\\"}
_MOST_AT_ONCE = 1000


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser(
        "consume", help="print the records of a topic", description=_DESCRIPTION, epilog=_EXAMPLES
    )
    parser.add_argument("topic_name", metavar="TOPIC", nargs="?", help="topic to read")
    parser.add_argument("--topic", metavar="TOPIC", help="as Kafka's tools name it")
    parser.add_argument("--from-beginning", action="store_true", help="start at the first record, not at the end")
    parser.add_argument("--group", metavar="ID", help="consumer group to join")
    parser.add_argument("--partition", type=whole_number(0), metavar="N", help="this partition only")
    parser.add_argument("--offset", metavar="N", help="where to start in --partition: an offset, earliest or latest")
    parser.add_argument("--max-messages", type=whole_number(1), metavar="N", help="stop after so many records")
    parser.add_argument("--timeout", type=seconds, metavar="SECONDS", help="stop when no record came for so long")
    parser.add_argument(
        "--isolation-level",
        choices=("read_committed", "read_uncommitted"),
        default="read_uncommitted",
        help="whether records of open and aborted transactions are left out (default: read_uncommitted)",
    )
    look = parser.add_mutually_exclusive_group()
    look.add_argument("--format", metavar="TEXT", help="how to print a record, see below (default: '%%s\\n')")
    look.add_argument("--json", action="store_true", help="print one JSON object per record")
    add_server_options(parser)
    parser.set_defaults(run=run, parser=parser)


def run(options: argparse.Namespace) -> int:
    topic = options.topic_name or options.topic
    if topic is None:
        options.parser.error("name a topic")
    if options.group and options.partition is not None:
        options.parser.error("--partition is for reading without --group")
    if options.offset is not None and options.partition is None:
        options.parser.error("--offset needs --partition")
    consumer = _consumer(options)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # commit and leave the group, as on Ctrl-C
    try:
        if options.group:
            consumer.subscribe([topic])
        else:
            consumer.assign(_assignment(consumer, topic, options))
        count = _print_records(consumer, options)
    finally:
        consumer.close()
    print(f"{counted(count, 'record')} read from {topic}", file=sys.stderr)
    return 0


def _consumer(options: argparse.Namespace) -> Consumer:
    from confluent_kafka import Consumer, KafkaException

    from bytemq.cli.client import client_settings, failure

    settings = client_settings(options)
    settings.update(
        {
            "group.id": options.group or "bytemq-cli-without-group",
            "enable.auto.commit": bool(options.group),
            "auto.offset.reset": "earliest" if options.from_beginning else "latest",
            "isolation.level": options.isolation_level,
            "allow.auto.create.topics": False,
        }
    )
    try:
        return Consumer(settings)
    except KafkaException as error:
        raise failure(error) from None


def _assignment(consumer: Consumer, topic: str, options: argparse.Namespace) -> list[TopicPartition]:
    from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, KafkaException, TopicPartition

    from bytemq.cli.client import TIMEOUT_S, failure

    try:
        metadata = consumer.list_topics(topic, timeout=TIMEOUT_S).topics[topic]
    except KafkaException as error:
        raise failure(error) from None
    if metadata.error is not None or not metadata.partitions:
        raise Failed(f"there is no topic {topic}; `bytemq topic list` shows what there is")
    start = OFFSET_BEGINNING if options.from_beginning else OFFSET_END
    if options.partition is None:
        return [TopicPartition(topic, partition, start) for partition in sorted(metadata.partitions)]
    if options.partition not in metadata.partitions:
        raise Failed(f"topic {topic} has no partition {options.partition}, only 0 to {len(metadata.partitions) - 1}")
    if options.offset is not None:
        named = {"earliest": OFFSET_BEGINNING, "latest": OFFSET_END}
        if options.offset not in named and not options.offset.isdigit():
            raise Failed(f"--offset {options.offset!r} is neither a number, nor earliest, nor latest")
        start = named[options.offset] if options.offset in named else int(options.offset)
    return [TopicPartition(topic, options.partition, start)]


def _print_records(consumer: Consumer, options: argparse.Namespace) -> int:
    """Print until told to stop, enough came, or nothing came for long enough; returns how many."""
    from confluent_kafka import KafkaException

    from bytemq.cli.client import failure

    write = sys.stdout.buffer.write
    count = 0
    try:
        while options.max_messages is None or count < options.max_messages:
            left = _MOST_AT_ONCE if options.max_messages is None else options.max_messages - count
            messages = _next_messages(consumer, min(left, _MOST_AT_ONCE), options.timeout)
            if not messages:
                break
            for message in messages:
                if message.error() is not None:
                    raise failure(KafkaException(message.error()))
                write(_json_line(message) if options.json else formatted(message, options.format or "%s\\n"))
                count += 1
            sys.stdout.flush()
    except KeyboardInterrupt:
        return count
    return count


def _next_messages(consumer: Consumer, most: int, timeout_s: float | None) -> list[Any]:
    """What is there, at least one record; an empty list after `timeout_s` without one."""
    first = consumer.poll(timeout_s) if timeout_s is not None else None
    while first is None and timeout_s is None:
        first = consumer.poll(1.0)  # short, so that Ctrl-C is noticed
    if first is None:
        return []
    return [first, *consumer.consume(most - 1, 0.0)] if most > 1 else [first]


def _json_line(message: Any) -> bytes:
    _, timestamp_ms = message.timestamp()
    record = {
        "topic": message.topic(),
        "partition": message.partition(),
        "offset": message.offset(),
        "timestamp": timestamp_ms,
        "key": _text(message.key()),
        "value": _text(message.value()),
        "headers": [[name, _text(value)] for name, value in message.headers() or ()],
    }
    return json.dumps(record, ensure_ascii=False).encode("utf-8", "surrogateescape") + b"\n"


def _text(data: bytes | None) -> str | None:
    return None if data is None else data.decode("utf-8", "replace")


_PLACEHOLDER = re.compile(r"%.|\\.")


def formatted(message: Any, template: str) -> bytes:
    """`template` with the record's fields filled in, byte for byte."""
    out = []
    position = 0
    for match in _PLACEHOLDER.finditer(template):
        out.append(template[position : match.start()].encode())
        out.append(_field(message, match.group()))
        position = match.end()
    out.append(template[position:].encode())
    return b"".join(out)


def _field(message: Any, placeholder: str) -> bytes:
    if placeholder == "%s":
        return _or_null(message.value())
    if placeholder == "%k":
        return _or_null(message.key())
    if placeholder == "%h":
        headers = message.headers() or ()
        return b",".join(name.encode() + b"=" + _or_null(value) for name, value in headers)
    numbers = {
        "%t": message.topic,
        "%p": message.partition,
        "%o": message.offset,
        "%T": lambda: message.timestamp()[1],
        "%%": lambda: "%",
    }
    if placeholder in numbers:
        return str(numbers[placeholder]()).encode()
    return _ESCAPES.get(placeholder, placeholder).encode()


def _or_null(data: bytes | None) -> bytes:
    return b"NULL" if data is None else data
