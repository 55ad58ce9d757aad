"""`bytemq verify s3://...`: nothing is found where nothing is wrong, and every kind of damage is."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from bytemq.compaction.job import Workspace
from bytemq.compaction.restructurer import convert
from bytemq.compaction.table_jobs import Convert
from bytemq.metadata import keys, values
from bytemq.metadata.store import Put
from bytemq.storage.checks.audit import audit
from bytemq.storage.manifests.manifest_codec import directory_of
from bytemq.storage.tables.table_file import iceberg_folder_of, iceberg_stem, new_names
from bytemq.types import TopicId
from tests.support.log_workload import snapshot_of
from tests.support.virtual_time import run_virtual
from tests.unit.storage.cluster.cluster_bench import Broker, Cluster, pid


def run(test: Callable[[Cluster], Awaitable[None]]) -> None:
    async def main() -> None:
        await test(Cluster())

    run_virtual(main())


async def found(cluster: Cluster, broker: Broker) -> dict[str, str]:
    return {finding.name: finding.problem async for finding in audit(broker.pools, cluster.metadata)}


async def with_table(cluster: Cluster, broker: Broker) -> None:
    """A log that is a Parquet file and its companion."""
    log = await broker.storage.open_log(pid(3), 1)
    log.snapshot_source = lambda: snapshot_of(log)
    await broker.write(log, 20, 100)
    await broker.storage.write_behind(log)
    before = tuple(log.manifest.segments)
    names = new_names("events", pid(3), 0, broker.storage.names.mark())
    job = Convert(before, 0, names, (), row_group_bytes=1000, codec="zstd")
    converted = await convert(job, Workspace(broker.store, 1 << 30, lambda name: None))
    await broker.storage.replace_files(log, before, [converted.file])


async def with_everything(cluster: Cluster) -> Broker:
    """Segments, a snapshot of its own, an index, flushes, and ranges inherited from an ended session."""
    first = await cluster.broker(1)
    for number in (1, 2):
        log = await first.storage.open_log(pid(number), 1)
        log.snapshot_source = lambda log=log: snapshot_of(log)
        await first.write(log, 43, 100)
        if number == 1:
            await first.storage.checkpoint()
    await with_table(cluster, first)
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


@pytest.mark.parametrize("kind", [".log", ".flush", ".index", ".snapshot", ".parquet", ".companion"])
def test_audit__finds_every_changed_and_missing_object(kind: str) -> None:
    async def test(cluster: Cluster) -> None:
        broker = await with_everything(cluster)
        names = [name for name in cluster.objects if name.endswith(kind)]
        assert names
        for name in names:
            data, token = cluster.objects[name]
            middle = 500 if kind == ".parquet" else len(data) // 2  # of the rows: the footer has no checksum
            for position in (middle, len(data) - 1):
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
        leftovers = [finding.is_leftover async for finding in audit(broker.pools, cluster.metadata)]
        assert leftovers == [True]

    run(test)


@pytest.mark.parametrize("stays", [True, False])
def test_audit__finds_what_a_live_session_has_made_and_leaves_there(stays: bool) -> None:
    async def test(cluster: Cluster) -> None:
        broker = await with_everything(cluster)
        looks = 0

        async def outlast() -> None:
            nonlocal looks
            looks += 1
            if not stays and looks == 2:
                del cluster.objects[left]

        assert [one async for one in audit(broker.pools, cluster.metadata, outlast)] == [] and looks == 0
        left = f"wal/{broker.session.session_id:016x}/000000000099-0000000000000001.flush"
        cluster.objects[left] = (b"", "")
        found = [one async for one in audit(broker.pools, cluster.metadata, outlast)]
        assert [(one.name, one.is_leftover) for one in found] == ([(left, False)] if stays else []) and looks == 2

    run(test)


def test_audit__knows_the_iceberg_metadata_that_a_broker_serves() -> None:
    async def test(cluster: Cluster) -> None:
        broker = await with_everything(cluster)
        topic = values.TopicValue(pid(1).topic_id, 2, 1, {})
        await cluster.metadata.txn([], [Put(keys.topic("events"), values.encode_topic(topic))])
        session = broker.session.session_id

        def made(topic_id: TopicId, number: int, *ends: str) -> list[str]:
            stem = iceberg_folder_of("events", topic_id) + iceberg_stem(number, session)
            names = [f"{stem}{end}" for end in ends]
            cluster.objects.update(dict.fromkeys(names, (b"", "")))
            return names

        made(pid(1).topic_id, 12, "-list.avro", ".metadata.json")
        superseded = made(pid(1).topic_id, 9, "-list.avro", ".metadata.json")
        of_deleted_topic = made(pid(9).topic_id, 13, ".metadata.json")
        left = {one.name async for one in audit(broker.pools, cluster.metadata, lambda: asyncio.sleep(700))}
        assert left == {*superseded, *of_deleted_topic}

    run(test)


def test_audit__waits_for_what_a_live_session_is_about_to_publish() -> None:
    async def test(cluster: Cluster) -> None:
        broker = await with_everything(cluster)
        before = set(cluster.objects)
        await broker.storage.checkpoint()
        key = keys.manifest(pid(1))
        made = {name for name in set(cluster.objects) - before if name.startswith(directory_of(pid(1)))}
        assert made
        published = cluster.metadata.entries.pop(key)

        async def publish() -> None:
            cluster.metadata.entries[key] = published

        assert made.isdisjoint([one.name async for one in audit(broker.pools, cluster.metadata, publish)])
        del cluster.metadata.entries[key]
        assert made <= {one.name async for one in audit(broker.pools, cluster.metadata, lambda: asyncio.sleep(700))}

    run(test)


def test_audit__finds_leftovers_among_tables() -> None:
    async def test(cluster: Cluster) -> None:
        broker = await with_everything(cluster)
        left = new_names("events", pid(3), 0, "1-99")
        for name in left:
            cluster.objects[name] = (b"", "")
        assert set(await found(cluster, broker)) == set(left)
        key = keys.manifest(pid(3))
        entry = cluster.metadata.entries[key]
        cluster.metadata.entries[key] = entry._replace(value=entry.value[:-1] + b"?")
        assert list(await found(cluster, broker)) == [key], "nobody knows what a damaged manifest names"

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
