"""How a broker takes the partitions that the planner wishes it to own: pure builders of transactions.

Owns: the rules of a claim. A claim is made for a whole chunk and holds only while

- the claimer's session lives (its session key is unchanged),
- nobody else changed the facts of the chunk (an owner whose session lives keeps what it has), and
- the wishes are those that were seen (a topic deleted meanwhile has none, so nothing of it is left behind).

A claim gives each partition that it takes the next leader epoch, whoever owned it before, the same broker included.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from bytemq.metadata import keys, values
from bytemq.metadata.image import ClusterImage, TopicImage
from bytemq.metadata.store import Compare, Put
from bytemq.types import TopicId

CHUNKS_PER_TRANSACTION = 60
"""Two compares a chunk and one for the session keep within the store's 128."""


class Claim(NamedTuple):
    compares: list[Compare]
    puts: list[Put]


def claims(image: ClusterImage, broker_id: int, session_id: int, topics: Iterable[TopicId]) -> Iterator[Claim]:
    """Transactions that take what of these topics is assigned to the broker and owned by no live session."""
    session = Compare(keys.broker(broker_id), session_id)
    claim = Claim([session], [])
    for topic_id in topics:
        topic = image.topics_by_id.get(topic_id)
        if topic is None:
            continue
        for chunk in range(keys.chunk_count(len(topic.partitions))):
            owners = _taken(topic, chunk, broker_id, session_id)
            if owners is None:
                continue
            wishes_key, owners_key = keys.assignments(topic_id, chunk), keys.owners(topic_id, chunk)
            claim.compares.append(Compare(wishes_key, image.key_revision(wishes_key)))
            claim.compares.append(Compare(owners_key, image.key_revision(owners_key)))
            claim.puts.append(Put(owners_key, values.encode_owners(owners)))
            if len(claim.puts) == CHUNKS_PER_TRANSACTION:
                yield claim
                claim = Claim([session], [])
    if claim.puts:
        yield claim


def _taken(topic: TopicImage, chunk: int, broker_id: int, session_id: int) -> values.OwnersValue | None:
    """The chunk's facts after the claim, or None when there is nothing to take."""
    first = chunk * keys.CHUNK_PARTITIONS
    partitions = topic.partitions[first : first + keys.CHUNK_PARTITIONS]
    facts: list[tuple[int, int, int]] = []
    takes = False
    for partition in partitions:
        if partition.owner == values.NO_BROKER and partition.assigned == broker_id:
            facts.append((broker_id, session_id, partition.leader_epoch + 1))
            takes = True
        else:
            facts.append((partition.owner, partition.session, partition.leader_epoch))
    if not takes:
        return None
    brokers, sessions, leader_epochs = zip(*facts, strict=True)
    return values.OwnersValue(brokers, sessions, leader_epochs)
