"""The Compose cluster loses a broker, a member of etcd and the S3 server for a while: clients on the host go on."""

from __future__ import annotations

import time

import pytest

from tests.compose.compose_cluster import ComposeCluster
from tests.scenarios.cluster.cluster import CountingProducer, check_nothing_lost, read_all, until

pytestmark = pytest.mark.compose


def test_compose__brokers_in_three_zones_are_reached_from_the_host_and_from_containers(
    cluster: ComposeCluster,
) -> None:
    cluster.create_topic("everywhere", 6)
    assert sorted(set(cluster.leaders("everywhere"))) == [1, 2, 3]
    brokers = cluster.bytemq("cluster", "brokers")
    assert [zone for zone in "abc" if f" {zone} " in brokers] == ["a", "b", "c"], brokers
    described = cluster.bytemq("topic", "describe", "everywhere", "--bootstrap-server", "broker-3:29092")
    assert "everywhere" in described


def test_compose__loses_nothing_with_any_of_its_parts(cluster: ComposeCluster) -> None:
    cluster.create_topic("lossless", 6)
    producer = CountingProducer(cluster, "lossless")
    producer.wait_for_more(300)
    cluster.kill("broker-2")
    killed_at = time.monotonic()
    until(lambda: set(cluster.leaders("lossless")) == {1, 3}, "others own what broker 2 had")
    print(f"broker killed: new owners after {time.monotonic() - killed_at:.1f} s")
    producer.wait_for_more(300)
    cluster.up("broker-2")
    for part in (cluster.etcd_leader(), "s3"):
        killed_at = time.monotonic()
        cluster.kill(part)
        if part == "s3":
            time.sleep(5)
            cluster.up(part)
        producer.wait_for_more(300)
        print(f"{part} killed: 300 more acknowledged after {time.monotonic() - killed_at:.1f} s")
        cluster.up(part)
    producer.stop()
    print(f"longest pause of a partition {producer.longest_pause_of_a_partition_s():.1f} s")
    check_nothing_lost(producer, read_all(cluster, "lossless"))
