"""Data of topics that were deleted while nobody was there to free it.

Owns: finding manifests whose topic is gone. Deleting comes last: first a topic's keys go, then its data; a crash
between the two leaves garbage, which is what is looked for here, once after a start.
"""

from __future__ import annotations

from bytemq.broker.log.partitions import PartitionTable
from bytemq.metadata import keys
from bytemq.metadata.image import ClusterImage
from bytemq.metadata.store import MetadataStore
from bytemq.runtime.logging import get_logger
from bytemq.types import PartitionId

log = get_logger("broker.orphans")


async def delete_orphans(store: MetadataStore, image: ClusterImage, partitions: PartitionTable) -> int:
    """How many partitions' data was freed. Raises BytemqError; what is left then is found again.

    The image is looked at after the manifests were listed: a manifest is made only for a topic that the image shows.
    """
    manifests, _ = await store.range(keys.MANIFESTS)
    orphans = [pid for pid in (keys.partition_of_manifest(entry.key) for entry in manifests) if _is_orphan(image, pid)]
    for pid in orphans:
        await partitions.delete(pid)
    if orphans:
        log.info("data of deleted topics freed", partitions=len(orphans))
    return len(orphans)


def _is_orphan(image: ClusterImage, pid: PartitionId) -> bool:
    return pid.topic_id not in image.topics_by_id
