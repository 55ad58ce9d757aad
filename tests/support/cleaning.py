"""Cleaning a log by hand: some batches of its sealed segments are taken out, as the cleaner would."""

from __future__ import annotations

from collections.abc import Callable

from bytemq.storage.log_files import LogFiles
from bytemq.storage.log_storage import LogStorage
from bytemq.storage.manifests.manifest import SegmentInfo
from bytemq.storage.manifests.manifest_codec import directory_of
from bytemq.storage.segments.batch_walk import StoredBatch, walk
from bytemq.storage.segments.segment_builder import SegmentBuilder
from bytemq.storage.stores.interface import Buffer
from tests.support.power_cut_store import PowerCutStore


async def clean_by_hand(
    store: PowerCutStore, storage: LogStorage, log: LogFiles, keeps: Callable[[StoredBatch], bool], *, chunk_bytes: int
) -> SegmentInfo:
    """Merges the sealed segments into one that has the batches which `keeps` likes, and the last."""
    sealed = [segment for segment in log.manifest.segments if segment.sealed]
    builder = SegmentBuilder(chunk_bytes)
    for segment in sealed:
        data = memoryview((await store.read(segment.name))[: segment.size_bytes])
        for batch in walk(data, verify=True):
            if keeps(batch) or batch.last_offset == sealed[-1].last_offset:
                whole: Buffer = data[batch.position : batch.position + batch.size_bytes]
                builder.add(batch, whole)
    name = f"{directory_of(log.partition)}{sealed[0].base_offset:020d}-cleaned-{sealed[-1].last_offset}.log"
    info, parts = builder.finish(name, sealed[0].base_offset, created_ms=0, is_cleaned=True)
    await store.create(name, parts)
    await storage.replace_files(log, sealed, [info])
    return info
