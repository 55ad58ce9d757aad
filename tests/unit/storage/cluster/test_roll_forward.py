"""Metadata of a while ago and the storage of today: which flushes count, and who they were written by. That all of it
together loses nothing is the business of the simulation of brokers' storages.
"""

from __future__ import annotations

import tracemalloc
from typing import NamedTuple

import pytest

from bytemq.metadata import keys, values
from bytemq.metadata.backup import Backup
from bytemq.runtime.clock import SystemClock
from bytemq.storage.manifests.manifest import InheritedRange, Manifest, SegmentInfo
from bytemq.storage.manifests.manifest_codec import StoredManifest, decode_manifest, directory_of, encode_manifest
from bytemq.storage.objects.roll_forward import (
    EPOCHS_LEFT_OUT,
    HEAD_BYTES,
    MOST_IN_FLIGHT,
    PRODUCER_IDS_LEFT_OUT,
    RolledForward,
    roll_forward,
)
from bytemq.storage.objects.session_log import (
    FlushRef,
    SessionTail,
    decode_tail,
    encode_index,
    encode_tail,
    flush_name,
    index_name,
    index_ref,
)
from bytemq.storage.pools.pooled_store import PooledStore
from bytemq.storage.wal.format import encode_head, shares_to_write
from tests.support.object_store import MemoryObjectStore
from tests.unit.storage.cluster.cluster_bench import batch, pid

P = pid(1)


class Made(NamedTuple):
    ref: FlushRef
    data: bytes


def flush(
    session: int,
    sequence: int,
    link: int,
    base_offset: int,
    epoch: int = 1,
    *,
    attempt: int = 0,
    token: int = 1,
    size_bytes: int = 100,
) -> Made:
    """Of one batch of one record."""
    made = batch(base_offset, size_bytes)
    made.place(base_offset, epoch)
    head, crc = encode_head(session, sequence, sequence - 1, link, shares_to_write(P, [made], 1 << 20), attempt=attempt)
    data = head + bytes(made.view)
    return Made(FlushRef(sequence, token, len(data), len(head), crc), data)


class Lost:
    """An export in which session 5 owns the partition, at epoch 1, and has committed nothing."""

    def __init__(self, manifest: Manifest | None = None, known: int = 9) -> None:
        manifest = manifest or Manifest(1, owner_session=5)
        topic = values.TopicValue(P.topic_id, 1, 1, {})
        self.store = MemoryObjectStore()
        self.entries = {
            keys.topic("t"): values.encode_topic(topic),
            keys.manifest(P): encode_manifest(StoredManifest(manifest), directory_of(P)),
            keys.session_log(5): encode_tail(SessionTail(1, 5)),
            keys.owners(P.topic_id, 0): values.encode_owners(values.OwnersValue([1], [5], [1], {0: 0})),
            keys.LAST_SESSION: values.encode_number(known),
            keys.PRODUCER_IDS: values.encode_number(2000),
        }

    def put(self, session: int, made: Made) -> Made:
        self.store.objects[flush_name(session, made.ref)] = made.data
        return made

    async def roll_forward(self) -> RolledForward:
        return await roll_forward(PooledStore(self.store, SystemClock()), Backup("c", 9, list(self.entries.items())))


def tail_of(found: RolledForward, session: int) -> list[FlushRef]:
    value = dict(found.backup.entries).get(keys.session_log(session))
    return [] if value is None else list(decode_tail(value).flushes)


def manifest_of(found: RolledForward) -> Manifest:
    return decode_manifest(dict(found.backup.entries)[keys.manifest(P)], directory_of(P)).manifest


async def test_chain__goes_on_from_the_tail_and_ends_where_a_flush_is_missing() -> None:
    lost = Lost()
    first = lost.put(5, flush(5, 1, 0, 0))
    second = lost.put(5, flush(5, 2, first.ref.crc, 1))
    third = flush(5, 3, second.ref.crc, 2)
    lost.put(5, flush(5, 4, third.ref.crc, 3))
    found = await lost.roll_forward()
    assert tail_of(found, 5) == [first.ref, second.ref] and found.flushes == 2
    assert found.problems == [], "the last ones may have been on their way"
    assert manifest_of(found) == Manifest(1, owner_session=5)


async def test_chain__takes_the_last_attempt_at_a_sequence() -> None:
    lost = Lost()
    first = lost.put(5, flush(5, 1, 0, 0))
    failed = lost.put(5, flush(5, 2, first.ref.crc, 1, token=2))
    lost.put(5, flush(5, 3, failed.ref.crc, 2, token=2))
    again = lost.put(5, flush(5, 2, first.ref.crc, 1, attempt=1, token=3))
    assert tail_of(await lost.roll_forward(), 5) == [first.ref, again.ref]


