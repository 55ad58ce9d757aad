"""How long a coordinator partition full of small writes takes until it answers again, after kill -9 and after a stop.

    python -m benchmarks.coordinators [--offsets 1000000] [--ids 100000] [--restarts 3] [--data FOLDER]

Each commit carries ten offsets and each transactional id comes alone, one after the other, so that every write is a
flush of its own: the worst that a log can be made of. What is measured is the time from starting the process until it
has answered for the last group and the last id. The page cache is warm. Filling takes some minutes; in a
folder named by --data it is done once.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import signal
import tempfile
import time
from pathlib import Path

from benchmarks.client import Connection
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
from tests.support.node_process import NodeProcess

TOPIC = "t"
PARTITIONS = 1_000
"""So many offsets has each group."""
OFFSETS_OF_A_COMMIT = 10
ONE_PARTITION_EACH = (
    "--set",
    "offsets.topic.num.partitions=1",
    "--set",
    "transaction.state.log.num.partitions=1",
)


async def ready(connection: Connection, key_type: int, key: str) -> None:
    request = FindCoordinatorRequest(key_type=key_type, coordinator_keys=[key])
    while any(each.error_code for each in (await connection.ask(request, FindCoordinatorResponse)).coordinators):  # noqa: ASYNC110
        await asyncio.sleep(0.01)


async def commit_offsets(connection: Connection, count: int) -> None:
    topic = CreatableTopic(name=TOPIC, num_partitions=PARTITIONS, replication_factor=1)
    await connection.ask(CreateTopicsRequest(topics=[topic], timeout_ms=60_000), CreateTopicsResponse)
    await ready(connection, 0, "g")
    for first in range(0, count, OFFSETS_OF_A_COMMIT):
        group, index = divmod(first, PARTITIONS)
        rows = [
            OffsetCommitRequestPartition(partition_index=index + number, committed_offset=0, committed_metadata="")
            for number in range(OFFSETS_OF_A_COMMIT)
        ]
        request = OffsetCommitRequest(
            group_id=f"group-{group}", topics=[OffsetCommitRequestTopic(name=TOPIC, partitions=rows)]
        )
        while True:
            answer = await connection.ask(request, OffsetCommitResponse)
            codes = {row.error_code for each in answer.topics for row in each.partitions}
            if codes == {0}:
                break
            await asyncio.sleep(0.1)


async def begin_ids(connection: Connection, count: int) -> None:
    await ready(connection, 1, "id-0")
    for number in range(count):
        request = InitProducerIdRequest(transactional_id=f"id-{number}", transaction_timeout_ms=60_000)
        while (await connection.ask(request, InitProducerIdResponse)).error_code:  # noqa: ASYNC110
            await asyncio.sleep(0.1)


async def answers_for_group(port: int, group: str) -> float:
    """When the offsets of `group` were told."""
    connection = await _connected(port)
    await ready(connection, 0, group)
    topics = [OffsetFetchRequestTopics(name=TOPIC, partition_indexes=[0])]
    request = OffsetFetchRequest(groups=[OffsetFetchRequestGroup(group_id=group, topics=topics)])
    while (await connection.ask(request, OffsetFetchResponse)).groups[0].error_code:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    answer = await connection.ask(request, OffsetFetchResponse)
    assert answer.groups[0].topics[0].partitions[0].committed_offset == 0, "a committed offset is lost"
    return time.monotonic()


async def answers_for_id(port: int, transactional_id: str) -> float:
    """When `transactional_id` got its producer, the one that it had before, in its next epoch."""
    connection = await _connected(port)
    await ready(connection, 1, transactional_id)
    request = InitProducerIdRequest(transactional_id=transactional_id, transaction_timeout_ms=60_000)
    while (answer := await connection.ask(request, InitProducerIdResponse)).error_code:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    assert answer.producer_epoch > 0, "a transactional id is lost"
    return time.monotonic()


async def _connected(port: int) -> Connection:
    while True:
        try:
            return await Connection.open(port)
        except OSError:
            await asyncio.sleep(0.01)


async def fill(port: int, offsets: int, ids: int) -> None:
    connection = await Connection.open(port)
    began = time.monotonic()
    await commit_offsets(connection, offsets)
    await begin_ids(connection, ids)
    print(f"{offsets} offsets and {ids} transactional ids written in {time.monotonic() - began:.0f} s", flush=True)


async def restarted(node: NodeProcess, offsets: int, ids: int) -> str:
    began = time.monotonic()
    node.launch()
    offsets_at, ids_at = await asyncio.gather(
        answers_for_group(node.port, f"group-{(offsets - 1) // PARTITIONS}"),
        answers_for_id(node.port, f"id-{ids - 1}"),
    )
    return f"offsets after {offsets_at - began:.2f} s, ids after {ids_at - began:.2f} s"


async def measure(folder: Path, offsets: int, ids: int, restarts: int) -> None:
    is_filled = (folder / "data").exists()
    node = NodeProcess(
        folder / "data",
        options=["--durability", "page-cache", *ONE_PARTITION_EACH],
        # An installed program does not compile its modules at each start.
        environment={"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(folder / "pycache")},
    ).start()
    try:
        if not is_filled:
            await fill(node.port, offsets, ids)
        for how in [signal.SIGKILL] * restarts + [signal.SIGTERM] * restarts:
            node.signal(how)
            node.wait_exit(timeout_s=60.0)
            print(
                f"{how.name}, load {os.getloadavg()[0]:.0f}: {await restarted(node, offsets, ids)}",
                flush=True,
            )
    finally:
        node.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--offsets", type=int, default=1_000_000)
    parser.add_argument("--ids", type=int, default=100_000)
    parser.add_argument("--restarts", type=int, default=3)
    parser.add_argument("--data", type=Path, help="filled by an earlier run, or to be filled and kept")
    arguments = parser.parse_args()
    folder = arguments.data or Path(tempfile.mkdtemp(prefix="coordinators-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        asyncio.run(measure(folder, arguments.offsets, arguments.ids, arguments.restarts))
    finally:
        if arguments.data is None:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
