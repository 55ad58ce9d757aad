"""Logs that change hands: opened from sessions that have ended or released them, written behind, and what goes when."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import pytest

from bytemq.errors import Corrupt, Fenced, NotFound, Unavailable
from bytemq.metadata import keys
from bytemq.metadata.backup import Backup
from bytemq.metadata.store import KeyValue
from bytemq.storage.manifests.manifest import InheritedRange
from bytemq.storage.manifests.manifest_codec import decode_manifest, directory_of
from bytemq.storage.objects.roll_forward import roll_forward
from bytemq.storage.objects.session_log import flush_name, folder_of
from bytemq.types import PartitionId
from tests.support.log_workload import snapshot_of
from tests.support.virtual_time import run_virtual
from tests.unit.storage.cluster.cluster_bench import Broker, Cluster, batch, content, eventually, pid

Test = Callable[[Cluster], Awaitable[None]]


def run(test: Test) -> None:
    async def main() -> None:
        await test(Cluster())

    run_virtual(main())


def manifest_of(cluster: Cluster, partition: PartitionId):  # type: ignore[no-untyped-def]
    entry = cluster.metadata.entries[keys.manifest(partition)]
    return decode_manifest(entry.value, directory_of(partition)).manifest


@contextmanager
def late_answers(cluster: Cluster, monkeypatch: pytest.MonkeyPatch, answered: asyncio.Event) -> Iterator[None]:
    """What the metadata say of a key is as of when they are asked, and comes when `answered` is set."""
    get = cluster.metadata.get

    async def late(key: str) -> KeyValue | None:
        entry = await get(key)
        await answered.wait()
        return entry

    with monkeypatch.context() as patch:
        patch.setattr(cluster.metadata, "get", late)
        yield


async def dead(cluster: Cluster, broker: Broker) -> None:
    await broker.kill()
    cluster.end(broker)


def test_open__after_a_kill_finds_everything_acknowledged_and_copies_nothing() -> None:
    async def test(cluster: Cluster) -> None:
        first = await cluster.broker(1)
        logs = [await first.storage.open_log(pid(number), 1) for number in range(5)]
        written = [await first.write(log, 3) for log in logs]
        session = first.session.session_id
        await dead(cluster, first)
        second = await cluster.broker(2, storage_upkeep_interval_ms=1_000_000)
        taken = [await second.storage.open_log(pid(number), 2) for number in range(5)]
        assert second.puts == [], "nothing is copied"
        assert [await content(log) for log in taken] == written
        for log in taken:
            assert log.recovered is not None
            assert [header.base_offset for header in log.recovered.headers] == [0, 1, 2]
            assert manifest_of(cluster, log.partition).inherited == (InheritedRange(session, 0, 3),)
        more = await second.write(taken[0], 2)
        await dead(cluster, second)
        third = await cluster.broker(1)
        log = await third.storage.open_log(pid(0), 3)
        assert await content(log) == written[0] + more
        assert len(manifest_of(cluster, pid(0)).inherited) == 2

    run(test)


def test_open__reads_the_index_of_a_session_once_and_no_batch() -> None:
    async def test(cluster: Cluster) -> None:
        first = await cluster.broker(1, wal_retained_bytes=1 << 30)
        logs = [await first.storage.open_log(pid(number), 1) for number in range(10)]
        for _ in range(100):
            await asyncio.gather(*(first.append(log, batch(log.staged_end, 200)) for log in logs))
        assert len(first.tail.indexes) >= 2
        assert len(first.tail.flushes) < 80
        await dead(cluster, first)
        second = await cluster.broker(2, storage_upkeep_interval_ms=1_000_000)
        for number in range(10):
            assert (await second.storage.open_log(pid(number), 2)).end_offset == 100
        gets = [name for operation, name in second.driver.calls if operation == "get"]
        assert len(gets) == len(first.tail.indexes) + len(first.tail.flushes)
        written_bytes = sum(len(data) for name, (data, _) in cluster.objects.items() if name.endswith(".flush"))
        assert second.storage.recovered_bytes < written_bytes / 2

    run(test)


def test_read__asks_for_all_flushes_that_it_needs_at_the_same_time() -> None:
    """As a coordinator does that another one has left 2,000 small writes to: each in an object of its own."""

    async def test(cluster: Cluster) -> None:
        first = await cluster.broker(1, wal_retained_bytes=1 << 30)
        log = await first.storage.open_log(pid(0), 1)
        written = await first.write(log, 60)
        await dead(cluster, first)
        second = await cluster.broker(2, storage_upkeep_interval_ms=1_000_000)
        log = await second.storage.open_log(pid(0), 2)
        second.driver.latency_s = 0.1
        began = cluster.clock.monotonic()
        read = await log.read(0, 1 << 20, log.end_offset)
        assert b"".join(read.buffers) == b"".join(written)
        assert cluster.clock.monotonic() - began < 0.3, "all in the time of one or two requests"

    run(test)


def test_open__of_what_a_living_session_has_released_reads_only_what_was_added() -> None:
    async def test(cluster: Cluster) -> None:
        first = await cluster.broker(1, wal_retained_bytes=1 << 30)
        second = await cluster.broker(2, storage_upkeep_interval_ms=1_000_000)
        logs = [await first.storage.open_log(pid(number), 1) for number in range(12)]

        async def write() -> None:
            await asyncio.gather(*(first.append(log, batch(log.staged_end, 200)) for log in logs))

        async def moved(*numbers: int) -> int:
            """How many objects of the write-ahead log the next owner reads to open these."""
            await asyncio.gather(*(first.storage.release_log(pid(number)) for number in numbers))
            del logs[: len(numbers)]
            before = len(second.driver.calls)
            taken = await asyncio.gather(*(second.storage.open_log(pid(number), 2) for number in numbers))
            calls = second.driver.calls[before:]
            read = sum(operation == "get" and name.startswith("wal/") for operation, name in calls)
            assert [(log.end_offset, len(await content(log))) for log in taken] == [(written, written)] * len(taken)
            return read

        for _ in range(50):
            await write()
        written = 50
        assert await moved(0, 1, 2, 3) == len(first.tail.indexes) + len(first.tail.flushes)
        await write()
        written += 1
        assert await moved(4, 5, 6, 7) == 1
        await second.storage.checkpoint()
        await first.storage.checkpoint()
        await cluster.clock.sleep(3)
        await write()
        written += 1
        assert first.tail.first_sequence > 1, "some of what was read before has been released"
        assert await moved(8, 9, 10, 11) == 1

    run(test)


def test_write_behind__makes_segments_and_releases_the_flushes() -> None:
    async def test(cluster: Cluster) -> None:
        broker = await cluster.broker(1)
        logs = [await broker.storage.open_log(pid(number), 1) for number in range(3)]
        for log in logs:
            log.snapshot_source = lambda log=log: snapshot_of(log)
        written: dict[int, list[bytes]] = {0: [], 1: [], 2: []}
        for _ in range(60):
            for number, log in enumerate(logs):
                written[number] += await broker.write(log, 1, 400)
        await eventually(cluster.clock, lambda: broker.storage.wal_bytes < 40_000)
        assert all(manifest_of(cluster, pid(number)).segments for number in range(3))
        assert [await content(log) for log in logs] == list(written.values())
        await broker.storage.checkpoint()
        assert broker.storage.wal_bytes == 0
        assert [await content(log) for log in logs] == list(written.values())
        for segment in manifest_of(cluster, pid(0)).segments:
            assert segment.sealed and segment.size_bytes <= 2500
        await cluster.clock.sleep(20)
        left = [name for name in cluster.objects if name.startswith("wal/")]
        assert left == [], "flushes and indexes went after the time of grace"
        await dead(cluster, broker)
        other = await cluster.broker(2)
        assert [await content(await other.storage.open_log(pid(n), 2)) for n in range(3)] == list(written.values())

    run(test)


@pytest.mark.parametrize(("segment_bytes", "segment_ms"), [(0, 0), (900, 0), (0, 4), (900, 2)])
def test_write_behind__cuts_segments_as_they_were_shown(segment_bytes: int, segment_ms: int) -> None:
    async def test(cluster: Cluster) -> None:
        broker = await cluster.broker(1)
        log = await broker.storage.open_log(pid(1), 1)
        log.segment_bytes, log.segment_ms = segment_bytes, segment_ms
        await broker.write(log, 20, 150)
        shown = [segment[:5] for segment in log.segments]
        assert len(shown) > 1
        await broker.storage.write_behind(log)
        assert [segment[:5] for segment in manifest_of(cluster, pid(1)).segments] == shown
        assert shown[0][4] == 1000, "as old as its first record"

    run(test)


def test_write_behind__uploads_each_byte_once_more() -> None:
    async def test(cluster: Cluster) -> None:
        broker = await cluster.broker(1)
        log = await broker.storage.open_log(pid(1), 1)
        written = await broker.write(log, 30, 3000)
        await broker.storage.checkpoint()
        produced = sum(map(len, written))
        assert broker.store.traffic.written_bytes < 2.2 * produced

    run(test)


def test_inherited_ranges__are_written_behind_and_the_ended_sessions_log_goes() -> None:
    async def test(cluster: Cluster) -> None:
        first = await cluster.broker(1)
        logs = [await first.storage.open_log(pid(number), 1) for number in range(3)]
        written = [await first.write(log, 5) for log in logs]
        await dead(cluster, first)
        second = await cluster.broker(2)
        tail_key = keys.session_log(first.session.session_id)
        await second.storage.open_log(pid(0), 2)
        await cluster.clock.sleep(30)
        assert tail_key in cluster.metadata.entries, "two partitions are not opened yet"
        assert set(second.storage.held_logs) == {pid(1), pid(2)}
        for number in (1, 2):
            await second.storage.open_log(pid(number), 2)
        await eventually(cluster.clock, lambda: tail_key not in cluster.metadata.entries)
        folder = f"wal/{first.session.session_id:016x}/"
        await eventually(cluster.clock, lambda: not any(name.startswith(folder) for name in cluster.objects))
        assert [manifest_of(cluster, pid(number)).inherited for number in range(3)] == [(), (), ()]
        third = await cluster.broker(3)
        await dead(cluster, second)
        assert [await content(await third.storage.open_log(pid(n), 3)) for n in range(3)] == written

    run(test)


def test_planned_move__hands_over_without_copying_and_keeps_flushes_until_they_are_written_behind() -> None:
    async def test(cluster: Cluster) -> None:
        first, second = await cluster.broker(1), await cluster.broker(2, storage_upkeep_interval_ms=20_000)
        log, other = await first.storage.open_log(pid(1), 1), await first.storage.open_log(pid(2), 1)
        written, others = await first.write(log, 3), await first.write(other, 3)
        await first.storage.release_log(pid(1))
        await first.storage.checkpoint()
        taken = await second.storage.open_log(pid(1), 2)
        assert second.puts == []
        others += await first.write(other, 2)
        await first.storage.checkpoint()
        await cluster.clock.sleep(15)
        assert first.storage.wal_bytes > 0
        assert await content(taken) == written
        written += await second.write(taken, 2)
        await cluster.clock.sleep(30)
        await first.storage.checkpoint()
        assert first.storage.wal_bytes == 0, "the new owner has written behind what it inherited"
        assert (await content(taken), await content(other)) == (written, others)
        # And back: the first owner inherits from the second.
        await second.storage.release_log(pid(1))
        again = await first.storage.open_log(pid(1), 3)
        assert await content(again) == written

    run(test)


def test_release__publishes_nothing_afterwards_of_a_write_behind_that_was_under_way() -> None:
    """Else its flushes go while the next owner, whose store is slow, reads them."""

    async def test(cluster: Cluster) -> None:
        first = await cluster.broker(1, storage_garbage_grace_ms=100)
        second = await cluster.broker(2, storage_upkeep_interval_ms=1_000_000)
        log = await first.storage.open_log(pid(1), 1)
        written = await first.write(log, 3)
        first.driver.latency_s, second.driver.latency_s = 0.5, 4.0
        writing_behind = asyncio.ensure_future(first.storage.checkpoint())
        await cluster.clock.sleep(0.1)
        await first.storage.release_log(pid(1))
        released = manifest_of(cluster, pid(1))
        taking = asyncio.ensure_future(second.storage.open_log(pid(1), 2))
        await writing_behind
        await cluster.clock.sleep(2)
        assert manifest_of(cluster, pid(1)) == released
        assert await content(await taking) == written
        assert [name for name in cluster.objects if name.endswith(".log")] == [], "what it made is garbage"

    run(test)


def test_open__of_a_living_sessions_log_although_others_of_it_are_released_and_deleted_meanwhile() -> None:
    async def test(cluster: Cluster) -> None:
        first = await cluster.broker(1, storage_garbage_grace_ms=100)
        second = await cluster.broker(2, storage_upkeep_interval_ms=1_000_000)
        other, log = [await first.storage.open_log(pid(number), 1) for number in (1, 2)]
        await first.write(other, 3)
        written = await first.write(log, 3)
        await first.storage.release_log(pid(2))
        second.driver.latency_s = 5.0
        taking = asyncio.ensure_future(second.storage.open_log(pid(2), 2))
        await cluster.clock.sleep(0.1)
        await first.storage.checkpoint()
        await cluster.clock.sleep(4)
        assert first.tail.first_sequence == 4
        assert sum(name.endswith(".flush") for name in cluster.objects) == 3, "of the other log they are gone"
        assert await content(await taking) == written

    run(test)


def test_log_released_and_taken_back__by_the_same_session() -> None:
    async def test(cluster: Cluster) -> None:
        broker = await cluster.broker(1)
        log = await broker.storage.open_log(pid(1), 1)
        written = await broker.write(log, 3)
        await broker.storage.release_log(pid(1))
        log = await broker.storage.open_log(pid(1), 2)
        written += await broker.write(log, 3)
        assert await content(log) == written
        await broker.storage.checkpoint()
        assert await content(log) == written

    run(test)


def test_log_released_twice__keeps_its_flushes_although_the_first_owner_after_it_was_asked_of_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What was needed no more of the first ownership says nothing of the second one."""

    async def test(cluster: Cluster) -> None:
        first = await cluster.broker(1, storage_upkeep_interval_ms=1_000_000, storage_garbage_grace_ms=100)
        second = await cluster.broker(2, storage_upkeep_interval_ms=1_000_000, storage_garbage_grace_ms=100)
        log, others = await first.storage.open_log(pid(1), 1), await first.storage.open_log(pid(2), 1)
        written = await first.write(log, 3)
        await first.storage.release_log(pid(1))
        await second.storage.open_log(pid(1), 2)
        await second.storage.checkpoint()
        answered = asyncio.Event()
        with late_answers(cluster, monkeypatch, answered):
            asking = asyncio.ensure_future(first.storage._let_go_of_handed_over())
            await cluster.clock.sleep(1)
        await second.storage.release_log(pid(1))
        written += await first.write(await first.storage.open_log(pid(1), 3), 3)
        await first.storage.release_log(pid(1))
        answered.set()
        await asking
        await first.write(others, 1)
        await first.storage.checkpoint()
        await cluster.clock.sleep(1)
        assert await content(await second.storage.open_log(pid(1), 4)) == written

    run(test)


