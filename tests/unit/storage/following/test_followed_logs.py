"""Logs that another session owns, followed: everything committed comes, in order, and nothing else."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import pytest

from bytemq.errors import Unavailable
from bytemq.metadata import keys
from bytemq.metadata.store import Event
from bytemq.runtime.steps import STEP_ITEMS
from bytemq.storage.following import followed_logs
from bytemq.storage.following.followed_logs import LOOK_S, FollowedLogs
from bytemq.storage.following.followed_session import FollowedSession
from bytemq.storage.log_files import LogFiles, RecoveredLog
from bytemq.storage.log_opening import recovered_log
from bytemq.storage.objects.committed_shares import CommittedShares
from bytemq.storage.objects.session_log import IndexedFlush
from bytemq.storage.stores.interface import ObjectStore
from bytemq.storage.wal.format import decode_entries
from bytemq.types import PartitionId
from tests.support.log_workload import snapshot_of
from tests.support.loop_turns import counted_turns
from tests.support.virtual_time import run_virtual
from tests.unit.storage.cluster.cluster_bench import Broker, Cluster, batch, content, eventually, pid

Test = Callable[[Cluster, Broker, Broker], Awaitable[None]]
HUGE = 1 << 30


def run(test: Test, **changes: int) -> None:
    async def main() -> None:
        cluster = Cluster()
        owner = await cluster.broker(1, **changes)
        reader = await cluster.broker(2, storage_upkeep_interval_ms=1_000_000)
        await test(cluster, owner, reader)
        assert reader.failures == []

    run_virtual(main())


class Watcher:
    """A follower that checks what it is told: the log goes on where it was."""

    def __init__(self) -> None:
        self.files: LogFiles
        self.offsets: list[int] = []
        self.end_offset = 0
        self.log_start_offset = 0
        self.beginnings = 0

    def begun(self, files: LogFiles) -> None:
        assert files.recovered is not None
        assert files.recovered.end_offset >= self.end_offset, "what was committed was there before"
        self.files, self.end_offset = files, files.recovered.end_offset
        self.beginnings += 1

    def committed(self, entries: bytes | memoryview, next_offset: int) -> None:
        batches = list(decode_entries(entries))
        assert batches[0].base_offset == self.end_offset
        self.offsets += [one.base_offset for one in batches]
        self.end_offset = next_offset

    def trimmed(self, log_start_offset: int, first_dirty_offset: int) -> None:
        self.log_start_offset = log_start_offset


async def followed(reader: Broker, partition: PartitionId) -> Watcher:
    watcher = Watcher()
    await reader.storage.followed.follow(partition, watcher)
    return watcher


def logs_of(reader: Broker) -> FollowedLogs:
    return reader.storage.followed


def gets(broker: Broker) -> list[str]:
    return [name for operation, name in broker.driver.calls if operation == "get"]


def test_follow__is_told_of_each_commit_and_reads_each_flush_once() -> None:
    async def test(cluster: Cluster, owner: Broker, reader: Broker) -> None:
        logs = [await owner.storage.open_log(pid(number), 1) for number in range(3)]
        watchers = [await followed(reader, pid(number)) for number in range(3)]
        written: list[list[bytes]] = [[], [], []]
        for _ in range(20):
            batches = [batch(log.staged_end) for log in logs]
            for number, one in enumerate(batches):
                written[number].append(bytes(one.view))
            await asyncio.gather(*(owner.append(log, one) for log, one in zip(logs, batches, strict=True)))
        await eventually(cluster.clock, lambda: all(watcher.end_offset == 20 for watcher in watchers), 1.0)
        assert len([name for name in gets(reader) if name.endswith(".flush")]) == owner.tail.last_sequence
        assert [await content(watcher.files) for watcher in watchers] == written

    run(test, wal_retained_bytes=HUGE)


def test_follow__goes_on_when_a_log_came_back_with_more_than_one_chunk_and_its_manifest_is_late(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What another owner has written meanwhile is missing before the first chunk: the log begins anew then, and what
    comes with the second one is nobody's just now.
    """

    async def test(cluster: Cluster, owner: Broker, reader: Broker) -> None:
        watch = cluster.metadata.watch

        async def late(prefix: str, after_revision: int) -> AsyncIterator[list[Event]]:
            if prefix.startswith(keys.MANIFESTS):
                await cluster.clock.sleep(3600)
            async for events in watch(prefix, after_revision):
                yield events

        monkeypatch.setattr(cluster.metadata, "watch", late)
        between = await cluster.broker(3)
        written = await owner.write(await owner.storage.open_log(pid(1), 1), 2)
        watcher = await followed(reader, pid(1))
        await owner.storage.release_log(pid(1))
        written += await between.write(await between.storage.open_log(pid(1), 2), 1)
        await between.storage.release_log(pid(1))
        log = await owner.storage.open_log(pid(1), 3)
        chunks = [batch(log.staged_end + number, 1000) for number in range(3)]
        written += [bytes(one.view) for one in chunks]
        await owner.append(log, *chunks)
        await eventually(cluster.clock, lambda: watcher.end_offset == 6, 5.0)
        await cluster.clock.sleep(10)
        for _ in range(3):
            written += await owner.write(log, 1)
            await eventually(cluster.clock, lambda: watcher.end_offset == log.end_offset, LOOK_S / 4)
        assert await content(watcher.files) == written

    run(test, wal_retained_bytes=HUGE)


