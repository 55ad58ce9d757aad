"""Metadata as they were a while ago, brought up to what the storage holds: what was acknowledged since is found again.

Owns: finding the flushes that follow the tails of an export, and the manifests and epochs that go with them. Must not:
write to the storage or to a metadata store.

Each flush names its session, its sequence and, by checksum, its predecessor; so what a session has committed since the
export is the chain that goes on from its tail. The chain of a session that began later begins with its first flush.
Flushes that were written and never committed are at the end of a chain or beside it: of two that follow the same one,
the later attempt counts. A chain may end with some of a session that was fenced; where somebody else has
written to a partition since, under a higher epoch, they do not count.

What write-behind, cleaning and conversion have made of a log since the export is not needed: what they replaced stays
in the storage for `storage.garbage.grace.ms`. So an export that was younger than that, when the last broker stopped,
loses nothing.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from bytemq.errors import Corrupt, NotFound, Unavailable
from bytemq.metadata import keys, values
from bytemq.metadata.backup import Backup
from bytemq.storage.manifests.manifest import InheritedRange, Manifest
from bytemq.storage.manifests.manifest_codec import (
    StoredManifest,
    decode_manifest,
    directory_of,
    encode_manifest,
    names_of,
)
from bytemq.storage.objects.metadata_exports import newest_revision
from bytemq.storage.objects.session_log import (
    FOLDER,
    FlushRef,
    IndexedFlush,
    SessionTail,
    checked_flush,
    decode_index,
    decode_tail,
    encode_tail,
    flush_name,
    flush_of,
    index_name,
    names_of_tail,
    released_below,
    with_flushes,
)
from bytemq.storage.objects.shared_garbage import FOLDERS, TOPICS, writer_of
from bytemq.storage.pools.names import plain_name, pool_of, shown
from bytemq.storage.pools.pooled_store import PooledStore
from bytemq.storage.stores.interface import ObjectInfo
from bytemq.storage.wal.format import decode_entries, decode_header, decode_shares
from bytemq.types import PartitionId, TopicId, format_topic_id

READS_AT_ONCE = 32
HEAD_BYTES = 64 * 1024
"""Of most heads."""
MOST_IN_FLIGHT = 16
"""Flushes of one session on their way at the same time: `wal.flush.in.flight` allows no more."""
EPOCHS_LEFT_OUT = 1000
"""Owners since the export that have written nothing: their epochs are not seen."""
PRODUCER_IDS_LEFT_OUT = 1_000_000
"""Given out since the export to producers that have written nothing."""


class _Written(NamedTuple):
    """A share of a flush since the export."""

    session_id: int
    leader_epoch: int
    base_offset: int
    next_offset: int


@dataclass(slots=True)
class RolledForward:
    backup: Backup
    flushes: int = 0
    """Found behind the export."""
    problems: list[str] = field(default_factory=list)
    """What is lost for good, in words."""


async def roll_forward(store: PooledStore, backup: Backup) -> RolledForward:
    """`store` has the pools that the export names, and all of them must answer.

    Raises Corrupt for an export that cannot be read, Unavailable.
    """
    entries = dict(backup.entries)
    objects, unseen = await store.list_everywhere(*FOLDERS)
    if unseen:
        raise Unavailable(f"what is in {', '.join(sorted(map(shown, unseen)))} cannot be seen: it does not answer")
    names = {info.name for info in objects}
    listed = _flushes_listed(objects)
    known = _last_session(entries, backup.revision)
    tails = [decode_tail(value) for key, value in entries.items() if key.startswith(keys.SESSION_LOGS)]
    begun = listed.keys() - {tail.session_id for tail in tails}
    tails += [SessionTail(values.NO_BROKER, session_id) for session_id in sorted(begun) if session_id > known]
    found = RolledForward(backup)
    written: dict[PartitionId, list[_Written]] = defaultdict(list)
    newest_producer = -1
    for tail in tails:
        chain = await _chain(store, tail, listed.get(tail.session_id, {}))
        found.problems += _missing(tail, len(chain), max(listed.get(tail.session_id, ()), default=0))
        gone = [name for name in await _names_of_log(store, tail, names) if name not in names]
        found.problems += _told(f"session {tail.session_id}", gone)
        found.flushes += len(chain)
        left = _without(tail, gone)
        if chain:
            left = with_flushes(left, [flush.ref for flush in chain])
        if chain or gone:
            entries[keys.session_log(tail.session_id)] = encode_tail(left)
        for flush in chain:
            for share in decode_shares(flush.head, flush.header):
                one = _Written(tail.session_id, share.leader_epoch, share.base_offset, share.next_offset)
                written[share.partition].append(one)
                newest_producer = max(newest_producer, *(batch.producer_id for batch in decode_entries(share.entries)))
    for partition, stored in _manifests(entries):
        found.problems += _told(f"partition {partition}", [name for name in names_of(stored) if name not in names])
    topics = _topics(entries)
    for partition, shares in written.items():
        if partition.index >= topics.get(partition.topic_id, 0):
            continue
        key = keys.manifest(partition)
        entries[key] = _manifest_with(entries.get(key), partition, shares)
    found.problems += _unknown(topics, written)
    _raise_epochs(entries, topics, written, is_whole=not found.problems)
    first_free = max(values.decode_number(entries.get(keys.PRODUCER_IDS, b"0")), newest_producer + 1)
    entries[keys.PRODUCER_IDS] = values.encode_number(first_free + PRODUCER_IDS_LEFT_OUT)
    # One that came again would meet what the other one left.
    ours = (name for name in names if plain_name(name).startswith((FOLDER, TOPICS)))  # other folders take any file
    newest = max([known, *(writer_of(name) or 0 for name in ours)])
    entries[keys.LAST_SESSION] = values.encode_number(newest)
    # Exports sort by revision: those that are made from now on come behind all that are there.
    revision = max(backup.revision, newest, await newest_revision(store))
    found.backup = backup._replace(revision=revision, entries=list(entries.items()))
    return found


def _last_session(entries: Mapping[str, bytes], revision: int) -> int:
    """The newest one that the export knows. None is newer than the export's revision."""
    entry = entries.get(keys.LAST_SESSION)
    return revision if entry is None else values.decode_number(entry)


