"""A topic whose documents change their shape, and what any reader of its table must find: what a consumer got, typed.

Readers are programs; each prints "sums TAB reader TAB rows TAB sum of offsets TAB sum of times", and for each row
"row TAB reader TAB JSON", without nulls and with bytes in base64.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterable
from typing import Any

from confluent_kafka import Consumer, Producer, TopicPartition

from tests.ecosystem.topics import TIMEOUT_S

TOPIC, PARTITIONS = "a.topic", 2
DOCUMENTS: tuple[Callable[[int], bytes], ...] = (
    lambda n: b'{"id": %d, "price": %d, "user": {"name": "u%d"}, "Id": true}' % (n, n, n),
    lambda n: b'{"id": %d, "price": %d.25, "user": {"name": "u%d", "age": %d}, "tags": ["a", "b"]}' % (n, n, n, n),
    lambda n: b'{"id": "text %d", "user": %d, "a.b": 1, "new": {"deep": [{"x": %d}]}}' % (n, n, n),
    lambda n: b"not json %d" % n,
)
"""In waves: a field more, also in an object; one that becomes another kind of number, or text; nonsense."""
WAVE = 300
COMMITTED = len(DOCUMENTS) * WAVE * 2 // 3
Identity = tuple[object, ...]


def produce_waves(bootstrap: str, build: Callable[[], object]) -> None:
    """In transactions, every third of them aborted; each wave becomes files of its own."""
    producer = Producer({"bootstrap.servers": bootstrap, "transactional.id": "waves"})
    producer.init_transactions(TIMEOUT_S)
    for wave, document in enumerate(DOCUMENTS):
        for number in range(6):
            producer.begin_transaction()
            for index in range(WAVE // 6):
                n = number * 1000 + index
                key = None if n % 5 == 0 else b"" if n % 5 == 1 else b"k%d" % n
                value = None if n % 50 == 7 else document(n)
                headers: Any = [("h", b"1"), ("h", None), ("wave", b"%d" % wave)] if n % 2 else None
                time_ms = 1_700_000_000_000 + 1000 * n
                producer.produce(TOPIC, value, key, n % PARTITIONS, headers=headers, timestamp=time_ms)
            if number % 3:
                producer.commit_transaction(TIMEOUT_S)
            else:
                producer.flush(TIMEOUT_S)
                producer.abort_transaction(TIMEOUT_S)
        build()


def consumed(bootstrap: str) -> list[Identity]:
    """(partition, offset, time, key, value, headers), by librdkafka."""
    settings = {"isolation.level": "read_committed", "group.id": "judge", "enable.auto.commit": False}
    consumer = Consumer({"bootstrap.servers": bootstrap, **settings})
    consumer.assign([TopicPartition(TOPIC, index, 0) for index in range(PARTITIONS)])
    found: list[Identity] = []
    while len(found) < COMMITTED:
        message = consumer.poll(TIMEOUT_S)
        assert message is not None and message.error() is None
        headers = tuple(message.headers() or ())
        where = (message.partition(), message.offset(), message.timestamp()[1])
        found.append((*where, message.key(), message.value(), headers))
    assert consumer.poll(1) is None, "there is more than was committed"
    consumer.close()
    return found


def checksum(records: Iterable[Identity]) -> str:
    return hashlib.sha256(repr(sorted(records, key=lambda one: one[:2])).encode()).hexdigest()


def identity(row: dict[str, Any]) -> Identity:
    """Of a row as Spark prints it: nulls are left out, and bytes are in base64."""
    headers = tuple((one["key"], _bytes(one.get("value"))) for one in row.get("headers", ()))
    where = (row["partition"], row["offset"], row["timestamp_ms"])
    return (*where, _bytes(row.get("key")), _bytes(row.get("value")), headers)


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else base64.b64decode(text)


FIXED = {
    "offset", "partition", "timestamp", "timestamp_ms", "timestamp_type", "key", "value", "headers", "producer_id",
    "producer_epoch", "sequence", "transactional", "leader_epoch", "delete_horizon_ms",
}  # fmt: skip


def typed(value: bytes | None) -> dict[str, Any]:
    """The columns of a document by the rules of docs/tables.md, said once more."""
    if value is None:
        return {}
    try:
        document = json.loads(value)
    except ValueError:
        return {}
    shown: dict[str, Any] = {}
    for name, field in document.items():
        match name, field:
            case "id", str():
                shown["id_string"] = field
            case "price", float():
                shown["price_double"] = field
            case "user", int():
                shown["user_long"] = field
            case "Id", _:
                shown["Id_2"] = field
            case "a.b", _:
                shown["a_b"] = field
            case _:
                shown[name] = field
    return shown


def without_absent(value: Any) -> Any:
    return (
        {name: without_absent(one) for name, one in value.items() if one is not None}
        if isinstance(value, dict)
        else value
    )


def check_readers(lines: Iterable[list[str]], expected: list[Identity], readers: set[str]) -> None:
    rows: dict[str, list[dict[str, Any]]] = {reader: [] for reader in readers}
    sums: dict[str, list[int]] = {}
    for kind, reader, *rest in lines:
        if kind == "sums":
            sums[reader] = [int(number) for number in rest]
        else:
            rows[reader].append(json.loads(rest[0]))
    values: dict[tuple[object, object], Any] = {(one[0], one[1]): one[4] for one in expected}
    added = [len(expected), sum(one[1] for one in expected), sum(one[2] for one in expected)]
    for reader in readers:
        assert sums[reader] == added, reader
        assert checksum(map(identity, rows[reader])) == checksum(expected), reader
        for row in rows[reader]:
            value = values[row["partition"], row["offset"]]
            shown = {name: one for name, one in row.items() if name not in FIXED}
            error, left_out = shown.pop("value_error", None), shown.pop("value_left_out", 0)
            assert (error is None) == (value is None or not value.startswith(b"not")), row
            assert not left_out
            assert without_absent(shown) == typed(value), (reader, row)
