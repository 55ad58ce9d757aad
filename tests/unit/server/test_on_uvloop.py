"""The connection's scenarios once more on the event loop that the node runs on: its transports are not asyncio's."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
import uvloop

from tests.unit.server import test_connection as scenarios

SCENARIOS = [
    scenario
    for name, scenario in vars(scenarios).items()
    if name.startswith("test_") and not scenario.__code__.co_argcount
]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_uvloop__behaves_as_asyncio(scenario: Callable[[], Awaitable[None]]) -> None:
    async def run() -> None:
        await scenario()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())
