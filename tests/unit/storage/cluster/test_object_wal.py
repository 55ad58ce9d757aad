"""The write-ahead log in objects: pace, order, failures, and that a session which has ended commits nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from bytemq.errors import Fenced, Unavailable
from bytemq.metadata import keys
from bytemq.storage.stores.remote import RetryPolicy
from tests.support.virtual_time import run_virtual
from tests.unit.storage.cluster.cluster_bench import Broker, Cluster, batch, content, eventually, failures, pid

Test = Callable[[Cluster], Awaitable[None]]


def run(test: Test, policy: RetryPolicy | None = None) -> None:
    async def main() -> None:
        await test(Cluster(policy=policy))

    run_virtual(main())


def slow_down(broker: Broker, put_s: float) -> None:
    """Each object takes so long to be written."""
    put, clock = broker.driver.put, broker.cluster.clock

    async def put_slowly(name: str, data: bytes | memoryview, token: str) -> None:
        await clock.sleep(put_s)
        await put(name, data, token)

    broker.driver.put = put_slowly  # type: ignore[method-assign]


def test_append__of_many_partitions_is_one_object_and_one_transaction() -> None:
    async def test(cluster: Cluster) -> None:
        broker = await cluster.broker(1)
        logs = [await broker.storage.open_log(pid(number), 1) for number in range(10)]
        revision = cluster.metadata.revision
        started = cluster.clock.monotonic()
        await asyncio.gather(*(broker.append(log, batch(0), batch(1)) for log in logs))
        assert len(broker.puts) == 1
        assert cluster.metadata.revision == revision + 1
        assert cluster.clock.monotonic() == started, "a lone flush waits for nothing"
        for log in logs:
            assert [len(data) for data in await content(log)] == [batch(0).size_bytes] * 2

    run(test)


def test_flushes__are_paced_by_the_interval_unless_they_are_full() -> None:
    async def test(cluster: Cluster) -> None:
        broker = await cluster.broker(1)
        log = await broker.storage.open_log(pid(1), 1)
        started = cluster.clock.monotonic()
        await broker.write(log, 11)
        assert cluster.clock.monotonic() - started == pytest.approx(1.0, abs=0.02), "one each 100 ms"
        small = [broker.append(log, batch(log.staged_end)) for _ in range(5)]
        await asyncio.gather(*small)
        assert len(broker.puts) == 12, "what comes within an interval shares a flush"
        started = cluster.clock.monotonic()
        await asyncio.gather(*(broker.append(log, batch(log.staged_end, 3000)) for _ in range(8)))
        assert cluster.clock.monotonic() - started < 0.11, "a full one does not wait"

    run(test)


def test_flushes__of_coordinators_wait_for_the_one_before_and_not_for_the_interval() -> None:
    async def test(cluster: Cluster) -> None:
        broker = await cluster.broker(1)
        slow_down(broker, 0.03)
        data, steps = await broker.storage.open_log(pid(1), 1), await broker.storage.open_log(pid(2), 1)
        steps.is_urgent = True
        await broker.append(data, batch(0))
        started = cluster.clock.monotonic()
        waiting = asyncio.ensure_future(broker.append(data, batch(data.staged_end)))
        for _ in range(3):
            await broker.append(steps, batch(steps.staged_end))
        assert cluster.clock.monotonic() - started == pytest.approx(0.09, abs=0.005), "three flushes, and no pause"
        assert len(broker.puts) == 4, "what was waiting for its time came along"
        assert waiting.done()
        started = cluster.clock.monotonic()
        await asyncio.gather(*(broker.append(steps, batch(steps.staged_end)) for _ in range(20)))
        assert len(broker.puts) == 5, "what comes together shares a flush"

    run(test)


def test_flushes__of_coordinators_let_the_next_records_wait_no_longer() -> None:
    async def test(cluster: Cluster) -> None:
        broker = await cluster.broker(1)
        data, steps = await broker.storage.open_log(pid(1), 1), await broker.storage.open_log(pid(2), 1)
        steps.is_urgent = True
        for _ in range(3):  # of a transaction: the partition is added, the record, the decision
            started = cluster.clock.monotonic()
            await broker.append(steps, batch(steps.staged_end))
            await broker.append(data, batch(data.staged_end))
            await broker.append(steps, batch(steps.staged_end))
            assert cluster.clock.monotonic() - started < 0.01, "three flushes, and no pause"
            await cluster.clock.sleep(0.1)
        await broker.append(data, batch(data.staged_end))
        started = cluster.clock.monotonic()
        for _ in range(10):
            await cluster.clock.sleep(0.005)
            await broker.append(steps, batch(steps.staged_end))
        await broker.append(data, batch(data.staged_end))
        assert cluster.clock.monotonic() - started == pytest.approx(0.1, abs=0.005), "records wait for each other"
        started = cluster.clock.monotonic()
        waiting = broker.append(data, batch(data.staged_end))
        await broker.append(steps, batch(steps.staged_end))
        assert waiting.done() and cluster.clock.monotonic() - started < 0.01
        await broker.append(data, batch(data.staged_end))
        assert cluster.clock.monotonic() - started == pytest.approx(0.1, abs=0.005), "also where they went along"

    run(test)


def test_flushes__of_coordinators_let_records_wait_no_longer_after_a_failure() -> None:
    async def test(cluster: Cluster) -> None:
        broker = await cluster.broker(1)
        data, steps = await broker.storage.open_log(pid(1), 1), await broker.storage.open_log(pid(2), 1)
        steps.is_urgent = True
        broker.driver.fault = lambda operation, name: "refused"
        doomed = []
        while broker.storage.healthy is None:
            doomed.append(broker.append(data, batch(data.staged_end)))
            await cluster.clock.sleep(0.01)
        broker.driver.fault = lambda operation, name: None
        assert set(failures(await asyncio.gather(*doomed, return_exceptions=True))) == {"Unavailable"}
        await cluster.clock.sleep(1)
        await broker.append(steps, batch(0))
        started = cluster.clock.monotonic()
        await broker.append(data, batch(0))
        assert cluster.clock.monotonic() - started < 0.01

    run(test)


def test_flushes__of_coordinators_on_a_slow_store_are_paced_beside_each_other() -> None:
    async def test(cluster: Cluster) -> None:
        broker = await cluster.broker(1)
        slow_down(broker, 0.25)
        data, steps = await broker.storage.open_log(pid(1), 1), await broker.storage.open_log(pid(2), 1)
        steps.is_urgent = True
        started = cluster.clock.monotonic()
        appends = []
        for number in range(20):
            appends.append(broker.append(steps, batch(steps.staged_end)))
            await cluster.clock.sleep(0.01)
            if number == 14:
                appends.append(broker.append(data, batch(data.staged_end)))
        await appends[15]
        assert cluster.clock.monotonic() - started == pytest.approx(0.4, abs=0.005), "records start in their own time"
        await asyncio.gather(*appends)
        assert len(broker.puts) == 4, "at 0, 100 and 150 ms, and when one was back"

    run(test)


def test_flushes__that_somebody_waits_for_do_not_wait_for_the_interval() -> None:
    async def test(cluster: Cluster) -> None:
        broker = await cluster.broker(1)
        log = await broker.storage.open_log(pid(1), 1)
        await broker.append(log, batch(0))
        started = cluster.clock.monotonic()
        waiting = broker.append(log, batch(log.staged_end))
        broker.storage.hasten()
        await waiting
        assert cluster.clock.monotonic() - started < 0.05
        await broker.append(log, batch(log.staged_end))
        assert cluster.clock.monotonic() - started > 0.09, "only what was there when it was asked for"

    run(test)


def test_flushes__are_at_most_250_a_gigabyte_at_50_mb_a_second() -> None:
    async def test(cluster: Cluster) -> None:
        megabyte = 1_000_000
        broker = await cluster.broker(
            1,
            wal_flush_bytes=8 * megabyte,
            wal_retained_bytes=1 << 40,
            wal_memory_bytes=100 * megabyte,
        )
        slow_down(broker, 0.03)
        log = await broker.storage.open_log(pid(1), 1)
        appends = []
        for _ in range(100):
            appends.append(broker.append(log, batch(log.staged_end, megabyte)))
            await cluster.clock.sleep(0.02)
        await asyncio.gather(*appends)
        assert len(broker.puts) <= 25

    run(test)


def test_flushes__are_committed_in_order_whichever_is_written_first() -> None:
    async def test(cluster: Cluster) -> None:
        broker = await cluster.broker(1)
        log = await broker.storage.open_log(pid(1), 1)
        slow = asyncio.Event()
        create = broker.store.create

        async def create_slowly(name: str, data: object) -> None:
            if "000000000001-" in name:
                await slow.wait()
            await create(name, data)  # type: ignore[arg-type]

        broker.store.create = create_slowly  # type: ignore[method-assign]
        acked: list[int] = []
        appends = []
        for number in range(3):
            append = broker.append(log, batch(log.staged_end, 3900))
            append.add_done_callback(lambda _, number=number: acked.append(number))
            appends.append(append)
        await cluster.clock.sleep(5)
        assert (len(broker.puts), acked, log.end_offset) == (2, [], 0)
        revision = cluster.metadata.revision
        slow.set()
        await asyncio.gather(*appends)
        assert acked == [0, 1, 2]
        assert cluster.metadata.revision == revision + 1, "one transaction commits them all"

    run(test)


def test_in_flight__is_limited() -> None:
    async def test(cluster: Cluster) -> None:
        broker = await cluster.broker(1)
        log = await broker.storage.open_log(pid(1), 1)
        broker.driver.fault = lambda operation, name: "late"
        appends = [broker.append(log, batch(log.staged_end, 3900)) for _ in range(10)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert len(broker.puts) <= 3
        outcomes = await asyncio.gather(*appends, return_exceptions=True)
        assert set(failures(outcomes)) == {"Unavailable"}
        assert broker.storage.pending_bytes == 0

    run(test)


def test_failed_flush__takes_everything_behind_it_and_nothing_before_it() -> None:
    async def test(cluster: Cluster) -> None:
        broker = await cluster.broker(1)
        logs = [await broker.storage.open_log(pid(number), 1) for number in (1, 2)]
        broker.driver.fault = lambda operation, name: "lost" if "000000000002-" in name else None
        real_head = broker.driver.head

        async def no_head(name: str) -> Any:
            raise Unavailable("and nobody can tell")

        broker.driver.head = no_head  # type: ignore[method-assign]
        appends = [broker.append(log, batch(log.staged_end, 3900)) for log in (*logs, *logs)]
        outcomes = await asyncio.gather(*appends, return_exceptions=True)
        assert failures(outcomes) == ["", "Unavailable", "Unavailable", "Unavailable"]
        assert [(log.end_offset, log.staged_end) for log in logs] == [(1, 1), (0, 0)]
        assert isinstance(broker.storage.healthy, Unavailable)
        broker.driver.fault, broker.driver.head = (lambda operation, name: None), real_head  # type: ignore[method-assign]
        await cluster.clock.sleep(1)
        await asyncio.gather(*(broker.append(log, batch(log.staged_end)) for log in logs))
        assert broker.storage.healthy is None
        assert [log.end_offset for log in logs] == [2, 1]
        assert len([name for name in cluster.objects if "000000000002-" in name]) == 2, "a new name"
        await cluster.clock.sleep(15)
        assert len([name for name in cluster.objects if "000000000002-" in name]) == 1, "the old one is garbage"
        await broker.kill()
        cluster.end(broker)
        other = await cluster.broker(2)
        assert [(await other.storage.open_log(pid(number), 2)).end_offset for number in (1, 2)] == [2, 1]

    run(test)


@pytest.mark.parametrize("fault", ["refused", "silent"])
def test_store_that_is_down_for_a_minute__costs_no_record_and_comes_back_by_itself(fault: str) -> None:
    async def test(cluster: Cluster) -> None:
        broker = await cluster.broker(1)
        log = await broker.storage.open_log(pid(1), 1)
        down_until = cluster.clock.monotonic() + 60
        broker.driver.fault = lambda operation, name: fault if cluster.clock.monotonic() < down_until else None
        acked = refused = most_bytes = 0
        while cluster.clock.monotonic() < down_until + 5:
            outcome = await asyncio.gather(broker.append(log, batch(log.staged_end)), return_exceptions=True)
            acked, refused = acked + (outcome == [None]), refused + (outcome != [None])
            most_bytes = max(most_bytes, broker.storage.pending_bytes, broker.storage.tail_memory_bytes)
            await cluster.clock.sleep(0.05)
        assert refused > (10 if fault == "refused" else 0) and acked > 10
        assert most_bytes <= broker.config.wal_memory_bytes
        assert log.end_offset == acked == len(await content(log))

    run(test)


@pytest.mark.parametrize("applied", [True, False])
def test_commit_of_unknown_outcome__is_found_out(applied: bool) -> None:
    async def test(cluster: Cluster) -> None:
        broker = await cluster.broker(1)
        log = await broker.storage.open_log(pid(1), 1)
        left = [3]

        def fault() -> Unavailable | None:
            left[0] -= 1
            return Unavailable("no answer") if left[0] >= 0 else None

        if applied:
            cluster.metadata.fault_after = fault
        else:
            cluster.metadata.fault = fault
        await broker.append(log, batch(0))
        assert broker.tail.last_sequence == 1
        await broker.append(log, batch(1))
        assert (broker.tail.last_sequence, log.end_offset) == (2, 2)

    run(test)


def test_commit_that_arrives_late__does_not_undo_a_newer_one() -> None:
    async def test(cluster: Cluster) -> None:
        broker = await cluster.broker(1)
        log = await broker.storage.open_log(pid(1), 1)
        late: list[tuple[object, ...]] = []
        txn = cluster.metadata.txn

        async def delayed(*transaction: object) -> object:
            if not late:
                late.append(transaction)
                raise Unavailable("no answer")
            return await txn(*transaction)  # type: ignore[arg-type]

        cluster.metadata.txn = delayed  # type: ignore[method-assign, assignment]
        written = await broker.write(log, 3)
        await txn(*late[0])  # type: ignore[arg-type]
        assert broker.tail.last_sequence == 3
        await broker.kill()
        cluster.end(broker)
        other = await cluster.broker(2)
        assert await content(await other.storage.open_log(pid(1), 2)) == written

    run(test)


def test_session_that_ended__can_neither_acknowledge_nor_make_visible() -> None:
    async def test(cluster: Cluster) -> None:
        paused = await cluster.broker(1)
        log = await paused.storage.open_log(pid(1), 1)
        await paused.write(log, 3)
        before = paused.tail
        # It is stopped in the middle of a write: the object is there, the commit is not.
        put = paused.driver.put

        async def put_and_pause(name: str, data: bytes | memoryview, token: str) -> None:
            await put(name, data, token)
            await cluster.clock.sleep(30)

        paused.driver.put = put_and_pause  # type: ignore[method-assign]
        late = paused.append(log, batch(3))
        await cluster.clock.sleep(1)
        cluster.end(paused)
        owner = await cluster.broker(2, storage_upkeep_interval_ms=1_000_000)
        taken = await owner.storage.open_log(pid(1), 2)
        assert taken.end_offset == 3
        theirs = await owner.write(taken, 2)
        with pytest.raises(Fenced):
            await late
        await cluster.clock.sleep(60)
        assert paused.tail == before
        assert (await content(taken))[3:] == theirs
        assert [name for name, _ in paused.failures] == ["wal"], "the node must end"
        with pytest.raises(Fenced):
            await paused.append(log, batch(log.staged_end))
        with pytest.raises(Fenced):
            await paused.storage.open_log(pid(2), 1)
        await log.advance_log_start(0)
        with pytest.raises(Fenced):
            await log.advance_log_start(2)
        assert cluster.metadata.entries.get(keys.manifest(pid(2))) is None

    run(test)


def test_stop__decides_everything_that_was_staged() -> None:
    async def test(cluster: Cluster) -> None:
        broker = await cluster.broker(1)
        log = await broker.storage.open_log(pid(1), 1)
        appends = [broker.append(log, batch(log.staged_end, 1500)) for _ in range(20)]
        await broker.stop()
        await asyncio.gather(*appends)
        assert log.end_offset == 20

    run(test)


def test_memory_of_the_tail__is_bounded_and_what_is_older_comes_from_the_store() -> None:
    async def test(cluster: Cluster) -> None:
        broker = await cluster.broker(1, wal_retained_bytes=1 << 30)
        log = await broker.storage.open_log(pid(1), 1)
        written = await broker.write(log, 60, 900)
        assert log.read_cached(59, 1, 60) is not None
        assert log.read_cached(0, 1, 60) is None
        assert await content(log) == written
        gets = [name for operation, name in broker.driver.calls if operation == "get"]
        assert len(gets) == len(set(gets)), "each object is read once"
        assert len(gets) <= 60 - 20_000 // 1300
        await eventually(cluster.clock, lambda: broker.storage.cache.size_bytes <= 100_000)

    run(test)
