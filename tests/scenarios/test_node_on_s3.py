"""A node whose records are in S3: a real server as a process, kill -9, and everything acknowledged is there."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.killed_nodes import PARTITIONS, create_topic, produce, read_all
from tests.support.node_process import NodeFailed, NodeProcess
from tests.support.s3_server import S3Server, certificate_for_this_machine, running_s3

MAKE = Callable[..., NodeProcess]
QUICK = ("--set", "storage.upkeep.interval.ms=200", "--set", "storage.garbage.grace.ms=500")


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with running_s3(tmp_path_factory.mktemp("s3")) as server:
        yield server


def test_node__on_s3_killed_loses_and_repeats_nothing(make_node: MAKE, s3: S3Server) -> None:
    node = make_node(options=["--storage", "s3://killed/prefix", *QUICK], environment=s3.environment).start()
    create_topic(node, "topic")
    count = 3_000
    acknowledged = produce(node, count, {500, 2_000})
    found = read_all(node, "topic", count)
    for partition, records in found.items():
        sent = [str(number).encode() for number in range(partition, count, PARTITIONS)]
        assert records == list(enumerate(sent))
    assert acknowledged == {(p, offset): value for p, records in found.items() for offset, value in records}
    assert node.terminate() == 0
    assert not list(node.data_dir.rglob("*.log")), "no record is kept on this machine"
    node.restart()
    assert read_all(node, "topic", count) == found


def test_node__refuses_a_storage_that_is_not_its_clusters_or_not_there(make_node: MAKE, s3: S3Server) -> None:
    first = make_node(options=["--storage", "s3://claimed/one"], environment=s3.environment).start()
    first.terminate()
    shutil.rmtree(first.data_dir)
    with pytest.raises(NodeFailed, match="is the storage of cluster"):
        first.restart()
    wrong = {**s3.environment, "AWS_SECRET_ACCESS_KEY": "wrong"}
    with pytest.raises(NodeFailed, match="refuses these credentials"):
        make_node(options=["--storage", "s3://claimed/two"], environment=wrong).start()
    with pytest.raises(NodeFailed, match="s3://BUCKET/PREFIX"):
        make_node(options=["--storage", "s3:///nothing"], environment=s3.environment).start()


def test_node__speaks_tls_with_the_store(make_node: MAKE, tmp_path: Path) -> None:
    with running_s3(tmp_path / "s3", certificate=certificate_for_this_machine(tmp_path)) as s3:
        options = ["--storage", "s3://encrypted/prefix", *QUICK]
        node = make_node(options=options, environment=s3.environment).start()
        create_topic(node, "topic")
        acknowledged = produce(node, 300, kills={100})
        found = read_all(node, "topic", 300)
        assert acknowledged == {(p, offset): value for p, records in found.items() for offset, value in records}
        unknown = {name: value for name, value in s3.environment.items() if name != "AWS_CA_BUNDLE"}
        with pytest.raises(NodeFailed, match="AWS_CA_BUNDLE names the file"):
            make_node(tmp_path / "other", options=options, environment=unknown).start()
