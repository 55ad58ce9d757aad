"""`bytemq verify s3://...`: nothing is found where nothing is wrong, and every kind of damage is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from bytemq.metadata import keys
from bytemq.storage.audit import audit
from tests.support.log_workload import snapshot_of
from tests.support.virtual_time import run_virtual
from tests.unit.storage.cluster.cluster_bench import Broker, Cluster, pid


def run(test: Callable[[Cluster], Awaitable[None]]) -> None:
    async def main() -> None:
        await test(Cluster())

    run_virtual(main())


async def found(cluster: Cluster, broker: Broker) -> dict[str, str]:
    return {finding.name: finding.problem async for finding in audit(broker.store, cluster.metadata)}


async def with_everything(cluster: Cluster) -> Broker:
    """Segments, a snapshot of its own, an index, flushes, and ranges inherited from an ended session."""
    first = await cluster.broker(1)
    for number in (1, 2):
        log = await first.storage.open_log(pid(number), 1)
        log.snapshot_source = lambda log=log: snapshot_of(log)  # type: ignore[misc]
        await first.write(log, 43, 100)
        if number == 1:
            await first.storage.checkpoint()
    await cluster.clock.sleep(15)  # what was superseded is deleted
    await first.kill()
    cluster.end(first)
    second = await cluster.broker(2, storage_upkeep_interval_ms=1_000_000)
    for number in (1, 2):
        await second.write(await second.storage.open_log(pid(number), 2), 3)
    return second


def test_audit__finds_nothing_wrong_where_nothing_is() -> None:
    async def test(cluster: Cluster) -> None:
        assert await found(cluster, await with_everything(cluster)) == {}

    run(test)


@pytest.mark.parametrize("kind", [".log", ".flush", ".index", ".snapshot"])
def test_audit__finds_every_changed_and_missing_object(kind: str) -> None:
    async def test(cluster: Cluster) -> None:
        broker = await with_everything(cluster)
        names = [name for name in cluster.objects if name.endswith(kind)]
        assert names
        for name in names:
            data, token = cluster.objects[name]
            for position in (len(data) // 2, len(data) - 1):
                changed = bytearray(data)
                changed[position] ^= 1
                cluster.objects[name] = (bytes(changed), token)
                assert name in await found(cluster, broker), position
            del cluster.objects[name]
            assert name in await found(cluster, broker)
            cluster.objects[name] = (data, token)
        assert await found(cluster, broker) == {}

    run(test)


def test_audit__tells_leftovers_from_what_live_sessions_are_about_to_publish() -> None:
    async def test(cluster: Cluster) -> None:
        broker = await with_everything(cluster)
        live = f"wal/{broker.session.session_id:016x}/000000000099-0000000000000001.flush"
        ended = f"wal/{1:016x}/000000000099-0000000000000001.flush"
        cluster.objects[live] = cluster.objects[ended] = (b"", "")
        assert list(await found(cluster, broker)) == [ended]
        leftovers = [finding.is_leftover async for finding in audit(broker.store, cluster.metadata)]
        assert leftovers == [True]

    run(test)


def test_audit__says_which_metadata_are_damaged() -> None:
    async def test(cluster: Cluster) -> None:
        broker = await with_everything(cluster)
        for key in (keys.manifest(pid(1)), keys.session_log(broker.session.session_id)):
            entry = cluster.metadata.entries[key]
            cluster.metadata.entries[key] = entry._replace(value=entry.value[:-1] + b"?")
            assert key in await found(cluster, broker)
            cluster.metadata.entries[key] = entry

    run(test)
