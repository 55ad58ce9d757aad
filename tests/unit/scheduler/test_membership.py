"""Joining a cluster."""

from pathlib import Path

import pytest

from bytemq.errors import Unavailable
from bytemq.metadata.embedded import EmbeddedStore
from bytemq.scheduler.membership import Membership
from tests.support.metadata import broker_value, embedded_store
from tests.support.virtual_time import VirtualClock


async def test_join__that_stood_still_for_longer_than_its_lease_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with embedded_store(tmp_path) as store:
        grant = EmbeddedStore.grant_lease

        async def grant_and_stand_still(self: EmbeddedStore, ttl_s: float) -> int:
            lease = await grant(self, ttl_s)
            await self.revoke(lease)
            return lease

        monkeypatch.setattr(EmbeddedStore, "grant_lease", grant_and_stand_still)
        with pytest.raises(Unavailable, match=r"stood still for more than 3 s while broker 1 .* Start it again"):
            await Membership.join(store, VirtualClock(), 1, broker_value(), 3.0)