def test_follow__of_one_log_of_a_broken_session_keeps_no_other_from_beginning_anew() -> None:
    """Whoever came first took the session's place, and all who had followed it were told nothing any more."""

    async def test(cluster: Cluster, owner: Broker, reader: Broker) -> None:
        logs = [await owner.storage.open_log(pid(number), 1) for number in range(2)]
        await owner.write(logs[0], 2)
        watcher = await followed(reader, pid(0))
        session = logs_of(reader)._sessions.opened(owner.session.session_id)
        assert session is not None
        session.is_broken = True
        await followed(reader, pid(1))
        await owner.write(logs[0], 2)
        await logs_of(reader).refresh({pid(0): owner.session.session_id})
        assert (watcher.end_offset, watcher.beginnings) == (4, 2)

    run(test, wal_retained_bytes=HUGE)


def test_follow__a_second_time_leaves_nobody_behind_who_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one had begun to be told and read the log yet; what came was kept for it without end."""

    async def test(cluster: Cluster, owner: Broker, reader: Broker) -> None:
        log = await owner.storage.open_log(pid(1), 1)
        await owner.write(log, 2)
        held = asyncio.Event()

        async def slow(store: ObjectStore, files: LogFiles) -> RecoveredLog:
            await held.wait()
            return await recovered_log(store, files)

        monkeypatch.setattr(followed_logs, "recovered_log", slow)
        first = asyncio.ensure_future(followed(reader, pid(1)))
        await cluster.clock.sleep(1)
        await owner.storage.release_log(pid(1))
        other = await cluster.broker(3)
        await other.storage.open_log(pid(1), 2)
        held.set()
        await followed(reader, pid(1))
        assert isinstance((await asyncio.gather(first, return_exceptions=True))[0], Unavailable)
        session = logs_of(reader)._sessions.opened(owner.session.session_id)
        assert session is not None and not session.takers
        logs_of(reader).unfollow(pid(1))
        session.is_broken = True
        await cluster.clock.sleep(2 * LOOK_S)

    run(test, wal_retained_bytes=HUGE)


def test_unfollow__of_thousands_of_topics_asks_each_once() -> None:
    async def test(cluster: Cluster, owner: Broker, reader: Broker) -> None:
        count = 300
        for number in range(count):
            await followed(reader, pid(number))
        asked = 0

        class Counted(dict):  # type: ignore[type-arg]
            def __iter__(self):  # type: ignore[no-untyped-def]
                nonlocal asked
                for one in super().__iter__():
                    asked += 1
                    yield one

        logs = logs_of(reader)
        logs._logs = Counted(logs._logs)
        logs.close()
        assert asked <= 2 * count and not len(logs)

    run(test)


@pytest.mark.parametrize("what", ["opened", "followed"])
def test_follow__and_opening_leave_the_loop_to_others_while_a_long_log_is_gone_through(
    what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(cluster: Cluster, owner: Broker, reader: Broker) -> None:
        count = 100
        logs = [await owner.storage.open_log(pid(number), 1) for number in range(count)]
        for _ in range(60):
            await asyncio.gather(*(owner.append(log, batch(log.staged_end)) for log in logs))
        await owner.storage.release_log(pid(1))
        told = Counter[int]()
        add = CommittedShares.add
        async with counted_turns() as turns:

            def counted(shares: CommittedShares, flush: IndexedFlush) -> Sequence[tuple[PartitionId, int]]:
                places = add(shares, flush)
                told[turns.count] += len(places)
                return places

            monkeypatch.setattr(CommittedShares, "add", counted)
            if what == "opened":
                await reader.storage.open_log(pid(1), 2)
            else:
                await followed(reader, pid(1))
        assert told.total() == count * 60
        assert max(told.values()) < STEP_ITEMS + 2 * count

    run(test, wal_retained_bytes=HUGE, wal_flush_bytes=HUGE)


def test_follow__of_a_log_that_is_opened_afterwards_reads_no_flush_twice() -> None:
    """A move to a broker that serves readers of the log: what it writes behind then is in its memory."""

    async def test(cluster: Cluster, owner: Broker, reader: Broker) -> None:
        log = await owner.storage.open_log(pid(1), 1)
        watcher = await followed(reader, pid(1))
        written = await owner.write(log, 20)
        await eventually(cluster.clock, lambda: watcher.end_offset == 20, 1.0)
        await owner.storage.release_log(pid(1))
        reader.storage.followed.unfollow(pid(1))
        await cluster.clock.sleep(LOOK_S)  # what nobody needs was looked for once
        log = await reader.storage.open_log(pid(1), 2)
        before = gets(reader)
        await cluster.clock.sleep(5)
        await reader.storage.write_behind(log)
        assert gets(reader) == before
        assert await content(log) == written
        await reader.storage.checkpoint()
        await reader.storage.checkpoint()
        assert logs_of(reader).memory_bytes == 0, "nobody needs it any more"

    run(test, wal_retained_bytes=HUGE)


def test_follow__of_a_log_that_was_owned_here_reads_no_flush_of_that_time() -> None:
    async def test(cluster: Cluster, owner: Broker, reader: Broker) -> None:
        log = await reader.storage.open_log(pid(1), 1)
        written = await reader.write(log, 20)
        await reader.storage.release_log(pid(1))
        log = await owner.storage.open_log(pid(1), 2)
        watcher = await followed(reader, pid(1))
        before = gets(reader)
        assert await content(watcher.files) == written
        assert gets(reader) == before

    run(test, wal_retained_bytes=HUGE, storage_upkeep_interval_ms=1_000_000)


def test_follow__knows_what_was_acknowledged_before_it_began() -> None:
    async def test(cluster: Cluster, owner: Broker, reader: Broker) -> None:
        log = await owner.storage.open_log(pid(1), 1)
        written = await owner.write(log, 100)
        watcher = await followed(reader, pid(1))
        assert watcher.end_offset == 100
        assert await content(watcher.files) == written

    run(test)


def test_follow__goes_on_while_the_owner_writes_behind_and_deletes_flushes() -> None:
    async def test(cluster: Cluster, owner: Broker, reader: Broker) -> None:
        log = await owner.storage.open_log(pid(1), 1)
        log.snapshot_source = lambda: snapshot_of(log)
        watcher = await followed(reader, pid(1))
        written = []
        for _ in range(12):
            written += await owner.write(log, 10, 300)
            await owner.storage.checkpoint()
        await eventually(cluster.clock, lambda: watcher.end_offset == len(written))
        assert await content(watcher.files) == written
        assert len(watcher.files.manifest.segments) > 3
        assert watcher.beginnings == 1

    run(test)


def test_follow__goes_on_with_the_next_owner_after_a_kill() -> None:
    async def test(cluster: Cluster, owner: Broker, reader: Broker) -> None:
        log = await owner.storage.open_log(pid(1), 1)
        watcher = await followed(reader, pid(1))
        written = await owner.write(log, 10)
        await owner.kill()
        cluster.end(owner)
        second = await cluster.broker(3)
        log = await second.storage.open_log(pid(1), 2)
        written += await second.write(log, 10)
        await eventually(cluster.clock, lambda: watcher.end_offset == 20)
        assert await content(watcher.files) == written
        back = await cluster.broker(1)
        await second.storage.release_log(pid(1))
        log = await back.storage.open_log(pid(1), 3)
        written += await back.write(log, 10)
        await eventually(cluster.clock, lambda: watcher.end_offset == 30)
        assert await content(watcher.files) == written

    run(test, wal_retained_bytes=HUGE)


def test_follow__begins_anew_when_it_slept_through_the_deletion_of_what_it_had_not_read() -> None:
    async def test(cluster: Cluster, owner: Broker, reader: Broker) -> None:
        log = await owner.storage.open_log(pid(1), 1)
        log.snapshot_source = lambda: snapshot_of(log)
        written = await owner.write(log, 5)
        watcher = await followed(reader, pid(1))
        reader.driver.fault = lambda operation, name: "refused" if operation == "get" else None
        written += await owner.write(log, 50, 300)
        await owner.storage.checkpoint()
        await cluster.clock.sleep(60)
        written += await owner.write(log, 5)
        assert watcher.end_offset < 60
        reader.driver.fault = lambda operation, name: None
        await eventually(cluster.clock, lambda: watcher.end_offset == 60)
        assert await content(watcher.files) == written
        assert watcher.beginnings > 1

    run(test, storage_upkeep_interval_ms=500)


def test_follow__hears_within_seconds_though_its_watch_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(cluster: Cluster, owner: Broker, reader: Broker) -> None:
        log = await owner.storage.open_log(pid(1), 1)

        async def hang(prefix: str, after_revision: int):  # type: ignore[no-untyped-def]
            await asyncio.get_running_loop().create_future()
            yield []

        monkeypatch.setattr(cluster.metadata, "watch", hang)
        watcher = await followed(reader, pid(1))
        await owner.write(log, 5)
        await eventually(cluster.clock, lambda: watcher.end_offset == 5, 2.5)

    run(test)


def test_follow__of_an_owner_that_has_it_again_misses_nothing_of_the_one_between(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first owner's commits are heard at once, the manifest that tells of the second one late."""

    async def test(cluster: Cluster, owner: Broker, reader: Broker) -> None:
        watch = cluster.metadata.watch

        async def deaf_to_manifests(prefix: str, after_revision: int):  # type: ignore[no-untyped-def]
            if prefix.startswith(keys.MANIFESTS):
                await asyncio.get_running_loop().create_future()
            async for events in watch(prefix, after_revision):
                yield events

        monkeypatch.setattr(cluster.metadata, "watch", deaf_to_manifests)
        log = await owner.storage.open_log(pid(1), 1)
        written = await owner.write(log, 5)
        watcher = await followed(reader, pid(1))
        await owner.storage.release_log(pid(1))
        second = await cluster.broker(3)
        log = await second.storage.open_log(pid(1), 2)
        written += await second.write(log, 5)
        await second.storage.release_log(pid(1))
        log = await owner.storage.open_log(pid(1), 3)
        written += await owner.write(log, 5)
        await eventually(cluster.clock, lambda: watcher.end_offset == 15, 2.5)
        assert await content(watcher.files) == written
        assert watcher.beginnings == 2

    run(test, wal_retained_bytes=HUGE)