async def test_chain__leaves_out_what_is_damaged_or_of_others() -> None:
    lost = Lost()
    first = lost.put(5, flush(5, 1, 0, 0))
    damaged = flush(5, 2, first.ref.crc, 1)
    lost.store.objects[flush_name(5, damaged.ref)] = damaged.data[:60] + b"?" + damaged.data[61:]
    lost.store.objects["wal/0000000000000005/000000000002-ffff.index"] = b"no flush"
    assert tail_of(await lost.roll_forward(), 5) == [first.ref]


async def test_chain__leaves_out_a_flush_whose_put_broke_off() -> None:
    """Its head is whole. A store that keeps such an object was seen: SeaweedFS."""
    lost = Lost()
    first = lost.put(5, flush(5, 1, 0, 0))
    torn = flush(5, 2, first.ref.crc, 1)
    lost.put(5, torn._replace(data=torn.data[:-1]))
    assert tail_of(await lost.roll_forward(), 5) == [first.ref]
    again = lost.put(5, flush(5, 2, first.ref.crc, 1, token=2))
    assert tail_of(await lost.roll_forward(), 5) == [first.ref, again.ref]


async def test_chain__of_many_flushes_takes_the_memory_of_their_heads() -> None:
    lost = Lost()
    count, link = 100, 0
    for sequence in range(1, count + 1):
        link = lost.put(5, flush(5, sequence, link, sequence - 1, size_bytes=2 * HEAD_BYTES)).ref.crc
    tracemalloc.start()
    found = await lost.roll_forward()
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.flushes == count and peak_bytes < count * HEAD_BYTES / 2


async def test_sessions__that_began_since_are_found_and_those_that_had_ended_are_not() -> None:
    lost = Lost(known=9)
    lost.put(5, flush(5, 1, 0, 0))
    later = lost.put(11, flush(11, 1, 0, 1, epoch=2))
    lost.put(7, flush(7, 1, 0, 40))  # garbage of a session from before
    found = await lost.roll_forward()
    assert tail_of(found, 11) == [later.ref] and tail_of(found, 7) == []
    assert manifest_of(found) == Manifest(2, owner_session=11, inherited=(InheritedRange(5, 0, 1),))
    entries = dict(found.backup.entries)
    assert values.decode_number(entries[keys.LAST_SESSION]) == 11 and found.backup.revision == 11
    assert values.decode_owners(entries[keys.owners(P.topic_id, 0)]).leader_epochs == [2 + EPOCHS_LEFT_OUT]
    assert values.decode_number(entries[keys.PRODUCER_IDS]) == 2000 + PRODUCER_IDS_LEFT_OUT


async def test_session__that_only_wrote_segments_does_not_come_again() -> None:
    lost = Lost(known=9)
    lost.store.objects[f"{directory_of(P)}{0:020d}-c-1.log"] = b"of what it took over"
    found = await lost.roll_forward()
    assert values.decode_number(dict(found.backup.entries)[keys.LAST_SESSION]) == found.backup.revision == 0xC


async def test_restored_metadata__go_on_above_every_export_that_is_there() -> None:
    """An older file was given: what is exported next must not pass for older than what was exported before."""
    lost = Lost()
    lost.store.objects["metadata/0000000000000bad-00000000000000ff.jsonl.gz"] = b"of revision 2989, and damaged"
    lost.store.objects["metadata/README"] = b"no export"
    assert (await lost.roll_forward()).backup.revision == 0xBAD


async def test_writes__of_who_was_fenced_do_not_count_where_somebody_else_has_written() -> None:
    lost = Lost()
    first = lost.put(5, flush(5, 1, 0, 0))
    lost.put(5, flush(5, 2, first.ref.crc, 1))  # never committed
    lost.put(11, flush(11, 1, 0, 1, epoch=2))
    assert manifest_of(await lost.roll_forward()).inherited == (InheritedRange(5, 0, 1),)


async def test_writes__of_an_owner_before_the_export_never_count() -> None:
    manifest = Manifest(3, owner_session=8, inherited=(InheritedRange(5, 0, 4),))
    lost = Lost(manifest)
    lost.entries[keys.session_log(8)] = encode_tail(SessionTail(2, 8))
    lost.put(5, flush(5, 1, 0, 4, epoch=1))
    assert manifest_of(await lost.roll_forward()) == manifest


