"""Publishing manifests: the one place where they change.

Owns: manifests in the metadata store, in few transactions, and the deletion of what a published manifest no longer
names. Must not: decide what changes.

Changes are functions from manifest to manifest. Those that arrive while a transaction is under way share the next one.
A transaction compares the revision of each manifest that it replaces. One whose outcome is unknown is read back before
anything else is published.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

from bytemq.errors import BytemqError, Fenced, Invalid, NotFound, Unavailable
from bytemq.metadata import keys
from bytemq.metadata.store import MAX_TXN_OPERATIONS, MAX_VALUE_BYTES, Compare, MetadataStore, Put
from bytemq.runtime.logging import get_logger
from bytemq.runtime.tasks import Supervisor
from bytemq.storage.log_files import LogFiles
from bytemq.storage.manifests.manifest import (
    Manifest,
    PartitionSnapshot,
    SegmentInfo,
    with_holes,
    with_log_start,
    with_replaced,
    with_snapshot,
)
from bytemq.storage.manifests.manifest_codec import (
    StoredManifest,
    decode_manifest,
    directory_of,
    encode_manifest,
    encode_snapshot,
    names_of,
)
from bytemq.storage.object_names import ObjectNames
from bytemq.storage.pools.pooled_store import Place
from bytemq.storage.settings import StorageConfig
from bytemq.storage.shared_file import SharedFile
from bytemq.storage.tables.published_columns import ColumnChange, ColumnsChanged
from bytemq.storage.tables.table_file import objects_of

log = get_logger("storage.manifests")

Change = Callable[[Manifest], Manifest]
_MAX_BYTES = 1024 * 1024


class _Request(NamedTuple):
    files: LogFiles
    change: Change | None
    """None: delete the manifest."""
    applied: Callable[[], None] | None
    columns: ColumnChange | None
    made: Sequence[str]
    done: asyncio.Future[None]


class _Prepared(NamedTuple):
    files: LogFiles
    requests: Sequence[_Request]
    stored: StoredManifest | None
    value: bytes
    made: Sequence[str]

    @property
    def columns(self) -> ColumnChange | None:
        """A request with such a change is alone."""
        return self.requests[0].columns

    @property
    def names_at_stake(self) -> set[str]:
        """What was made for it, and what would be named no more."""
        left = () if self.stored is None else {*names_of(self.files.stored)} - {*names_of(self.stored)}
        return {*self.made, *left}


async def _always() -> bool:
    return True


class Publisher:
    """`discard` is told the names that no manifest names any more, and those that were made for one and came to
    nothing. `fence` is compared by every transaction: while it does not hold, nothing is published."""

    def __init__(
        self,
        place: Place,
        metadata: MetadataStore,
        names: ObjectNames,
        config: StorageConfig,
        discard: Callable[[Sequence[str]], None],
        supervisor: Supervisor,
        fence: Sequence[Compare] = (),
        committed_is_durable: Callable[[], Awaitable[bool]] = _always,
    ) -> None:
        """`committed_is_durable` makes it so, where it can: no snapshot may describe what could be lost yet."""
        self._place = place
        self._fence = fence
        self._committed_is_durable = committed_is_durable
        self._metadata = metadata
        self._names = names
        self._config = config
        self._discard = discard
        self._supervisor = supervisor
        self._requests: list[_Request] = []
        self._in_doubt: dict[LogFiles, set[str]] = {}
        """What a log's manifest named, or was to name, when the outcome of a transaction was unknown: the next one that
        is applied says what of it counts."""
        self._worker: asyncio.Task[object] | None = None
        self._under_way: Collection[LogFiles] = ()
        """Those that something is being published for."""
        self._round_is_over = asyncio.Event()
        """Replaced with each round."""

    async def publish(
        self,
        files: LogFiles,
        change: Change | None,
        applied: Callable[[], None] | None = None,
        columns: ColumnChange | None = None,
        made: Sequence[str] = (),
    ) -> None:
        """Durable when it returns. `applied` is called in one step with the change of `files.manifest`; `columns`
        change in the same transaction, or neither does. `made` are objects that were created for this change: they go
        unless they become part of the log, as soon as that is certain.

        Raises Fenced, Unavailable, NotFound after deletion."""
        done = asyncio.get_running_loop().create_future()
        self._requests.append(_Request(files, change, applied, columns, made, done))
        if self._worker is None:
            self._worker = self._supervisor.start("manifest-publisher", self._work())
        await done

    async def advance_log_start(self, files: LogFiles, offset: int) -> None:
        if offset <= files.log_start_offset:
            return
        snapshot: PartitionSnapshot | None = None
        if offset > files.stored.snapshot_offset and files.snapshot_source is not None:
            # What the producers there did is known from nowhere else once their batches go.
            snapshot = files.snapshot_source()
            if not await self._committed_is_durable():
                snapshot = None

        def change(manifest: Manifest) -> Manifest:
            return with_snapshot(with_log_start(manifest, offset), snapshot)

        await self.publish(files, change, lambda: files.drop_wal_below(offset))

    async def replace_files(
        self,
        files: LogFiles,
        before: Sequence[SegmentInfo],
        after: Sequence[SegmentInfo],
        columns: ColumnChange | None = None,
    ) -> None:
        """See `logs`."""
        read: list[SharedFile] = []
        await self.publish(
            files,
            lambda manifest: with_replaced(manifest, before, after),
            # In one step with the change: whoever plans a read afterwards plans it with the new files.
            lambda: read.extend(files.opened(before)),
            columns,
            [name for segment in after for name in objects_of(segment)],
        )
        for file in read:
            await file.unpinned()

    async def release(self, files: LogFiles) -> Collection[str]:
        """Nothing more is published for the log when this returns, also by who has begun something before. Returns the
        objects of which it is not known whether the log's manifest names them."""
        files.released = True
        while files in self._under_way:  # others may go on without end
            await self._round_is_over.wait()
        return self._in_doubt.pop(files, ())

    async def idle(self) -> None:
        """Returns when nothing is being published."""
        while self._worker is not None:
            await asyncio.wait([self._worker])

    async def _work(self) -> None:
        try:
            while self._requests:
                by_log: dict[LogFiles, list[_Request]] = {}
                for request in self._requests:
                    if _goes_along(request, by_log.get(request.files, ())) and (
                        request.files in by_log or len(by_log) < self._config.manifests_per_transaction
                    ):
                        by_log.setdefault(request.files, []).append(request)
                taken = {id(request) for requests in by_log.values() for request in requests}
                self._requests = [request for request in self._requests if id(request) not in taken]
                self._under_way = by_log
                try:
                    await self._publish(by_log)
                except Exception as error:  # whoever waits is told all the same
                    log.error("publishing manifests crashed", error=error)
                    for files, requests in by_log.items():
                        files.revision = -1
                        _fail(
                            requests, Unavailable(f"the manifest of {files.partition} may not be published: {error!r}")
                        )
                finally:
                    over, self._round_is_over = self._round_is_over, asyncio.Event()
                    self._under_way = ()
                    over.set()
        finally:
            self._worker = None

    async def _publish(self, by_log: dict[LogFiles, list[_Request]]) -> None:
        prepared: list[_Prepared] = []
        size_bytes = operations = 0
        for files, requests in by_log.items():
            one = await self._prepared_or_failed(files, requests)
            if one is None:
                continue
            if one.columns is not None:  # it fails by itself, if it does
                await self._transact([one])
                continue
            needed = 1 if one.stored is not None else 2
            if size_bytes + len(one.value) > _MAX_BYTES or operations + needed > MAX_TXN_OPERATIONS:
                if prepared:
                    await self._transact(prepared)
                prepared, size_bytes, operations = [], 0, 0
            prepared.append(one)
            size_bytes += len(one.value)
            operations += needed
        if prepared:
            await self._transact(prepared)

    async def _prepared_or_failed(self, files: LogFiles, requests: Sequence[_Request]) -> _Prepared | None:
        """None when it failed and the requests were told so: what is wrong with one log must not keep all others."""
        made = [name for request in requests for name in request.made]
        try:
            one = await self._prepare(files, requests, made)
            if len(one.value) <= MAX_VALUE_BYTES:
                return one
            raise Invalid(f"the manifest of {files.partition} has {len(one.value)} bytes, above {MAX_VALUE_BYTES}")
        except BytemqError as error:
            self._refuse(requests, error, made)
        except Exception as error:
            log.error("a manifest could not be made", partition=files.partition, error=error)
            failure = Unavailable(f"the manifest of {files.partition} could not be made: {error!r}")
            self._refuse(requests, failure, made)
        return None

    def _refuse(self, requests: Sequence[_Request], error: BytemqError, made: Sequence[str]) -> None:
        """For certain nothing of it was published."""
        _fail(requests, error)
        self._discard_all(made)

    def _discard_all(self, names: Iterable[str]) -> None:
        if obsolete := list(dict.fromkeys(names)):
            self._discard(obsolete)

    async def _prepare(self, files: LogFiles, requests: Sequence[_Request], made: list[str]) -> _Prepared:
        """What is made here is added to what was `made` for the requests."""
        if files.deleted and not any(request.change is None for request in requests):
            raise NotFound("the log was deleted")
        if files.released:
            raise Fenced(f"{files.partition} is owned by this session no longer")
        await self.refresh(files)
        manifest = files.manifest
        for request in requests:
            if request.change is None:
                return _Prepared(files, requests, None, b"", made)
            manifest = request.change(manifest)
        stored = files.stored
        if manifest.snapshot is not None and manifest.snapshot.offset >= stored.snapshot_offset:
            stored = await self._store_snapshot(files, manifest)
            made += [stored.snapshot_name] if stored.snapshot_name else []
        stored = stored._replace(manifest=replace(manifest, snapshot=None))
        return _Prepared(files, requests, stored, encode_manifest(stored, directory_of(files.partition)), made)

    async def _store_snapshot(self, files: LogFiles, manifest: Manifest) -> StoredManifest:
        """A large snapshot becomes an object of its own."""
        assert manifest.snapshot is not None
        offset, data = manifest.snapshot.offset, encode_snapshot(manifest.snapshot)
        if len(data) <= self._config.snapshot_inline_bytes:
            return StoredManifest(manifest, offset, data)
        name = self._names.name(directory_of(files.partition), offset, ".snapshot")
        return StoredManifest(manifest, offset, b"", await self._place(name, [data]))

    async def _transact(self, prepared: Sequence[_Prepared]) -> None:
        compares = [Compare(keys.manifest(one.files.partition), one.files.revision) for one in prepared]
        compares.extend(self._fence)
        puts = [Put(keys.manifest(one.files.partition), one.value) for one in prepared if one.stored is not None]
        deletes = [keys.manifest(one.files.partition) for one in prepared if one.stored is None]
        # With the first log of a topic that goes, and again with each: a file may have been published in between.
        deletes.extend({keys.table_columns(one.files.partition.topic_id) for one in prepared if one.stored is None})
        for change in (one.columns for one in prepared if one.columns is not None):
            compares.append(change.compare)
            puts.append(change.put)
        try:
            outcome = await self._metadata.txn(compares, puts, deletes)
        except BytemqError as error:
            for one in prepared:
                one.files.revision = -1
                if names := one.names_at_stake:
                    self._in_doubt.setdefault(one.files, set()).update(names)
                _fail(one.requests, error)
            return
        if not outcome.succeeded and len(prepared) > 1:
            for one in prepared:  # so that it is known whose it was
                await self._transact([one])
            return
        if not outcome.succeeded:
            await self._changed_elsewhere(prepared[0])
            return
        for one in prepared:
            self._applied(one, outcome.revision)

    async def _changed_elsewhere(self, one: _Prepared) -> None:
        """By whom? An earlier transaction of ours, whose outcome was unknown, may have been applied late."""
        files, known = one.files, one.files.stored
        error: BytemqError = Fenced(f"the manifest of {files.partition} was changed by somebody else")
        if one.columns is not None and await self._has_moved_on(one.columns):
            error = ColumnsChanged("the columns of the table changed while a file was made")
        elif self._fence:
            files.revision = -1
            try:
                await self.refresh(files)
                if files.stored != known and files.manifest.owner_session == self._names.session_id:
                    error = Unavailable(f"the manifest of {files.partition} was changed by an earlier attempt")
            except BytemqError as failure:
                error = failure
        self._refuse(one.requests, error, one.made)

    async def _has_moved_on(self, columns: ColumnChange) -> bool:
        try:
            entry = await self._metadata.get(columns.compare.key)
        except BytemqError:
            return False
        return (0 if entry is None else entry.revision) != columns.compare.revision

    def _applied(self, one: _Prepared, revision: int) -> None:
        before, files = one.files.stored, one.files
        kept: set[str] = set()
        if one.stored is not None:
            files.stored, files.manifest, files.revision = one.stored, one.stored.manifest, revision
            kept.update(names_of(one.stored))
        known = [*names_of(before), *one.made, *sorted(self._in_doubt.pop(files, ()))]
        self._discard_all(name for name in known if name not in kept)
        for request in one.requests:
            if request.applied is not None:
                request.applied()
            if not request.done.done():
                request.done.set_result(None)

    async def refresh(self, files: LogFiles) -> None:
        """After a transaction of unknown outcome: what is published is what the store says now."""
        if files.revision >= 0:
            return
        entry = await self._metadata.get(keys.manifest(files.partition))
        if files.revision >= 0:
            return  # somebody else has asked meanwhile, and may have published since
        if entry is None:
            files.revision = 0
            return
        files.stored = decode_manifest(entry.value, directory_of(files.partition))
        files.revision = entry.revision
        files.manifest = with_holes(files.stored.manifest, files.manifest.holes)  # what is lost may be known here only
        files.drop_wal_below(files.manifest.end_offset)


def _goes_along(request: _Request, others: Sequence[_Request]) -> bool:
    """Into one transaction with others of its log: columns that changed meanwhile must not fail anything else."""
    return not others or (request.columns is None and others[0].columns is None)


def _fail(requests: Sequence[_Request], error: BytemqError) -> None:
    for request in requests:
        if not request.done.done():
            request.done.set_exception(error)
