"""Options and marks of the whole test suite."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# A slow or busy machine is no bug, and neither is what nobody has drawn before: the same examples in every run.
settings.register_profile("exploring", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("steady", settings.get_profile("exploring"), derandomize=True)
settings.load_profile("steady")

MORE_THAN_PYTHON = {
    "interop": "needs programs beyond Python (Java, Go, Node, kcat)",
    "ecosystem": "takes minutes or large downloads (Java, Maven)",
    "compose": "needs a Docker engine",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--server",
        choices=("bytemq", "cluster", "cluster-of-one", "kafka"),
        default="bytemq",
        help="which server tests/interop and tests/ecosystem judge: a node of ours, `bytemq dev cluster` with three "
        "brokers or with one, or Apache Kafka 4.4.0, which must pass all",
    )
    parser.addoption(
        "--record", action="store_true", help="with --server kafka: keep its answers as what we must answer"
    )


def pytest_configure(config: pytest.Config) -> None:
    for name, what in MORE_THAN_PYTHON.items():
        config.addinivalue_line("markers", f"{name}: {what}; run by `make {name}`")
    config.addinivalue_line("markers", "one_broker: left out with `--server cluster`, which has three")
    config.addinivalue_line("markers", "many_writes: left out with clusters, whose log is on an object store")
    config.stash[left_out] = Counter()


left_out: pytest.StashKey[Counter[str]] = pytest.StashKey()


def pytest_deselected(items: list[pytest.Item]) -> None:
    for item in items:
        if any(item.get_closest_marker(name) for name in MORE_THAN_PYTHON):
            item.config.stash[left_out][item.path.name] += 1


def pytest_sessionfinish(session: pytest.Session) -> None:
    """With `-n`, the tests were collected by worker processes, which must tell what they left out."""
    if hasattr(session.config, "workeroutput"):
        counts = session.config.stash[left_out]
        session.config.workeroutput["left_out"] = dict(counts)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Each worker has collected, and left out, the same."""
    node.config.stash[left_out] = Counter(getattr(node, "workeroutput", {}).get("left_out", {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Says what was left out, so that a short run is not taken for a whole one."""
    missing = config.stash[left_out]
    if missing:
        files = ", ".join(f"{name} ({count})" for name, count in sorted(missing.items()))
        why = "left out, because they need more than Python (`make interop`, `make ecosystem`, `make compose`)"
        terminalreporter.write_line(f"{why}: {files}")
