"""`bytemq verify` as a user runs it, and the moment to run it.

Owns: what of its findings is counted as what. Must not: look at the store in a way of its own, but to see it at rest.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from typing import NamedTuple

from bytemq.metadata import keys
from bytemq.metadata.opening import open_metadata
from tests.scenarios.cluster.cluster import Cluster, until
from tests.support.s3_server import S3Server

BUCKET = "records"
EXPORTS = "metadata/"
QUIET_S = 10.0
PATIENCE_S = 300.0


class Audit(NamedTuple):
    problems: list[str]
    """Missing, damaged, contradicting; with `outlast_s` also what running brokers keep that nothing refers to."""
    unreferenced: list[str]
    """Of ended sessions."""
    took_s: float

    def __str__(self) -> str:
        return (
            f"verify took {self.took_s:.0f} s: {len(self.problems)} problems, {len(self.unreferenced)} unreferenced "
            f"objects of ended sessions"
        )


def audit(cluster: Cluster, outlast_s: int | None = None) -> Audit:
    began = time.monotonic()
    command = [sys.executable, "-m", "bytemq", "verify", cluster.storage, "--metadata", cluster.etcd.url("cluster")]
    command += ["--json"] if outlast_s is None else ["--json", "--outlast", str(outlast_s)]
    environment = {**os.environ, **(cluster.environment or {})}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    problems = [f"{one['name']}: {one['problem']}" for one in found if not one["is_leftover"]]
    if done.returncode != bool(problems):
        problems.append(f"verify ended with {done.returncode}: {done.stderr[-2000:]}")
    return Audit(problems, [one["name"] for one in found if one["is_leftover"]], time.monotonic() - began)


def await_quiet(s3: S3Server) -> float:
    """Returns when nothing has come or gone for a while, but exports of the metadata; how long that took."""
    began = time.monotonic()

    def of_topics() -> dict[str, int]:
        return {name: size for name, size in s3.objects(BUCKET).items() if f"/{EXPORTS}" not in name}

    def is_quiet() -> bool:
        before = of_topics()
        time.sleep(QUIET_S)
        return of_topics() == before

    until(is_quiet, "nothing is written or deleted any more", PATIENCE_S)
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
