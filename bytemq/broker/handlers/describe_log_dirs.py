"""DescribeLogDirs v1-5: the one log directory of this broker, and the size of each partition that it owns.

Asked for partitions that it does not have, it leaves them out. Sizes are bytes of record batches, in segments and in
the write-ahead log. From v4 the answer has the size and the free space of the file system (KIP-827): -1 where brokers
share a storage, which does not tell. A directory is never cordoned (v5, KIP-1066).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from bytemq.broker.context import Broker, RequestContext
from bytemq.broker.log_directory import log_directory
from bytemq.broker.owned import open_owned
from bytemq.protocol.error_codes import KafkaError
from bytemq.protocol.messages.describe_log_dirs import (
    DescribeLogDirsPartition,
    DescribeLogDirsRequest,
    DescribeLogDirsResponse,
    DescribeLogDirsResult,
    DescribeLogDirsTopic,
)


async def handle(broker: Broker, context: RequestContext, request: DescribeLogDirsRequest) -> DescribeLogDirsResponse:
    directory = log_directory(broker.config)
    space = Space() if broker.config.bytemq_storage else await asyncio.to_thread(_space_of, directory)
    topics = [
        DescribeLogDirsTopic(name=name, partitions=partitions)
        for name, indexes in _asked(broker, request)
        if (partitions := await _sizes(broker, name, indexes))
    ]
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
        for topic in broker.image.topics.values():
            yield topic.name, range(len(topic.partitions))
    else:
        merged: dict[str, dict[int, None]] = {}
        for asked in request.topics:
            merged.setdefault(asked.topic, {}).update(dict.fromkeys(asked.partitions))
        yield from merged.items()


async def _sizes(broker: Broker, name: str, indexes: Iterable[int]) -> list[DescribeLogDirsPartition]:
    sizes: list[DescribeLogDirsPartition] = []
    for index in indexes:
        try:
            partition = await open_owned(broker, name, index)
        except KafkaError:
            continue
        sizes.append(DescribeLogDirsPartition(partition_index=index, partition_size=partition.size_bytes))
    return sizes
