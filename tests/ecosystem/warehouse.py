"""A warehouse's way of exactly-once: rows and the offsets that they came from, in one SQLite transaction.

A program: `python -m tests.ecosystem.warehouse BOOTSTRAP TOPIC DATABASE`. It assigns every partition to itself, begins
where its database says, and runs until it is killed. The broker's group coordinator has no part in it.
"""

from __future__ import annotations

import sqlite3
import sys

from confluent_kafka import Consumer, Message, TopicPartition

TIMEOUT_S = 30.0
MAX_ROWS = 500


def open_database(path: str) -> sqlite3.Connection:
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE IF NOT EXISTS rows (partition INTEGER, offset INTEGER, value TEXT)")
    database.execute("CREATE TABLE IF NOT EXISTS offsets (partition INTEGER PRIMARY KEY, next INTEGER)")
    return database


def load(consumer: Consumer, database: sqlite3.Connection) -> None:
    """Takes what there is next, forever; each turn is in the database as a whole or not at all."""
    while True:
        messages = [message for message in consumer.consume(MAX_ROWS, timeout=0.05) if not _failed(message)]
        if not messages:
            continue
        with database:
            rows = [(message.partition(), message.offset(), message.value().decode()) for message in messages]
            database.executemany("INSERT INTO rows VALUES (?, ?, ?)", rows)
            following = [(partition, offset + 1) for partition, offset, _ in rows]
            database.executemany("INSERT OR REPLACE INTO offsets VALUES (?, ?)", following)


def _failed(message: Message) -> bool:
    """True for what says that the broker is away, which passes; anything else ends the program."""
    error = message.error()
    if error is not None and not error.retriable() and error.name() not in ("_TRANSPORT", "_ALL_BROKERS_DOWN"):
        raise SystemExit(str(error))
    return error is not None


def main(bootstrap: str, topic: str, path: str) -> None:
    database = open_database(path)
    settings = {"isolation.level": "read_committed", "auto.offset.reset": "error", "enable.auto.commit": False}
    # The group is never joined: librdkafka asks for its name all the same.
    consumer = Consumer(
        {"bootstrap.servers": bootstrap, "group.id": "unused", "reconnect.backoff.max.ms": 100, **settings}
    )
    stored = dict(database.execute("SELECT partition, next FROM offsets"))
    partitions = consumer.list_topics(topic, TIMEOUT_S).topics[topic].partitions
    consumer.assign([TopicPartition(topic, partition, stored.get(partition, 0)) for partition in partitions])
    load(consumer, database)


if __name__ == "__main__":
    main(*sys.argv[1:])
