"""franz-go, unmodified, in a Go program of its own (tests/interop/go)."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.interop.client_program import check_round_trip, run
from tests.interop.conftest import Server
from tests.interop.kafka_process import INTEROP
from tests.interop.sample import PARTITIONS, samples
from tests.support.java import DOWNLOADS, require_tool

pytestmark = pytest.mark.interop


@pytest.fixture(scope="module")
def program() -> Path:
    go = require_tool("go", "install Go 1.26 or newer (apt-get install golang, or a release from the Go project)")
    path = DOWNLOADS / "go-client"
    path.parent.mkdir(exist_ok=True)
    environment = {**os.environ, "CGO_ENABLED": "0"}
    subprocess.run([go, "build", "-o", str(path), "."], cwd=INTEROP / "go", check=True, env=environment)
    return path


@pytest.mark.parametrize("compression", ["none", "gzip", "snappy", "lz4", "zstd"])
def test_go_client__round_trip(
    server: Server, unique_name: Callable[[str], str], program: Path, compression: str
) -> None:
    records = samples(900)
    arguments = [server.bootstrap, unique_name("go"), unique_name("go-group"), compression]
    checks = check_round_trip(run([str(program), *arguments], records), records)
    assert checks == {"created_partitions": PARTITIONS, "lag": 0, "end_offsets": len(records), "group_left": False}
