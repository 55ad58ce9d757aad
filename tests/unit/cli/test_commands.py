"""The commands against a node of their own, as a user types them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import machine
from tests.support.node_process import NodeProcess, running_node


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    options = ("--set", "group.initial.rebalance.delay.ms=0", "--set", "offsets.topic.num.partitions=3")
    with running_node(tmp_path_factory.mktemp("cli") / "data", options=options) as started:
        yield started


def bytemq(node: NodeProcess, *arguments: str, send: str = "", code: int = 0) -> str:
    """Standard output of one command; the exit code must be `code`, and nobody sees a traceback."""
    done = run(node, *arguments, send=send)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout if code == 0 else done.stderr


def run(node: NodeProcess, *arguments: str, send: str = "") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "BYTEMQ_BOOTSTRAP_SERVER": node.bootstrap}
    return subprocess.run(
        [sys.executable, "-m", "bytemq", *arguments],
        input=send,
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
    )


def as_json(node: NodeProcess, *arguments: str) -> Any:
    return json.loads(bytemq(node, *arguments, "--json"))


def test_topics__from_creation_to_deletion(node: NodeProcess) -> None:
    bytemq(node, "topic", "create", "life", "--partitions", "2", "--config", "retention.ms=100000")
    assert "already exists" in bytemq(node, "topic", "create", "life", code=1)
    bytemq(node, "topic", "create", "life", "--if-not-exists")
    (described,) = as_json(node, "topic", "describe", "life")
    assert (described["configs"], len(described["partitions"])) == ({"retention.ms": "100000"}, 2)
    bytemq(node, "topic", "alter", "life", "--partitions", "3", "--config", "cleanup.policy=compact")
    bytemq(node, "topic", "alter", "--topic", "life", "--delete-config", "retention.ms")
    (described,) = as_json(node, "topic", "describe", "life")
    assert (described["configs"], len(described["partitions"])) == ({"cleanup.policy": "compact"}, 3)
    assert {"topic": "life", "partitions": 3} in as_json(node, "topic", "list")
    assert "Invalid value x for configuration" in bytemq(
        node, "topic", "alter", "life", "--config", "retention.ms=x", code=1
    )
    bytemq(node, "topic", "delete", "life")
    assert "there is no topic life" in bytemq(node, "topic", "delete", "life", code=1)
    bytemq(node, "topic", "delete", "life", "--if-exists")


def test_records__are_read_as_they_were_sent(node: NodeProcess) -> None:
    bytemq(node, "topic", "create", "records")
    options = ("--key-separator", ":", "--null-marker", "NULL", "--header", "h=x", "--compression", "zstd")
    bytemq(node, "produce", "records", *options, send="a:1\nb:two:2\nc:NULL\nd:\n")
    shown = bytemq(node, "consume", "records", "--from-beginning", "--max-messages", "4", "--format", "%o %k=%s %h\\n")
    assert shown == "0 a=1 h=x\n1 b=two:2 h=x\n2 c=NULL h=x\n3 d= h=x\n"
    lines = bytemq(
        node, "consume", "records", "--partition", "0", "--offset", "2", "--max-messages", "1", "--json"
    ).splitlines()
    (record,) = map(json.loads, lines)
    assert (record["offset"], record["key"], record["value"], record["headers"]) == (2, "c", None, [["h", "x"]])
    assert bytemq(node, "consume", "records", "--from-beginning", "--max-messages", "4") == "1\ntwo:2\nNULL\n\n"
    assert bytemq(node, "consume", "records", "--timeout", "0.5") == "", "none came"
    assert "there is no topic none" in bytemq(node, "consume", "none", code=1)


def test_topics__the_rest_of_a_batch_is_done_and_said(node: NodeProcess) -> None:
    bytemq(node, "topic", "create", "there")
    message = bytemq(node, "topic", "create", "there", "new", code=1)
    assert message == "bytemq: Topic 'there' already exists.\n"
    done = run(node, "topic", "delete", "none", "new", "neither")
    assert (done.returncode, done.stdout) == (1, "Deleted topic new.\n")
    assert [line.split(";")[0] for line in done.stderr.splitlines()] == [
        "bytemq: there is no topic none",
        "bytemq: there is no topic neither",
    ]


def test_produce__a_bad_line_is_named_and_those_before_are_sent(node: NodeProcess) -> None:
    bytemq(node, "topic", "create", "lines")
    sent = bytemq(node, "produce", "lines", "--key-separator", ":", send="a:1\nx\nb:2\n", code=1)
    assert sent == (
        "1 record sent to lines\nbytemq: line 2: no key separator ':' in 'x'; it and what follows was not sent\n"
    )
    bytemq(node, "produce", "lines", send="next\n")
    assert bytemq(node, "consume", "lines", "--from-beginning", "--max-messages", "2") == "1\nnext\n"


def test_consume__sigterm_commits_as_an_interrupt_does(node: NodeProcess) -> None:
    bytemq(node, "topic", "create", "ended")
    bytemq(node, "produce", "ended", send="1\n2\n")
    command = [sys.executable, "-m", "bytemq", "consume", "ended", "--group", "ended", "--from-beginning"]
    environment = {**os.environ, "BYTEMQ_BOOTSTRAP_SERVER": node.bootstrap}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as consumer:
        assert consumer.stdout is not None
        assert [consumer.stdout.readline() for _ in range(2)] == ["1\n", "2\n"]
        consumer.terminate()
        assert consumer.wait(60) == 0
    (row,) = as_json(node, "group", "describe", "ended")
    assert (row["current_offset"], row["lag"]) == (2, 0)


def test_groups__offsets_lag_reset_and_deletion(node: NodeProcess) -> None:
    bytemq(node, "topic", "create", "grouped")
    bytemq(node, "produce", "grouped", send="1\n2\n3\n")
    arguments = ("consume", "grouped", "--group", "g", "--from-beginning", "--max-messages", "3", "--timeout", "60")
    assert bytemq(node, *arguments) == "1\n2\n3\n"
    bytemq(node, "produce", "grouped", send="4\n")
    (row,) = as_json(node, "group", "describe", "g")
    assert (row["topic"], row["current_offset"], row["log_end_offset"], row["lag"]) == ("grouped", 3, 4, 1)
    assert "g" in [group["group"] for group in as_json(node, "group", "list")]
    shift = ("group", "reset-offsets", "g", "--topic", "grouped:0", "--shift-by", "-1")
    assert as_json(node, *shift) == [{"group": "g", "topic": "grouped", "partition": 0, "new_offset": 2}]
    assert as_json(node, "group", "describe", "g")[0]["current_offset"] == 3  # it was a dry run
    bytemq(node, *shift, "--execute")
    assert as_json(node, "group", "describe", "g")[0]["current_offset"] == 2
    bytemq(node, "group", "delete", "g")
    assert "there is no group g;" in bytemq(node, "group", "delete", "g", code=1)
    assert "there is no group g" in bytemq(node, "group", "describe", "g", code=1)


def test_log_level__changes_at_run_time(node: NodeProcess) -> None:
    bytemq(node, "log-level", "error", "--logger", "broker.server")
    levels = {row["logger"]: row["level"] for row in as_json(node, "log-level")}
    assert (levels["root"], levels["broker.server"]) == ("INFO", "ERROR")
    assert "does not exist" in bytemq(node, "log-level", "debug", "--logger", "nobody", code=1)


def test_server__that_is_not_there_is_one_sentence(node: NodeProcess) -> None:
    for command in (["topic", "list"], ["consume", "t"], ["log-level"]):
        message = bytemq(node, *command, "--bootstrap-server", "127.0.0.1:1", code=1)
        assert "Start one with `bytemq start`" in message
        assert len(message.splitlines()) == 1


def refused_start(*arguments: str) -> str:
    """What `bytemq start` says when it cannot: one sentence and exit code 1."""
    command = [sys.executable, "-m", "bytemq", "start", "--set", "bytemq.http.listen=", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, "Traceback" in done.stderr) == (1, False), done.stderr
    return done.stderr.splitlines()[-1]


def test_start__says_what_is_in_the_way(node: NodeProcess, tmp_path: Path) -> None:
    in_use = refused_start("--data", str(node.data_dir), "--listen", "127.0.0.1:0")
    assert str(node.data_dir) in in_use and "use" in in_use
    taken = refused_start("--data", str(tmp_path / "other"), "--listen", node.bootstrap)
    assert node.bootstrap in taken or str(node.port) in taken
    (tmp_path / "file").write_text("")
    assert "file" in refused_start("--data", str(tmp_path / "file"), "--listen", "127.0.0.1:0")
    assert "There is no broker config nope" in refused_start("--set", "nope=1")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_start__stops_on_a_signal_within_five_seconds(tmp_path: Path, number: signal.Signals) -> None:
    with running_node(tmp_path / "data") as started:
        with socket.create_connection(started.address):  # an idle client does not keep it
            began = time.monotonic()
            started.signal(number)
            assert started.wait_exit() == 0
            took_s = time.monotonic() - began
        assert took_s < 5 * machine.slowness()
        ready = [line for line in started.log().splitlines() if "is ready on" in line]
    assert len(ready) == 1
    assert f"127.0.0.1:{started.port}, data in {tmp_path / 'data'}" in ready[0]


def test_commands__say_at_once_that_a_port_speaks_http(tmp_path: Path) -> None:
    with running_node(tmp_path / "data") as started:
        began = time.monotonic()
        command = [sys.executable, "-m", "bytemq", "topic", "list", "--bootstrap-server", started.http_address]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 1 and f"{started.http_address} speaks HTTP, not Kafka's protocol" in done.stderr
        assert time.monotonic() - began < 15, "librdkafka would have waited so long"


def test_dump_and_verify__tell_a_whole_folder_from_a_damaged_one(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with running_node(data) as started:
        bytemq(started, "topic", "create", "kept")
        bytemq(started, "produce", "kept", send="one\ntwo\n")
        command = [sys.executable, "-m", "bytemq", "verify", str(data)]
        assert "a node is running" in subprocess.run(command, capture_output=True, text=True, timeout=120).stderr
        assert started.terminate() == 0
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert (done.stdout, done.stderr) == ("everything is as it was written\n", "")
        left = data / "topics" / "left.log"
        left.parent.mkdir(exist_ok=True)
        left.write_bytes(b"of a crash")
        other = left.with_name("other.log")
        other.write_bytes(bytes(1_500_000))
        why = "nothing refers to this file; the next start removes it"
        assert bytemq(started, "verify", str(data)).splitlines() == [  # not a problem
            f"topics/: 2 objects, 1.5 MB left, such as topics/left.log: {why}",
            "everything is as it was written; left to be removed, which is not wrong: 2 objects, 1.5 MB",
        ]
        said = bytemq(started, "verify", "-v", str(data)).splitlines()
        assert [line.partition(":")[0] for line in said[:-1]] == ["topics/left.log", "topics/other.log"]
        found = [json.loads(line) for line in bytemq(started, "verify", "--json", str(data)).splitlines()]
        assert [one["size_bytes"] for one in found] == [10, 1_500_000]
        left.unlink()
        other.unlink()
        (log,) = (path for path in sorted(data.rglob("*")) if path.is_file() and b"two" in path.read_bytes())
        dumped = bytemq(started, "dump", str(log))
        assert "offsets 0..1" in dumped
        assert "producer 0/0 from sequence 0" in dumped  # `produce` is idempotent
        facts = [json.loads(line) for line in bytemq(started, "dump", "--json", str(log)).splitlines()]
        batch = next(one for one in facts if one["what"] == "batch")
        assert (batch["path"], batch["last_offset"], batch["records"], batch["producer_id"]) == (str(log), 1, 2, 0)
        assert bytemq(started, "verify", "--json", str(data)) == ""
        damaged = bytearray(log.read_bytes())
        damaged[damaged.index(b"two")] ^= 1
        log.write_bytes(damaged)
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert (done.returncode, "Traceback" in done.stderr) == (1, False)
        assert log.name in done.stdout and "problems found: " in done.stdout
        findings = [json.loads(line) for line in run(started, "verify", "--json", str(data)).stdout.splitlines()]
        assert any(log.name in one["name"] and one["problem"] and not one["is_leftover"] for one in findings)
        assert "there is no folder" in bytemq(started, "verify", str(tmp_path / "none"), code=1)
        assert "there is no file" in bytemq(started, "dump", str(tmp_path / "none"), code=1)
