"""Servers to be killed, topics, and what is in them: for programs that take part as whole processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.interop.conftest import Server
from tests.interop.kafka_process import KafkaProcess
from tests.support.node_process import NodeProcess
from tests.support.request_gate import RequestGate


@pytest.fixture
def make_server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Starts servers of the kind under judgement, each with data of its own; `settings` are Kafka's.

    With a `gate`, clients are sent through it.
    """
    made: list[Server] = []

    def make(gate: RequestGate | None = None, **settings: str) -> Server:
        folder = tmp_path / f"server-{len(made)}"
        given = {"group.initial.rebalance.delay.ms": "0"} | {
            key.replace("_", "."): value for key, value in settings.items()
        }
        if gate is not None:
            given["advertised.listeners"] = f"PLAINTEXT://{gate.bootstrap}"
        server: Server
        if request.config.getoption("--server") == "kafka":
            server = KafkaProcess(folder, settings=given)
        else:
            server = NodeProcess(folder, options=[part for item in given.items() for part in ("--set", "=".join(item))])
        made.append(server)
        if gate is not None:
            gate.broker = server.address
        return server.start()

    yield make
    for server in made:
        server.close()
