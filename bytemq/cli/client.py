"""Talking to a server through confluent-kafka, and its failures in words.

Owns connecting and translating errors; imported by the commands only when they run, because the client library
takes 30 ms to load.
"""

from __future__ import annotations

import argparse
import socket
import struct
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from bytemq.cli.options import Failed

TIMEOUT_S = 15.0
_CONNECT_TIMEOUT_S = 5.0
_FIRST_ANSWER_TIMEOUT_S = 1.0
_API_VERSIONS = struct.pack(">ihhih", 18, 18, 0, 1, 8) + b"question"
"""A whole request of version 0, which every Kafka server answers whoever asks."""


def client_settings(options: argparse.Namespace) -> dict[str, Any]:
    """Settings of any client. Raises Failed when nothing listens at the address: librdkafka would try on for a long
    time.
    """
    settings: dict[str, Any] = {
        "bootstrap.servers": options.bootstrap_server,
        "client.id": "bytemq-cli",
        "log_level": 0,
        "socket.timeout.ms": int(TIMEOUT_S * 1000),
    }
    if options.command_config:
        from bytemq.config.sources import read_config_file

        settings.update(read_config_file(Path(options.command_config)))
    is_plain = "SSL" not in str(settings.get("security.protocol", "")).upper().split("_")
    check_reachable(str(settings["bootstrap.servers"]), is_plain=is_plain)
    return settings


def admin_client(options: argparse.Namespace) -> AdminClient:
    settings = client_settings(options)
    try:
        return AdminClient(settings)
    except KafkaException as error:
        raise failure(error) from None


def check_reachable(bootstrap_servers: str, *, is_plain: bool = True) -> None:
    """Raises Failed unless one of the addresses takes a connection, or when what takes it answers in HTTP: librdkafka
    would wait for another answer. `is_plain`: without TLS.
    """
    problems = []
    for address in bootstrap_servers.split(","):
        host, port = host_and_port(address.strip())
        try:
            with socket.create_connection((host, port), timeout=_CONNECT_TIMEOUT_S) as connection:
                if is_plain and _speaks_http(connection):
                    raise Failed(
                        f"{address.strip()} speaks HTTP, not Kafka's protocol. Give the address of a listener: "
                        "`bytemq start` says it when it is ready (127.0.0.1:9092 where nothing else is set)."
                    )
        except OSError as error:
            problems.append(f"{address.strip()}: {error.strerror or error}")
        else:
            return
    raise Failed(
        f"no server answers at {'; '.join(problems)}. "
        "Start one with `bytemq start`, or say where it is with --bootstrap-server HOST:PORT."
    )


def _speaks_http(connection: socket.socket) -> bool:
    """False also when nothing is said for a moment: a busy server is no other one."""
    connection.settimeout(_FIRST_ANSWER_TIMEOUT_S)
    try:
        connection.sendall(_API_VERSIONS)
        return connection.recv(4) == b"HTTP"
    except OSError:
        return False


def host_and_port(address: str) -> tuple[str, int]:
    """Raises Failed for what is no HOST:PORT."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    host = host.strip("[]")
    if not _is_host(host) or not port.isdecimal() or int(port) > 65535:
        raise Failed(f"{address!r} is not an address: write HOST:PORT, for example 127.0.0.1:9092")
    return host, int(port)


def _is_host(name: str) -> bool:
    """Whether anybody may be asked for it: names and their parts have a longest length."""
    try:
        return bool(name.encode("idna"))
    except UnicodeError:
        return False


def failure(error: KafkaException) -> Failed:
    """What the server or the client library said, as a sentence."""
    kafka_error = error.args[0]
    text = kafka_error.str() or kafka_error.name()
    if kafka_error.name() == "_TIMED_OUT" or kafka_error.name() == "_TRANSPORT":
        text = f"{text}. Is the address that the server advertises reachable from here?"
    return Failed(text)


def result(future: Future[Any]) -> Any:
    """The value of an admin call. Raises Failed."""
    try:
        return future.result(timeout=2 * TIMEOUT_S)
    except KafkaException as error:
        raise failure(error) from None
    except TimeoutError:
        raise Failed(f"the server did not answer within {2 * TIMEOUT_S:g} s") from None


def results(futures: Mapping[Any, Future[Any]]) -> dict[Any, Any]:
    """The values of a batch of admin calls by key. Raises Failed at the first that went wrong."""
    return {key: result(future) for key, future in futures.items()}


def raise_all(failures: list[str]) -> None:
    """Raises Failed with everything that went wrong, once the rest of a batch is done and reported."""
    if failures:
        raise Failed("\nbytemq: ".join(failures))


def require_topics(client: AdminClient, names: Iterable[str]) -> dict[str, Any]:
    """Metadata of existing topics by name. Raises Failed, naming those that do not exist."""
    try:
        topics = client.list_topics(timeout=TIMEOUT_S).topics
    except KafkaException as error:
        raise failure(error) from None
    wanted = list(names)
    missing = [name for name in wanted if name not in topics]
    if missing:
        raise Failed(f"there is no topic {', '.join(missing)}; `bytemq topic list` shows what there is")
    return {name: topics[name] for name in wanted}