def test_follow__of_a_log_that_nobody_has_opened_begins_when_somebody_does() -> None:
    async def test(cluster: Cluster, owner: Broker, reader: Broker) -> None:
        watcher = await followed(reader, pid(1))
        assert watcher.end_offset == 0
        log = await owner.storage.open_log(pid(1), 1)
        written = await owner.write(log, 5)
        await eventually(cluster.clock, lambda: watcher.end_offset == 5)
        assert await content(watcher.files) == written

    run(test)


def test_follow__is_told_where_the_log_begins_now() -> None:
    async def test(cluster: Cluster, owner: Broker, reader: Broker) -> None:
        log = await owner.storage.open_log(pid(1), 1)
        watcher = await followed(reader, pid(1))
        await owner.write(log, 10)
        await log.advance_log_start(7)
        await eventually(cluster.clock, lambda: watcher.log_start_offset == 7)
        assert watcher.files.log_start_offset == 7

    run(test)


def test_follow__reads_nothing_more_when_it_is_unfollowed() -> None:
    async def test(cluster: Cluster, owner: Broker, reader: Broker) -> None:
        log = await owner.storage.open_log(pid(1), 1)
        await followed(reader, pid(1))
        await owner.write(log, 5)
        logs_of(reader).unfollow(pid(1))
        await cluster.clock.sleep(5)
        seen = len(gets(reader))
        await owner.write(log, 5)
        await cluster.clock.sleep(5)
        assert len(gets(reader)) == seen
        assert logs_of(reader).memory_bytes == 0

    run(test)