_Listed = Mapping[int, Mapping[int, Sequence[FlushRef]]]
"""By session and sequence; sizes of heads and their checksums are not known yet."""


def _flushes_listed(listed: Iterable[ObjectInfo]) -> _Listed:
    found: dict[int, dict[int, list[FlushRef]]] = defaultdict(lambda: defaultdict(list))
    for info in listed:
        flush = flush_of(info.name)
        if flush is not None:
            session_id, sequence, token = flush
            ref = FlushRef(sequence, token, info.size_bytes, 0, 0, pool_of(info.name))
            found[session_id][sequence].append(ref)
    return found


async def _chain(
    store: PooledStore, tail: SessionTail, listed: Mapping[int, Sequence[FlushRef]]
) -> Sequence[IndexedFlush]:
    """What goes on from the tail."""
    gate = asyncio.Semaphore(READS_AT_ONCE)

    async def head_of(flush: FlushRef) -> IndexedFlush | None:
        async with gate:
            return await _head(store, tail.session_id, flush)

    sequence = tail.last_sequence + 1
    behind: dict[tuple[int, int], list[IndexedFlush]] = defaultdict(list)
    """By sequence and the checksum of the flush before it."""
    while candidates := [one for each in range(sequence, sequence + READS_AT_ONCE) for one in listed.get(each, ())]:
        for flush in await asyncio.gather(*map(head_of, candidates)):
            if flush is not None:
                behind[flush.ref.sequence, flush.header.previous_crc].append(flush)
        sequence += READS_AT_ONCE
    chain: list[IndexedFlush] = []
    at = (tail.last_sequence, tail.last_crc)
    while following := behind.get((at[0] + 1, at[1])):
        best = max(following, key=lambda flush: flush.header.attempt)
        chain.append(best)
        at = (best.ref.sequence, best.ref.crc)
    return chain


async def _head(store: PooledStore, session_id: int, flush: FlushRef) -> IndexedFlush | None:
    """None for what is no flush, or gone, or whose PUT broke off: nothing of that was acknowledged under this name."""
    name = flush_name(session_id, flush)
    try:
        data = await store.read_range(name, 0, HEAD_BYTES)
        header = decode_header(data)
        if header.head_bytes > len(data):
            data = await store.read_range(name, 0, header.head_bytes)
        if flush.size_bytes < header.head_bytes + header.payload_bytes:
            return None
        known = flush._replace(head_bytes=header.head_bytes, crc=header.crc)
        return checked_flush(known, session_id, bytes(data[: header.head_bytes]))  # of tens of thousands heads alone
    except (Corrupt, NotFound):
        return None


def _missing(tail: SessionTail, followed: int, newest: int) -> list[str]:
    """Flushes behind the end of the chain that are too many to have been on their way. `newest`: the highest sequence
    in the storage.
    """
    last = tail.last_sequence + followed
    if newest <= last + MOST_IN_FLIGHT:
        return []
    return [f"session {tail.session_id}: flush {last + 1} is not there any more, up to {newest} others are"]


async def _names_of_log(store: PooledStore, tail: SessionTail, names: Set[str]) -> list[str]:
    """All objects of the log that the export knows: also those that indexes tell of. These may be there although the
    first of their flushes were released since.
    """
    found = list(names_of_tail(tail))
    for index in tail.indexes:
        name = index_name(tail.session_id, index)
        if name in names:
            flushes = (flush.ref for flush in decode_index(await store.read(name), tail.session_id))
            needed = (flush for flush in flushes if flush.sequence >= tail.first_sequence)
            found += [flush_name(tail.session_id, flush) for flush in needed]
    return found


def _manifests(entries: Mapping[str, bytes]) -> Iterator[tuple[PartitionId, StoredManifest]]:
    """Of one that is damaged whoever opens the log will tell."""
    for key, value in entries.items():
        if key.startswith(keys.MANIFESTS):
            partition = keys.partition_of_manifest(key)
            with suppress(Corrupt):
                yield partition, decode_manifest(value, directory_of(partition))


