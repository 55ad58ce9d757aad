"""A broker over several stores: it goes on while one is sick, loses nothing, and empties one that is drained."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from bytemq.errors import Unavailable
from bytemq.metadata import keys
from bytemq.metadata.pools import PoolUse
from bytemq.storage.checks.audit import audit
from bytemq.storage.log_files import LogFiles
from bytemq.storage.pools.contents import PoolContents, contents
from bytemq.storage.pools.names import PRIMARY, SHOWN_PRIMARY, pool_of
from tests.support.log_workload import snapshot_of
from tests.support.virtual_time import run_virtual
from tests.unit.storage.cluster.cluster_bench import Broker, Cluster, content, eventually, pid

Test = Callable[[Cluster], Awaitable[None]]


def run(test: Test, pools: tuple[str, ...] = ("b",)) -> None:
    async def main() -> None:
        cluster = Cluster()
        for pool in pools:
            await cluster.set_pool(pool)
        await test(cluster)

    run_virtual(main())


def turn(broker: Broker, pool: str, fault: str | None) -> None:
    """What the broker asks of the pool goes so from now on."""
    broker.drivers[pool].fault = lambda operation, name: fault


async def started(cluster: Cluster, broker_id: int = 1, **changes: int) -> Broker:
    """A broker that has opened its pools."""
    broker = await cluster.broker(broker_id, **changes)
    await eventually(cluster.clock, lambda: all(pool.store is not None for pool in broker.pools.pools.values()))
    return broker


async def opened(broker: Broker, number: int, epoch: int = 1) -> LogFiles:
    log = await broker.storage.open_log(pid(number), epoch)
    log.snapshot_source = lambda: snapshot_of(log)
    return log


def pools_of(log: LogFiles) -> set[str]:
    return {pool_of(segment.name) for segment in log.manifest.segments}


async def problems(cluster: Cluster, broker: Broker) -> list[str]:
    return [str(finding) async for finding in audit(broker.pools, cluster.metadata) if not finding.is_leftover]


@pytest.mark.parametrize("fault", ["silent", "refused", "late"])
def test_appends__go_on_within_seconds_and_reads_come_from_where_data_is(fault: str) -> None:
    async def test(cluster: Cluster) -> None:
        broker = await started(cluster)
        log = await opened(broker, 1)
        before = await broker.write(log, 10)
        await broker.storage.checkpoint()
        assert pools_of(log) == {PRIMARY}
        broker.driver.fault = lambda operation, name: fault if operation == "put" else None
        began = cluster.clock.monotonic()
        during = await broker.write(log, 1)
        assert cluster.clock.monotonic() - began < 3.0
        began = cluster.clock.monotonic()
        during += await broker.write(log, 9)
        assert cluster.clock.monotonic() - began < 1.1, "one each interval, as ever"
        await broker.storage.checkpoint()
        assert pools_of(log) == {PRIMARY, "b"}
        assert await content(log) == before + during
        turn(broker, PRIMARY, None)
        broker.driver.settle()
        await eventually(cluster.clock, lambda: broker.pools.best == PRIMARY, 60)
        await broker.write(log, 10)
        await broker.storage.checkpoint()
        assert pool_of(log.manifest.segments[-1].name) == PRIMARY
        await cluster.clock.sleep(15)
        assert await problems(cluster, broker) == []

    run(test)


def test_log__that_lies_in_two_pools_is_opened_by_a_broker_that_has_just_heard_of_them() -> None:
    async def test(cluster: Cluster) -> None:
        first = await started(cluster)
        log = await opened(first, 1)
        written = await first.write(log, 40)
        turn(first, PRIMARY, "silent")
        written += await first.write(log, 40)
        await first.kill()
        cluster.end(first)
        second = await cluster.broker(2)
        assert await content(await opened(second, 1, 2)) == written

    run(test)


def test_log__of_a_pool_that_does_not_answer_waits_for_it_and_is_not_taken_for_lost() -> None:
    async def test(cluster: Cluster) -> None:
        first = await started(cluster)
        log = await opened(first, 1)
        await cluster.set_pool(SHOWN_PRIMARY, PoolUse.DRAINED)
        await cluster.clock.sleep(1)
        written = await first.write(log, 3)
        await first.kill()
        cluster.end(first)
        dark = True
        cluster.fault_of_pool = lambda broker, pool: lambda operation, name: "refused" if dark else None
        second = await cluster.broker(2)
        with pytest.raises(Unavailable, match="pool b cannot be reached"):
            await opened(second, 1, 2)
        assert "unreached" in second.storage.pool_states["b"], "and it says so"
        dark = False
        assert await content(await opened(second, 1, 2)) == written

    run(test)


def test_drain__leaves_nothing_that_is_needed_and_soon_nothing_at_all() -> None:
    async def test(cluster: Cluster) -> None:
        broker = await started(cluster, snapshot_inline_bytes=10)
        await cluster.set_pool(SHOWN_PRIMARY, PoolUse.DRAINED)
        await cluster.clock.sleep(1)
        logs = [await opened(broker, number) for number in range(3)]
        written = [await broker.write(log, 40) for log in logs]
        await broker.storage.checkpoint()
        written[0] += await broker.write(logs[0], 3)  # in flushes alone
        found = await contents(cluster.metadata)
        assert found["b"].segments and found["b"].snapshots and found["b"].session_logs and PRIMARY not in found
        await cluster.set_pool(SHOWN_PRIMARY)
        await cluster.set_pool("b", PoolUse.DRAINED)
        began = cluster.clock.monotonic()
        while not (await contents(cluster.metadata)).get("b", PoolContents()).is_empty:
            assert cluster.clock.monotonic() < began + 30
            await cluster.clock.sleep(0.5)
        assert [await content(log) for log in logs] == written
        assert await problems(cluster, broker) == []
        await eventually(cluster.clock, lambda: not cluster.pools["b"], 30)
        asked = len(broker.drivers["b"].calls)
        await cluster.clock.sleep(300)
        assert len(broker.drivers["b"].calls) == asked
        turn(broker, "b", "silent")
        written[0] += await broker.write(logs[0], 3)
        assert [await content(log) for log in logs] == written, "it may be switched off"

    run(test)


def test_drain__goes_on_when_a_log_is_released_while_it_is_copied() -> None:
    async def test(cluster: Cluster) -> None:
        broker = await started(cluster)
        await cluster.set_pool(SHOWN_PRIMARY, PoolUse.DRAINED)
        await cluster.clock.sleep(1)
        logs = [await opened(broker, number) for number in range(2)]
        written = [await broker.write(log, 20) for log in logs]
        await broker.storage.checkpoint()
        await cluster.set_pool(SHOWN_PRIMARY)
        await cluster.set_pool("b", PoolUse.DRAINED)
        broker.drivers["b"].latency_s = 1.0
        await eventually(cluster.clock, lambda: logs[0].rewriting.locked())
        await broker.storage.release_log(pid(0))
        revision = cluster.metadata.entries[keys.manifest(pid(0))].revision
        await eventually(cluster.clock, lambda: pools_of(logs[1]) == {PRIMARY}, 100)
        assert cluster.metadata.entries[keys.manifest(pid(0))].revision == revision
        assert broker.supervisor.crashes == {}
        assert await content(await opened(await started(cluster, 2), 0, 2)) == written[0]

    run(test)


def test_drain__asks_for_logs_that_nobody_has_opened() -> None:
    async def test(cluster: Cluster) -> None:
        first = await started(cluster)
        await cluster.set_pool(SHOWN_PRIMARY, PoolUse.DRAINED)
        await cluster.clock.sleep(1)
        log = await opened(first, 1)
        written = await first.write(log, 10)
        await first.storage.checkpoint()
        await first.kill()
        cluster.end(first)
        await cluster.set_pool(SHOWN_PRIMARY)
        await cluster.set_pool("b", PoolUse.DRAINED)
        second = await cluster.broker(2)
        await eventually(cluster.clock, lambda: pid(1) in second.storage.held_logs, 30)
        log = await opened(second, 1, 2)
        await eventually(cluster.clock, lambda: pools_of(log) == {PRIMARY}, 30)
        assert await content(log) == written
        await cluster.set_pool("b")
        await eventually(cluster.clock, lambda: not second.storage.held_logs, 30)

    run(test)


def test_garbage__of_ended_sessions_is_found_in_every_pool_that_answers() -> None:
    async def test(cluster: Cluster) -> None:
        first = await started(cluster)
        written = await first.write(await opened(first, 1), 5)
        stray = f"topics/x/0/0-{first.session.session_id:x}-9.log"
        for _, objects in cluster.all_objects:
            objects[stray] = (b"x", "")
        await first.kill()
        cluster.end(first)
        second = await started(cluster, 2, storage_garbage_grace_ms=1000)
        turn(second, "b", "refused")
        assert await content(await opened(second, 1, 2)) == written
        await eventually(cluster.clock, lambda: stray not in cluster.objects, 30)
        await cluster.clock.sleep(30)
        assert stray in cluster.pools["b"]
        turn(second, "b", None)
        await eventually(cluster.clock, lambda: stray not in cluster.pools["b"], 30)
        assert await problems(cluster, second) == []

    run(test)


def test_discard__in_a_pool_that_does_not_answer_keeps_nothing_elsewhere() -> None:
    async def test(cluster: Cluster) -> None:
        broker = await started(cluster, storage_garbage_grace_ms=100)
        names = ["@b/topics/x/0/1-1-1.log", "topics/x/0/1-1-1.log"]
        for name in names:
            await broker.pools.create(name, [b"x"])
        turn(broker, "b", "silent")
        broker.storage.discard(names)
        await eventually(cluster.clock, lambda: names[1] not in cluster.objects, 5)
        turn(broker, "b", None)
        await eventually(cluster.clock, lambda: "topics/x/0/1-1-1.log" not in cluster.pools["b"], 120)

    run(test)


def test_stop__comes_to_an_end_while_a_pool_refuses_to_delete() -> None:
    async def test(cluster: Cluster) -> None:
        broker = await started(cluster, storage_garbage_grace_ms=100)
        turn(broker, "b", "refused")
        for number in range(20):
            broker.storage.discard([f"@b/topics/x/0/1-1-{number}.log"])
        await cluster.clock.sleep(5)
        began = cluster.clock.monotonic()
        await asyncio.wait_for(broker.stop(), 60)
        assert cluster.clock.monotonic() - began < 10

    run(test)


def test_pools__that_come_while_a_broker_runs_are_used_by_it() -> None:
    async def test(cluster: Cluster) -> None:
        broker = await started(cluster)
        await cluster.set_pool("a2")
        await eventually(cluster.clock, lambda: "a2" in broker.drivers, 10)
        for pool in (PRIMARY, "b"):
            turn(broker, pool, "refused")
        log = await opened(broker, 1)
        await broker.write(log, 1)
        assert [flush.pool for flush in broker.tail.flushes] == ["a2"]

    run(test)


def test_without_pools__nothing_is_asked_that_was_not_asked_before() -> None:
    async def test(cluster: Cluster) -> None:
        broker = await cluster.broker(1)
        log = await opened(broker, 1)
        await broker.write(log, 3)
        await cluster.clock.sleep(600)
        assert [operation for operation, _ in broker.driver.calls if operation != "list"] == ["put"] * 3
        assert broker.storage.pool_states == {}

    run(test, pools=())


def test_removed_pool__is_opened_for_who_has_something_in_it_and_for_nobody_else() -> None:
    async def test(cluster: Cluster) -> None:
        cluster.pools["b"]["topics/x/0/1-1-1.log"] = (b"x", "")
        await cluster.set_pool("b", PoolUse.REMOVED)
        broker = await cluster.broker(1)
        assert broker.pools.is_alone and "b" not in broker.drivers
        assert await broker.pools.read("@b/topics/x/0/1-1-1.log") == b"x"
        assert keys.pool("b") in cluster.metadata.entries
        await asyncio.sleep(0)

    run(test)