def test_follow__of_little_in_a_busy_log_reads_heads_in_place_of_flushes() -> None:
    async def test(cluster: Cluster, owner: Broker, reader: Broker) -> None:
        quiet, busy = [await owner.storage.open_log(pid(number), 1) for number in range(2)]
        watcher = await followed(reader, pid(0))
        await owner.write(quiet, 1)
        before = reader.store.traffic.read_bytes
        await owner.write(busy, 40, 3000)
        await eventually(cluster.clock, lambda: owner.tail.last_sequence == 41)
        await cluster.clock.sleep(2)
        assert reader.store.traffic.read_bytes - before < 40 * 3000 / 3
        await owner.write(quiet, 1)
        await eventually(cluster.clock, lambda: watcher.end_offset == 2)
        assert len(await content(watcher.files)) == 2

    run(test, wal_retained_bytes=HUGE)


def test_follow__memory_keeps_to_its_limit_and_what_is_beyond_is_read_again() -> None:
    async def test(cluster: Cluster, owner: Broker, reader: Broker) -> None:
        log = await owner.storage.open_log(pid(1), 1)
        watcher = await followed(reader, pid(1))
        written = []
        for _ in range(30):
            written += await owner.write(log, 1, 3000)
            await cluster.clock.sleep(0.05)
            assert logs_of(reader).memory_bytes <= reader.config.wal_memory_bytes
        await eventually(cluster.clock, lambda: watcher.end_offset == 30)
        assert await content(watcher.files) == written

    run(test, wal_retained_bytes=HUGE)


