"""DescribeLogDirs v1-5: the one log directory of this broker, and the size of each partition that it owns.

Asked for partitions that it does not have, it leaves them out. Sizes are bytes of record batches, in segments and in
the write-ahead log. From v4 the answer has the size and the free space of the file system (KIP-827); a directory is
never cordoned (v5, KIP-1066).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Iterator

from bytemq.broker.context import Broker, RequestContext
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
    folder, space = await asyncio.to_thread(_look_at, broker.config.data_dir)
    topics = [
        DescribeLogDirsTopic(name=name, partitions=partitions)
        for name, indexes in _asked(broker, request)
        if (partitions := await _sizes(broker, name, indexes))
    ]
    result = DescribeLogDirsResult(
        log_dir=folder,
        topics=topics,
        total_bytes=space.f_blocks * space.f_frsize,
        usable_bytes=space.f_bavail * space.f_frsize,
    )
    return DescribeLogDirsResponse(results=[result])


def _look_at(folder: str) -> tuple[str, os.statvfs_result]:
    """Absolute path, and the space of its file system. Blocks while a remote one does."""
    return os.path.abspath(folder), os.statvfs(folder)


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
