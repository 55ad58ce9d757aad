"""A node in this process until it is told to stop: the event loop, signals, the ready line and the exit code.

What a node is made of is node/node.py's.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from bytemq import __version__
from bytemq.cli.options import Failed
from bytemq.config import BrokerConfig, Endpoint
from bytemq.node.node import Node
from bytemq.runtime import garbage_collection
from bytemq.scheduler.membership import SessionLost

STOP_TIMEOUT_S = 4.5
"""Under what supervisors and users allow."""


def serve(config: BrokerConfig) -> int:
    """Run a node until SIGTERM or SIGINT; returns the exit code. Raises Failed or BytemqError when it cannot run."""
    garbage_collection.calm()
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(_run_node(config))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop halves the cost of a request; where it does not exist (Windows) the standard loop serves as well."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


async def _run_node(config: BrokerConfig) -> int:
    asked_to_stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked_to_stop.set)
    while True:
        failure = await _run_session(config, asked_to_stop)
        if failure is None:
            return 0
        if not isinstance(failure, SessionLost):
            raise Failed(f"the node stopped: {failure}") from failure
        print(f"bytemq: {failure}; joining anew", file=sys.stderr, flush=True)


async def _run_session(config: BrokerConfig, asked_to_stop: asyncio.Event) -> BaseException | None:
    """From a start to a stop; returns what the node could not live on after, None when it was asked to stop."""
    try:
        node = await Node.start(config)
    except OSError as error:
        raise Failed(f"cannot start: {error}") from None
    print(ready_line(node), flush=True)
    ended = asyncio.ensure_future(node.wait())
    stopping = asyncio.ensure_future(asked_to_stop.wait())
    try:
        await asyncio.wait((ended, stopping), return_when=asyncio.FIRST_COMPLETED)
        failure = ended.exception() if ended.done() else None
        if asked_to_stop.is_set():
            for number in (signal.SIGTERM, signal.SIGINT):
                asyncio.get_running_loop().remove_signal_handler(number)  # a second signal ends the process at once
        await _stop(node)
    finally:
        stopping.cancel()
        ended.cancel()
    return failure


async def _stop(node: Node) -> None:
    try:
        async with asyncio.timeout(STOP_TIMEOUT_S):
            await node.stop()
    except TimeoutError:
        raise Failed(
            f"the node did not stop within {STOP_TIMEOUT_S:g} s and was abandoned; the next start recovers its log"
        ) from None


def ready_line(node: Node) -> str:
    """The one line that says that clients may come, where the data is and what runs."""
    config = node.config
    bound = [Endpoint(name, host, port) for name, (host, port) in node.addresses.items()]
    addresses = ", ".join(map(str, bound)) if len(bound) > 1 else str(bound[0]).partition("://")[2]
    data = Path(config.data_dir).absolute()
    about = f"node {config.node_id}, {config.bytemq_durability}"
    return f"bytemq {__version__} is ready on {addresses}, data in {data}, {about}"
