"""Spark Structured Streaming, from a topic to a topic and to files, killed and resumed from its checkpoints.

Its file sink is exactly-once. Its Kafka sink is at-least-once by design, whoever the broker is: a micro-batch that was
cut short is written again, so what is judged there is that nothing is missing and only whole batches repeat.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.ecosystem.topics import TIMEOUT_S, Output, Pair, create_topics, produce
from tests.interop.conftest import Server
from tests.support.java import JavaProcess, compile_project, java_command

pytestmark = pytest.mark.ecosystem
PROJECT = Path(__file__).parent / "spark"
WAVE = 3_000
OF_A_BATCH = 400
"""Records of one micro-batch at most (maxOffsetsPerTrigger)."""


def rows_of(folder: Path) -> list[tuple[int, int, Pair]]:
    """(partition, offset, key and value) of what the file sink has committed, by its own log of files."""
    log = folder / "files" / "_spark_metadata"
    names: set[str] = set()
    for batch in log.glob("[0-9]*"):
        names |= {json.loads(line)["path"] for line in batch.read_text().splitlines()[1:]}
    rows = [json.loads(line) for name in names for line in Path(name.removeprefix("file:")).read_text().splitlines()]
    return sorted((row["partition"], row["offset"], (row["key"], row["value"])) for row in rows)


def test_spark__reads_and_writes_through_kills(make_server: Callable[..., Server], tmp_path: Path) -> None:
    server = make_server()
    create_topics(server.bootstrap, ["spark-in", "spark-out"])
    sent: list[Pair] = []
    # Spark reaches into the Java runtime, as its own launcher allows it to.
    opened = [f"java.base/{name}=ALL-UNNAMED" for name in ("java.nio", "sun.nio.ch", "java.util", "java.lang.invoke")]
    options = " ".join(f"--add-opens={name}" for name in opened)
    arguments = [server.bootstrap, "spark", str(tmp_path)]
    command = java_command(compile_project(PROJECT), "ecosystem.Stream", *arguments)

    def start() -> JavaProcess:
        return JavaProcess(command, tmp_path / "spark.log", os.environ | {"JDK_JAVA_OPTIONS": options})

    def send() -> None:
        pairs = [(f"key-{number % 50}", f"value-{number}") for number in range(len(sent), len(sent) + WAVE)]
        produce(server.bootstrap, "spark-in", pairs)
        sent.extend(pairs)

    def wait_for_rows(count: int) -> None:
        deadline = time.monotonic() + TIMEOUT_S
        while len(rows_of(tmp_path)) < count:
            assert time.monotonic() < deadline, f"{len(rows_of(tmp_path))} of {count} rows"
            time.sleep(0.2)

    with Output(server.bootstrap, "spark-out") as output:
        send()
        with start() as program:
            output.read_until(lambda: output.count("spark-out") > OF_A_BATCH)
            program.kill9()
        send()
        with start() as program:
            output.read_until(lambda: output.count("spark-out") > WAVE)
            server.kill9()
            server.restart()
            send()
            expected = {(key, value.upper()) for key, value in sent}
            output.read_until(lambda: set(output.records["spark-out"]) >= expected, quiet_s=3.0)
            wait_for_rows(len(sent))
            program.terminate()
    rows = rows_of(tmp_path)
    assert sorted(pair for _, _, pair in rows) == sorted(sent)
    assert len({(partition, offset) for partition, offset, _ in rows}) == len(sent)
    written = Counter(output.records["spark-out"])
    assert set(written) == expected
    # Two kills: each may have cut one micro-batch short.
    assert written.total() - len(sent) <= 2 * OF_A_BATCH
