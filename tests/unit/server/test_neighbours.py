"""A broker that cannot be reached any more: its log is read before its session has ended, and nothing else happens."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest

from bytemq.broker import neighbours
from bytemq.broker.neighbours import Neighbours
from bytemq.errors import Unavailable
from bytemq.metadata.image import BrokerImage, ClusterImage, ImageChange
from bytemq.runtime.clock import SystemClock
from bytemq.runtime.tasks import Supervisor


class Broker:
    """Listens as broker 1, and says nothing."""

    def __init__(self) -> None:
        self.writers: list[asyncio.StreamWriter] = []
        self.port = 0

    async def listen(self) -> None:
        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.writers.append(writer)

        self._server = await asyncio.start_server(accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    def hang_up(self) -> None:
        for writer in self.writers:
            writer.close()

    def die(self) -> None:
        self._server.close()
        self.hang_up()


class Watch:
    def __init__(self) -> None:
        self.image = ClusterImage()
        self.listeners: list[Callable[[ImageChange], None]] = []
        self.looked_at: list[int] = []
        self.doubted: list[int] = []
        self.objects = asyncio.Event()
        self.error: Exception | None = None

    async def doubt(self, broker: BrokerImage) -> None:
        self.doubted.append(broker.epoch)
        await self.objects.wait()

    async def look_ahead(self, session_id: int) -> None:
        self.looked_at.append(session_id)
        if self.error is not None:
            raise self.error

    def tell(self, *brokers: BrokerImage) -> None:
        self.image.brokers = {one.id: one for one in brokers}
        for listener in self.listeners:
            listener(ImageChange(brokers=True))


def image(broker_id: int, port: int, epoch: int) -> BrokerImage:
    return BrokerImage(broker_id, None, {"L": ("127.0.0.1", port)}, epoch)


@asynccontextmanager
async def watching() -> AsyncIterator[Watch]:
    watch, supervisor = Watch(), Supervisor(SystemClock(), lambda name, error: None)
    follower = SimpleNamespace(image=watch.image, subscribe=watch.listeners.append)
    made = Neighbours(
        broker_id=0,
        listener="L",
        follower=cast(Any, follower),
        look_ahead=watch.look_ahead,
        doubt=watch.doubt,
        clock=SystemClock(),
        supervisor=supervisor,
    )
    supervisor.start("neighbours", made.run())
    try:
        yield watch
    finally:
        await supervisor.close()


async def until(seen: Callable[[], Any]) -> None:
    async with asyncio.timeout(30):
        while not seen():  # noqa: ASYNC110  (sockets of another)
            await asyncio.sleep(0.002)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "RETRY_S", 0.01)


async def test_neighbour__that_dies_has_its_log_read_until_its_session_ends() -> None:
    async with watching() as watch:
        broker = Broker()
        await broker.listen()
        watch.tell(image(0, broker.port, 5), image(1, broker.port, 7))
        await until(lambda: broker.writers)
        watch.error = Unavailable("the store is down")
        broker.die()
        await until(lambda: len(watch.looked_at) > 1)
        assert set(watch.looked_at) == {7} and watch.doubted == [7]
        watch.tell(image(0, broker.port, 5))
        await asyncio.sleep(0.02)
        looks = len(watch.looked_at)
        await asyncio.sleep(0.05)
        assert len(watch.looked_at) == looks, "others have what it had"


async def test_neighbour__that_hangs_up_and_answers_again_is_left_alone() -> None:
    async with watching() as watch:
        broker = Broker()
        await broker.listen()
        watch.tell(image(1, broker.port, 7))
        await until(lambda: len(broker.writers) == 1)
        broker.hang_up()
        await until(lambda: len(broker.writers) == 2)
        assert watch.looked_at == [] and watch.doubted == []
    broker.die()


async def test_neighbour__that_has_objected_is_doubted_again_when_it_dies_after_all() -> None:
    async with watching() as watch:
        watch.objects.set()
        broker = Broker()
        await broker.listen()
        watch.tell(image(1, broker.port, 7))
        for times in (1, 2):
            await until(lambda: broker.writers)
            broker.die()
            await until(lambda times=times: len(watch.doubted) == times)
            broker.writers.clear()
            if times == 1:
                await broker.listen()
        assert watch.doubted == [7, 7]


async def test_neighbour__that_has_reset_a_connection_as_it_was_made_is_watched_further(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Such a connection does not tell any more who is at its other end."""
    connect, resets = asyncio.open_connection, 0

    async def reset(*address: Any) -> Any:
        nonlocal resets
        reader, writer = await connect(*address)
        resets += 1
        monkeypatch.setattr(writer, "get_extra_info", lambda name: None)
        return reader, writer

    monkeypatch.setattr(asyncio, "open_connection", reset)
    async with watching() as watch:
        broker = Broker()
        await broker.listen()
        watch.tell(image(1, broker.port, 7))
        await until(lambda: resets == 1 and broker.writers)
        broker.die()
        await until(lambda: watch.looked_at)
        assert watch.doubted == [7]


async def test_neighbour__that_only_does_not_answer_is_not_doubted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that is cut off says nothing; who refuses is there, and has nobody who listens."""
    async with watching() as watch:
        broker = Broker()
        await broker.listen()
        watch.tell(image(1, broker.port, 7))
        await until(lambda: broker.writers)

        async def vanished(*_: Any) -> Any:
            raise TimeoutError

        monkeypatch.setattr(asyncio, "open_connection", vanished)
        broker.die()
        await until(lambda: len(watch.looked_at) > 1)
        assert watch.doubted == []


async def test_neighbour__that_takes_no_connection_is_asked_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "RETRY_S", 0.05)
    asked = 0

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    began = time.monotonic()
    async with watching() as watch:
        watch.tell(image(1, server.sockets[0].getsockname()[1], 7))
        await until(lambda: asked >= 4)
    assert asked <= 2 + (time.monotonic() - began) / neighbours.RETRY_S
    server.close()


async def test_neighbour__that_does_not_listen_yet_is_waited_for() -> None:
    async with watching() as watch:
        broker = Broker()
        await broker.listen()
        broker.die()
        watch.tell(image(1, broker.port, 7))
        await asyncio.sleep(0.05)
        await broker.listen()
        await until(lambda: broker.writers)
        assert watch.looked_at == []
    broker.die()
