"""Kafka Connect and MirrorMaker 2, unmodified, as processes of their own, by their configuration files and REST."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support.java import JavaProcess, fetch_jars, java_command
from tests.support.node_process import free_port

PROJECT = Path(__file__).parent / "connect"
REST_TIMEOUT_S = 180.0
STRING = "org.apache.kafka.connect.storage.StringConverter"


def write_properties(path: Path, properties: Mapping[str, object]) -> str:
    path.write_text("".join(f"{key}={value}\n" for key, value in properties.items()))
    return str(path)


def file_source(topic: str, path: Path) -> dict[str, str]:
    """The configuration of a connector that makes a record of each line of a file."""
    connector = "org.apache.kafka.connect.file.FileStreamSourceConnector"
    return {"connector.class": connector, "tasks.max": "1", "topic": topic, "file": str(path)}


def file_sink(topic: str, path: Path) -> dict[str, str]:
    """The configuration of a connector that appends a line for each record to a file."""
    connector = "org.apache.kafka.connect.file.FileStreamSinkConnector"
    return {"connector.class": connector, "tasks.max": "1", "topics": topic, "file": str(path)}


def start(main: str, folder: Path, *arguments: str) -> JavaProcess:
    """`main` is the class behind connect-standalone, connect-distributed or connect-mirror-maker."""
    command = java_command(fetch_jars(PROJECT), main, *arguments)
    return JavaProcess(command, folder / f"{main.rsplit('.', 1)[1]}.log")


def start_standalone(folder: Path, bootstrap: str, connectors: Mapping[str, Mapping[str, str]]) -> JavaProcess:
    worker = {
        **_common(bootstrap, free_port()),
        "offset.storage.file.filename": folder / "connect.offsets",
    }
    files = [write_properties(folder / f"{name}.properties", {"name": name, **connectors[name]}) for name in connectors]
    main = "org.apache.kafka.connect.cli.ConnectStandalone"
    return start(main, folder, write_properties(folder / "standalone.properties", worker), *files)


class DistributedWorker:
    """One worker of a Connect cluster; it may be killed and started again."""

    def __init__(self, folder: Path, bootstrap: str, replication_factor: int) -> None:
        self._folder = folder
        self._rest = free_port()
        names = ("config", "offset", "status")
        worker = {
            **_common(bootstrap, self._rest),
            "group.id": "connect",
            **{f"{name}.storage.topic": f"connect-{name}" for name in names},
            **{f"{name}.storage.replication.factor": replication_factor for name in names},
            "exactly.once.source.support": "enabled",
            "consumer.isolation.level": "read_committed",
            # Of the dead the group is rid soon.
            "session.timeout.ms": 6_000,
            "heartbeat.interval.ms": 1_000,
            "scheduled.rebalance.max.delay.ms": 1_000,
        }
        self._properties = write_properties(folder / "distributed.properties", worker)

    def start(self) -> JavaProcess:
        return start("org.apache.kafka.connect.cli.ConnectDistributed", self._folder, self._properties)

    def configure(self, connector: str, settings: Mapping[str, str]) -> None:
        """Creates the connector as soon as the worker answers."""
        answer = self._ask("PUT", f"/connectors/{connector}/config", settings)
        assert answer["name"] == connector

    def state(self, connector: str) -> list[str]:
        """Of the connector and of its task."""
        status = self._ask("GET", f"/connectors/{connector}/status")
        return [status["connector"]["state"], *(task["state"] for task in status["tasks"])]

    def _ask(self, method: str, path: str, body: Mapping[str, str] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        deadline = time.monotonic() + REST_TIMEOUT_S
        while True:
            request = urllib.request.Request(f"http://127.0.0.1:{self._rest}{path}", data, headers, method=method)
            try:
                with urllib.request.urlopen(request, timeout=REST_TIMEOUT_S) as answer:
                    return json.load(answer)
            except urllib.error.HTTPError as error:  # 409: it rebalances; 503 and 404: it begins
                with error:
                    assert error.code in (404, 409, 500, 503) and time.monotonic() < deadline, error.read().decode()
            except OSError:
                assert time.monotonic() < deadline, "the worker does not answer"
            time.sleep(0.2)


def _common(bootstrap: str, rest_port: int) -> dict[str, object]:
    return {
        "bootstrap.servers": bootstrap,
        "listeners": f"http://127.0.0.1:{rest_port}",
        "key.converter": STRING,
        "value.converter": STRING,
        "offset.flush.interval.ms": 500,
        "plugin.discovery": "service_load",
    }
