"""`bytemq dev cluster` as a user has it: etcd, an S3 server and brokers; looked at and drained with the commands."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient, NewTopic

from tests.scenarios.cluster.cluster import CountingProducer, check_nothing_lost, read_all, until
from tests.support.dev_cluster import DevCluster


@pytest.fixture
def dev(tmp_path: Path) -> Iterator[DevCluster]:
    made = DevCluster(tmp_path, {"broker.session.timeout.ms": "15000"})  # a busy machine is no trouble of this test
    try:
        yield made.start()
    finally:
        made.close()


def test_dev_cluster__is_drained_under_load_without_an_error_and_stops_cleanly(dev: DevCluster) -> None:
    admin = AdminClient({"bootstrap.servers": dev.bootstrap, "log_level": 0})
    admin.create_topics([NewTopic("t", 12, 3)], operation_timeout=60)["t"].result(60)
    status = dev.cluster("status")
    assert (status["brokers"], status["zones"], status["without_owner"]) == (3, 3, 0)

    producer = CountingProducer(dev, "t")  # type: ignore[arg-type]
    producer.wait_for_more()
    assert "owns nothing any more" in dev.bytemq("cluster", "drain", "1")
    producer.wait_for_more()
    rows = dev.cluster("brokers")
    assert [(row["broker"], row["state"], row["partitions"] > 0) for row in rows if row["broker"] == 1] == [
        (1, "drained", False)
    ]
    moved = [row for row in dev.cluster("partitions", "t", "--why") if "broker 1 is drained" in row["why"]]
    assert len(moved) == 4 and all(row["owner"] in (0, 2) and row["epoch"] == 1 for row in moved)
    dev.bytemq("cluster", "undrain", "1")
    until(lambda: dev.cluster("brokers")[1]["partitions"] > 0, "the broker gets something back")
    producer.stop()
    print(f"longest pause of a partition {producer.longest_pause_of_a_partition_s():.2f} s")
    check_nothing_lost(producer, read_all(dev, "t"))  # type: ignore[arg-type]

    processes = dev.processes()
    assert len(processes) == 3
    dev.process.send_signal(signal.SIGTERM)
    until(lambda: "stopping" in dev.said, "it stops")
    dev.process.send_signal(signal.SIGINT)  # an impatient user
    assert dev.process.wait(60) == 0
    assert not [pid for pid in processes if Path(f"/proc/{pid}").exists()], "it leaves nothing running"
    for broker_id in range(3):
        log = (dev.folder / "data" / f"broker-{broker_id}.log").read_text()
        assert "Traceback" not in log and "stopped" in log, log[-3000:]


def test_dev_cluster__says_what_is_wrong_with_a_setting(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bytemq", "dev", "cluster", "--storage", "file", "--brokers", "1", "--port", "0"]
    command += ["--data", str(tmp_path), "--set", "no.such.setting=1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "broker-0 did not start" in done.stderr and "no.such.setting" in done.stderr
    assert "Traceback" not in done.stderr