async def test_turns__back_and_forth_are_in_order() -> None:
    lost = Lost()
    first = lost.put(5, flush(5, 1, 0, 0, epoch=1))
    lost.put(11, flush(11, 1, 0, 1, epoch=2))
    lost.put(5, flush(5, 2, first.ref.crc, 2, epoch=3))
    manifest = manifest_of(await lost.roll_forward())
    assert manifest.inherited == (InheritedRange(5, 0, 1), InheritedRange(11, 1, 2))
    assert (manifest.owner_session, manifest.leader_epoch) == (5, 3)


async def test_loss__is_told() -> None:
    lost = Lost()
    far = MOST_IN_FLIGHT + 2
    lost.put(5, flush(5, far, 1, 40))
    assert "flush 1 is not there any more" in (await lost.roll_forward()).problems[0]
    lost = Lost()
    gone = flush(5, 1, 0, 0)
    lost.entries[keys.session_log(5)] = encode_tail(SessionTail(1, 5, 1, 1, gone.ref.crc, (), (gone.ref,)))
    assert "1 objects of its log are not there" in (await lost.roll_forward()).problems[0]
    lost = Lost()
    lost.put(5, flush(5, 1, 0, 0))
    del lost.entries[keys.topic("t")]
    assert "1 records of partitions that the export does not know" in (await lost.roll_forward()).problems[0]


async def test_loss__of_what_indexes_and_manifests_name_is_told() -> None:
    """An export that is older than the grace: what it names was released or replaced since, and by what is not in it.
    It was restored without a word, and what had taken the place was then garbage.
    """
    lost = Lost()
    first = lost.put(5, flush(5, 1, 0, 0))
    second = lost.put(5, flush(5, 2, first.ref.crc, 1))
    flushes = [(one.ref, one.data[: one.ref.head_bytes]) for one in (first, second)]
    data = encode_index(5, flushes)
    index = index_ref(flushes, data, 7)
    lost.store.objects[index_name(5, index)] = data
    lost.entries[keys.session_log(5)] = encode_tail(SessionTail(1, 5, 1, 2, second.ref.crc, (index,)))
    assert (await lost.roll_forward()).problems == []
    del lost.store.objects[flush_name(5, first.ref)]
    assert "session 5: 1 objects of its log are not there" in (await lost.roll_forward()).problems[0]
    lost.entries[keys.session_log(5)] = encode_tail(SessionTail(1, 5, 2, 2, second.ref.crc, (index,)))
    assert (await lost.roll_forward()).problems == [], "it was released before the export"

    name = f"{directory_of(P)}{0:020d}-5-1.log"
    lost = Lost(Manifest(1, 0, (SegmentInfo(0, 9, 100, 0, 0, name, sealed=True),), owner_session=5))
    lost.store.objects[name] = b"ten records"
    assert (await lost.roll_forward()).problems == []
    del lost.store.objects[name]
    assert f"1 objects of its log are not there any more ({name})" in (await lost.roll_forward()).problems[0]


async def test_loss__that_is_accepted_leaves_what_is_there() -> None:
    lost = Lost()
    made = [lost.put(5, flush(5, 1, 0, 0))]
    for offset in range(1, 4):
        made.append(lost.put(5, flush(5, offset + 1, made[-1].ref.crc, offset)))
    refs = tuple(one.ref for one in made[:3])
    lost.entries[keys.session_log(5)] = encode_tail(SessionTail(1, 5, 1, 3, refs[-1].crc, (), refs))
    lost.entries[keys.owners(P.topic_id, 0)] = values.encode_owners(values.OwnersValue([1], [5], [1], {0: 3}))
    for ref in refs[:2]:
        del lost.store.objects[flush_name(5, ref)]
    found = await lost.roll_forward()
    assert "2 objects of its log are not there" in found.problems[0]
    assert tail_of(found, 5) == [made[2].ref, made[3].ref], "and what was committed since the export"
    owners = values.decode_owners(dict(found.backup.entries)[keys.owners(P.topic_id, 0)])
    assert owners.end_offsets == {}, "a log that ends before it would be refused"


@pytest.mark.parametrize("has_manifest", [True, False])
async def test_partition__that_was_never_opened_before_gets_a_manifest(has_manifest: bool) -> None:
    lost = Lost(Manifest(-1, owner_session=0))
    if not has_manifest:
        del lost.entries[keys.manifest(P)]
    lost.put(11, flush(11, 1, 0, 0, epoch=4))
    assert manifest_of(await lost.roll_forward()) == Manifest(4, owner_session=11)
