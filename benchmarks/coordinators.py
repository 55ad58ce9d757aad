"""How long a coordinator partition takes until it answers again, after kill -9 and after a stop.

    python -m benchmarks.coordinators [--offsets 1000000] [--ids 100000] [--lone N] [--restarts 3] [--data FOLDER]
    python -m benchmarks.coordinators --storage s3 [--s3 minio|seaweedfs] [--brokers 1] ...

On local files: one node. Each commit carries ten offsets and each transactional id comes alone, one after the other, so
that every write is a flush of its own: the worst that a log can be made of. What is measured is the time from starting
the process until it has answered for the last group and the last id. The page cache is warm. Filling takes some
minutes; in a folder named by --data it is done once.

On S3: brokers over real etcd and a real S3 server. Such a flush takes 20 to 70 ms there, so that only the last --lone
writes of each kind are flushes of their own, and what comes before is written by many clients at the same time. With
one broker it is started again at once; with more, another one takes over, and the one that died comes back afterwards.
What is measured is the time from the end of the dead broker's session, which its lease decides, until the coordinator,
wherever it is then, has answered for the last group and the last id.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import signal
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, TypeVar

from benchmarks.client import Connection
from benchmarks.nodes import compiled
from bytemq.metadata import keys
from bytemq.metadata.opening import open_metadata
from bytemq.metadata.store import MetadataStore
from bytemq.protocol.messages.create_topics import CreatableTopic, CreateTopicsRequest, CreateTopicsResponse
from bytemq.protocol.messages.find_coordinator import FindCoordinatorRequest, FindCoordinatorResponse
from bytemq.protocol.messages.init_producer_id import InitProducerIdRequest, InitProducerIdResponse
from bytemq.protocol.messages.offset_commit import (
    OffsetCommitRequest,
    OffsetCommitRequestPartition,
    OffsetCommitRequestTopic,
    OffsetCommitResponse,
)
from bytemq.protocol.messages.offset_fetch import (
    OffsetFetchRequest,
    OffsetFetchRequestGroup,
    OffsetFetchRequestTopics,
    OffsetFetchResponse,
)
from bytemq.protocol.schema import Message
from tests.scenarios.cluster.cluster import Cluster
from tests.support.etcd_process import EtcdProcess
from tests.support.node_process import NodeProcess
from tests.support.s3_server import minio_program, running_s3

TOPIC = "t"
PARTITIONS = 1_000
"""So many offsets has each group."""
OFFSETS_OF_A_COMMIT = 10
CLIENTS = 64
"""Who fill at the same time."""
LONE_ON_S3 = 1_000
POLL_S = 0.01
GROUPS, IDS = 0, 1
"""Types of keys in FindCoordinator."""
KEYS = {GROUPS: "group-0", IDS: "id-0"}
R = TypeVar("R", bound=Message)
ONE_PARTITION_EACH = (
    "--set",
    "offsets.topic.num.partitions=1",
    "--set",
    "transaction.state.log.num.partitions=1",
)


class Content(NamedTuple):
    """What the logs are filled with. The last `lone` writes of each kind are one after the other."""

    offsets: int
    ids: int
    lone: int


def _group(offset: int) -> str:
    return f"group-{offset // PARTITIONS}"


class Brokers:
    """The nodes, wherever their logs are. `metadata` is None for one node on local files."""

    def __init__(self, nodes: list[NodeProcess], metadata: MetadataStore | None) -> None:
        self.nodes = nodes
        self._metadata = metadata

    async def coordinator(self, key_type: int, key: str) -> int:
        """The port of whoever has it, once somebody says so who answers."""
        request = FindCoordinatorRequest(key_type=key_type, coordinator_keys=[key])
        while True:
            for node in self.nodes:
                with suppress(OSError, asyncio.IncompleteReadError):
                    connection = await Connection.open(node.port)
                    [found] = (await connection.ask(request, FindCoordinatorResponse)).coordinators
                    connection.close()
                    if not found.error_code and self.at(found.port).is_running():
                        return int(found.port)
            await asyncio.sleep(POLL_S)

    def at(self, port: int) -> NodeProcess:
        return next(node for node in self.nodes if node.port == port)

    async def session(self, node: NodeProcess) -> int:
        """The id of its session; 0: it has none, or had its lease end."""
        if self._metadata is None:
            return 0
        entry = await self._metadata.get(keys.broker(self.nodes.index(node)))
        return entry.revision if entry is not None else 0

    async def session_ended(self, node: NodeProcess, session: int) -> float:
        while session and await self.session(node) == session:  # noqa: ASYNC110
            await asyncio.sleep(POLL_S)
        return time.monotonic()


# Filling.


class Client:
    """Asks one kind of coordinator, wherever it is at the moment, until it has done what it was asked."""

    def __init__(self, brokers: Brokers, key_type: int) -> None:
        self._brokers = brokers
        self._key_type = key_type
        self._connection: Connection | None = None

    async def commit(self, first: int, stop: int) -> None:
        """Those offsets, all of one group, in one request."""
        rows = [
            OffsetCommitRequestPartition(partition_index=number % PARTITIONS, committed_offset=number)
            for number in range(first, stop)
        ]
        topics = [OffsetCommitRequestTopic(name=TOPIC, partitions=rows)]
        request = OffsetCommitRequest(group_id=_group(first), topics=topics)
        while True:
            answer = await self._ask(request, OffsetCommitResponse)
            if answer and {row.error_code for topic in answer.topics for row in topic.partitions} == {0}:
                return
            await asyncio.sleep(0.1)

    async def begin(self, number: int) -> None:
        """That transactional id."""
        request = InitProducerIdRequest(transactional_id=f"id-{number}", transaction_timeout_ms=60_000)
        while True:
            answer = await self._ask(request, InitProducerIdResponse)
            if answer and not answer.error_code:
                return
            await asyncio.sleep(0.1)

    async def _ask(self, request: Message, answer: type[R]) -> R | None:
        """None where nobody answered."""
        try:
            if self._connection is None:
                at = await self._brokers.coordinator(self._key_type, KEYS[self._key_type])
                self._connection = await Connection.open(at)
            return await self._connection.ask(request, answer)
        except (OSError, asyncio.IncompleteReadError):
            self._connection = None
            return None


async def fill(brokers: Brokers, content: Content) -> None:
    began = time.monotonic()
    topic = CreatableTopic(name=TOPIC, num_partitions=PARTITIONS, replication_factor=1)
    connection = await Connection.open(brokers.nodes[0].port)
    await connection.ask(CreateTopicsRequest(topics=[topic], timeout_ms=60_000), CreateTopicsResponse)
    many_offsets = max(content.offsets - content.lone * OFFSETS_OF_A_COMMIT, 0) // PARTITIONS * PARTITIONS
    many_ids = max(content.ids - content.lone, 0)
    commits, begun = iter(range(0, many_offsets, PARTITIONS)), iter(range(many_ids))

    async def commit_many() -> None:
        groups = Client(brokers, GROUPS)
        for first in commits:
            await groups.commit(first, first + PARTITIONS)

    async def begin_many() -> None:
        ids = Client(brokers, IDS)
        for number in begun:
            await ids.begin(number)

    await asyncio.gather(*(commit_many() for _ in range(CLIENTS // 8)))
    await asyncio.gather(*(begin_many() for _ in range(CLIENTS)))
    print(f"{many_offsets} offsets and {many_ids} ids at once: {time.monotonic() - began:.0f} s", flush=True)
    groups, ids = Client(brokers, GROUPS), Client(brokers, IDS)
    for first in range(many_offsets, content.offsets, OFFSETS_OF_A_COMMIT):
        await groups.commit(first, min(first + OFFSETS_OF_A_COMMIT, content.offsets))
    for number in range(many_ids, content.ids):
        await ids.begin(number)
    took_s = time.monotonic() - began
    print(f"{content.offsets} offsets and {content.ids} transactional ids written in {took_s:.0f} s", flush=True)


# Asking.


async def answers_for_group(brokers: Brokers, content: Content) -> float:
    """When the offset that was committed last was told."""
    last = content.offsets - 1
    topics = [OffsetFetchRequestTopics(name=TOPIC, partition_indexes=[last % PARTITIONS])]
    request = OffsetFetchRequest(groups=[OffsetFetchRequestGroup(group_id=_group(last), topics=topics)])
    while True:
        with suppress(OSError, asyncio.IncompleteReadError):
            connection = await Connection.open(await brokers.coordinator(GROUPS, _group(last)))
            [group] = (await connection.ask(request, OffsetFetchResponse)).groups
            connection.close()
            if not group.error_code:
                assert group.topics[0].partitions[0].committed_offset == last, "a committed offset is lost"
                return time.monotonic()
        await asyncio.sleep(POLL_S)


async def answers_for_id(brokers: Brokers, content: Content) -> float:
    """When the last transactional id got its producer, the one that it had before, in its next epoch."""
    last = f"id-{content.ids - 1}"
    request = InitProducerIdRequest(transactional_id=last, transaction_timeout_ms=60_000)
    while True:
        with suppress(OSError, asyncio.IncompleteReadError):
            connection = await Connection.open(await brokers.coordinator(IDS, last))
            answer = await connection.ask(request, InitProducerIdResponse)
            connection.close()
            if not answer.error_code:
                assert answer.producer_epoch > 0, "a transactional id is lost"
                return time.monotonic()
        await asyncio.sleep(POLL_S)


async def check(brokers: Brokers, content: Content) -> None:
    """Whether every offset is there."""
    connection = await Connection.open(await brokers.coordinator(GROUPS, "group-0"))
    for first in range(0, content.offsets, PARTITIONS):
        request = OffsetFetchRequest(groups=[OffsetFetchRequestGroup(group_id=_group(first), topics=None)])
        [group] = (await connection.ask(request, OffsetFetchResponse)).groups
        found = sorted(row.committed_offset for topic in group.topics for row in topic.partitions)
        expected = list(range(first, min(first + PARTITIONS, content.offsets)))
        assert (group.error_code, found) == (0, expected), f"{_group(first)} is not what was committed"
    print(f"all {content.offsets} offsets are there", flush=True)


# Measuring.


ANSWERS = {GROUPS: answers_for_group, IDS: answers_for_id}
NAMES = {GROUPS: "offsets", IDS: "ids"}


async def restarted(brokers: Brokers, how: signal.Signals, key_type: int, content: Content) -> None:
    """The coordinator of that kind goes; prints how long it was silent, and the other one if it had been there, too."""
    owners = {kind: await brokers.coordinator(kind, KEYS[kind]) for kind in (GROUPS, IDS)}
    owner = brokers.at(owners[key_type])
    session = await brokers.session(owner)
    owner.signal(how)
    owner.wait_exit(timeout_s=60.0)
    gone_at = time.monotonic()
    is_alone = len(brokers.nodes) == 1
    if is_alone:
        owner.launch()
    silent = [kind for kind in owners if owners[kind] == owner.port]
    ended_at, *answered_at = await asyncio.gather(
        brokers.session_ended(owner, session), *(ANSWERS[kind](brokers, content) for kind in silent)
    )
    took = [
        f"{NAMES[kind]} after {max(0.0, at - ended_at):.2f} s" for kind, at in zip(silent, answered_at, strict=True)
    ]
    lease = f"its session ended after {ended_at - gone_at:.2f} s, from then on " if session else ""
    heir = brokers.at(await brokers.coordinator(key_type, KEYS[key_type]))
    memory = f"most memory {_most_memory_mib(heir.pid):.0f} MiB"
    print(f"{how.name}, load {os.getloadavg()[0]:.0f}: {lease}{', '.join(took)}, {memory}", flush=True)
    if not is_alone:
        owner.launch()
        owner.wait_ready(90.0)


def _most_memory_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    [line] = [line for line in status.splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


async def measure(brokers: Brokers, content: Content, restarts: int, *, is_filled: bool) -> None:
    if not is_filled:
        await fill(brokers, content)
    for how in [signal.SIGKILL] * restarts + [signal.SIGTERM] * restarts:
        await restarted(brokers, how, GROUPS, content)
        if await brokers.coordinator(GROUPS, KEYS[GROUPS]) != await brokers.coordinator(IDS, KEYS[IDS]):
            await restarted(brokers, how, IDS, content)
    await check(brokers, content)


async def on_local_files(folder: Path, content: Content, restarts: int) -> None:
    is_filled = (folder / "data").exists()
    options = ["--durability", "page-cache", *ONE_PARTITION_EACH]
    node = NodeProcess(folder / "data", options=options, environment=compiled(folder))
    try:
        await measure(Brokers([node.start()], None), content, restarts, is_filled=is_filled)
    finally:
        node.close()


async def on_s3(folder: Path, content: Content, restarts: int, *, kind: str, count: int) -> None:
    etcd = EtcdProcess(folder / "etcd").start()
    try:
        with running_s3(folder / "s3", kind) as s3:
            environment = {**s3.environment, **compiled(folder)}
            storage = "s3://records/cluster"
            cluster = Cluster(folder, etcd, count, ONE_PARTITION_EACH, storage=storage, environment=environment)
            metadata = await open_metadata(etcd.url("cluster"), {})
            try:
                cluster.start()
                await measure(Brokers(cluster.nodes, metadata), content, restarts, is_filled=False)
            finally:
                cluster.close()
                await metadata.close()
    finally:
        etcd.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--offsets", type=int, default=1_000_000)
    parser.add_argument("--ids", type=int, default=100_000)
    parser.add_argument("--lone", type=int, help="flushes of one write: all on local files, 1,000 on S3")
    parser.add_argument("--restarts", type=int, default=3)
    parser.add_argument("--data", type=Path, help="of local files: filled by an earlier run, or to be filled and kept")
    parser.add_argument("--storage", choices=("local", "s3"), default="local")
    parser.add_argument("--s3", default="minio" if minio_program() else "seaweedfs", dest="kind")
    parser.add_argument("--brokers", type=int, default=1, help="on S3")
    arguments = parser.parse_args()
    is_local = arguments.storage == "local"
    lone = arguments.lone if arguments.lone is not None else arguments.offsets if is_local else LONE_ON_S3
    content = Content(arguments.offsets, arguments.ids, lone)
    folder = arguments.data or Path(tempfile.mkdtemp(prefix="coordinators-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        if is_local:
            asyncio.run(on_local_files(folder, content, arguments.restarts))
        else:
            asyncio.run(on_s3(folder, content, arguments.restarts, kind=arguments.kind, count=arguments.brokers))
    finally:
        if arguments.data is None:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
