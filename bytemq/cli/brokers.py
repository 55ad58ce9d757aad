"""`bytemq start --brokers N`: several broker processes on one machine, with the metadata in this one, their supervisor.

Owns the processes: it starts them, starts one again that has died, and tells the metadata server that a process has
ended, which is what ends sessions here. Records are in a store that the brokers share, a folder unless said otherwise.
Must not: know what a broker does.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from bytemq import __version__
from bytemq.cli.options import Failed
from bytemq.config.listeners import parse_endpoint
from bytemq.errors import Invalid
from bytemq.metadata.data_lock import DataLock
from bytemq.metadata.embedded import EmbeddedStore
from bytemq.metadata.served.client import SCHEME
from bytemq.metadata.served.server import MetadataServer
from bytemq.runtime.logging import get_logger

log = get_logger("supervisor")

RESTART_DELAY_S = 1.0
STOP_TIMEOUT_S = 4.7
"""A broker has ended by itself before (`serve.EXIT_TIMEOUT_S`), and the whole ends within five seconds."""
READY_MARK = " is ready on "


class Plan(NamedTuple):
    """What the user asked for, as far as brokers differ in it or share it."""

    brokers: int
    first_id: int
    listeners: Sequence[str]
    advertised: Sequence[str]
    http: str
    data: Path
    storage: str
    """Empty: a folder in `data`."""
    options: Sequence[str]
    """What every broker gets as it is."""


def run_brokers(plan: Plan) -> int:
    """Until SIGTERM or SIGINT. Raises Failed or BytemqError when they cannot run."""
    return asyncio.run(_run(plan))


def command_of(plan: Plan, index: int) -> list[str]:
    """How broker `index` is started: its ports follow on the first one's, unless the system chooses."""
    storage = plan.storage or f"file://{plan.data.absolute() / 'storage'}"
    command = [
        *(sys.executable, "-m", "bytemq", "start", "--id", str(plan.first_id + index)),
        *("--metadata", f"{SCHEME}{_socket_of(plan).absolute()}", "--storage", storage),
        *("--scratch", str(plan.data / f"broker-{plan.first_id + index}")),
        *("--set", f"bytemq.http.listen={_shifted(plan.http, index)}"),
    ]
    for option, addresses in (("--listen", plan.listeners), ("--advertise", plan.advertised)):
        for address in addresses:
            command += [option, _shifted(address, index)]
    return [*command, *plan.options]


def _shifted(address: str, index: int) -> str:
    """The same address with a port further on."""
    if not address:
        return ""
    endpoint = parse_endpoint(address)
    return address if endpoint.port == 0 else str(endpoint._replace(port=endpoint.port + index))


def _socket_of(plan: Plan) -> Path:
    return plan.data / "metadata.sock"


async def _run(plan: Plan) -> int:
    lock = DataLock.acquire(plan.data)
    try:
        if not plan.storage and (plan.data / "wal").is_dir():
            raise Invalid(
                f"{plan.data} holds the records of a single node. Start it without --brokers, or give the brokers "
                "another folder with --data."
            )
        store = EmbeddedStore.open(lock, "fsync")
        server = MetadataServer(store, _socket_of(plan))
        try:
            await server.start()
            await _Supervisor(plan, server).run()
        finally:
            await server.stop()
            await store.close()
    finally:
        lock.release()
    return 0


class _Supervisor:
    def __init__(self, plan: Plan, server: MetadataServer) -> None:
        self._plan = plan
        self._server = server
        self._running: dict[int, asyncio.subprocess.Process] = {}
        self._ready: dict[int, str] = {}
        """What each broker said when it was ready."""
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        brokers = [asyncio.ensure_future(self._keep(index)) for index in range(self._plan.brokers)]
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            ended, _ = await asyncio.wait([*brokers, stopping], return_when=asyncio.FIRST_COMPLETED)
            await self._stop(brokers)
            for task in ended - {stopping}:
                task.result()  # raises what a broker that never got ready said
        finally:
            stopping.cancel()

    async def _keep(self, index: int) -> None:
        """Runs one broker, again and again. Raises Failed when it ends before it was ready for the first time."""
        while not self._stopping.is_set():
            process = await asyncio.create_subprocess_exec(
                *command_of(self._plan, index),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                start_new_session=True,  # a Ctrl-C is for us: we stop them
            )
            self._running[index] = process
            await self._listen(index, process)
            code = await process.wait()
            del self._running[index]
            await self._server.process_ended(process.pid)
            if self._stopping.is_set():
                return
            if index not in self._ready:
                raise Failed(f"broker {self._plan.first_id + index} ended with {code} before it was ready")
            log.error("a broker has ended and is started again", broker=self._plan.first_id + index, exit_code=code)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), RESTART_DELAY_S)

    async def _listen(self, index: int, process: asyncio.subprocess.Process) -> None:
        """Until the process closes its output."""
        assert process.stdout is not None
        async for line in process.stdout:
            said = line.decode(errors="replace").strip()
            if READY_MARK in said and index not in self._ready:
                self._ready[index] = said.partition(READY_MARK)[2].partition(",")[0]
                if len(self._ready) == self._plan.brokers:
                    addresses = ", ".join(self._ready[each] for each in range(self._plan.brokers))
                    about = f"data in {self._plan.data.absolute()}, {self._plan.brokers} brokers"
                    print(f"bytemq {__version__}{READY_MARK}{addresses}, {about}", flush=True)

    async def _stop(self, brokers: Sequence[asyncio.Future[None]]) -> None:
        self._stopping.set()
        for process in self._running.values():
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        _, left = await asyncio.wait(brokers, timeout=STOP_TIMEOUT_S)
        for process in self._running.values():
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        if left:
            await asyncio.wait(left)