def test_follow__of_a_deleted_log_says_so() -> None:
    async def test(cluster: Cluster, owner: Broker, reader: Broker) -> None:
        log = await owner.storage.open_log(pid(1), 1)
        watcher = await followed(reader, pid(1))
        await owner.write(log, 5)
        await owner.storage.delete_log(pid(1))
        await eventually(cluster.clock, lambda: watcher.files.deleted)
        assert keys.manifest(pid(1)) not in cluster.metadata.entries

    run(test)


def test_follow__of_a_store_slower_than_the_commits_lags_one_read_and_reads_each_flush_once() -> None:
    async def test(cluster: Cluster, owner: Broker, reader: Broker) -> None:
        log = await owner.storage.open_log(pid(1), 1)
        await owner.write(log, 70)
        watcher = await followed(reader, pid(1))
        reader.driver.latency_s = 0.35
        before = len(gets(reader))
        for _ in range(100):  # ten a second
            await owner.write(log, 1)
            if cluster.clock.monotonic() > 1:
                assert watcher.end_offset >= log.end_offset - 6
        await eventually(cluster.clock, lambda: watcher.end_offset == 170, 1.0)
        read = gets(reader)[before:]
        assert len(read) == len(set(read)) == 100
        assert watcher.beginnings == 1

    run(test, wal_retained_bytes=HUGE)


