"""Retention, DeleteRecords and deletion of topics on a running node that stops and dies: what goes, what stays, what
readers are told meanwhile, and what is left in the data folder.
"""

from __future__ import annotations

from collections.abc import Callable

from confluent_kafka.admin import AdminClient, NewTopic

from bytemq.storage.checks.verify import verify
from tests.scenarios import letting_go
from tests.scenarios.test_compaction import objects, until
from tests.support.node_process import NodeProcess

MAKE = Callable[..., NodeProcess]
OPTIONS = ["--set", "log.retention.check.interval.ms=200"]


def test_store__holds_nothing_but_what_manifests_name_after_everything_was_let_go(make_node: MAKE) -> None:
    node = make_node(options=OPTIONS).start()
    admin = AdminClient({"bootstrap.servers": node.bootstrap})
    for topic, config in letting_go.TOPICS.items():
        named = {key.replace("_", "."): value for key, value in (letting_go.SEGMENT_BYTES | config).items()}
        admin.create_topics([NewTopic(topic, 1, 1, config=named)])[topic].result(letting_go.TIMEOUT_S)
    letting_go.produce_all(node.bootstrap)
    readers = [letting_go.Reader(topic, [node]) for topic in letting_go.READ]
    until(lambda: all(reader.records for reader in readers))

    def low(topic: str) -> int:
        return letting_go.watermarks(node.bootstrap, topic)[0]

    for offset in range(500, letting_go.RECORDS + 1, 500):
        letting_go.delete_records(admin, "cut", offset)
    admin.delete_topics(["gone"])["gone"].result(letting_go.TIMEOUT_S)
    until(lambda: low("old") == letting_go.RECORDS and low("sized") > 0)
    starts = {topic: low(topic) for topic in letting_go.TOPICS if topic != "gone"}
    assert starts["cut"] == letting_go.RECORDS
    assert starts["young"] == starts["stamped"] == 0, "time is record time, or when it was appended"
    assert "a read failed" not in node.log()
    for stop in (node.terminate, node.kill9):
        stop()
        node.restart()
        assert all(low(topic) >= start for topic, start in starts.items()), "the log start never goes back"
    for reader in readers:
        reader.stop()
        assert reader.records and not reader.wrong
        assert reader.told <= {0, 1, 3}, "none, OFFSET_OUT_OF_RANGE, UNKNOWN_TOPIC_OR_PARTITION"
    until(lambda: used_bytes(node) < 2 * letting_go.RECORDS * letting_go.VALUE_BYTES + 4 * 1024 * 1024)
    node.terminate()
    assert list(verify(node.data_dir)) == [], "nothing is wrong, and nothing is left that nobody names"


def used_bytes(node: NodeProcess) -> int:
    """By what is not the write-ahead log, which is used again. Two topics stay, and one is cut to 1 MiB."""
    return sum((node.data_dir / name).stat().st_size for name in objects(node.data_dir))
