"""How often the event loop comes round: what work leaves to others, in whatever time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class LoopTurns:
    count = 0

    async def run(self) -> None:
        while True:
            self.count += 1
            await asyncio.sleep(0)


@asynccontextmanager
async def counted_turns() -> AsyncIterator[LoopTurns]:
    """In a block that waits for no timer of a virtual clock: time stands still where something is always to be done."""
    turns = LoopTurns()
    running = asyncio.ensure_future(turns.run())
    try:
        yield turns
    finally:
        running.cancel()
