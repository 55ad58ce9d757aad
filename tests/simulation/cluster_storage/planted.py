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
from bytemq.storage.manifests.manifest import SegmentInfo
from bytemq.storage.manifests.publisher import Publisher
from bytemq.storage.objects import session_tail
from bytemq.storage.objects.flush_objects import FlushObjects
from bytemq.storage.objects.object_wal import ObjectWal
from bytemq.storage.objects.object_write_behind import ObjectWriteBehind
from bytemq.storage.objects.session_log import SessionTail, encode_tail
from bytemq.storage.objects.session_tail import SessionTailKeeper
from bytemq.storage.objects.shared_garbage import SharedGarbage
from bytemq.storage.stores.interface import Buffer
from bytemq.storage.stores.remote import RemoteStore
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
        await self._store.delete([segment.name for segment in before])
        await replace_files(self, files, before, *more)

    return patch.object(Publisher, "replace_files", hasty)


PLANTED: tuple[Planted, ...] = (
    commit_before_the_object_is_written,
    session_not_compared,
    manifest_not_compared,
    tail_not_linked,
    offsets_not_rolled_back,
    unknown_commit_taken_for_failed,
    released_too_early,
    handed_over_forgotten,
    garbage_of_the_living,
    second_index_of_the_same_flushes,
    merged_segments_deleted_first,
)
