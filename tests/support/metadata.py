"""Cluster images and metadata stores for tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from bytemq.metadata import keys, values
from bytemq.metadata.data_lock import DataLock
from bytemq.metadata.embedded import EmbeddedStore
from bytemq.metadata.features import SUPPORTED
from bytemq.metadata.image import ClusterImage
from bytemq.metadata.store import Event, Put
from bytemq.types import Role, TopicId


def topic_id(number: int) -> TopicId:
    return TopicId(number.to_bytes(16, "big"))


def broker_value(incarnation: str = "incarnation") -> values.BrokerValue:
    return values.BrokerValue(None, {"PLAINTEXT": ("localhost", 9092)}, "0", incarnation, levels=SUPPORTED)


def image_of(brokers: Iterable[int] = (), puts: Iterable[Put] = ()) -> ClusterImage:
    """An image with these brokers, whose session ids are 1000 + id, and what `puts` write, at revision 1."""
    image = ClusterImage()
    image.apply(Event(keys.broker(id_), values.encode_broker(broker_value()), 1000 + id_) for id_ in brokers)
    image.apply(Event(put.key, put.value, 1) for put in puts)
    return image


def with_roles(image: ClusterImage, broker: int, *roles: Role, zone: str | None = None) -> None:
    """Makes a live broker one that has these roles only."""
    value = replace(broker_value(), roles=frozenset(roles), zone=zone)
    image.apply([Event(keys.broker(broker), values.encode_broker(value), 1000 + broker)])


def topic_puts(
    name: str,
    id_: TopicId,
    assigned: list[int],
    owners: values.OwnersValue | None = None,
    factor: int = 1,
    *,
    is_internal: bool = False,
) -> list[Put]:
    """The keys of a topic; `owners` are those of its first chunk."""
    size = keys.CHUNK_PARTITIONS
    puts = [Put(keys.topic(name), values.encode_topic(values.TopicValue(id_, len(assigned), factor, {}, is_internal)))]
    for chunk in range(keys.chunk_count(len(assigned))):
        wishes = assigned[chunk * size : (chunk + 1) * size]
        puts.append(Put(keys.assignments(id_, chunk), values.encode_assignments(wishes)))
    if owners is not None:
        puts.append(Put(keys.owners(id_, 0), values.encode_owners(owners)))
    return puts


@asynccontextmanager
async def embedded_store(folder: Path) -> AsyncIterator[EmbeddedStore]:
    lock = DataLock.acquire(folder)
    store = EmbeddedStore.open(lock, "page-cache")
    try:
        yield store
    finally:
        await store.close()
        lock.release()
