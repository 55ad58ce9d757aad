"""DescribeLogDirs v1-5: the one log directory of this broker, and the size of each partition that it owns.

Asked for partitions that it does not have, it leaves them out. Sizes are bytes of record batches, in segments and in
the write-ahead log; programs that ask for all of them every minute have none opened for that. From v4 the answer has
the size and the free space of the file system (KIP-827): -1 where brokers share a storage, which does not tell. A
directory is never cordoned (v5, KIP-1066).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

from bytemq.broker.context import Broker, RequestContext
from bytemq.broker.log_directory import log_directory
from bytemq.errors import BytemqError
from bytemq.protocol.error_codes import KafkaError
from bytemq.protocol.messages.describe_log_dirs import (
    DescribeLogDirsPartition,
    DescribeLogDirsRequest,
    DescribeLogDirsResponse,
    DescribeLogDirsResult,
    DescribeLogDirsTopic,
)
from bytemq.types import PartitionId

SLICE_PARTITIONS = 200
"""Looked at before others get their turn."""


async def handle(broker: Broker, context: RequestContext, request: DescribeLogDirsRequest) -> DescribeLogDirsResponse:
    directory = log_directory(broker.config)
    space = Space() if broker.config.bytemq_storage else await asyncio.to_thread(_space_of, directory)
    topics: list[DescribeLogDirsTopic] = []
    held = broker.partitions.services.storage.held_logs
    looked_at = 0
    for name, indexes in _asked(broker, request):
        sizes: list[DescribeLogDirsPartition] = []
        for index in indexes:
            size_bytes = await _size_bytes(broker, name, index, held)
            if size_bytes is not None:
                sizes.append(DescribeLogDirsPartition(partition_index=index, partition_size=size_bytes))
            looked_at += 1
            if looked_at % SLICE_PARTITIONS == 0:
                await broker.turns.next()
        if sizes:
            topics.append(DescribeLogDirsTopic(name=name, partitions=sizes))
    result = DescribeLogDirsResult(
        log_dir=directory, topics=topics, total_bytes=space.total_bytes, usable_bytes=space.usable_bytes
    )
    return DescribeLogDirsResponse(results=[result])


class Space(NamedTuple):
    """-1: unknown."""

    total_bytes: int = -1
    usable_bytes: int = -1


def _space_of(folder: str) -> Space:
    """Of its file system. Blocks while a remote one does."""
    found = os.statvfs(folder)
    return Space(found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize)


def _asked(broker: Broker, request: DescribeLogDirsRequest) -> Iterator[tuple[str, Iterable[int]]]:
    if request.topics is None:
        for topic in list(broker.image.topics.values()):
            yield topic.name, range(len(topic.partitions))
    else:
        merged: dict[str, dict[int, None]] = {}
        for asked in request.topics:
            merged.setdefault(asked.topic, {}).update(dict.fromkeys(asked.partitions))
        yield from merged.items()


async def _size_bytes(broker: Broker, name: str, index: int, held: Collection[PartitionId]) -> int | None:
    entry = broker.partitions.get(name, index)
    if entry is None:
        return None
    try:
        return await broker.partitions.size_bytes(entry, held)
    except (KafkaError, BytemqError):
        return None
