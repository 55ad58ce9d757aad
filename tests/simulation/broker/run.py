"""What one run of a simulated world consists of, whatever is simulated: tasks beside each other, of which the first
that finds something broken ends the run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from tests.simulation.broker.history import BrokerHistory
from tests.simulation.broker.loop import SimulationLoop, run_simulated
from tests.simulation.transcript import failure_of

GIVE_UP_S = 40.0
"""Virtual seconds after which who did not get on is stuck, although all is well."""


class Run:
    """What is on its way, and what was found."""

    def __init__(self, loop: SimulationLoop) -> None:
        self.loop = loop
        self.history = BrokerHistory(loop.time)
        self.errors: list[BaseException] = []
        self._tasks: set[asyncio.Task[Any]] = set()
        self._zombies: list[asyncio.Task[Any]] = []
        loop.set_exception_handler(self._note_exception)

    async def run(self) -> None:
        """Raises Violation."""
        raise NotImplementedError

    def start(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Runs beside everything else; what it finds broken ends the run."""
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def haunt(self, work: Coroutine[Any, Any, Any]) -> None:
        """A zombie: nobody waits for it but the end of the run."""
        self._zombies.append(self.start(work))

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.errors.append(error)

    async def _until(self, done: asyncio.Future[Any], otherwise: str) -> None:
        deadline = self.loop.time() + GIVE_UP_S
        while not done.done():
            await asyncio.wait([done], timeout=0.5)
            if self.errors:
                raise self.errors[0]
            if self.loop.time() > deadline:
                raise self.history.broken(otherwise)
        done.result()

    def _note_exception(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """An exception in a callback, an assertion of the broker's, is the end of the run."""
        self.errors.append(context.get("exception") or RuntimeError(f"{context['message']} {context.get('task')}"))


def simulate(seed: int, kind: Callable[[int, SimulationLoop], Run]) -> tuple[list[str], BaseException | None]:
    """The transcript of this seed's run, and what went wrong in it."""
    transcript: list[str] = []

    async def main(loop: SimulationLoop) -> None:
        world = kind(seed, loop)
        try:
            await world.run()
        finally:
            transcript.extend(world.history.transcript)  # not what those say who are thrown away now

    failure = failure_of(lambda: run_simulated(main))
    return transcript, failure
