"""What Kafka's tools print with Apache Kafka 4.4.0 they print with us, line by line: on a node, and on a cluster.

`--server kafka` checks the recording against a live Kafka, `--server kafka --record` makes it anew. What is typed is in
`transcripts.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.interop.conftest import Server
from tests.interop.documented_differences import PRINTED
from tests.interop.kafka_shell import KafkaShell
from tests.interop.recordings import judge, recorded
from tests.interop.terminal import Terminal
from tests.interop.transcripts import registry

pytestmark = pytest.mark.interop


@pytest.fixture(scope="module")
def shell() -> Iterator[KafkaShell]:
    started = KafkaShell()
    yield started
    started.close()


@pytest.mark.parametrize("name", registry)
def test_kafka_cli__prints_what_it_prints_with_kafka(
    server: Server, shell: KafkaShell, request: pytest.FixtureRequest, tmp_path: Path, name: str
) -> None:
    terminal = Terminal(shell, server.bootstrap, server.address, f"t-{name.replace('_', '-')}", tmp_path)
    registry[name](terminal)
    judge(request.config, f"printed_{name}", terminal.printed, PRINTED)


def test_kafka_cli__documented_differences_name_what_is_typed() -> None:
    for name, typed in PRINTED:
        assert typed in recorded(name)
