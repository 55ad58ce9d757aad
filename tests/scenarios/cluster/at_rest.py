"""What `bytemq verify` says of a cluster, and waiting until its store is at rest.

Owns: the command as a user runs it. Must not: look at the store in a way of its own, but to see it at rest.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time

from bytemq.metadata import keys
from bytemq.metadata.opening import open_metadata
from tests.scenarios.cluster.cluster import PATIENCE_S, Cluster, until
from tests.support.s3_server import S3Server

CLEAN = "everything is as it was written"
EXPORTS = "metadata/"


def verified(cluster: Cluster, *options: str) -> subprocess.CompletedProcess[str]:
    """What the command says, whatever that is."""
    command = [sys.executable, "-m", "bytemq", "verify", cluster.storage, "--metadata", cluster.etcd.url("cluster")]
    environment = {**os.environ, **(cluster.environment or {})}
    return subprocess.run([*command, *options], capture_output=True, text=True, env=environment, check=False)


def verdict(cluster: Cluster) -> str:
    """Of a store in which nothing is wrong: CLEAN, and what is left over, if anything is."""
    done = verified(cluster)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


def await_clean(cluster: Cluster) -> None:
    """While brokers run: nothing is wrong, and soon nothing is left over."""
    until(lambda: verdict(cluster) == CLEAN, "the garbage of ended sessions goes")


def await_quiet(s3: S3Server, bucket: str, quiet_s: float, patience_s: float = PATIENCE_S) -> float:
    """Returns when nothing has come or gone for a while, but exports of the metadata: one is made all the time, and an
    old one goes. How long that took.
    """
    began = time.monotonic()

    def of_topics() -> dict[str, int]:
        return {name: size for name, size in s3.objects(bucket).items() if f"/{EXPORTS}" not in name}

    def is_quiet() -> bool:
        before = of_topics()
        time.sleep(quiet_s)
        return of_topics() == before

    until(is_quiet, "nothing is written or deleted any more", patience_s)
    return time.monotonic() - began


def await_end_of_sessions(cluster: Cluster) -> None:
    """Of brokers that were killed."""

    async def has_sessions() -> bool:
        metadata = await open_metadata(cluster.etcd.url("cluster"), {})
        try:
            return bool((await metadata.range(keys.BROKERS)).entries)
        finally:
            await metadata.close()

    until(lambda: not asyncio.run(has_sessions()), "the sessions end")
