"""Logs that other sessions own, kept up to date for readers.

Owns: which logs are followed, where each one's committed end is, and beginning anew where something is not understood.
Must not: publish anything, know watermarks of transactions, or serve anybody.

A log is what its manifest says and what its owner's session has committed behind that. The manifest is read first and
the session's shares are taken after it, so that whatever was written behind meanwhile is found in both, and at worst a
piece is missing in between: then it begins anew. From there on the session's commits come one after the other, and a
watch on the manifests of the topic says what moved into segments, what is gone, and that another session owns the log
now. The committed part of a log never changes and never shrinks at its end, so that what is known of it is late at
worst.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Protocol

from bytemq.errors import BytemqError, Corrupt, NotFound, Unavailable
from bytemq.metadata import keys
from bytemq.metadata.store import MetadataStore
from bytemq.runtime.clock import Clock
from bytemq.runtime.logging import LogGate, get_logger
from bytemq.runtime.tasks import Supervisor
from bytemq.storage.following.followed_session import FollowedSession
from bytemq.storage.following.followed_sessions import FollowedSessions
from bytemq.storage.following.manifest_watches import ManifestWatches
from bytemq.storage.log_files import Files, LogFiles
from bytemq.storage.log_opening import recovered_log
from bytemq.storage.manifests.manifest import FileKind, Manifest
from bytemq.storage.manifests.manifest_codec import StoredManifest, decode_manifest, directory_of
from bytemq.storage.objects.committed_shares import CommittedShare, attach_shares
from bytemq.storage.objects.flush_objects import FlushObjects
from bytemq.storage.objects.session_logs import SessionLogs
from bytemq.storage.segments.segment_files import SegmentCache
from bytemq.storage.settings import StorageConfig
from bytemq.storage.shared_file import SharedFile
from bytemq.storage.stores.interface import ObjectStore
from bytemq.storage.tables.restored import RestoredUnits
from bytemq.types import PartitionId, TopicId

log = get_logger("storage.following")

ATTEMPTS = 5
"""To find manifest and session in agreement, while the owner writes behind."""
RETRY_S = 0.2
LOOK_S = 1.0
"""A session that was not heard of for so long is asked: the watch may hang."""
NOBODY = 0
"""No session: ids are revisions, which begin at 1."""


class Follower(Protocol):
    """Who is told of one log, in the order in which things happened."""

    def begun(self, files: LogFiles) -> None:
        """The log, with what its state is made from in `files.recovered`; again when following had to begin anew."""

    def committed(self, entries: bytes | memoryview, next_offset: int) -> None:
        """The log goes on, up to `next_offset`; `entries` are those of its batches (`wal.format.decode_entries`)."""

    def trimmed(self, log_start_offset: int, first_dirty_offset: int) -> None:
        """What is below is gone; of aborted transactions, also what is below the first dirty offset."""


class _Followed:
    """One log. `files` is what it is read through."""

    def __init__(self, follower: Follower, is_read: bool) -> None:
        self.follower = follower
        self.is_read = is_read
        self.files: LogFiles | None = None
        self.beginning: LogFiles | None = None
        """What will be `files`."""
        self.end_offset = 0
        self.session_id = NOBODY
        self.is_beginning = True
        self.is_stale = False
        """What it begins with is out of date already: once more."""
        self.waiting: list[tuple[int, CommittedShare]] = []
        self.newest: tuple[bytes, int] | None = None
        """What came while it was beginning: shares, and value and revision of the newest manifest."""
        self.task: asyncio.Task[object] | None = None
        """It begins anew."""
        self.is_deleted = False
        self.replaced: list[SharedFile] = []
        self.is_trimming = False


class FollowedLogs:
    """Call `follow` and `unfollow`; `run` is a task."""

    def __init__(
        self,
        store: ObjectStore,
        metadata: MetadataStore,
        objects: FlushObjects,
        segments: SegmentCache,
        restored: RestoredUnits,
        config: StorageConfig,
        clock: Clock,
        supervisor: Supervisor,
    ) -> None:
        """`store` is read past the cache; `segments` and `restored` are shared with whoever else reads. `objects` are
        those of no session.
        """
        self._store = store
        self._metadata = metadata
        self._clock = clock
        self._supervisor = supervisor
        self._session_logs = SessionLogs(store, metadata)
        self._objects = objects
        self._files = Files(segments, restored, self._objects.by_ordinal, _not_ours, config.segment_bytes)
        self._logs: dict[PartitionId, _Followed] = {}
        self._of_topic: Counter[TopicId] = Counter()
        """How many of them."""
        self._sessions = FollowedSessions(store, metadata, self._session_logs, objects, clock, supervisor)
        self._manifests = ManifestWatches(metadata, clock, supervisor, self._heard)
        self._said = LogGate(clock.monotonic, burst=1, interval_s=60.0)

    def __len__(self) -> int:
        return len(self._logs)

    @property
    def memory_bytes(self) -> int:
        return self._objects.memory_bytes

    async def follow(self, partition: PartitionId, follower: Follower, *, is_read: bool = True) -> None:
        """Begins; `follower.begun` was called when this returns. What fails later is tried again by itself.

        `is_read`: it is going to be read as it grows, not only asked about now and then; see `read_from_now_on`.
        Raises Unavailable, Corrupt; then nothing is followed.
        """
        self.unfollow(partition)  # whoever was told of it before is told no more
        one = self._logs[partition] = _Followed(follower, is_read)
        self._of_topic[partition.topic_id] += 1
        try:
            await self._begin(partition, one)
        except BaseException:
            if self._logs.get(partition) is one:
                self.unfollow(partition)
            raise

    def unfollow(self, partition: PartitionId) -> None:
        one = self._logs.pop(partition, None)
        if one is None:
            return
        self._detach(partition, one)
        if one.task is not None:
            one.task.cancel()
        self._of_topic[partition.topic_id] -= 1
        if not self._of_topic[partition.topic_id]:
            del self._of_topic[partition.topic_id]
            self._manifests.end(partition.topic_id)

    def read_from_now_on(self, partition: PartitionId) -> None:
        """Its newest records are wanted as they come."""
        one = self._logs.get(partition)
        if one is not None and not one.is_read:
            one.is_read = True
            session = self._sessions.opened(one.session_id)
            if session is not None:
                session.read.add(partition)

    def doubt(self, partition: PartitionId) -> None:
        """Something that should be there was not: begins anew."""
        one = self._logs.get(partition)
        if one is not None and not one.is_beginning:
            self._begin_anew(partition, one)

    async def refresh(self, owners: Mapping[PartitionId, int]) -> None:
        """Whatever of these logs was committed before this was called is known when it returns.

        `owners`: the session that owns each log, or the last that did. Where that is the session that is followed, its
        tail record says it all, once for all of its logs; else the manifest tells whether the other one has begun.
        Raises Unavailable, Corrupt.
        """
        logs = {partition: one for partition in owners if (one := self._logs.get(partition)) is not None}
        sessions = {one.session_id for partition, one in logs.items() if one.session_id == owners[partition]}
        doubtful = [partition for partition, one in logs.items() if one.session_id != owners[partition]]
        await asyncio.gather(
            *map(self._refresh_session, sessions),
            *(self._refresh_log(partition, logs[partition]) for partition in doubtful),
        )
        while beginning := {one: one.task for one in logs.values() if one.task is not None}:
            await asyncio.wait(beginning.values())
            # What they begin with may have been read before this was called.
            begun = {one.session_id for one in beginning if one.session_id in self._sessions}
            await asyncio.gather(*map(self._refresh_session, begun))

    async def _refresh_log(self, partition: PartitionId, one: _Followed) -> None:
        entry = await self._metadata.get(keys.manifest(partition))
        if entry is not None:
            self._manifest_is(partition, one, entry.value, entry.revision)
        if one.task is None and one.session_id in self._sessions:
            await self._refresh_session(one.session_id)

    async def _refresh_session(self, session_id: int) -> None:
        session = await self._session(session_id)
        try:
            await session.refresh()
        except (Corrupt, NotFound):
            if not session.is_broken:
                raise
            self._give_up(session_id, session)

    async def run(self) -> None:
        """Asks where nothing is heard, begins anew what is broken, and lets go of what nobody needs."""
        while True:
            await self._clock.sleep(LOOK_S)
            for session_id in list(self._sessions):
                session = self._sessions.opened(session_id)
                if session is not None:
                    await self._look(session_id, session)
            await self._objects.forget_unused(self._all_files())

    def _all_files(self) -> Iterator[LogFiles]:
        for one in self._logs.values():
            yield from (files for files in (one.files, one.beginning) if files is not None)

    async def _look(self, session_id: int, session: FollowedSession) -> None:
        if session.takers and not session.is_broken and self._clock.monotonic() - session.heard_at >= LOOK_S:
            try:
                await session.refresh()
            except BytemqError as error:
                log.info("cannot follow a session just now", session=session_id, reason=str(error))
        if session.is_broken or not session.takers:
            self._give_up(session_id, session)

    async def _session(self, session_id: int) -> FollowedSession:
        """Followed already, or from now on. Raises Corrupt, Unavailable."""
        session = self._sessions.opened(session_id)
        if session is not None and session.is_broken:
            self._give_up(session_id, session)
        return await self._sessions.get(session_id)

    def _give_up(self, session_id: int, session: FollowedSession) -> None:
        """Whoever follows it begins anew."""
        if self._sessions.opened(session_id) is session:
            self._sessions.drop(session_id)
        for partition in list(session.takers):
            self._begin_anew(partition, self._logs[partition])

    def close(self) -> None:
        for partition in list(self._logs):
            self.unfollow(partition)
        for session_id in list(self._sessions):
            self._sessions.drop(session_id)

    # Beginning.

    async def _begin(self, partition: PartitionId, one: _Followed) -> None:
        one.is_beginning, one.waiting = True, []
        for attempt in range(ATTEMPTS):
            if attempt:
                await self._clock.sleep(RETRY_S)
            entry = await self._metadata.get(keys.manifest(partition))
            value, revision = (entry.value, entry.revision) if entry is not None else (b"", 0)
            self._require_followed(partition, one)
            self._manifests.begin(partition.topic_id, revision)
            stored = decode_manifest(value, directory_of(partition)) if value else StoredManifest(Manifest(-1))
            files = one.beginning = LogFiles(partition, stored, revision, self._files)
            try:
                if not await self._attach(files, one):
                    continue
                files.recovered = await recovered_log(self._store, files)
            except NotFound:
                continue  # written behind and gone since the manifest was read
            files.pending_entries = []
            self._is_begun(partition, one, files)
            return
        raise Unavailable(f"{partition} cannot be followed just now: its files change all the time")

    async def _attach(self, files: LogFiles, one: _Followed) -> bool:
        """Finds what follows the segments; from then on `one` is told what comes. False when something is missing."""
        partition, manifest = files.partition, files.manifest
        missing: list[tuple[int, int]] = []
        for session_id, _, next_offset in manifest.inherited:
            shares = await self._session_logs.shares_of(session_id, partition)
            missing += attach_shares(files, session_id, shares, self._objects.ordinal_of, next_offset)
        self._detach(partition, one)
        one.waiting = []
        if manifest.owner_session:
            session = await self._session(manifest.owner_session)
            await session.refresh()
            if session.is_broken or self._sessions.opened(session.session_id) is not session:
                return False
            self._require_followed(partition, one)
            # In one step: what is there now is attached, and what comes is told.
            shares = session.shares.of(partition)
            missing += attach_shares(files, session.session_id, shares, self._objects.ordinal_of)
            one.session_id = session.session_id
            session.takers[partition] = lambda session_id, share: self._taken(partition, one, session_id, share)
            if one.is_read:
                session.read.add(partition)
        return all(gap in manifest.holes for gap in missing)

    def _require_followed(self, partition: PartitionId, one: _Followed) -> None:
        """Whoever waits may find that it was let go of, or is followed for somebody else by now. Raises Unavailable."""
        if self._logs.get(partition) is not one:
            raise Unavailable(f"{partition} is not followed any more")

    def _is_begun(self, partition: PartitionId, one: _Followed, files: LogFiles) -> None:
        self._require_followed(partition, one)
        if one.files is not None:
            files.rewritten_ms = self._when_rewritten(one.files, files.manifest)
        one.files, one.beginning, one.end_offset, one.is_beginning = files, None, files.end_offset, False
        waiting, one.waiting = one.waiting, []
        one.follower.begun(files)
        files.recovered = None
        for session_id, committed in waiting:
            self._taken(partition, one, session_id, committed)
        if one.newest is not None:
            self._manifest_is(partition, one, *one.newest)

    def _begin_anew(self, partition: PartitionId, one: _Followed) -> None:
        if self._logs.get(partition) is not one:
            return
        self._detach(partition, one)
        one.is_beginning = one.is_stale = True
        if one.task is None:
            one.task = self._supervisor.start("follow anew", self._beginning_anew(partition, one))

    async def _beginning_anew(self, partition: PartitionId, one: _Followed) -> None:
        try:
            while self._logs.get(partition) is one and one.is_stale and not one.is_deleted:
                one.is_stale = False
                try:
                    await self._begin(partition, one)
                except BytemqError as error:
                    kept_back = self._said.allow(partition)
                    if kept_back is not None:
                        log.warning("a log cannot be followed just now", partition=partition, reason=str(error))
                    one.is_stale = True
                    await self._clock.sleep(LOOK_S)
        finally:
            one.task = None

    def _detach(self, partition: PartitionId, one: _Followed) -> None:
        session = self._sessions.opened(one.session_id)
        if session is not None:
            session.takers.pop(partition, None)
            session.read.discard(partition)
        one.session_id = NOBODY

    # What comes.

    def _taken(self, partition: PartitionId, one: _Followed, session_id: int, committed: CommittedShare) -> None:
        if one.is_beginning:
            one.waiting.append((session_id, committed))
            return
        share, files = committed.share, one.files
        assert files is not None
        if share.next_offset <= one.end_offset:
            return
        if share.base_offset > one.end_offset:
            self._begin_anew(partition, one)
            return
        if share.next_offset > files.end_offset:
            ordinal = self._objects.ordinal_of(session_id, committed.ref)
            files.wal.append(share.chunk(committed.payload_position), ordinal, share.checksum, verified=False)
        one.end_offset = share.next_offset
        one.follower.committed(share.entries, share.next_offset)

    def _manifest_is(self, partition: PartitionId, one: _Followed, value: bytes, revision: int) -> None:
        files = one.files
        if files is None or one.is_beginning:
            one.newest = value, revision
            return
        one.newest = None
        if revision <= files.revision:
            return
        stored = decode_manifest(value, directory_of(partition))
        manifest = stored.manifest
        if manifest.owner_session != one.session_id or manifest.log_start_offset > one.end_offset:
            self._begin_anew(partition, one)
            return
        files.rewritten_ms = self._when_rewritten(files, manifest)
        one.replaced += files.opened([info for info in files.manifest.segments if info not in manifest.segments])
        files.stored, files.manifest, files.revision = stored, manifest, revision
        files.drop_wal_below(manifest.end_offset)
        if not one.is_trimming:
            one.is_trimming = True
            if one.replaced:
                self._supervisor.start("followed readers", self._trim_behind_readers(one))
            else:
                self._trim(one)

    def _when_rewritten(self, before: LogFiles, manifest: Manifest) -> int:
        known = {info.name for info in before.manifest.segments if info.kind is FileKind.PARQUET}
        tables = {info.name for info in manifest.segments if info.kind is FileKind.PARQUET}
        return before.rewritten_ms if tables == known else self._clock.wall_ms()

    async def _trim_behind_readers(self, one: _Followed) -> None:
        """Whoever still reads replaced files needs to know of the aborted transactions in them."""
        while one.replaced:
            await one.replaced.pop().unpinned()
        self._trim(one)

    def _trim(self, one: _Followed) -> None:
        one.is_trimming = False
        if one.files is not None:
            manifest = one.files.manifest
            one.follower.trimmed(manifest.log_start_offset, manifest.first_dirty_offset)

    def _heard(self, key: str, value: bytes | None, revision: int) -> None:
        partition = keys.partition_of_manifest(key)
        one = self._logs.get(partition)
        if one is None:
            return
        if value is None:
            one.is_deleted = True
            if one.files is not None:
                one.files.deleted = True
            return
        try:
            self._manifest_is(partition, one, value, revision)
        except Corrupt as error:
            log.error("a manifest cannot be read", partition=partition, reason=str(error))


async def _not_ours(files: LogFiles, offset: int) -> None:
    raise AssertionError("whoever follows a log changes nothing of it")
