"""A single node's data, copied to the storage and the metadata of a cluster.

Owns: the order, and what is refused. Must not: know formats.

First the node's folder is brought to what a clean stop with everything written behind would have left: recovered as a
start would, each log opened, all of the write-ahead log put into segments, with snapshots of producers. Then the files
go over, the metadata last: until these are complete, no broker takes them for a cluster's. Interrupted anywhere, it is
begun again and goes on.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random, SystemRandom
from typing import NamedTuple

from bytemq import __version__
from bytemq.broker.log.opening import open_partition
from bytemq.broker.log.services import LogServices
from bytemq.config import BrokerConfig
from bytemq.errors import BytemqError, Corrupt, Invalid, NotFound
from bytemq.metadata import keys, node_copy
from bytemq.metadata.data_lock import DataLock
from bytemq.metadata.embedded import EmbeddedStore
from bytemq.metadata.features import SUPPORTED, require_supported
from bytemq.metadata.image import ClusterImage
from bytemq.metadata.opening import open_metadata
from bytemq.metadata.store import MetadataStore
from bytemq.metadata.values import BrokerValue
from bytemq.node import settings
from bytemq.node.storage import check_age
from bytemq.runtime.clock import Clock, SystemClock
from bytemq.runtime.tasks import Supervisor
from bytemq.scheduler.membership import Membership
from bytemq.storage.copying import LogCopier
from bytemq.storage.log_storage import LogStorage
from bytemq.storage.manifests.manifest_codec import StoredManifest, decode_manifest, directory_of, encode_manifest
from bytemq.storage.objects.session_log import FOLDER
from bytemq.storage.objects.shared_garbage import TOPICS
from bytemq.storage.pools.opening import CLUSTER_ID
from bytemq.storage.stores.by_url import open_store
from bytemq.storage.stores.interface import ObjectStore
from bytemq.storage.stores.local import LocalStore
from bytemq.storage.stores.self_test import self_test
from bytemq.storage.tables.table_file import TABLES
from bytemq.types import PartitionId

LOGS_AT_ONCE = 2
"""Each has an object in memory."""
SESSION_TTL_S = 3.0


class Progress(NamedTuple):
    logs: int
    of_logs: int
    copied_bytes: int
    of_bytes: int
    found_bytes: int
    """Of what was copied, what was there already."""


class Source(NamedTuple):
    metadata: EmbeddedStore
    files: LocalStore
    cluster_id: str
    logs: dict[PartitionId, StoredManifest]


async def copy_node(
    data: Path, storage: str, metadata: str, environment: Mapping[str, str], tell: Callable[[Progress], None]
) -> Progress:
    """`data`: the folder of a stopped node; `storage` and `metadata`: URLs as for `bytemq start`. `tell` hears of each
    log that is done. Raises BytemqError with a sentence for the user.
    """
    clock, random = SystemClock(), SystemRandom()
    async with AsyncExitStack() as parts:
        source = await _settled_source(parts, data, clock)
        target = await open_metadata(metadata, environment)
        parts.push_async_callback(target.close)
        mark = await node_copy.begin(target, source.cluster_id)
        objects = await open_store(storage, clock, random)
        parts.push_async_callback(objects.close)
        existing = await _claimed(objects, storage, source.cluster_id, clock, random)
        copier = LogCopier(source.files, objects, existing)
        copied, done = await _copy_logs(source, copier, tell)
        entries = (await source.metadata.range("")).entries
        ends = {partition: stored.manifest.end_offset for partition, stored in copied.items()}
        manifests = {
            keys.manifest(partition): encode_manifest(stored, directory_of(partition))
            for partition, stored in copied.items()
        }
        await node_copy.finish(target, mark, node_copy.taken_along(entries, manifests, ends))
        return done


async def _copy_logs(
    source: Source, copier: LogCopier, tell: Callable[[Progress], None]
) -> tuple[dict[PartitionId, StoredManifest], Progress]:
    gate = asyncio.Semaphore(LOGS_AT_ONCE)
    of_bytes = sum(segment.size_bytes for stored in source.logs.values() for segment in stored.manifest.segments)
    copied: dict[PartitionId, StoredManifest] = {}

    def progress() -> Progress:
        return Progress(len(copied), len(source.logs), copier.copied_bytes, of_bytes, copier.found_bytes)

    async def copy(partition: PartitionId, stored: StoredManifest) -> None:
        async with gate:
            copied[partition] = await copier.copy(partition, stored)
            tell(progress())

    tasks = [asyncio.ensure_future(copy(*log)) for log in source.logs.items()]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return copied, progress()


async def _claimed(store: ObjectStore, url: str, cluster_id: str, clock: Clock, random: Random) -> dict[str, int]:
    """The storage is this copy's from now on: what is in it. Raises Invalid when it is anybody else's."""
    await self_test(store, clock, f"{random.getrandbits(64):016x}")
    try:
        holder = (await store.read(CLUSTER_ID)).decode("ascii", "replace")
    except NotFound:
        holder = ""
    existing = {info.name: info.size_bytes for folder in (FOLDER, TOPICS, TABLES) for info in await store.list(folder)}
    if holder and holder != cluster_id:
        raise Invalid(f"{url} is the storage of cluster {holder}. Choose another bucket or prefix.")
    if not holder:
        if existing:
            raise Invalid(f"{url} is not empty: it holds {next(iter(existing))}. Choose another bucket or prefix.")
        await store.create(CLUSTER_ID, [cluster_id.encode()])
    if any(name.startswith(FOLDER) for name in existing):
        raise Invalid(f"{url} was used by a broker of this cluster. Choose another bucket or prefix.")
    return existing


async def _settled_source(parts: AsyncExitStack, data: Path, clock: Clock) -> Source:
    """The node's folder with everything in segments. Raises BytemqError."""
    if not (data / "meta.db").is_file():
        raise Invalid(f"{data} is not the data folder of a node: there is no meta.db in it")
    lock = DataLock.acquire(data)
    parts.callback(lock.release)
    metadata = EmbeddedStore.open(lock, "fsync")
    parts.push_async_callback(metadata.close)
    require_supported(await metadata.get(keys.FEATURE_LEVEL), SUPPORTED)
    identity = await metadata.get(keys.IDENTITY)
    if identity is None:
        raise Invalid(f"{data} holds no node's data yet: there is nothing to copy")
    if (await metadata.range(keys.SESSION_LOGS)).entries:
        raise Invalid(
            f"the records of the node of {data} are on a storage that brokers share already. Take its metadata along "
            "with: bytemq metadata export, and restore"
        )
    await check_age(data, metadata)
    logs = await _written_behind(data, metadata, clock)
    files = LocalStore(data)
    parts.push_async_callback(files.close)
    return Source(metadata, files, identity.value.decode(), logs)