def test_open__of_a_log_that_lacks_what_was_acknowledged_keeps_all_that_leads_to_it() -> None:
    """Whoever mends what hides it finds it there."""

    async def test(cluster: Cluster) -> None:
        first, second = await cluster.broker(1), await cluster.broker(2)
        written = await first.write(await first.storage.open_log(pid(1), 1), 3)
        await first.storage.release_log(pid(1))
        before = manifest_of(cluster, pid(1))
        with pytest.raises(Corrupt, match="ends at offset 3, but its last owner left it at 4"):
            await second.storage.open_log(pid(1), 2, least_end_offset=4)
        await cluster.clock.sleep(30)
        assert manifest_of(cluster, pid(1)) == before
        assert await content(await second.storage.open_log(pid(1), 2, least_end_offset=3)) == written

    run(test)


def test_open__at_an_epoch_that_is_over_leaves_the_log_to_its_owner() -> None:
    async def test(cluster: Cluster) -> None:
        first, second = await cluster.broker(1), await cluster.broker(2)
        log = await first.storage.open_log(pid(1), 2)
        written = await first.write(log, 2)
        for broker in (first, second):
            with pytest.raises(Fenced):
                await broker.storage.open_log(pid(1), 1)
        written += await first.write(log, 2)
        await first.storage.checkpoint()
        assert await content(log) == written
        await first.storage.release_log(pid(1))
        assert await content(await second.storage.open_log(pid(1), 3)) == written

    run(test)


