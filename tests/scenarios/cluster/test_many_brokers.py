"""`bytemq start --brokers N`: several processes on one machine, their metadata in the supervisor."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient, NewTopic

from tests.scenarios.cluster.cluster import CountingProducer, check_nothing_lost, read_all, until
from tests.support import probe
from tests.support.node_process import NodeProcess

MAKE = Callable[..., NodeProcess]


@pytest.fixture
def brokers(make_node: MAKE) -> NodeProcess:
    return make_node(listen=["127.0.0.1:0"], options=["--brokers", "3"])


def start(node: NodeProcess) -> list[int]:
    """Starts them; the ports, in the order of the brokers' ids. The first one is the node's."""
    node.launch()
    ports = [int(port) for port in re.findall(r"127\.0\.0\.1:(\d+)", node.wait_ready())]
    assert len(ports) == 3
    node.port = ports[0]
    return ports


def test_brokers__of_one_machine_are_several_to_clients_and_stop_together(brokers: NodeProcess) -> None:
    ports = start(brokers)
    with probe.connect(brokers.address) as wire:
        assert probe.brokers(wire) == [(index, "127.0.0.1", port) for index, port in enumerate(ports)]
        assert probe.create_topic(wire, "t", 6) == 0
        until(lambda: sorted(probe.leaders(wire, "t")) == [0, 0, 1, 1, 2, 2], "each has its share")
    pids = brokers.broker_pids()
    assert brokers.terminate() == 0, brokers.log()
    assert not [pid for pid in pids.values() if Path(f"/proc/{pid}").exists()]
    start(brokers)
    with probe.connect(brokers.address) as wire:
        until(lambda: sorted(probe.leaders(wire, "t")) == [0, 0, 1, 1, 2, 2], "each has its share")


def test_brokers__one_that_is_killed_is_started_again_and_nothing_is_lost(brokers: NodeProcess) -> None:
    start(brokers)
    admin = AdminClient({"bootstrap.servers": brokers.bootstrap, "log_level": 0})
    admin.create_topics([NewTopic("t", 6, 1)], operation_timeout=60)["t"].result(60)
    producer = CountingProducer(brokers, "t")  # type: ignore[arg-type]
    producer.wait_for_more()
    killed = brokers.broker_pids()[2]
    os.kill(killed, signal.SIGKILL)
    until(lambda: brokers.broker_pids().get(2, killed) != killed, "it is started again")
    producer.wait_for_more(100)
    producer.stop()
    check_nothing_lost(producer, read_all(brokers, "t"))  # type: ignore[arg-type]


def test_brokers__end_with_their_supervisor(brokers: NodeProcess) -> None:
    start(brokers)
    pids = brokers.broker_pids()
    brokers.kill9()
    until(lambda: not [pid for pid in pids.values() if Path(f"/proc/{pid}").exists()], "the brokers are gone")


def test_brokers__on_the_data_of_a_single_node_are_refused(make_node: MAKE) -> None:
    single = make_node().start()
    with probe.connect(single.address) as wire:
        assert probe.create_topic(wire, "t") == 0
        assert probe.produce(wire, "t") == (0, 0)
    single.terminate()
    several = make_node(listen=["127.0.0.1:0"], options=["--brokers", "2"])
    several.launch()
    assert several.wait_exit() == 1
    assert "single node" in several.log() and "Traceback" not in several.log()


def test_node__on_the_data_of_several_brokers_is_refused(brokers: NodeProcess, make_node: MAKE) -> None:
    """It would have their topics, and none of their records."""
    start(brokers)
    with probe.connect(brokers.address) as wire:
        assert probe.create_topic(wire, "t") == 0
    brokers.terminate()
    single = make_node()
    single.launch()
    assert single.wait_exit() == 1
    assert "with --brokers N" in single.log() and "Traceback" not in single.log()
    assert not (single.data_dir / "wal").exists(), "nothing was begun"
    start(brokers)


def test_broker__that_is_alone_has_pools_without_etcd(make_node: MAKE, tmp_path: Path) -> None:
    """By the address of its supervisor's metadata."""
    first, second = (f"file://{tmp_path / name}" for name in ("first", "second"))
    node = make_node(listen=["127.0.0.1:0"], options=["--brokers", "1", "--storage", first])
    node.launch()
    [node.port] = [int(port) for port in re.findall(r"127\.0\.0\.1:(\d+)", node.wait_ready())]
    with probe.connect(node.address) as wire:
        assert probe.create_topic(wire, "t") == 0
        assert probe.produce(wire, "t") == (0, 0)
        assert "is part of the cluster" in cluster_command(node, "pool", "add", "second", second)
        until(lambda: "well at 1 of 1" in cluster_command(node, "pools"), "the broker has opened it")
        drained = cluster_command(node, "pool", "drain", "primary", "--timeout", "120")
        assert "Nothing of a log is in primary any more" in drained
        assert probe.produce(wire, "t") == (0, 1)
    assert list((tmp_path / "second").rglob("wal/**/*"))


def cluster_command(node: NodeProcess, *arguments: str) -> str:
    address = f"unix://{node.data_dir.absolute() / 'metadata.sock'}"
    command = [sys.executable, "-m", "bytemq", "cluster", *arguments, "--metadata", address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
