"""Two real S3 servers, the first behind a link that goes dark: unmodified clients go on within seconds, nothing is
lost, also when a broker is killed in the middle of a switch, and the second store can be emptied again.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from tests.chaos.links import BOTH, Link, running_links
from tests.scenarios.cluster.cluster import (
    LONG_SESSIONS,
    Cluster,
    CountingProducer,
    check_nothing_lost,
    read_all,
    until,
)
from tests.support import machine
from tests.support.etcd_process import EtcdProcess
from tests.support.s3_server import running_s3

SWITCHED_WITHIN_S = 15.0
"""Two seconds by design; machines that run tests are busy."""
QUICK = (
    *LONG_SESSIONS,
    *("--set", "storage.upkeep.interval.ms=500", "--set", "storage.garbage.grace.ms=2000"),
)


def bytemq(cluster: Cluster, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "bytemq", *arguments, "--metadata", cluster.etcd.url("cluster")],
        capture_output=True,
        text=True,
        env={**os.environ, **(cluster.environment or {})},
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_pools__take_over_within_seconds_and_lose_nothing(tmp_path: Path) -> None:
    etcd = EtcdProcess(tmp_path / "etcd").start()
    with running_s3(tmp_path / "first") as first, running_s3(tmp_path / "second") as second, running_links() as links:
        link = links.to(f"127.0.0.1:{first.port}", delivers_late=True)
        environment = {**first.environment, "AWS_ENDPOINT_URL": f"http://{link.address}"}
        cluster = Cluster(tmp_path, etcd, 2, QUICK, storage="s3://records/cluster", environment=environment)
        try:
            cluster.start()
            pool = f"s3://pool/cluster?endpoint=http://127.0.0.1:{second.port}"
            assert "is part of the cluster" in bytemq(cluster, "cluster", "pool", "add", "second", pool)
            until(lambda: "well at 2 of 2" in bytemq(cluster, "cluster", "pools"), "both brokers have opened it")
            assert "pool second" in bytemq(cluster, "doctor", "--storage", cluster.storage)
            run(cluster, link)
            assert any("/wal/" in name for name in second.objects("pool"))
            is_clean(cluster)
            said = bytemq(cluster, "cluster", "pool", "drain", "second", "--timeout", "120")
            assert "Nothing of a log is in second any more" in said
            is_clean(cluster)
        finally:
            cluster.close()
            etcd.close()


def run(cluster: Cluster, link: Link) -> None:
    cluster.create_topic("topic", 6)
    producer = CountingProducer(cluster, "topic")
    producer.wait_for_more()
    link.hold(*BOTH)
    assert switched_within_s(producer) < SWITCHED_WITHIN_S * machine.slowness()
    producer.wait_for_more(100)
    link.heal()
    producer.wait_for_more()
    link.be_unavailable(1.0)
    time.sleep(0.3)  # in the middle of it
    cluster.nodes[1].kill9()
    time.sleep(1.0)
    link.heal()
    switched_within_s(producer)
    producer.stop()
    check_nothing_lost(producer, read_all(cluster, "topic"))


def switched_within_s(producer: CountingProducer) -> float:
    """How long it takes from now on until each partition has acknowledged something."""
    began = time.monotonic()
    until(lambda: producer.acknowledged_since(began), "every partition acknowledges again")
    acknowledged = producer.acknowledged_since(began)
    assert acknowledged is not None
    return acknowledged - began


def is_clean(cluster: Cluster) -> None:
    assert "everything is as it was written" in until(
        lambda: said if "nothing refers" not in (said := bytemq(cluster, "verify", cluster.storage)) else "",
        "garbage goes",
    )
