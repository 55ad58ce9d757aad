"""A process whose node has lost its session joins anew: for certain, and soon."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn, cast

import pytest

from bytemq.cli import serve
from bytemq.cli.options import Failed
from bytemq.config import BrokerConfig
from bytemq.errors import BytemqError, Corrupt, Fenced, Unavailable
from bytemq.node.node import Node
from bytemq.scheduler.membership import SessionLost

CONFIG = BrokerConfig({})


class Replaced(Exception):
    """The process would be another program now."""


class FakeNode:
    """Lives until `end`, and stops as `stopping` says."""

    def __init__(self, config: BrokerConfig) -> None:
        self.config = config
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.stopping: Callable[[], Any] = lambda: asyncio.sleep(0)
        self.stopped = False

    async def wait(self) -> None:
        await asyncio.shield(self.ended)

    async def stop(self) -> None:
        await self.stopping()
        self.stopped = True


class Nodes:
    """Takes the place of `Node`: gives what `starts` says, then nodes that live."""

    def __init__(self) -> None:
        self.starts: list[BytemqError] = []
        self.made: list[FakeNode] = []
        self.lowest_free_id = 0
        self.replaced_with: list[str] = []
        self.asked_to_stop = asyncio.Event()

    async def start(self, config: BrokerConfig) -> FakeNode:
        if self.starts:
            raise self.starts.pop(0)
        claimed = config.node_id if "node.id" in config.static else self.lowest_free_id
        self.made.append(FakeNode(config.with_node_id(claimed)))
        return self.made[-1]

    def execve(self, path: str, arguments: list[str], environment: dict[str, str]) -> NoReturn:
        self.replaced_with = arguments
        os.environ[serve.JOINS_ANEW] = environment[serve.JOINS_ANEW]
        raise Replaced

    async def nth(self, count: int) -> FakeNode:
        async with asyncio.timeout(30):
            while len(self.made) < count:  # noqa: ASYNC110  (a fake tells nobody)
                await asyncio.sleep(0.001)
        return self.made[-1]


@pytest.fixture
async def nodes(monkeypatch: pytest.MonkeyPatch) -> Nodes:
    made = Nodes()
    monkeypatch.setattr(serve, "Node", made)
    monkeypatch.setattr(serve, "ready_line", lambda node: "ready")
    monkeypatch.setattr(serve, "_stop_on_signals", lambda loop: made.asked_to_stop)
    monkeypatch.setattr(serve, "FIRST_RETRY_S", 0.001)
    monkeypatch.setattr(serve, "LOST_TIMEOUT_S", 0.02)
    monkeypatch.setattr(os, "execve", made.execve)
    return made


@pytest.fixture(autouse=True)
def environment() -> Iterator[None]:
    yield
    os.environ.pop(serve.JOINS_ANEW, None)


def lose(node: FakeNode) -> None:
    node.ended.set_exception(SessionLost("session 7 of broker 0 has ended"))


async def never() -> None:
    await asyncio.Event().wait()


async def fails() -> None:
    raise Unavailable("the lease was not revoked")


async def test_serve__joins_anew_as_often_as_it_takes(nodes: Nodes) -> None:
    running = asyncio.ensure_future(serve._run_node(CONFIG))
    first = await nodes.nth(1)
    nodes.starts = [Unavailable("etcd is away"), Fenced("lost while it started"), Unavailable("broker id 0 is in use")]
    lose(first)
    lose(await nodes.nth(2))
    third = await nodes.nth(3)
    assert nodes.starts == [] and first.stopped
    nodes.asked_to_stop.set()
    assert await running == 0
    assert third.stopped and nodes.replaced_with == []


@pytest.mark.parametrize("stopping", [never, fails])
async def test_serve__whose_node_does_not_stop_well_begins_the_process_anew(
    nodes: Nodes, stopping: Callable[[], Any]
) -> None:
    running = asyncio.ensure_future(serve._run_node(CONFIG))
    first = await nodes.nth(1)
    first.stopping = stopping
    lose(first)
    with pytest.raises(Replaced):
        await asyncio.wait_for(running, 30)
    assert nodes.replaced_with == [sys.executable, *sys.orig_argv[1:]]
    nodes.starts = [Unavailable("etcd is away")]
    running = asyncio.ensure_future(serve._run_node(CONFIG))
    await nodes.nth(2)
    assert serve.JOINS_ANEW not in os.environ, "who is started by this process joins nothing"
    nodes.asked_to_stop.set()
    assert await running == 0


async def test_serve__joins_anew_under_the_id_that_it_was_given(nodes: Nodes) -> None:
    nodes.lowest_free_id = 2
    running = asyncio.ensure_future(serve._run_node(CONFIG))
    first = await nodes.nth(1)
    nodes.lowest_free_id = 0  # of a broker that has lost its session as well
    lose(first)
    second = await nodes.nth(2)
    second.stopping = never
    lose(second)
    with pytest.raises(Replaced):
        await asyncio.wait_for(running, 30)
    running = asyncio.ensure_future(serve._run_node(CONFIG))
    third = await nodes.nth(3)
    assert [node.config.node_id for node in (first, second, third)] == [2, 2, 2]
    nodes.asked_to_stop.set()
    assert await running == 0


async def test_serve__that_an_older_version_has_begun_anew_keeps_its_id(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("_BYTEMQ_JOINS_ANEW", "1")  # which told that it does, and not under which id
    running = asyncio.ensure_future(serve._run_node(CONFIG.with_node_id(7)))
    assert (await nodes.nth(1)).config.node_id == 7
    nodes.asked_to_stop.set()
    assert await running == 0


async def test_serve__that_loses_its_session_while_it_starts_joins_anew(nodes: Nodes) -> None:
    nodes.starts = [SessionLost("session 7 has ended, while the node started"), Unavailable("etcd is away")]
    running = asyncio.ensure_future(serve._run_node(CONFIG))
    await nodes.nth(1)
    assert nodes.starts == []
    nodes.asked_to_stop.set()
    assert await running == 0


async def test_serve__that_cannot_start_at_all_ends_with_a_sentence(nodes: Nodes) -> None:
    nodes.starts = [Unavailable("no etcd")]
    with pytest.raises(Unavailable, match="no etcd"):
        await serve._run_node(CONFIG)


async def test_serve__joins_nothing_anew_that_asks_for_somebody(nodes: Nodes) -> None:
    running = asyncio.ensure_future(serve._run_node(CONFIG))
    first = await nodes.nth(1)
    nodes.starts = [Corrupt("the metadata end before the storage")]
    lose(first)
    with pytest.raises(Corrupt):
        await running
    nodes.starts = []
    running = asyncio.ensure_future(serve._run_node(CONFIG))
    (await nodes.nth(2)).ended.set_exception(Corrupt("the history of the metadata has an end"))
    with pytest.raises(Failed, match="has an end"):
        await running


@pytest.mark.parametrize(("storage", "where"), [("", str(Path("data").absolute())), ("s3://bucket/records",) * 2])
def test_ready_line__says_where_the_data_is(storage: str, where: str) -> None:
    config = BrokerConfig({"bytemq.data.dir": "data", "bytemq.storage": storage})
    node = SimpleNamespace(config=config, addresses={"PLAINTEXT": ("127.0.0.1", 9092)})
    assert f" is ready on 127.0.0.1:9092, data in {where}, node 0" in serve.ready_line(cast(Node, node))


def test_open_files__are_as_many_as_may_be() -> None:
    program = """
import resource
from bytemq.cli.serve import allow_open_files
_, most = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (256, most))
allow_open_files()
assert resource.getrlimit(resource.RLIMIT_NOFILE) == (most, most)
"""
    subprocess.run([sys.executable, "-c", program], check=True)
