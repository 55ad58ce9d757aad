"""`bytemq produce`: lines of text as records."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, BinaryIO

from bytemq.cli.options import Commands, Failed, add_server_options, assignments, whole_number
from bytemq.cli.output import counted

if TYPE_CHECKING:
    from confluent_kafka import Producer

_DESCRIPTION = """\
Send lines to a topic, one record each, from standard input or a file. Ends when all are acknowledged;
exit code 1 if any was not.
"""
_EXAMPLES = """\
examples:
  echo 'hello' | bytemq produce clicks
  bytemq produce clicks --file events.txt --compression zstd
  bytemq produce users --key-separator : --header source=import     (lines like 17:Ada)
  bytemq produce users --key-separator : --null-marker NULL         (17:NULL deletes key 17 in a compacted topic)
"""
_SHOWN_FAILURES = 3
_FLUSH_STEP_S = 1.0
"""Short, so that Ctrl-C is noticed while the server does not answer."""
Headers = list[tuple[str, str | bytes | None]]


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser("produce", help="send lines as records", description=_DESCRIPTION, epilog=_EXAMPLES)
    parser.add_argument("topic_name", metavar="TOPIC", nargs="?", help="topic to send to")
    parser.add_argument("--topic", metavar="TOPIC", help="as Kafka's tools name it")
    parser.add_argument("--file", metavar="FILE", help="read lines from this file instead of standard input")
    parser.add_argument("--key-separator", metavar="TEXT", help="what is before it in a line is the key")
    parser.add_argument("--null-marker", metavar="TEXT", help="a key or value that is just this text is null")
    parser.add_argument(
        "--header", metavar="NAME=VALUE", action="append", default=[], help="header of every record; may be repeated"
    )
    parser.add_argument("--partition", type=whole_number(0), metavar="N", default=-1, help="partition of every record")
    parser.add_argument(
        "--compression",
        "--compression-type",
        choices=("none", "gzip", "snappy", "lz4", "zstd"),
        default="none",
        help="how batches are compressed (default: none)",
    )
    parser.add_argument("--acks", choices=("0", "1", "all"), default="all", help="what to wait for (default: all)")
    add_server_options(parser)
    parser.set_defaults(run=run, parser=parser)


def run(options: argparse.Namespace) -> int:
    topic = options.topic_name or options.topic
    if topic is None:
        options.parser.error("name a topic")
    headers: Headers = [(name, value.encode()) for name, value in assignments(options.header).items()]
    producer = _producer(options)
    outcome = _Outcome()
    with _lines_of(options) as source:
        try:
            for number, line in enumerate(_lines(source), start=1):
                try:
                    key, value = _key_and_value(line, options)
                    _send(producer, topic, key, value, headers, options.partition, outcome)
                except Failed as error:
                    raise Failed(f"line {number}: {error}; it and what follows was not sent") from None
        finally:  # whatever ends it, the lines before are sent and counted
            while producer.flush(_FLUSH_STEP_S):
                pass
            print(f"{counted(outcome.acknowledged, 'record')} sent to {topic}", file=sys.stderr)
    if outcome.failed:
        verb = "was" if outcome.failed == 1 else "were"
        raise Failed(f"{counted(outcome.failed, 'record')} {verb} not acknowledged: {'; '.join(outcome.reasons)}")
    return 0


class _Outcome:
    """Counts what became of the records."""

    def __init__(self) -> None:
        self.acknowledged = 0
        self.failed = 0
        self.reasons: dict[str, None] = {}

    def __call__(self, error: Any, _: Any) -> None:
        if error is None:
            self.acknowledged += 1
            return
        self.failed += 1
        if len(self.reasons) < _SHOWN_FAILURES:
            self.reasons[error.str()] = None


def _producer(options: argparse.Namespace) -> Producer:
    from confluent_kafka import KafkaException, Producer

    from bytemq.cli.client import client_settings, failure

    settings = client_settings(options)
    settings.update(
        {
            "compression.type": options.compression,
            "acks": options.acks,
            "enable.idempotence": options.acks == "all",  # as Kafka's producer: what is sent again is not there twice
            "linger.ms": 5,
        }
    )
    try:
        return Producer(settings)
    except KafkaException as error:
        raise failure(error) from None


def _lines_of(options: argparse.Namespace) -> BinaryIO:
    if options.file is None:
        if sys.stdin.isatty():
            print("Type records, one a line; Ctrl-D ends.", file=sys.stderr)
        return sys.stdin.buffer
    try:
        return open(options.file, "rb")
    except OSError as error:
        raise Failed(f"cannot read {options.file}: {error.strerror}") from None


def _lines(source: BinaryIO) -> Iterator[bytes]:
    for line in source:
        yield line.removesuffix(b"\n").removesuffix(b"\r")


def _key_and_value(line: bytes, options: argparse.Namespace) -> tuple[bytes | None, bytes | None]:
    key: bytes | None = None
    value: bytes | None = line
    if options.key_separator is not None:
        key, separator, value = line.partition(options.key_separator.encode())
        if not separator:
            shown = line[:60].decode(errors="replace")
            raise Failed(f"no key separator {options.key_separator!r} in {shown!r}")
    if options.null_marker is not None:
        marker = options.null_marker.encode()
        key = None if key == marker else key
        value = None if value == marker else value
    return key, value


def _send(
    producer: Producer,
    topic: str,
    key: bytes | None,
    value: bytes | None,
    headers: Headers,
    partition: int,
    outcome: _Outcome,
) -> None:
    from confluent_kafka import KafkaException

    from bytemq.cli.client import failure

    while True:
        try:
            producer.produce(topic, value, key, partition, on_delivery=outcome, headers=headers or None)
        except BufferError:  # the client's queue is full: wait until the server has taken some
            producer.poll(0.1)
            continue
        except KafkaException as error:
            raise failure(error) from None
        producer.poll(0)
        return