def _without(tail: SessionTail, gone: Collection[str]) -> SessionTail:
    """What whoever accepts the loss has: objects go in the order of the log, so all up to the last one that is gone."""
    indexes = [index.last_sequence for index in tail.indexes if index_name(tail.session_id, index) in gone]
    flushes = [flush[1] for flush in map(flush_of, gone) if flush is not None]
    return released_below(tail, max([*indexes, *flushes], default=tail.first_sequence - 1) + 1)


def _told(whose: str, gone: Sequence[str]) -> list[str]:
    """What the export names and the storage has no more: what took its place is not known."""
    return [f"{whose}: {len(gone)} objects of its log are not there any more ({gone[0]})"] if gone else []


def _topics(entries: Mapping[str, bytes]) -> dict[TopicId, int]:
    """Number of partitions."""
    topics = [values.decode_topic(value) for key, value in entries.items() if key.startswith(keys.TOPICS)]
    return {topic.topic_id: topic.partitions for topic in topics}


def _unknown(topics: Mapping[TopicId, int], written: Mapping[PartitionId, Sequence[_Written]]) -> list[str]:
    """Topics that were created after the export, or deleted before it."""
    records: dict[TopicId, int] = defaultdict(int)
    for partition, shares in written.items():
        if partition.index >= topics.get(partition.topic_id, 0):
            records[partition.topic_id] += sum(share.next_offset - share.base_offset for share in shares)
    return [
        f"topic {format_topic_id(topic_id)}: {count} records of partitions that the export does not know"
        for topic_id, count in records.items()
    ]


def _manifest_with(value: bytes | None, partition: PartitionId, shares: Sequence[_Written]) -> bytes:
    """The manifest, which inherits what was written since from those who have written it."""
    directory = directory_of(partition)
    stored = StoredManifest(Manifest(leader_epoch=-1)) if value is None else decode_manifest(value, directory)
    manifest = stored.manifest
    shares = _not_of_earlier_owners(manifest, shares)
    if not shares:
        return encode_manifest(stored, directory)
    ranges = _owners_in_turn(manifest, shares)
    inherited = list(manifest.inherited)
    for number, (session_id, base_offset) in enumerate(ranges[:-1]):
        inherited.append(InheritedRange(session_id, base_offset, ranges[number + 1][1]))
    epoch = max(share.leader_epoch for share in shares)
    owned = replace(manifest, leader_epoch=epoch, owner_session=ranges[-1][0], inherited=tuple(inherited))
    return encode_manifest(stored._replace(manifest=owned), directory)


def _not_of_earlier_owners(manifest: Manifest, shares: Sequence[_Written]) -> Sequence[_Written]:
    """They were fenced before the export was made."""
    return [share for share in shares if share.leader_epoch >= manifest.leader_epoch]


def _owners_in_turn(manifest: Manifest, shares: Sequence[_Written]) -> list[tuple[int, int]]:
    """Sessions that have written behind what the export knows to be inherited, and from which offset on. What a session
    wrote at or above where a later owner began was never committed.
    """
    known_end = manifest.inherited[-1].next_offset if manifest.inherited else manifest.end_offset
    turns: list[tuple[int, int]] = [(manifest.owner_session, known_end)] if manifest.owner_session else []
    begins: dict[tuple[int, int], int] = {}
    for share in shares:
        turn = (share.leader_epoch, share.session_id)
        begins[turn] = min(share.base_offset, begins.get(turn, share.base_offset))
    for (_, session_id), base_offset in sorted(begins.items()):
        while turns and turns[-1][1] >= base_offset and turns[-1][0] != session_id:
            turns.pop()
        if not turns or turns[-1][0] != session_id:
            turns.append((session_id, base_offset))
    return turns


def _raise_epochs(
    entries: dict[str, bytes],
    topics: Mapping[TopicId, int],
    written: Mapping[PartitionId, Sequence[_Written]],
    *,
    is_whole: bool,
) -> None:
    """Above every epoch that may have been given since, in all partitions that have had an owner.

    Unless it is the whole, where the last owners left their logs is forgotten: a log that is shorter would be refused.
    """
    for topic_id, count in topics.items():
        for chunk in range(keys.chunk_count(count)):
            key = keys.owners(topic_id, chunk)
            first = chunk * keys.CHUNK_PARTITIONS
            size = min(keys.CHUNK_PARTITIONS, count - first)
            owners = values.decode_owners(entries[key]) if key in entries else None
            epochs = [] if owners is None else list(owners.leader_epochs)
            epochs += [-1] * (size - len(epochs))
            for place in range(size):
                seen = (share.leader_epoch for share in written.get(PartitionId(topic_id, first + place), ()))
                epochs[place] = max(epochs[place], *seen, -1) + EPOCHS_LEFT_OUT
            ends = owners.end_offsets if owners is not None and is_whole else {}
            entries[key] = values.encode_owners(
                values.OwnersValue([values.NO_BROKER] * size, [values.NO_SESSION] * size, epochs, ends)
            )
