"""A cluster for a benchmark: real etcd, a real S3 server, brokers; all of it gone at the end. Owns nothing else."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.scenarios.cluster.cluster import Cluster
from tests.support.etcd_process import EtcdProcess
from tests.support.s3_server import S3Server, running_s3


@contextmanager
def cluster_on_s3(
    kind: str, brokers: int, options: tuple[str, ...] = (), prepare: Callable[[Cluster], None] = lambda cluster: None
) -> Iterator[tuple[Cluster, S3Server]]:
    """Started, on a server of that kind (seaweedfs, minio). `prepare` may change the brokers before."""
    folder = Path(tempfile.mkdtemp(prefix="bytemq-benchmark-"))
    etcd = EtcdProcess(folder / "etcd").start()
    try:
        with running_s3(folder / "s3", kind) as s3:
            cluster = Cluster(
                folder, etcd, brokers, options, storage="s3://records/cluster", environment=s3.environment
            )
            try:
                prepare(cluster)
                yield cluster.start(), s3
            finally:
                cluster.close()
    finally:
        etcd.close()
        shutil.rmtree(folder, ignore_errors=True)
