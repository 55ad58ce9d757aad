"""URLs for queries: signed once for some minutes, and good for as long as a query may take."""

from __future__ import annotations

from bytemq.query.signed_urls import AGAIN_S, SignedUrls
from tests.support.virtual_time import LoopClock, run_virtual


class Signer:
    def __init__(self) -> None:
        self.signed: list[tuple[str, int]] = []

    async def sign(self, name: str, seconds: int) -> str:
        self.signed.append((name, seconds))
        return f"{name}?{len(self.signed)}"


def test_urls__are_signed_again_when_a_query_might_outlive_them() -> None:
    async def test() -> None:
        signer, clock = Signer(), LoopClock()
        urls = SignedUrls(signer, clock, query_s=100)
        assert await urls.of(["a", "b"]) == ["a?1", "b?2"]
        await clock.sleep(AGAIN_S - 1)
        assert await urls.of(["b", "c", "a"]) == ["b?2", "c?3", "a?1"]
        assert all(seconds >= AGAIN_S + 100 for _, seconds in signer.signed)
        await clock.sleep(2)
        assert await urls.of(["a", "c"]) == ["a?4", "c?3"]

    run_virtual(test())
