"""The server under judgement, and names that no other test uses."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from tests.interop.kafka_process import KafkaProcess
from tests.support.dev_cluster import DevCluster
from tests.support.node_process import NodeProcess

Server = NodeProcess | DevCluster | KafkaProcess

PATIENT_MS = "18000"
"""What is judged is what is answered, not fail-over: no broker loses its session because the machine is busy."""

NEVER_EXPIRING = {"log.initial.task.delay.ms": "86400000"}
"""Kafka looks for what has expired 30 seconds after its start, and most records here are of 2023: whatever case runs at
that moment would find its log empty."""

_numbers = itertools.count()


LEFT_OUT = {"cluster": ("one_broker", "many_writes"), "cluster-of-one": ("many_writes",)}
"""Raw requests go to one broker, and some output names it: with several, these tests say nothing. Where each write is
an object, tens of thousands of them one after another take more than a quarter of an hour.
"""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    marks = LEFT_OUT.get(config.getoption("--server"), ())
    left_out = [item for item in items if any(map(item.get_closest_marker, marks))]
    items[:] = [item for item in items if item not in left_out]
    config.hook.pytest_deselected(items=left_out)


def make_server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, name: str, settings: Mapping[str, str]
) -> Server:
    """The server that `--server` names, with settings under Kafka's names, not started yet."""
    folder: Path = tmp_path_factory.mktemp(name)
    kind = request.config.getoption("--server")
    if kind == "kafka":
        return KafkaProcess(folder, settings={**NEVER_EXPIRING, **settings})
    if kind.startswith("cluster"):
        settings = {**settings, "broker.session.timeout.ms": PATIENT_MS}
        if kind == "cluster-of-one":  # no zone either: it is compared with a Kafka that has none
            return DevCluster(folder, settings, brokers=1, zones=0)
        return DevCluster(folder, settings)
    options = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    return NodeProcess(folder / "data", options=options)


@pytest.fixture(scope="session")
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One running server for all tests of the session: started as a user would, with default settings but one."""
    started = make_server(request, tmp_path_factory, "server", {"group.initial.rebalance.delay.ms": "0"})
    try:
        yield started.start()
    finally:
        started.close()


@pytest.fixture
def unique_name() -> Callable[[str], str]:
    """Gives topic and group names that are used once: tests share the server."""
    return lambda prefix: f"{prefix}-{os.getpid()}-{next(_numbers)}"


def broker_count(server: Server) -> int:
    return server.brokers if isinstance(server, DevCluster) else 1


def replication_factor(server: Server) -> int:
    """What tools ask for by default. We accept it; Apache Kafka would need as many brokers."""
    return 1 if isinstance(server, KafkaProcess) else 3
