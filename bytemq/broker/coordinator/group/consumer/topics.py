"""What the coordinator must know of topics: names, ids, partition counts. The broker's image stands behind it."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple, Protocol


class TopicInfo(NamedTuple):
    name: str
    topic_id: bytes
    partition_count: int


class Topics(Protocol):
    """The topics as they are now; they change between two calls of the machine only."""

    @property
    def version(self) -> int:
        """Grows with every change of the cluster."""

    def by_name(self, name: str) -> TopicInfo | None: ...

    def by_id(self, topic_id: bytes) -> TopicInfo | None: ...

    def names(self) -> Collection[str]: ...

    def racks(self, topic_id: bytes) -> Sequence[frozenset[str]]:
        """Of each partition those where it has a replica."""


class NoTopics:
    """A cluster without any."""

    version = 0

    def by_name(self, name: str) -> TopicInfo | None:
        return None

    def by_id(self, topic_id: bytes) -> TopicInfo | None:
        return None

    def names(self) -> Collection[str]:
        return ()

    def racks(self, topic_id: bytes) -> Sequence[frozenset[str]]:
        return ()


def existing(topics: Topics, names: Collection[str]) -> list[TopicInfo]:
    """Those of them that there are, in the order of their ids. `names` is a set, and may have many more than there are
    topics: clients choose it.
    """
    present = topics.names()
    if len(names) > len(present):
        names = [name for name in present if name in names]
    found = (topics.by_name(name) for name in names)
    return sorted((topic for topic in found if topic is not None), key=lambda topic: topic.topic_id)


def metadata_hash(topics: Topics, subscriptions: Iterable[Collection[str]]) -> int:
    """Stands for everything about these topics that an assignment depends on; 0 when none of them exists. Signed, 64
    bits. Racks are not among it: an assignor takes no partition from a member because of them.
    """
    found = {topic.topic_id: topic for names in subscriptions for topic in existing(topics, names)}
    if not found:
        return 0
    digest = hashlib.blake2b(digest_size=8)
    for topic in sorted(found.values(), key=lambda topic: topic.topic_id):
        digest.update(topic.topic_id + topic.partition_count.to_bytes(4, "big"))
    return int.from_bytes(digest.digest(), "big", signed=True)
