"""Apache Flink, KafkaSource to KafkaSink with EXACTLY_ONCE: killed between pre-commit and commit, and the server too.

A checkpoint of Flink prepares a transaction (all records are sent), and only when it is complete does EndTxn follow.
The gate holds that request back, so that both sides die exactly in between.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.ecosystem.topics import TIMEOUT_S, Output, create_topics, produce
from tests.interop.conftest import Server
from tests.support.java import JavaProcess, compile_project, java_command
from tests.support.request_gate import RequestGate

PROJECT = Path(__file__).parent / "flink"
END_TXN = 26
WAVE = 3_000


def latest_checkpoint(folder: Path) -> list[str]:
    """The arguments that make the program go on from there: none, when there is no complete checkpoint."""
    complete = sorted(folder.glob("*/chk-*/_metadata"), key=lambda path: path.stat().st_mtime_ns)
    return [str(path.parent) for path in complete[-1:]]


@pytest.mark.parametrize(
    "naming",
    [
        pytest.param("INCREMENTING", marks=pytest.mark.interop),
        pytest.param("POOLING", marks=pytest.mark.ecosystem),  # finds by ListTransactions what it left open
    ],
)
def test_flink__commits_what_it_had_prepared_exactly_once(
    make_server: Callable[..., Server], tmp_path: Path, naming: str
) -> None:
    checkpoints = tmp_path / "checkpoints"
    class_path = compile_project(PROJECT)
    with RequestGate() as gate:
        server = make_server(gate)
        create_topics(server.bootstrap, ["job-in", "job-out"])
        sent: list[str] = []

        def send_wave() -> None:
            values = [str(number) for number in range(len(sent), len(sent) + WAVE)]
            produce(server.bootstrap, "job-in", [(value, value) for value in values])
            sent.extend(values)

        def start() -> JavaProcess:
            arguments = [gate.bootstrap, "job", str(checkpoints), naming, *latest_checkpoint(checkpoints)]
            return JavaProcess(java_command(class_path, "ecosystem.Copy", *arguments), tmp_path / "flink.log")

        def wait_prepared() -> None:
            """The next wave is sent on, and its commit never arrives."""
            gate.hold(END_TXN)
            send_wave()
            gate.wait_held(TIMEOUT_S)

        for _ in range(2):
            with start() as program:
                wait_prepared()
                program.kill9()
            assert latest_checkpoint(checkpoints), "what was prepared belongs to a complete checkpoint"
            gate.open()
        with Output(server.bootstrap, "job-out") as output, start() as program:
            wait_prepared()
            server.kill9()
            server.restart()
            gate.open()
            send_wave()
            output.read_until(lambda: output.count("job-out") >= len(sent), quiet_s=3.0)
            program.kill9()
        copied = [value for _, value in output.records["job-out"]]
        assert sorted(copied, key=int) == sent
