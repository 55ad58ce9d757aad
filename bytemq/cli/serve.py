"""A node in this process until it is told to stop: the event loop, signals, the ready line and the exit code.

What a node is made of is node/node.py's.
"""

from __future__ import annotations

import asyncio
import faulthandler
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bytemq import __version__
from bytemq.cli.options import Failed
from bytemq.config import BrokerConfig, Endpoint
from bytemq.node.node import Node
from bytemq.runtime import garbage_collection
from bytemq.scheduler.membership import SessionLost

STOP_TIMEOUT_S = 4.0
"""What a stop gets, under what supervisors and users allow. A node that needs longer is left as `kill -9` leaves it."""
EXIT_TIMEOUT_S = 4.5
"""From the signal on: the process ends then, even if nothing in it can run any more that would look at a clock."""
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


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
    asked_to_stop = _stop_on_signals(asyncio.get_running_loop())
    while True:
        failure = await _run_session(config, asked_to_stop)
        if failure is None:
            return 0
        if not isinstance(failure, SessionLost):
            raise Failed(f"the node stopped: {failure}") from failure
        if asked_to_stop.is_set():
            return 0
        print(f"bytemq: {failure}; joining anew", file=sys.stderr, flush=True)


def _stop_on_signals(loop: asyncio.AbstractEventLoop) -> asyncio.Event:
    """Set by the first signal; a second one ends the process at once.

    The handler is no callback of the loop: it runs in the middle of whatever keeps the loop busy.
    """
    asked_to_stop = asyncio.Event()
    where_to_say_it = sys.stderr or open(os.devnull, "w")  # noqa: SIM115 - until the process ends

    def on_signal(*_: object) -> None:
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        faulthandler.dump_traceback_later(EXIT_TIMEOUT_S, exit=True, file=where_to_say_it)
        loop.call_soon_threadsafe(asked_to_stop.set)

    for number in _SIGNALS:
        signal.signal(number, on_signal)
    return asked_to_stop


async def _run_session(config: BrokerConfig, asked_to_stop: asyncio.Event) -> BaseException | None:
    """From a start to a stop; returns what the node could not live on after, None when it was asked to stop."""
    stopping = asyncio.ensure_future(asked_to_stop.wait())
    try:
        starting = asyncio.ensure_future(Node.start(config))
        await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            await _in_time(starting)
        if starting.cancelled():
            return None
        try:
            node = starting.result()
        except OSError as error:
            raise Failed(f"cannot start: {error}") from None
        print(ready_line(node), flush=True)
        ended = asyncio.ensure_future(node.wait())
        await asyncio.wait((ended, stopping), return_when=asyncio.FIRST_COMPLETED)
        failure = ended.exception() if ended.done() else None
        ended.cancel()
        stopped = asyncio.ensure_future(node.stop())
        await _in_time(stopped)
        stopped.result()
    finally:
        stopping.cancel()
    return failure


async def _in_time(ending: asyncio.Future[Any]) -> None:
    """Waits for what is ending, but not for long: then the process ends without it."""
    _, late = await asyncio.wait((ending,), timeout=STOP_TIMEOUT_S)
    if late:
        print(
            f"bytemq: the node did not stop within {STOP_TIMEOUT_S:g} s and was abandoned; "
            "the next start recovers its log",
            file=sys.stderr,
            flush=True,
        )
        os._exit(1)


def ready_line(node: Node) -> str:
    """The one line that says that clients may come, where the data is and what runs."""
    config = node.config
    bound = [Endpoint(name, host, port) for name, (host, port) in node.addresses.items()]
    addresses = ", ".join(map(str, bound)) if len(bound) > 1 else str(bound[0]).partition("://")[2]
    data = Path(config.data_dir).absolute()
    about = f"node {config.node_id}, {config.bytemq_durability}"
    return f"bytemq {__version__} is ready on {addresses}, data in {data}, {about}"
