"""Classic bugs of a log on an object store, planted on purpose. Each is a context manager that breaks it meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any
from unittest.mock import patch

from bytemq.errors import Unavailable
from bytemq.metadata.store import Compare, Put
from bytemq.storage.log_files import LogFiles
from bytemq.storage.manifests.manifest import Manifest, SegmentInfo
from bytemq.storage.manifests.publisher import Publisher
from bytemq.storage.objects import object_wal, roll_forward, session_tail
from bytemq.storage.objects.flush_objects import FlushObjects
from bytemq.storage.objects.object_wal import Flight, ObjectWal
from bytemq.storage.objects.object_write_behind import ObjectWriteBehind
from bytemq.storage.objects.own_objects import Settled
from bytemq.storage.objects.session_log import SessionTail, encode_tail, session_of
from bytemq.storage.objects.session_tail import SessionTailKeeper
from bytemq.storage.objects.shared_garbage import SharedGarbage
from bytemq.storage.pools.pooled_store import Discard, PooledStore
from bytemq.storage.stores.interface import Buffer, ObjectStore
from bytemq.storage.stores.remote import RemoteStore, _Torn
from bytemq.storage.wal.staging import Staging
from tests.simulation.cluster_storage.world import FailingMetadata

Planted = Callable[[], AbstractContextManager[Any]]


def commit_before_the_object_is_written() -> AbstractContextManager[Any]:
    create = RemoteStore.create

    async def in_background(self: RemoteStore, name: str, data: Sequence[Buffer]) -> None:
        if name.endswith(".flush"):
            task = asyncio.ensure_future(create(self, name, data))
            task.add_done_callback(lambda task: task.cancelled() or task.exception())
        else:
            await create(self, name, data)

    return patch.object(RemoteStore, "create", in_background)


def _without_compare(prefix: str) -> AbstractContextManager[Any]:
    txn = FailingMetadata.txn

    async def forgetful(self: FailingMetadata, compares: Sequence[Compare], *changes: object, **more: object) -> object:
        kept = [compare for compare in compares if not compare.key.startswith(prefix)]
        return await txn(self, kept, *changes, **more)  # type: ignore[arg-type]

    return patch.object(FailingMetadata, "txn", forgetful)


def session_not_compared() -> AbstractContextManager[Any]:
    return _without_compare("cluster/brokers/")


def manifest_not_compared() -> AbstractContextManager[Any]:
    return _without_compare("storage/manifests/")


def tail_not_linked() -> AbstractContextManager[Any]:
    """After a failure the next flush goes on from the one that failed."""
    refuse = ObjectWal._refuse_all

    def without_rollback(self: ObjectWal) -> None:
        sequence, link = self._sequence, self._link
        refuse(self)
        self._sequence, self._link = sequence, link

    return patch.object(ObjectWal, "_refuse_all", without_rollback)


def offsets_not_rolled_back() -> AbstractContextManager[Any]:
    return patch.object(Staging, "fail", Staging.finish)


def unknown_commit_taken_for_failed() -> AbstractContextManager[Any]:
    publish = SessionTailKeeper._publish

    async def once(self: SessionTailKeeper, tail: SessionTail) -> None:
        if self._revision == 0:
            return await publish(self, tail)
        compares = [self._fence, Compare(self._key, self._revision)]
        try:
            outcome = await self._metadata.txn(compares, [Put(self._key, encode_tail(tail))])
        except Unavailable:
            return None
        if outcome.succeeded:
            self.tail, self._revision = tail, outcome.revision
        return None

    return patch.object(SessionTailKeeper, "_publish", once)


def released_too_early() -> AbstractContextManager[Any]:
    return patch.object(FlushObjects, "first_needed", lambda self, logs, next_sequence: next_sequence)


def handed_over_forgotten() -> AbstractContextManager[Any]:
    release = ObjectWriteBehind._release

    async def forgetful(self: ObjectWriteBehind) -> None:
        self._handed_over = {}
        await release(self)

    return patch.object(ObjectWriteBehind, "_release", forgetful)


def garbage_of_the_living() -> AbstractContextManager[Any]:
    async def nobody(self: SharedGarbage) -> set[int]:
        return set()

    return patch.object(SharedGarbage, "_live_sessions", nobody)


def garbage_of_the_living_left() -> AbstractContextManager[Any]:
    """What another owner has superseded and did not live to delete."""
    return patch.object(Settled, "is_past_publishing", lambda *asked: False)


def index_of_what_is_released_kept() -> AbstractContextManager[Any]:
    return patch.object(SessionTailKeeper, "_pass_over_index", lambda self, sequence: [])


def sessions_known_by_their_logs_alone() -> AbstractContextManager[Any]:
    """When metadata are made of the storage: one that wrote segments only comes again."""
    return patch.object(roll_forward, "writer_of", session_of)


def second_index_of_the_same_flushes() -> AbstractContextManager[Any]:
    """One is durable and not published yet when another is begun."""
    commit = SessionTailKeeper.commit

    async def broken(self: SessionTailKeeper, flushes: Any) -> None:
        await commit(self, flushes)
        if self._indexing is None and len(self._heads) >= session_tail.INDEX_FLUSHES:
            self._indexing = self._supervisor.start("wal-index", self._write_index())

    return patch.object(SessionTailKeeper, "commit", broken)


def merged_segments_deleted_first() -> AbstractContextManager[Any]:
    """Before the manifest that does not name them any more is published."""
    replace_files = Publisher.replace_files

    async def hasty(self: Publisher, files: LogFiles, before: Sequence[SegmentInfo], *more: Any) -> None:
        await files._files.segments._store.delete([segment.name for segment in before])
        await replace_files(self, files, before, *more)

    return patch.object(Publisher, "replace_files", hasty)


def attempts_not_told() -> AbstractContextManager[Any]:
    """So that what could not be written, and came late, may be taken for what was committed in its place."""
    return patch.object(object_wal, "MOST_ATTEMPTS", 0)


def earlier_owners_believed() -> AbstractContextManager[Any]:
    """Found in the storage, when metadata are made of it."""
    return patch.object(roll_forward, "_not_of_earlier_owners", lambda manifest, shares: shares)


def epochs_not_compared() -> AbstractContextManager[Any]:
    """Of those who wrote to a partition since the export: they count in the order of their sessions."""
    in_turn = roll_forward._owners_in_turn

    def by_session(manifest: Manifest, shares: Sequence[roll_forward._Written]) -> list[tuple[int, int]]:
        return in_turn(manifest, [share._replace(leader_epoch=0) for share in shares])

    return patch.object(roll_forward, "_owners_in_turn", by_session)


def looked_for_where_new_objects_go() -> AbstractContextManager[Any]:
    """In the pool that is best now, and not in the one that the name says."""

    async def best(self: PooledStore, name: str) -> ObjectStore:
        return await self.opened(self.best)

    return patch.object(PooledStore, "holder", best)


def pool_of_a_flush_not_committed() -> AbstractContextManager[Any]:
    return patch.object(Flight, "written_ref", property(lambda self: self.ref))


def discarded_wherever_it_was_begun() -> AbstractContextManager[Any]:
    """With what was begun in a pool that turned sick, what counts goes as well."""
    place = PooledStore.place

    async def careless(self: PooledStore, name: str, data: Sequence[Buffer], discard: Discard) -> str:
        begun: list[str] = []
        found = await place(self, name, data, lambda names: (begun.extend(names), discard(names)))
        if begun:
            discard([found])
        return found

    return patch.object(PooledStore, "place", careless)


def size_not_compared() -> AbstractContextManager[Any]:
    """Of an object whose PUT broke off, what the store kept is taken for the whole by the writer's token in it."""
    is_ours = RemoteStore._is_ours

    async def credulous(self: RemoteStore, name: str, body: Any, token: str, *, may_be_there: bool) -> bool:
        try:
            return await is_ours(self, name, body, token, may_be_there=may_be_there)
        except _Torn:
            return True

    return patch.object(RemoteStore, "_is_ours", credulous)


PLANTED: dict[Planted, int] = {
    commit_before_the_object_is_written: 67,
    session_not_compared: 16,
    manifest_not_compared: 1,
    tail_not_linked: 16,
    offsets_not_rolled_back: 14,
    unknown_commit_taken_for_failed: 3,
    released_too_early: 1,
    handed_over_forgotten: 10,
    garbage_of_the_living: 1,
    garbage_of_the_living_left: 204,
    index_of_what_is_released_kept: 44,
    sessions_known_by_their_logs_alone: 1816,
    second_index_of_the_same_flushes: 107,
    merged_segments_deleted_first: 103,
    attempts_not_told: 105,
    earlier_owners_believed: 93,
    epochs_not_compared: 34,
    looked_for_where_new_objects_go: 2,
    pool_of_a_flush_not_committed: 29,
    discarded_wherever_it_was_begun: 11,
    size_not_compared: 10,
}
"""Each with a seed that finds it."""
