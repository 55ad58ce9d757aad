"""Options and marks of the whole test suite."""

from __future__ import annotations

from collections import Counter

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--server",
        choices=("bytemq", "kafka"),
        default="bytemq",
        help="which server tests/interop judges: ours, or Apache Kafka 4.4.0, on which every one of them must pass",
    )
    parser.addoption(
        "--record", action="store_true", help="with --server kafka: keep its answers as what we must answer"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "interop: needs programs beyond Python (Java, Go, Node, kcat); run by `make interop`"
    )
    config.stash[left_out] = Counter()


left_out: pytest.StashKey[Counter[str]] = pytest.StashKey()


def pytest_deselected(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("interop"):
            item.config.stash[left_out][item.path.name] += 1


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Says what was left out, so that a short run is not taken for a whole one."""
    missing = config.stash[left_out]
    if missing:
        files = ", ".join(f"{name} ({count})" for name, count in sorted(missing.items()))
        terminalreporter.write_line(f"left out, because they need more than Python (run `make interop`): {files}")
