"""The steps of a store and of metadata in virtual time: some take a while, so that whoever has something to do comes in
between.
"""

from __future__ import annotations

import asyncio

from tests.support.power_cut_store import Power

DELAYS_S = (0.001, 0.004, 0.02)


class SlowPower(Power):
    """It never goes: here it is processes that die, and the loop sees to that."""

    async def step(self) -> None:
        if self.random.random() < 0.3:
            await asyncio.sleep(self.random.choice(DELAYS_S))
