"""How a broker takes the partitions that the planner wishes it to own, and gives up others: pure builders of
transactions.

Owns: the rules of a claim and of a release. A claim is made for a whole chunk and holds only while

- the claimer's session lives (its session key is unchanged),
- nobody else changed the facts of the chunk (an owner whose session lives keeps what it has), and
- the wishes are those that were seen (a topic deleted meanwhile has none, so nothing of it is left behind).

A claim gives each partition that it takes the next leader epoch, whoever owned it before, the same broker included.

A release holds while the owner's session lives and the facts are those that were seen. It comes after the owner's last
commit, and says where the log ends. It hands the partition over: where the broker that shall have it next lives, the
same transaction names its session, at the next leader epoch. So there is no time in which nobody owns it. If that
session has ended meanwhile, the partition is as free as after a death.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

from bytemq.metadata import keys, values
from bytemq.metadata.image import ClusterImage, PartitionImage, TopicImage
from bytemq.metadata.store import Compare, Put
from bytemq.runtime.steps import Pace
from bytemq.types import PartitionId, TopicId

CHUNKS_PER_TRANSACTION = 60
"""Two compares a chunk and one for the session keep within the store's 128."""


class Ending(NamedTuple):
    """How an ownership ended that the facts still name."""

    leader_epoch: int
    """Under which it was: the same session may have the partition again by now, under a later one."""
    end_offset: int
    """Of the log; -1 where the session never opened it."""


class Change(NamedTuple):
    """A transaction on the facts."""

    compares: list[Compare]
    puts: list[Put]


_Rewrite = Callable[[TopicId, int, PartitionImage], PartitionImage | None]
"""Given the facts of a partition of that topic and index: the new ones, or None where they stay."""
Changes = Iterator[Change | None]
"""None: much was looked at since the last one. Something else may be done then, and the image may change."""


def claims(image: ClusterImage, broker_id: int, session_id: int, topics: Iterable[TopicId]) -> Changes:
    """Transactions that take what of these topics is assigned to the broker and owned by no live session."""

    def taken(topic_id: TopicId, index: int, partition: PartitionImage) -> PartitionImage | None:
        if partition.owner != values.NO_BROKER or partition.assigned != broker_id:
            return None
        return partition._replace(owner=broker_id, session=session_id, leader_epoch=partition.leader_epoch + 1)

    session = Compare(keys.broker(broker_id), session_id)
    return _changes(image, session, _chunks_of(image, topics), taken, with_wishes=True)


def releases(image: ClusterImage, broker_id: int, session_id: int, ended: Mapping[PartitionId, Ending]) -> Changes:
    """Transactions that hand over these partitions, as far as the ownerships that ended are still in the facts, or free
    those that nobody else shall have.
    """

    def released(topic_id: TopicId, index: int, partition: PartitionImage) -> PartitionImage | None:
        ending = ended.get(PartitionId(topic_id, index))
        ours = partition.owner == broker_id and partition.session == session_id
        if ending is None or not ours or partition.leader_epoch != ending.leader_epoch:
            return None
        end_offset = max(ending.end_offset, partition.end_offset)
        successor = image.brokers.get(partition.assigned)
        if successor is None or successor.id == broker_id or image.is_missed(successor.id):
            return partition._replace(owner=values.NO_BROKER, session=values.NO_SESSION, end_offset=end_offset)
        epoch = partition.leader_epoch + 1
        return partition._replace(
            owner=successor.id, session=successor.epoch, leader_epoch=epoch, end_offset=end_offset
        )

    session = Compare(keys.broker(broker_id), session_id)
    return _changes(image, session, _chunks_with(image, ended), released, with_wishes=False)


def _chunks_of(image: ClusterImage, topics: Iterable[TopicId]) -> Iterator[tuple[TopicImage, int]]:
    for topic_id in topics:
        chunk = 0
        while (topic := image.topics_by_id.get(topic_id)) is not None:
            if chunk == keys.chunk_count(len(topic.partitions)):
                break
            yield topic, chunk
            chunk += 1


def _chunks_with(image: ClusterImage, partitions: Iterable[PartitionId]) -> Iterator[tuple[TopicImage, int]]:
    for topic_id, chunk in dict.fromkeys((one.topic_id, keys.chunk_of(one.index)) for one in partitions):
        topic = image.topics_by_id.get(topic_id)
        if topic is not None:
            yield topic, chunk


def _changes(
    image: ClusterImage,
    session: Compare,
    chunks: Iterable[tuple[TopicImage, int]],
    rewrite: _Rewrite,
    *,
    with_wishes: bool,
) -> Changes:
    change = Change([session], [])
    pace = Pace()
    for topic, chunk in chunks:
        owners = _rewritten(topic, chunk, rewrite)
        if owners is not None:
            read = [keys.assignments(topic.topic_id, chunk)] if with_wishes else []
            read.append(keys.owners(topic.topic_id, chunk))
            change.compares.extend(Compare(key, image.key_revision(key)) for key in read)
            change.puts.append(Put(read[-1], values.encode_owners(owners)))
            if len(change.puts) == CHUNKS_PER_TRANSACTION:
                yield change
                change = Change([session], [])
        if pace.is_over(min(keys.CHUNK_PARTITIONS, len(topic.partitions))):
            yield None
    if change.puts:
        yield change


def _rewritten(topic: TopicImage, chunk: int, rewrite: _Rewrite) -> values.OwnersValue | None:
    """The chunk's new facts, or None when nothing changes."""
    first = chunk * keys.CHUNK_PARTITIONS
    old = topic.partitions[first : first + keys.CHUNK_PARTITIONS]
    rewritten = [rewrite(topic.topic_id, index, partition) for index, partition in enumerate(old, first)]
    if not any(rewritten):
        return None
    new = [after or before for before, after in zip(old, rewritten, strict=True)]
    return values.OwnersValue(
        [partition.owner for partition in new],
        [partition.session for partition in new],
        [partition.leader_epoch for partition in new],
        {place: partition.end_offset for place, partition in enumerate(new) if partition.end_offset >= 0},
    )
