"""A node in this process until it is told to stop: the event loop, signals, the ready line and the exit code.

What a node is made of is node/node.py's.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import os
import random
import resource
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from bytemq import __version__
from bytemq.cli.options import Failed
from bytemq.config import BrokerConfig, Endpoint
from bytemq.errors import Fenced, Unavailable
from bytemq.node.node import Node
from bytemq.scheduler.membership import SessionLost

STOP_TIMEOUT_S = 4.0
"""What a stop gets, under what supervisors and users allow. A node that needs longer is left as `kill -9` leaves it."""
EXIT_TIMEOUT_S = 4.5
"""From the signal on: the process ends then, even if nothing in it can run any more that would look at a clock."""
LOST_TIMEOUT_S = 2.0
"""What a node gets that has lost its session: enough to answer those who wait."""
FIRST_RETRY_S = 0.2
MAX_RETRY_S = 5.0
"""Between two attempts to join anew."""
JOINS_ANEW = "_BYTEMQ_JOINS_ANEW_AS"
"""In the environment of a process that has begun anew: its broker id. (_BYTEMQ_JOINS_ANEW is always 1: older programs,
of which this one may have been begun, say only that they do.)
"""
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
Begin = Callable[[BrokerConfig, asyncio.Event], Awaitable[Node | None]]


def serve(config: BrokerConfig) -> int:
    """Run a node until SIGTERM or SIGINT; returns the exit code. Raises Failed or BytemqError when it cannot run."""
    allow_open_files()
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(_run_node(config))


def allow_open_files() -> None:
    """As many as may be: what shells allow by default is for programs that wait with select(2)."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # macOS says infinity, and does not mean it
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop halves the cost of a request; where it does not exist (Windows) the standard loop serves as well."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


async def _run_node(config: BrokerConfig) -> int:
    """A node that has lost its session joins anew, as often as it takes."""
    asked_to_stop = _stop_on_signals(asyncio.get_running_loop())
    begin: Begin = _started
    if (broker_id := os.environ.pop(JOINS_ANEW, None)) is not None:
        begin, config = _joined_anew, config.with_node_id(int(broker_id))
    while True:
        failure, config = await _lived(begin, config, asked_to_stop)
        if failure is None or asked_to_stop.is_set():
            return 0
        print(f"bytemq: {failure}; joining anew", file=sys.stderr, flush=True)
        begin = _joined_anew


async def _lived(
    begin: Begin, config: BrokerConfig, asked_to_stop: asyncio.Event
) -> tuple[SessionLost | None, BrokerConfig]:
    """One node from its start to its end: why another one has to join, None when it was asked to stop; and how. It
    keeps the id that it was given: the lowest free one may be that of another, which is about to join anew as well.
    """
    try:
        node = await begin(config, asked_to_stop)
    except SessionLost as failure:  # on a slow machine, or one that stood still, before it served anybody
        return failure, config
    if node is None:
        return None, config
    return await _ended(node, asked_to_stop), config.with_node_id(node.config.node_id)


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


async def _started(config: BrokerConfig, asked_to_stop: asyncio.Event) -> Node | None:
    """A node that serves; None: it was asked to stop meanwhile."""
    starting = asyncio.ensure_future(Node.start(config))
    await _first_of(starting, asked_to_stop)
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
    return node


async def _joined_anew(config: BrokerConfig, asked_to_stop: asyncio.Event) -> Node | None:
    """As `_started`. What may pass is waited for: nobody need be there to start it again when the store is back."""
    delay_s = FIRST_RETRY_S
    while not asked_to_stop.is_set():
        try:
            return await _started(config, asked_to_stop)
        except (Unavailable, Fenced) as error:
            print(f"bytemq: {error}; trying again", file=sys.stderr, flush=True)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asked_to_stop.wait(), delay_s * (0.5 + random.random() / 2))
        delay_s = min(2 * delay_s, MAX_RETRY_S)
    return None


async def _ended(node: Node, asked_to_stop: asyncio.Event) -> SessionLost | None:
    """Runs the node to its end, and ends it: why it must join anew; None when it was asked to stop. Raises Failed with
    what it could not live on after.
    """
    waiting = asyncio.ensure_future(node.wait())
    await _first_of(waiting, asked_to_stop)
    failure = waiting.exception() if waiting.done() else None
    waiting.cancel()
    stopping = asyncio.ensure_future(node.stop())
    if isinstance(failure, SessionLost):
        await _out_of_the_way(node, stopping, failure, asked_to_stop)
        return failure
    await _in_time(stopping)
    stopping.result()
    if failure is not None:
        raise Failed(f"the node stopped: {failure}") from failure
    return None


async def _first_of(work: asyncio.Future[Any], asked_to_stop: asyncio.Event) -> None:
    stopping = asyncio.ensure_future(asked_to_stop.wait())
    try:
        await asyncio.wait((work, stopping), return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()


async def _out_of_the_way(
    node: Node, stopping: asyncio.Future[None], failure: SessionLost, asked_to_stop: asyncio.Event
) -> None:
    """Waits for a node whose session is lost. Nothing that it holds counts any more, so it need not end well: one that
    does not, makes room by beginning this process anew, the same program under the same id.
    """
    _, late = await asyncio.wait((stopping,), timeout=LOST_TIMEOUT_S)
    error = None if late or stopping.cancelled() else stopping.exception()
    if not late and error is None:
        return
    if asked_to_stop.is_set():
        os._exit(1)
    why = f"did not stop within {LOST_TIMEOUT_S:g} s" if late else f"did not stop as it should: {error!r}"
    print(f"bytemq: {failure}; the node {why}: this process begins anew", file=sys.stderr, flush=True)
    sys.stdout.flush()
    environment = {**os.environ, JOINS_ANEW: str(node.config.node_id)}
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


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
    data = config.bytemq_storage or Path(config.data_dir).absolute()
    about = f"node {config.node_id}, {config.bytemq_durability}"
    return f"bytemq {__version__} is ready on {addresses}, data in {data}, {about}"
