"""deploy/compose.yaml, run as a user runs it: where a Docker engine answers and has, or gets, the base images."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator

import pytest

from tests.compose.compose_cluster import ComposeCluster


@pytest.fixture(scope="module")
def cluster() -> Iterator[ComposeCluster]:
    if (
        shutil.which("docker") is None
        or subprocess.run(["docker", "compose", "version"], capture_output=True).returncode
    ):
        pytest.skip("there is no docker with its compose plugin")
    if subprocess.run(["docker", "info"], capture_output=True).returncode:
        pytest.skip("no Docker engine answers")
    made = ComposeCluster()
    try:
        made.start()
        yield made
    finally:
        made.close()
