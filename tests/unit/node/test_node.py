"""Nodes in this process: what is joined when they start, and what they leave when they stop or cannot start."""

from __future__ import annotations

import asyncio
import re
import socket
import tomllib
from pathlib import Path

import pytest

from bytemq.config import BrokerConfig
from bytemq.errors import BytemqError, Corrupt, Fenced
from bytemq.metadata import keys
from bytemq.metadata.database import Database
from bytemq.metadata.topics import TopicSpec
from bytemq.node import settings, tables
from bytemq.node.node import Node
from bytemq.runtime.logging import MAX_FIELD_CHARS
from bytemq.storage.checks.verify import verify


def config(folder: Path, **configs: str) -> BrokerConfig:
    given = {name.replace("_", "."): value for name, value in configs.items()}
    addresses = {"listeners": "PLAINTEXT://127.0.0.1:0", "bytemq.http.listen": ""}
    return BrokerConfig({"bytemq.data.dir": str(folder), "wal.file.bytes": "1048576", **addresses, **given})


async def test_node__keeps_cluster_id_and_topics_over_a_restart(tmp_path: Path) -> None:
    node = await Node.start(config(tmp_path))
    cluster_id = node.broker.cluster_id
    await node.broker.topics.create([TopicSpec("t", 2)])
    await node.stop()
    node = await Node.start(config(tmp_path))
    try:
        assert node.broker.cluster_id == cluster_id
        assert [p[:2] for p in node.broker.image.topics["t"].partitions] == [(0, 1), (0, 1)]
        assert node.broker.image.controller_id == 0
    finally:
        await node.stop()
    await node.wait()


async def test_node__takes_dynamic_configs_at_once_and_after_a_restart(tmp_path: Path) -> None:
    node = await Node.start(config(tmp_path))
    await node.broker.topics.create([TopicSpec("t")])
    partition = await node.broker.partitions.open("t", 0)
    await node.broker.topics.alter_configs("broker", "", lambda current: {"log.retention.ms": "12345"})
    assert node.broker.config.log_retention_ms == 12345
    assert partition.config.retention_ms == 12345
    await node.stop()
    node = await Node.start(config(tmp_path))
    try:
        assert node.broker.config.log_retention_ms == 12345
    finally:
        await node.stop()


async def test_node__tells_nothing_of_deleted_topics_any_more(tmp_path: Path) -> None:
    """Their figures would be kept for ever, and once there are ten thousand, new topics would have none."""
    node = await Node.start(config(tmp_path))
    try:
        broker = node.broker
        for name in ("gone", "stays"):
            await broker.topics.create([TopicSpec(name)])
            broker.traffic.count_in(name, 1)
            broker.traffic.count_out(name, 1)
        await broker.topics.delete(broker.image.topics["gone"].topic_id)
        assert broker.traffic.bytes_in.keys() == broker.traffic.bytes_out.keys() == {"stays"}
        text = broker.metrics.render()[1].decode()
        assert 'topic="stays"' in text and 'topic="gone"' not in text
    finally:
        await node.stop()


async def test_node__that_cannot_start_leaves_everything_free(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"PLAINTEXT://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(BytemqError, match="already in use"):
            await Node.start(config(tmp_path, listeners=address))
    await (await Node.start(config(tmp_path))).stop()


async def test_node__whose_session_is_gone_says_so(tmp_path: Path) -> None:
    node = await Node.start(config(tmp_path))
    registered = await node.broker.metadata.get(keys.broker(0))
    assert registered is not None
    await node.broker.metadata.revoke(1)  # the node's own lease, its first
    assert await node.broker.metadata.get(keys.broker(0)) is None
    with pytest.raises(Fenced):
        await node.wait()
    await node.stop()


async def test_node__insists_on_an_http_address_only_where_somebody_chose_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(BytemqError, match=r"for HTTP: Address already in use\. .* an empty one\.$") as refused:
            await Node.start(config(tmp_path, **{"bytemq.http.listen": address}))
        assert len(str(refused.value)) < MAX_FIELD_CHARS, "where nobody chose it, it is a field of a line of the log"

        chosen = config(tmp_path, **{"bytemq.http.listen": address})
        static = {name: value for name, value in chosen.static.items() if name != "bytemq.http.listen"}
        unasked = BrokerConfig(static)
        monkeypatch.setattr(settings, "http_address", lambda _: taken.getsockname())  # as if that were the default
        node = await Node.start(unasked)
        try:
            assert node.http_address is None
            assert node.addresses
        finally:
            await node.stop()


async def test_node__whose_metadata_are_older_than_its_data_changes_nothing(tmp_path: Path) -> None:
    """Else everything that the metadata do not know would go as garbage, at the first start or a later one."""
    data = tmp_path / "data"
    wal = data / "wal" / f"{1000:016x}-{0:08x}.log"
    wal.parent.mkdir(parents=True)
    wal.write_bytes(b"acknowledged")
    for _ in range(3):
        with pytest.raises(Corrupt, match="session 1000"):
            await Node.start(config(data))
    assert wal.read_bytes() == b"acknowledged"
    assert any("older" in str(finding) for finding in verify(data))
    wal.rename(wal.with_name(f"{0:016x}-{0:08x}.log"))
    node = await Node.start(config(data))
    await node.stop()


async def test_node__with_page_cache_durability_still_syncs_its_metadata(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: set[int] = set()
    commit = Database.commit

    def watched(database: Database) -> object:
        found.update(database._sql.execute("PRAGMA synchronous").fetchone())
        return commit(database)

    monkeypatch.setattr(Database, "commit", watched)
    node = await Node.start(config(tmp_path, bytemq_durability="page-cache"))
    await node.broker.topics.create([TopicSpec("t", 2)])
    await node.stop()
    assert found == {2}, "FULL: a file of the log is used again once a manifest says so"


def test_extra_tables__brings_all_that_tables_need() -> None:
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    brought = {re.split(r"[^\w-]", requirement)[0] for requirement in project["optional-dependencies"]["tables"]}
    assert set(tables.NEEDED) <= brought


async def test_node__without_the_extra_tables_says_how_to_have_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "NEEDED", ("there_is_no_such_package",))
    node = await Node.start(config(tmp_path, bytemq_http_listen="127.0.0.1:0"))
    try:
        assert node.tables is None and node.http_address is not None
        for request in (b"POST /sql", b"GET /tables", b"GET /tables/topic", b"GET /iceberg/v1/config"):
            reader, writer = await asyncio.open_connection(*node.http_address)
            writer.write(request + b" HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
            answer = await reader.read()
            writer.close()
            assert answer.startswith(b"HTTP/1.1 501") and b"pip install 'bytemq[tables]'" in answer
    finally:
        await node.stop()
