"""Compaction and DeleteRecords on a real S3 server, under two brokers that are killed: what is read, what is known
afterwards, and what is left in the bucket.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

import pytest
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition

from tests.interop.batches import batch
from tests.scenarios.cluster.at_rest import await_clean
from tests.scenarios.cluster.cluster import LONG_SESSIONS, PATIENCE_S, Cluster, until
from tests.scenarios.test_compaction import kill_workers
from tests.support import probe
from tests.support.etcd_process import EtcdProcess
from tests.support.s3_server import minio_program, running_s3

OPTIONS = (
    *LONG_SESSIONS,
    *("--set", "log.cleaner.backoff.ms=50"),
    *("--set", "log.retention.check.interval.ms=200"),
    *("--set", "storage.upkeep.interval.ms=500"),
    *("--set", "storage.garbage.grace.ms=1000"),
)
COMPACTED = {
    "cleanup_policy": "compact",
    "segment_bytes": "1048576",
    "min_cleanable_dirty_ratio": "0.01",
    "delete_retention_ms": "0",
}
KEYS = 500
PRODUCER_ID = 900_000
OUT_OF_ORDER_SEQUENCE_NUMBER = 45
CLEANER_PATIENCE_S = 400.0
"""The worker has the lowest priority: beside enough other work it hardly runs at all."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two brokers that are running whenever a test begins and ends."""
    folder = tmp_path_factory.mktemp("letting-go")
    etcd = EtcdProcess(folder / "etcd").start()
    with running_s3(folder / "s3", "minio" if minio_program() else "seaweedfs") as s3:
        made = Cluster(folder, etcd, 2, OPTIONS, storage="s3://records/cluster", environment=s3.environment)
        try:
            yield made.start()
        finally:
            made.close()
            etcd.close()


def state_of(cluster: Cluster, topic: str) -> tuple[dict[bytes, bytes], int]:
    """What a consumer from the beginning knows at the end, and how many records it took."""
    settings = {"bootstrap.servers": cluster.bootstrap, "group.id": "reader", "enable.partition.eof": True}
    consumer = Consumer(settings | {"auto.offset.reset": "earliest", "enable.auto.commit": False, "log_level": 0})
    consumer.assign([TopicPartition(topic, 0, 0)])
    state: dict[bytes, bytes | None] = {}
    count, last = 0, -1
    deadline = time.monotonic() + PATIENCE_S
    try:
        while time.monotonic() < deadline:
            for message in consumer.consume(5_000, timeout=1.0):
                error = message.error()
                if error is not None and error.code() == KafkaError._PARTITION_EOF:
                    return {key: value for key, value in state.items() if value is not None}, count
                assert error is None or error.retriable() or error.code() == KafkaError._TRANSPORT, error
                if error is None:
                    assert message.offset() > last, "offsets go up"
                    last = message.offset()
                    state[message.key()] = message.value()
                    count += 1
    finally:
        consumer.close()
    raise TimeoutError("the consumer did not reach the end")


def test_worker_and_owner__killed_during_compaction_lose_nothing(cluster: Cluster) -> None:
    chance = random.Random(5)
    cluster.create_topic("state", 1, **COMPACTED)
    settings = {"bootstrap.servers": cluster.bootstrap, "enable.idempotence": True, "linger.ms": 5, "log_level": 0}
    producer = Producer(settings)
    expected: dict[bytes, bytes] = {}
    number = killed_workers = 0
    for kill in range(4):
        for _ in range(6_000):
            number += 1
            key = b"key-%d" % chance.randrange(KEYS)
            if chance.random() < 0.1:
                expected.pop(key, None)
                producer.produce("state", None, key)
            else:
                expected[key] = b"%d" % number + bytes(chance.randrange(400))
                producer.produce("state", expected[key], key)
            producer.poll(0)
        assert producer.flush(PATIENCE_S) == 0
        owner = cluster.owner("state")
        if kill % 2:
            owner.kill9()
            assert state_of(cluster, "state")[0] == expected, "told by the next owner"
            owner.restart()
        else:
            killed_workers += kill_workers(owner, chance.random())
        assert state_of(cluster, "state")[0] == expected, kill
    assert killed_workers
    until(lambda: state_of(cluster, "state")[1] < 12_000, "it is compacted in the end", CLEANER_PATIENCE_S)
    assert state_of(cluster, "state")[0] == expected
    await_clean(cluster)


def test_duplicate__is_recognised_after_compaction_delete_records_and_moves(cluster: Cluster) -> None:
    cluster.create_topic("last-five", 1, **{**COMPACTED, "cleanup_policy": "compact,delete"})

    def idempotent(sequence: int) -> bytes:
        return batch([b"%d" % sequence], key=b"key", producer_id=PRODUCER_ID, producer_epoch=0, base_sequence=sequence)

    def produce(records: bytes) -> tuple[int, int]:
        with probe.connect(cluster.owner("last-five").address) as wire:
            return probe.produce(wire, "last-five", records)

    def answered(records: bytes) -> tuple[int, int]:
        return until(lambda: settled(produce(records)), "an answer by its owner")

    def check_duplicates() -> None:
        assert [answered(idempotent(sequence)) for sequence in range(2, 7)] == [(0, offset) for offset in range(2, 7)]
        other = batch([b"other"], key=b"key", producer_id=PRODUCER_ID, producer_epoch=0, base_sequence=6)
        assert answered(other)[0] == OUT_OF_ORDER_SEQUENCE_NUMBER

    assert [produce(idempotent(sequence)) for sequence in range(7)] == [(0, sequence) for sequence in range(7)]
    check_duplicates()
    others = 7
    for _ in range(12):  # of another producer, so that the seven are in a segment of their own, and cleaned
        assert produce(batch([b"x" * 200_000], key=b"key")) == (0, others)
        others += 1
    until(lambda: state_of(cluster, "last-five")[1] < 12, "the seven are compacted away", CLEANER_PATIENCE_S)
    check_duplicates()
    admin, upto = cluster.admin(), TopicPartition("last-five", 0, 10)
    admin.delete_records([upto])[upto].result(PATIENCE_S)
    check_duplicates()
    for stop in ("release", "death"):
        owner = cluster.owner("last-five")
        owner.terminate() if stop == "release" else owner.kill9()
        check_duplicates()
        owner.restart()
    assert answered(idempotent(7)) == (0, others)


def settled(answer: tuple[int, int]) -> tuple[int, int] | None:
    """None while the partition is between two owners."""
    return None if answer[0] in (5, 6, 7, 9) else answer
