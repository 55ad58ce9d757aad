"""Whether `--roles` keep work apart: what producers wait for while others read history, or join groups and leave them.

    python -m benchmarks.roles [--seconds 6] [--pairs 3] [--kind seaweedfs|minio]

One broker writes, one serves readers, one coordinates and controls, over a real S3 server and etcd. A load of 200
requests of 1 KB a second goes to the first one: alternately with nobody else there, beside a consumer that reads all of
a history again and again, and beside 200 members who join groups, stay for three heartbeats and leave. Told is the 99th
percentile of the time to the acknowledgement, and its ratio to that just before.

Each broker would have a machine of its own, and here all share the processors: those that do not write, and the clients
that trouble them, have a lower priority (`--niceness`). The S3 server and etcd serve everybody alike, as they do there.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from functools import partial

from benchmarks.client import Connection
from benchmarks.clusters import cluster_on_s3
from benchmarks.readers import SETTINGS, fill
from benchmarks.rescan import Rescan
from benchmarks.workloads import Workload, one_batch, produce_frames, send
from bytemq.protocol.messages.consumer_group_heartbeat import (
    ConsumerGroupHeartbeatRequest,
    ConsumerGroupHeartbeatResponse,
)
from tests.scenarios.cluster.cluster import Cluster, until
from tests.support import probe

ROLES = ("write", "read", "coordinate,control")
"""Of the brokers in zones a, b and c."""
WRITER, COORDINATOR = 0, 2
READERS_ZONE = "b"
TOPIC, HISTORY, PARTITIONS = "steady", "history", 6
STEADY = Workload("", PARTITIONS, 1, 64, 1024, rate=200.0)
MEMBERS, GROUPS, HEARTBEATS = 200, 20, 3


class Storm:
    """A process of members who come and go, begun."""

    def __init__(self, port: int, niceness: int) -> None:
        command = ["nice", "-n", str(niceness), sys.executable, "-m", "benchmarks.roles", "--storm", str(port)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def stop(self) -> str:
        told, _ = self._process.communicate(timeout=60)
        return told.decode().strip()


async def storm(port: int) -> None:
    """Until the input ends."""
    loop = asyncio.get_running_loop()
    counts = [0] * MEMBERS
    members = [asyncio.create_task(_come_and_go(port, number, counts)) for number in range(MEMBERS)]
    began = loop.time()
    await loop.run_in_executor(None, sys.stdin.read)
    print(f"{sum(counts) / (loop.time() - began):.0f} requests of members a second")
    for member in members:
        member.cancel()
    await asyncio.gather(*members, return_exceptions=True)


async def _come_and_go(port: int, number: int, counts: list[int]) -> None:
    connection = await Connection.open(port)
    while True:
        member_id = base64.urlsafe_b64encode(os.urandom(16)).decode().rstrip("=")
        epoch = 0
        for beat in range(HEARTBEATS + 1):
            request = ConsumerGroupHeartbeatRequest(
                group_id=f"group-{number % GROUPS}",
                member_id=member_id,
                member_epoch=epoch if beat < HEARTBEATS else -1,
                rebalance_timeout_ms=60_000 if not beat else -1,
                subscribed_topic_names=None if beat else [TOPIC],
                topic_partitions=None if beat else [],
            )
            response = await connection.ask(request, ConsumerGroupHeartbeatResponse)
            counts[number] += 1
            if response.error_code:
                await asyncio.sleep(0.1)
                break
            epoch = response.member_epoch


def p99_ms(cluster: Cluster, frames: list[bytes], seconds: float) -> float:
    """Of acknowledgements."""
    got = send(STEADY, cluster.nodes[WRITER].address, frames, seconds=seconds, warmup_s=2.0)
    return float(got["ack_p99_us"]) / 1e3


def run(cluster: Cluster, options: argparse.Namespace) -> None:
    for topic in (TOPIC, HISTORY):
        cluster.create_topic(topic, PARTITIONS)
    fill(cluster, HISTORY, PARTITIONS, options.history_mb)
    with probe.connect(cluster.nodes[COORDINATOR].address) as wire:
        until(lambda: probe.coordinator(wire, "group-0") == COORDINATOR, "groups are coordinated")
    frames = produce_frames(STEADY, TOPIC, one_batch(STEADY))
    troubles: dict[str, Callable[[], Rescan | Storm]] = {
        "a rescan": lambda: Rescan(cluster.bootstrap, HISTORY, PARTITIONS, READERS_ZONE, options.niceness),
        "a storm of members": lambda: Storm(cluster.nodes[COORDINATOR].port, options.niceness),
    }
    ratios: dict[str, list[float]] = {name: [] for name in troubles}
    for _ in range(options.pairs):
        for name, begin in troubles.items():
            alone_ms = p99_ms(cluster, frames, options.seconds)
            trouble = begin()
            beside_ms = p99_ms(cluster, frames, options.seconds)
            ratios[name].append(beside_ms / alone_ms)
            print(
                f"p99 alone {alone_ms:.0f} ms, beside {name} {beside_ms:.0f} ms, {ratios[name][-1]:.2f}; "
                f"{trouble.stop()}",
                flush=True,
            )
    for name, found in ratios.items():
        print(f"beside {name}: p99 to p99 alone, median {statistics.median(found):.2f}")
    print(f"load average {os.getloadavg()[0]:.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--history-mb", type=int, default=200)
    parser.add_argument("--niceness", type=int, default=10, help="of all that is not the writer, beside the writer's")
    parser.add_argument("--kind", default="seaweedfs", choices=("seaweedfs", "minio"))
    parser.add_argument("--storm", type=int, metavar="PORT", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.storm:
        asyncio.run(storm(options.storm))
        return
    prepare = partial(keep_apart, niceness=options.niceness)
    with cluster_on_s3(options.kind, len(ROLES), SETTINGS, prepare) as (cluster, _):
        run(cluster, options)


def keep_apart(cluster: Cluster, niceness: int) -> None:
    for number, (node, roles) in enumerate(zip(cluster.nodes, ROLES, strict=True)):
        node.options += ["--roles", roles]
        if number != WRITER:
            node.wrapper = ["nice", "-n", str(niceness)]


if __name__ == "__main__":
    main()