def test_refresh__knows_all_that_was_committed_before_it_though_no_watch_has_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where another session owns the log by now."""

    async def test(cluster: Cluster, owner: Broker, reader: Broker) -> None:
        async def hang(prefix: str, after_revision: int):  # type: ignore[no-untyped-def]
            await asyncio.get_running_loop().create_future()
            yield []

        monkeypatch.setattr(cluster.metadata, "watch", hang)
        logs = [await owner.storage.open_log(pid(number), 1) for number in range(3)]
        watchers = [await followed(reader, pid(number)) for number in range(3)]
        for log in logs:
            await owner.write(log, 5)
        assert [watcher.end_offset for watcher in watchers] == [0, 0, 0]
        await logs_of(reader).refresh({pid(number): owner.session.session_id for number in range(3)})
        assert [watcher.end_offset for watcher in watchers] == [5, 5, 5]
        await owner.storage.release_log(pid(1))
        second = await cluster.broker(3)
        log = await second.storage.open_log(pid(1), 2)
        await second.write(log, 5)
        await owner.write(logs[2], 5)
        sessions = [owner.session.session_id, second.session.session_id, owner.session.session_id]
        await logs_of(reader).refresh({pid(number): session for number, session in enumerate(sessions)})
        assert [watcher.end_offset for watcher in watchers] == [5, 10, 10]

    run(test, wal_retained_bytes=HUGE)


def test_refresh__begins_anew_where_what_it_had_not_read_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(cluster: Cluster, owner: Broker, reader: Broker) -> None:
        async def hang(prefix: str, after_revision: int):  # type: ignore[no-untyped-def]
            await asyncio.get_running_loop().create_future()
            yield []

        monkeypatch.setattr(cluster.metadata, "watch", hang)
        monkeypatch.setattr("bytemq.storage.following.followed_logs.LOOK_S", 1e6)
        log = await owner.storage.open_log(pid(1), 1)
        log.snapshot_source = lambda: snapshot_of(log)
        watcher = await followed(reader, pid(1))
        written = []
        for _ in range(10):
            written += await owner.write(log, 10, 300)
            await owner.storage.checkpoint()
        await cluster.clock.sleep(60)
        await logs_of(reader).refresh({pid(1): owner.session.session_id})
        assert await content(watcher.files) == written
        assert watcher.beginnings == 2

    run(test, storage_upkeep_interval_ms=500)


def test_refresh__of_what_begins_anew_with_what_was_known_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(cluster: Cluster, owner: Broker, reader: Broker) -> None:
        async def hang(prefix: str, after_revision: int):  # type: ignore[no-untyped-def]
            await asyncio.get_running_loop().create_future()
            yield []

        async def slowly(session: FollowedSession) -> None:
            await refresh(session)
            await cluster.clock.sleep(1)

        monkeypatch.setattr(cluster.metadata, "watch", hang)
        monkeypatch.setattr("bytemq.storage.following.followed_logs.LOOK_S", 1e6)
        refresh = FollowedSession.refresh
        log = await owner.storage.open_log(pid(1), 1)
        watcher = await followed(reader, pid(1))
        monkeypatch.setattr(FollowedSession, "refresh", slowly)
        logs_of(reader).doubt(pid(1))
        await cluster.clock.sleep(0.5)
        await owner.write(log, 5)
        await logs_of(reader).refresh({pid(1): owner.session.session_id})
        assert watcher.end_offset == 5

    run(test, wal_retained_bytes=HUGE)


def test_follow__of_what_nobody_reads_as_it_grows_reads_heads_until_somebody_does() -> None:
    async def test(cluster: Cluster, owner: Broker, reader: Broker) -> None:
        log = await owner.storage.open_log(pid(1), 1)
        watcher = Watcher()
        await logs_of(reader).follow(pid(1), watcher, is_read=False)
        before = reader.store.traffic.read_bytes
        written = await owner.write(log, 20, 3000)
        await eventually(cluster.clock, lambda: watcher.end_offset == 20)
        assert reader.store.traffic.read_bytes - before < 20 * 3000 / 3
        assert await content(watcher.files) == written
        logs_of(reader).read_from_now_on(pid(1))
        before = reader.store.traffic.read_bytes
        written += await owner.write(log, 5, 3000)
        await eventually(cluster.clock, lambda: watcher.end_offset == 25)
        assert reader.store.traffic.read_bytes - before >= 5 * 3000
        assert await content(watcher.files) == written

    run(test, wal_retained_bytes=HUGE)
