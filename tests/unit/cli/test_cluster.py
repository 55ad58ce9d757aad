"""`bytemq cluster` on metadata that no broker works on."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from bytemq.metadata import keys, values
from bytemq.metadata.served.server import MetadataServer
from bytemq.metadata.store import Listing, Put
from tests.support.metadata import broker_value, embedded_store, topic_id, topic_puts

PATIENCE_S = 60.0


async def test_drain__that_is_interrupted_says_that_the_broker_stays_drained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    socket = tmp_path / "metadata.sock"
    async with embedded_store(tmp_path) as store:
        brokers = [Put(keys.broker(one), values.encode_broker(broker_value())) for one in (1, 2)]
        await store.txn([], [Put(keys.IDENTITY, b"cluster"), *brokers, *topic_puts("t", topic_id(1), [1])])
        server = MetadataServer(store, socket)
        await server.start()
        looks = asyncio.Event()
        monkeypatch.setattr(store, "range", _told(store.range, looks))
        command = ("cluster", "drain", "1", "--metadata", f"unix://{socket}")
        drain = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "bytemq", *command, stderr=asyncio.subprocess.PIPE
        )
        async with asyncio.timeout(PATIENCE_S):
            while await store.get(keys.config("broker", "1")) is None:
                await looks.wait()
                looks.clear()
            looks.clear()
            await looks.wait()  # whether the broker is empty by now
            drain.send_signal(signal.SIGINT)
            _, said = await drain.communicate()
        await server.stop()
    assert drain.returncode == 130
    assert said.decode() == "Broker 1 is drained all the same; `bytemq cluster undrain 1` takes that back.\n"


def _told(read: Callable[[str], Awaitable[Listing]], told: asyncio.Event) -> Callable[[str], Awaitable[Listing]]:
    async def read_and_tell(prefix: str) -> Listing:
        told.set()
        return await read(prefix)

    return read_and_tell