async def _written_behind(data: Path, metadata: EmbeddedStore, clock: Clock) -> dict[PartitionId, StoredManifest]:
    """The logs of all topics, all of them in segments."""
    config = BrokerConfig({"bytemq.data.dir": str(data)})
    value = BrokerValue(None, {}, __version__, os.urandom(8).hex(), levels=SUPPORTED)
    failures: list[BaseException] = []
    async with AsyncExitStack() as parts:
        membership = await Membership.join(metadata, clock, None, value, SESSION_TTL_S)
        parts.push_async_callback(membership.leave)
        files = LocalStore(data)
        parts.push_async_callback(files.close)
        supervisor = Supervisor(clock, lambda name, error: failures.append(error))
        parts.push_async_callback(supervisor.close)
        storage = await LogStorage.open(
            files,
            metadata,
            session_id=membership.session_id,
            config=settings.storage_config(config),
            clock=clock,
            supervisor=supervisor,
        )
        parts.push_async_callback(storage.close)
        executor = ThreadPoolExecutor(1)
        parts.callback(executor.shutdown)
        ends = await _open_all(LogServices(storage, clock, executor), metadata, config)
        await storage.checkpoint()
        manifests = await _manifests(metadata)
    if failures:
        raise failures[0]
    for partition, end_offset in ends.items():
        written = manifests[partition].manifest.end_offset
        if written != end_offset:
            raise Corrupt(f"partition {partition} ends at offset {end_offset}, its segments at {written}")
    return {partition: manifests[partition] for partition in ends}


async def _open_all(services: LogServices, metadata: MetadataStore, config: BrokerConfig) -> dict[PartitionId, int]:
    """Opens every log as its owner would, so that what is known of its producers is written with it: where each ends.

    What is left of a topic that was deleted is no log any more.
    """
    entries, revision = await metadata.range(keys.CLUSTER)
    image = ClusterImage()
    image.apply(image.events_from_listing(entries, revision), revision)
    ends: dict[PartitionId, int] = {}
    for partition in await _manifests(metadata):
        topic = image.topics_by_id.get(partition.topic_id)
        if topic is None or partition.index >= len(topic.partitions):
            continue
        epoch = topic.partitions[partition.index].leader_epoch
        try:
            opened = await open_partition(partition, topic.name, epoch, config.topic_config(topic.configs), services)
        except BytemqError as error:
            raise Corrupt(f"{topic.name}-{partition.index} cannot be opened: {error}; see bytemq verify") from error
        ends[partition] = opened.high_watermark
    return ends


async def _manifests(metadata: MetadataStore) -> dict[PartitionId, StoredManifest]:
    found: dict[PartitionId, StoredManifest] = {}
    for key, value, _ in (await metadata.range(keys.MANIFESTS)).entries:
        partition = keys.partition_of_manifest(key)
        try:
            found[partition] = decode_manifest(value, directory_of(partition))
        except Corrupt as error:
            raise Corrupt(f"{key}: {error}; see bytemq verify") from error
    return found
