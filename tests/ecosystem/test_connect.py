"""Kafka Connect, unmodified, with its file connectors: from a file through a topic into a file, through restarts."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.ecosystem.connect_worker import DistributedWorker, file_sink, file_source, start_standalone
from tests.ecosystem.topics import TIMEOUT_S, Output, create_topics
from tests.interop.conftest import Server, replication_factor

pytestmark = pytest.mark.interop


def append(path: Path, first: int, count: int) -> list[str]:
    lines = [f"line {number}" for number in range(first, first + count)]
    with path.open("a") as file:
        file.write("".join(f"{line}\n" for line in lines))
    return lines


def lines_of(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def wait_for_lines(path: Path, count: int, last: str | None = None) -> list[str]:
    """Until there are `count` lines or more and, if given, `last` is the last of them."""
    deadline = time.monotonic() + TIMEOUT_S
    while len(lines_of(path)) < count or last not in (None, *lines_of(path)[-1:]):
        assert time.monotonic() < deadline, f"{len(lines_of(path))} lines"
        time.sleep(0.05)
    return lines_of(path)


def test_connect_standalone__goes_on_where_it_was_stopped(make_server: Callable[..., Server], tmp_path: Path) -> None:
    server = make_server()
    source, sink = tmp_path / "in.txt", tmp_path / "out.txt"
    connectors = {"source": file_source("files", source), "sink": file_sink("files", sink)}
    create_topics(server.bootstrap, ["files"], partitions=1)
    written = append(source, 0, 300)
    for _ in range(2):
        with start_standalone(tmp_path, server.bootstrap, connectors) as worker:
            wait_for_lines(sink, len(written))
            written += append(source, len(written), 200)
            wait_for_lines(sink, len(written))
            worker.terminate()
        assert lines_of(sink) == written
        written += append(source, len(written), 100)
    with Output(server.bootstrap, "files") as output:
        output.read_until(lambda: output.count("files") >= len(written) - 100, quiet_s=1.0)
        assert [value for _, value in output.records["files"]] == written[:-100]


def test_connect_distributed__source_is_exactly_once_through_kills(
    make_server: Callable[..., Server], tmp_path: Path
) -> None:
    server = make_server()
    source, sink = tmp_path / "in.txt", tmp_path / "out.txt"
    create_topics(server.bootstrap, ["files"], partitions=1)
    written = append(source, 0, 300)
    cluster = DistributedWorker(tmp_path, server.bootstrap, replication_factor(server))
    with Output(server.bootstrap, "files") as output:
        with cluster.start() as worker:
            cluster.configure("source", file_source("files", source))
            cluster.configure("sink", file_sink("files", sink))
            wait_for_lines(sink, 300)
            written += append(source, len(written), 60_000)
            output.read_until(lambda: output.count("files") > 2_000)
            worker.kill9()
        written += append(source, len(written), 100)
        with cluster.start() as worker:
            output.read_until(lambda: output.count("files") >= len(written))
            server.kill9()
            server.restart()
            written += append(source, len(written), 100)
            output.read_until(lambda: output.count("files") >= len(written), quiet_s=2.0)
            assert [value for _, value in output.records["files"]] == written
            # A sink repeats what it had not committed when it was killed; nothing is missing or out of order.
            delivered = wait_for_lines(sink, len(written), written[-1])
            assert list(dict.fromkeys(delivered)) == written
            assert [cluster.state(name) for name in ("source", "sink")] == [["RUNNING", "RUNNING"]] * 2
            worker.terminate()
