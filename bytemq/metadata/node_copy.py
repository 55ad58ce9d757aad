"""The metadata of a single node, written to where those of a cluster are.

Owns: what goes along and what does not, the mark by which an interrupted copy is known, and that nobody takes half of
it for a whole. Must not: know manifests (its caller has the new ones).

Topics, configs, leader epochs, producer ids and the cluster's id stay what they are, so that clients find what they
left. Sessions, wishes and what belongs to them do not: whoever owns a partition next is the new cluster's business.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from bytemq.errors import Invalid
from bytemq.metadata import keys, values
from bytemq.metadata.store import Compare, KeyValue, MetadataStore, Put
from bytemq.metadata.values import NO_BROKER, NO_SESSION, OwnersValue
from bytemq.types import PartitionId, parse_topic_id

LEFT_BEHIND = (
    keys.BROKERS,
    keys.CONTROLLER,
    keys.LAST_SESSION,
    keys.ASSIGNMENTS,
    keys.PREPARED,
    keys.DOUBTS,
    keys.LOADS,
    keys.MOVES,
    keys.WAL_TAILS,
    keys.SESSION_LOGS,
)
KEYS_PER_TRANSACTION = 100
BYTES_PER_TRANSACTION = 1024 * 1024
LAST = frozenset({keys.IDENTITY, keys.FEATURE_LEVEL})
"""A broker without them makes its own, and is then refused by the storage, which is another cluster's."""


class Mark(NamedTuple):
    """Whoever compares it is the only one that copies here."""

    revision: int

    @property
    def compare(self) -> Compare:
        return Compare(keys.COPY_SOURCE, self.revision)


async def begin(target: MetadataStore, cluster_id: str) -> Mark:
    """Marks these metadata as those of a copy of this node that is not complete, or finds them so. Raises Invalid when
    they are anything else.
    """
    entries = (await target.range("")).entries
    mark = next((entry for entry in entries if entry.key == keys.COPY_SOURCE), None)
    if mark is None:
        if entries:
            raise Invalid("there are metadata at this address already; a node is copied to an empty prefix")
        made = await target.txn([Compare(keys.COPY_SOURCE, 0)], [Put(keys.COPY_SOURCE, cluster_id.encode())])
        if not made.succeeded:
            raise Invalid("somebody else copies to this address of the metadata just now")
        return Mark(made.revision)
    if mark.value.decode() != cluster_id:
        raise Invalid(
            f"a copy of another node, of cluster {mark.value.decode()}, was begun at this address of the metadata; "
            "end that one first, or choose another prefix"
        )
    if any(entry.key.startswith(keys.BROKERS) for entry in entries):
        raise Invalid("a broker uses these metadata although the copy to them is not complete; stop it first")
    taken = await target.txn([Compare(keys.COPY_SOURCE, mark.revision)], [Put(keys.COPY_SOURCE, mark.value)])
    if not taken.succeeded:
        raise Invalid("somebody else copies to this address of the metadata just now")
    return Mark(taken.revision)


def taken_along(
    entries: Iterable[KeyValue], manifests: Mapping[str, bytes], end_offsets: Mapping[PartitionId, int]
) -> list[Put]:
    """What is to be written: `manifests`, by their keys, in place of the node's own; of the owners of partitions, their
    epochs and where the logs end.
    """
    puts = [Put(key, value) for key, value in manifests.items()]
    for key, value, _ in entries:
        if key.startswith((*LEFT_BEHIND, keys.MANIFESTS)):
            continue
        puts.append(Put(key, _without_owners(key, value, end_offsets) if key.startswith(keys.OWNERS) else value))
    return puts


async def finish(target: MetadataStore, mark: Mark, puts: Iterable[Put]) -> None:
    """Writes it all. The id, the feature level and the end of the mark come last and together. Raises Invalid when
    somebody else copies here.
    """
    last: list[Put] = []
    some: list[Put] = []
    size_bytes = 0
    for put in puts:
        if put.key in LAST:
            last.append(put)
            continue
        if some and (len(some) == KEYS_PER_TRANSACTION or size_bytes + len(put.value) > BYTES_PER_TRANSACTION):
            await _write(target, mark, some)
            some, size_bytes = [], 0
        some.append(put)
        size_bytes += len(put.key) + len(put.value)
    await _write(target, mark, some)
    await _write(target, mark, last, [keys.COPY_SOURCE])


async def _write(target: MetadataStore, mark: Mark, puts: list[Put], deletes: Iterable[str] = ()) -> None:
    written = await target.txn([mark.compare], puts, list(deletes))
    if not written.succeeded:
        raise Invalid("somebody else copies to this address of the metadata just now")


def _without_owners(key: str, value: bytes, end_offsets: Mapping[PartitionId, int]) -> bytes:
    topic, _, chunk = key[len(keys.OWNERS) :].partition("/")
    topic_id, first = parse_topic_id(topic), int(chunk) * keys.CHUNK_PARTITIONS
    owners = values.decode_owners(value)
    count = len(owners.brokers)
    ends = {place: end_offsets.get(PartitionId(topic_id, first + place), -1) for place in range(count)}
    known = {place: end for place, end in ends.items() if end >= 0}
    return values.encode_owners(OwnersValue([NO_BROKER] * count, [NO_SESSION] * count, owners.leader_epochs, known))
