"""A node of its own for each scenario, gone afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.node_process import NodeProcess


@pytest.fixture
def make_node(tmp_path: Path) -> Iterator[Callable[..., NodeProcess]]:
    """Makes nodes (not started) on tmp_path/data or the folder given; all are ended after the test."""
    made: list[NodeProcess] = []

    def make(data_dir: Path | None = None, **arguments: Any) -> NodeProcess:
        node = NodeProcess(data_dir or tmp_path / "data", log_path=tmp_path / f"node-{len(made)}.log", **arguments)
        made.append(node)
        return node

    yield make
    for node in made:
        node.close()


@pytest.fixture
def node(make_node: Callable[..., NodeProcess]) -> NodeProcess:
    """A running node."""
    return make_node().start()
