"""URLs by which a query's process reads Parquet files where the storage is no folder of the machine.

Owns: how long a URL is good for, and that it is not signed for each query anew. Must not: know how a store signs.

A URL is the right to read one object for some minutes, and is all that a query's process has: no credentials.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from bytemq.runtime.clock import Clock

AGAIN_S = 300
"""So long a URL is given to further queries: well below the life of what temporary credentials sign."""
KNOWN_URLS = 4096


class Signer(Protocol):
    async def sign(self, name: str, seconds: int) -> str:
        """Raises BytemqError."""


class _Signed(NamedTuple):
    url: str
    again_until: float


class SignedUrls:
    def __init__(self, signer: Signer, clock: Clock, query_s: float) -> None:
        """`query_s`: what a query may take."""
        self._signer = signer
        self._clock = clock
        self._good_for_s = int(query_s) + 2 * AGAIN_S
        self._known: OrderedDict[str, _Signed] = OrderedDict()

    async def of(self, names: Sequence[str]) -> list[str]:
        """Each good for as long as a query may take. Raises BytemqError."""
        return [await self._of(name) for name in names]

    async def _of(self, name: str) -> str:
        known, now = self._known.get(name), self._clock.monotonic()
        if known is None or known.again_until <= now:
            known = self._known[name] = _Signed(await self._signer.sign(name, self._good_for_s), now + AGAIN_S)
            while len(self._known) > KNOWN_URLS:
                self._known.popitem(last=False)
            await asyncio.sleep(0)  # it is work of a millisecond
        return known.url