def test_open__that_fails_leaves_nobody_who_publishes_what_was_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write-behind may have begun with the log meanwhile, and end when somebody else owns it."""

    async def test(cluster: Cluster) -> None:
        first = await cluster.broker(1)
        written = await first.write(await first.storage.open_log(pid(1), 1), 3)
        await dead(cluster, first)
        second = await cluster.broker(2, storage_upkeep_interval_ms=1_000_000)
        third = await cluster.broker(3, storage_upkeep_interval_ms=1_000_000)

        async def away(*_: object) -> None:
            await cluster.clock.sleep(2)
            raise Unavailable("away")

        with monkeypatch.context() as patch:
            patch.setattr(cluster.metadata, "txn", away)
            opening = asyncio.ensure_future(second.storage.open_log(pid(1), 2))
            await cluster.clock.sleep(1)
            second.driver.latency_s = 5.0
            writing_behind = asyncio.ensure_future(second.storage.checkpoint())
            with pytest.raises(Unavailable):
                await opening
        taken = await third.storage.open_log(pid(1), 3)
        published = manifest_of(cluster, pid(1))
        await writing_behind
        assert manifest_of(cluster, pid(1)) == published
        written += await third.write(taken, 1)
        await third.storage.checkpoint()
        assert await content(taken) == written

    run(test)


def test_open__twice_keeps_what_was_inherited() -> None:
    async def test(cluster: Cluster) -> None:
        first = await cluster.broker(1)
        written = await first.write(await first.storage.open_log(pid(1), 1), 3)
        await dead(cluster, first)
        second = await cluster.broker(2, storage_upkeep_interval_ms=1_000_000)
        for epoch in (2, 3):
            assert await content(await second.storage.open_log(pid(1), epoch)) == written
        await dead(cluster, second)
        third = await cluster.broker(3)
        assert await content(await third.storage.open_log(pid(1), 4)) == written

    run(test)


def test_deleted_log__leaves_nothing() -> None:
    async def test(cluster: Cluster) -> None:
        broker = await cluster.broker(1)
        log, other = await broker.storage.open_log(pid(1), 1), await broker.storage.open_log(pid(2), 1)
        await broker.write(log, 3)
        await broker.write(other, 3)
        await broker.storage.checkpoint()
        await broker.storage.delete_log(pid(1))
        assert keys.manifest(pid(1)) not in cluster.metadata.entries
        with pytest.raises(NotFound):
            await log.read(0, 1, 1)
        await cluster.clock.sleep(20)
        assert not any(name.startswith(directory_of(pid(1))) for name in cluster.objects)
        assert any(name.startswith(directory_of(pid(2))) for name in cluster.objects)
        again = await broker.storage.open_log(pid(1), 5)
        assert again.end_offset == 0

    run(test)


@pytest.mark.parametrize("fails", ["delete", "put"])
def test_deleted_log__leaves_nothing_although_the_store_failed_meanwhile(fails: str) -> None:
    """What could not be deleted is tried again; what could not be created, so it was said, may be there."""

    async def test(cluster: Cluster) -> None:
        broker = await cluster.broker(1)
        log = await broker.storage.open_log(pid(1), 1)
        await broker.write(log, 5)
        segments = directory_of(pid(1))

        def fault(operation: str, name: str) -> str | None:
            if operation == fails == "delete":
                return "refused"
            if fails == "put" and name.startswith(segments):
                return "lost" if operation == "put" else "refused"  # nobody can look what became of it either
            return None

        broker.driver.fault = fault
        if fails == "put":
            with pytest.raises(Unavailable):
                await broker.storage.checkpoint()
            assert any(name.startswith(segments) for name in cluster.objects), "the answer was lost, not the object"
        else:
            await broker.storage.checkpoint()
        await broker.storage.delete_log(pid(1))
        await cluster.clock.sleep(60)
        broker.driver.fault = lambda operation, name: None
        await cluster.clock.sleep(60)
        assert not any(name.startswith(segments) for name in cluster.objects)
        assert not broker.failures

    run(test)


def test_deleted_log__whose_owner_is_dead_leaves_nothing_of_it() -> None:
    async def test(cluster: Cluster) -> None:
        first, second = await cluster.broker(1), await cluster.broker(2)
        log = await first.storage.open_log(pid(1), 1)
        await first.write(log, 5)
        await first.storage.checkpoint()
        await first.write(log, 2)
        tail_key = keys.session_log(first.session.session_id)
        await dead(cluster, first)
        await cluster.clock.sleep(30)
        assert tail_key in cluster.metadata.entries
        await second.storage.delete_log(pid(1))
        await eventually(cluster.clock, lambda: not cluster.objects)
        assert tail_key not in cluster.metadata.entries
        assert keys.manifest(pid(1)) not in cluster.metadata.entries
        assert not second.failures

    run(test)


def test_garbage__of_ended_sessions_is_found_and_what_is_needed_is_not() -> None:
    async def test(cluster: Cluster) -> None:
        first = await cluster.broker(1)
        log = await first.storage.open_log(pid(1), 1)
        written = await first.write(log, 5)
        await first.storage.checkpoint()
        written += await first.write(log, 2)
        session = first.session.session_id
        leftovers = [
            f"wal/{session:016x}/000000000099-00000000000000aa.flush",
            f"wal/{0:016x}/000000000001-00000000000000aa.flush",
            f"{directory_of(pid(1))}{0:020d}-{session:x}-ff.log",
            f"{directory_of(pid(9))}{0:020d}-{session:x}-1.log",
        ]
        for name in leftovers:
            cluster.objects[name] = (b"never committed", "")
        await dead(cluster, first)
        second = await cluster.broker(2)
        own = f"{directory_of(pid(1))}{0:020d}-{second.session.session_id:x}-ee.log"
        cluster.objects[own] = (b"about to be published", "")
        await cluster.clock.sleep(5)
        assert all(name in cluster.objects for name in leftovers), "readers have their grace"
        taken = await second.storage.open_log(pid(1), 2)
        await eventually(cluster.clock, lambda: not any(name in cluster.objects for name in leftovers))
        assert own in cluster.objects
        assert await content(taken) == written

    run(test)


def test_garbage__of_a_living_session_that_a_later_owner_superseded_and_did_not_live_to_delete() -> None:
    """Twenty-three such objects were left by eight minutes of churn."""

    async def test(cluster: Cluster) -> None:
        lives = await cluster.broker(1)
        log = await lives.storage.open_log(pid(1), 1)
        await lives.write(log, 5)
        await lives.storage.checkpoint()
        superseded = {segment.name for segment in log.segments}
        await lives.storage.release_log(pid(1))
        dies = await cluster.broker(2)
        taken = await dies.storage.open_log(pid(1), 2)
        await taken.advance_log_start(taken.end_offset)
        assert superseded and superseded <= cluster.objects.keys(), "readers have their grace"
        await dead(cluster, dies)
        log = await lives.storage.open_log(pid(1), 3)
        written = await lives.write(log, 5)
        await lives.storage.checkpoint()
        await eventually(cluster.clock, lambda: superseded.isdisjoint(cluster.objects))
        assert await content(log) == written

    run(test)


def test_garbage__of_an_ended_sessions_log_that_was_released_without_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(cluster: Cluster) -> None:
        first, second = await cluster.broker(1), await cluster.broker(2)
        log = await first.storage.open_log(pid(1), 1)
        written = await first.write(log, 3)
        key, txn = keys.session_log(first.session.session_id), cluster.metadata.txn

        async def without_answer(compares, puts=(), deletes=()):  # type: ignore[no-untyped-def]
            done = await txn(compares, puts, deletes)
            if key in deletes and done.succeeded:
                raise Unavailable("no answer")
            return done

        monkeypatch.setattr(cluster.metadata, "txn", without_answer)
        await dead(cluster, first)
        await cluster.clock.sleep(30)
        taken = await second.storage.open_log(pid(1), 2)
        await eventually(cluster.clock, lambda: key not in cluster.metadata.entries)
        left = [name for name in cluster.objects if name.startswith(folder_of(first.session.session_id))]
        assert left, "readers have their grace"
        await eventually(cluster.clock, lambda: not any(name in cluster.objects for name in left))
        assert await content(taken) == written

    run(test)


def test_garbage__that_a_transaction_of_unknown_outcome_left_with_who_released_the_log(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def no_answer(*what: object) -> None:
        raise Unavailable("no answer")

    async def test(cluster: Cluster) -> None:
        first, second = await cluster.broker(1), await cluster.broker(2)
        log = await first.storage.open_log(pid(1), 1)
        await first.write(log, 5)
        with monkeypatch.context() as patched, pytest.raises(Unavailable):
            patched.setattr(cluster.metadata, "txn", no_answer)
            await first.storage.checkpoint()
        left = {name for name in cluster.objects if name.endswith(".log")}
        await first.storage.release_log(pid(1))
        await second.storage.open_log(pid(1), 2)
        assert left and left <= cluster.objects.keys()
        await eventually(cluster.clock, lambda: left.isdisjoint(cluster.objects))

    run(test)


def test_open__of_a_log_whose_loss_was_accepted_serves_what_is_left() -> None:
    async def test(cluster: Cluster) -> None:
        first = await cluster.broker(1)
        log = await first.storage.open_log(pid(1), 1)
        written = await first.write(log, 5)
        gone = sorted(name for name in cluster.objects if name.endswith(".flush"))[:2]
        await dead(cluster, first)
        for name in gone:
            del cluster.objects[name]
        entries = [(entry.key, entry.value) for entry in cluster.metadata.entries.values()]
        found = await roll_forward(cluster.stores(), Backup("cluster", cluster.metadata.revision, entries))
        assert found.problems
        revision = cluster.metadata.revision = found.backup.revision + 1
        cluster.metadata.entries = {key: KeyValue(key, value, revision) for key, value in found.backup.entries}
        second = await cluster.broker(2)
        log = await second.storage.open_log(pid(1), 2)
        assert (log.manifest.holes, log.end_offset) == (((0, 1),), 5)
        assert bytes((await log.read(2, 1, 5)).buffers[0]) == written[2]
        assert len(await second.write(log, 1)) == 1

    run(test)


def test_segments_of__a_log_that_came_later_is_what_its_manifest_says_now() -> None:
    async def test(cluster: Cluster) -> None:
        first, second = await cluster.broker(1), await cluster.broker(2)
        for epoch, (owner, next_owner) in enumerate([(first, second), (second, first), (first, second)]):
            log = await owner.storage.open_log(pid(1), epoch)
            await owner.write(log, 2)
            assert sum(one.last_offset + 1 - one.base_offset for one in await owner.storage.segments_of(pid(1))) >= 2
            await owner.storage.checkpoint()
            await owner.storage.release_log(pid(1))
            segments = manifest_of(cluster, pid(1)).segments
            assert segments[-1].last_offset == log.end_offset - 1
            assert tuple(await next_owner.storage.segments_of(pid(1))) == segments
        assert not await second.storage.segments_of(pid(2)), "it has no log yet"

    run(test)


def test_segments_of__reads_a_manifest_once_in_an_ownership_and_none_at_the_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def test(cluster: Cluster) -> None:
        first = await cluster.broker(1)
        for number in range(3):
            await first.write(await first.storage.open_log(pid(number), 1), 1)
        await first.storage.checkpoint()
        await dead(cluster, first)
        read: list[str] = []
        get, range_ = cluster.metadata.get, cluster.metadata.range

        async def counting_get(key: str):  # type: ignore[no-untyped-def]
            read.append(key)
            return await get(key)

        async def counting_range(prefix: str):  # type: ignore[no-untyped-def]
            read.append(prefix)
            return await range_(prefix)

        monkeypatch.setattr(cluster.metadata, "get", counting_get)
        monkeypatch.setattr(cluster.metadata, "range", counting_range)
        second = await cluster.broker(2, storage_upkeep_interval_ms=1_000_000)
        assert not [key for key in read if key.startswith(keys.MANIFESTS)]
        for _ in range(3):
            assert await second.storage.segments_of(pid(1))
        assert [key for key in read if key.startswith(keys.MANIFESTS)] == [keys.manifest(pid(1))]

    run(test)


def test_segments_of__a_release_while_the_manifest_is_read_leaves_nothing_stale(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def test(cluster: Cluster) -> None:
        first, second = await cluster.broker(1), await cluster.broker(2)
        answered = asyncio.Event()
        with late_answers(cluster, monkeypatch, answered):
            asked = asyncio.ensure_future(second.storage.segments_of(pid(1)))
            await cluster.clock.sleep(1)
        await second.storage.release_log(pid(1))
        await first.write(await first.storage.open_log(pid(1), 1), 2)
        await first.storage.checkpoint()
        answered.set()
        assert not await asked, "as it was when it was asked for"
        assert tuple(await second.storage.segments_of(pid(1))) == manifest_of(cluster, pid(1)).segments

    run(test)


def test_missing_or_damaged_index__is_said_and_never_taken_for_an_end() -> None:
    async def test(cluster: Cluster) -> None:
        first = await cluster.broker(1)
        log = await first.storage.open_log(pid(1), 1)
        await first.write(log, 40)
        await dead(cluster, first)
        name = next(name for name in cluster.objects if name.endswith(".index"))
        data, token = cluster.objects[name]
        second = await cluster.broker(2)
        for damaged in (data[:-1] + bytes([data[-1] ^ 1]), data[:-7]):
            cluster.objects[name] = (damaged, token)
            with pytest.raises(Corrupt):
                await second.storage.open_log(pid(1), 2)
        del cluster.objects[name]
        with pytest.raises(Corrupt):
            await second.storage.open_log(pid(1), 2)
        cluster.objects[name] = (data, token)
        assert (await second.storage.open_log(pid(1), 2)).end_offset == 40
        tail = cluster.metadata.entries.pop(keys.session_log(first.session.session_id))
        third = await cluster.broker(3)
        with pytest.raises(Corrupt):
            await third.storage.open_log(pid(1), 3)
        cluster.metadata.entries[tail.key] = tail

    run(test)


def test_damaged_batches__are_reported_as_a_hole_and_the_rest_is_served() -> None:
    async def test(cluster: Cluster) -> None:
        first = await cluster.broker(1)
        log = await first.storage.open_log(pid(1), 1)
        written = await first.write(log, 3)
        await dead(cluster, first)
        name = next(name for name in cluster.objects if "000000000002-" in name)
        data, token = cluster.objects[name]
        cluster.objects[name] = (data[:-1] + bytes([data[-1] ^ 1]), token)
        second = await cluster.broker(2)
        taken = await second.storage.open_log(pid(1), 2)
        with pytest.raises(Corrupt):
            await taken.read(1, 1, 3)
        await second.storage.checkpoint()
        assert taken.manifest.holes == ((1, 1),)
        assert b"".join((await taken.read(2, 1, 3)).buffers) == written[2]

    run(test)


def test_log_start__is_durable_and_what_is_below_is_not_inherited() -> None:
    async def test(cluster: Cluster) -> None:
        first = await cluster.broker(1)
        log = await first.storage.open_log(pid(1), 1)
        written = await first.write(log, 5)
        await log.advance_log_start(3)
        await dead(cluster, first)
        second = await cluster.broker(2)
        taken = await second.storage.open_log(pid(1), 2)
        assert (taken.log_start_offset, taken.end_offset) == (3, 5)
        assert await content(taken) == written[3:]

    run(test)


@pytest.mark.parametrize("reads_first", [True, False])
@pytest.mark.parametrize("where", ["cache", "memory"])
def test_damage_of_what_was_read__is_not_taken_for_damage_of_the_object(where: str, reads_first: bool) -> None:
    """An answer of the store that was damaged on its way: it is kept, and found out by whoever needs its bytes."""

    async def test(cluster: Cluster) -> None:
        first = await cluster.broker(1)
        written = await first.write(await first.storage.open_log(pid(1), 1), 3)
        refs, session_id = first.tail.flushes, first.session.session_id
        await dead(cluster, first)
        second = await cluster.broker(2, storage_upkeep_interval_ms=1_000_000)
        log = await second.storage.open_log(pid(1), 2)
        for ref in refs:
            name = flush_name(session_id, ref)
            whole = cluster.objects[name]
            damaged = whole[0][:-5] + b"?????"
            second.storage._objects.ordinal_of(session_id, ref)
            if where == "memory":
                second.storage._objects.keep(session_id, ref, damaged)
            else:
                cluster.objects[name] = damaged, whole[1]
                await second.storage.cache.read_beginning(name, 0, len(damaged))
                cluster.objects[name] = whole
        if reads_first:
            assert await content(log) == written
        log.snapshot_source = lambda: snapshot_of(log)
        await second.storage.checkpoint()
        assert manifest_of(cluster, pid(1)).holes == () and manifest_of(cluster, pid(1)).segments
        assert await content(log) == written

    run(test)
