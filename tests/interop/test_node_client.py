"""kafkajs, unmodified, in a Node program of its own (tests/interop/node)."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest

from tests.interop.client_program import check_round_trip, run
from tests.interop.conftest import Server
from tests.interop.kafka_process import INTEROP
from tests.interop.sample import samples
from tests.support.java import DOWNLOADS, require_tool

pytestmark = pytest.mark.interop


@pytest.fixture(scope="module")
def program() -> list[str]:
    node = require_tool("node", "install Node.js 20 or newer (apt-get install nodejs npm)")
    npm = require_tool("npm", "install npm (apt-get install npm)")
    folder = DOWNLOADS / "node-client"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("package.json", "package-lock.json", ".npmrc", "client.js"):
        (folder / name).write_text((INTEROP / "node" / name).read_text())
    subprocess.run([npm, "ci", "--silent", "--no-audit", "--no-fund"], cwd=folder, check=True, stdin=subprocess.DEVNULL)
    return [node, str(folder / "client.js")]


@pytest.mark.parametrize("compression", ["none", "gzip"])  # what kafkajs has without plug-ins
def test_node_client__round_trip(
    server: Server, unique_name: Callable[[str], str], program: list[str], compression: str
) -> None:
    records = samples(900)
    arguments = [server.bootstrap, unique_name("node"), unique_name("node-group"), compression]
    checks = check_round_trip(run([*program, *arguments], records), records)
    assert checks == {"created": True, "end_offsets": len(records), "group_state": "Empty"}
