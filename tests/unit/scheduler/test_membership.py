"""Joining a cluster."""

from pathlib import Path
from typing import Any

import pytest

from bytemq.errors import Unavailable
from bytemq.metadata import keys
from bytemq.metadata.embedded import EmbeddedStore
from bytemq.metadata.standing import Standing
from bytemq.metadata.store import KeyValue, Txn
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


async def test_join__as_anybody_leaves_nothing_of_an_attempt_that_was_carried_out_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under our lease nobody would miss a broker that is not there, and partitions would be wished to be at it."""
    async with embedded_store(tmp_path) as store:
        txn, get = store.txn, store.get
        on_its_way: list[tuple[Any, ...]] = []

        async def unanswered(*transaction: Any) -> Txn:
            monkeypatch.setattr(store, "txn", txn)
            on_its_way.append(transaction)
            raise Unavailable("no answer")

        async def late(key: str) -> KeyValue | None:
            found = await get(key)
            if on_its_way:
                await txn(*on_its_way.pop())
            return found

        monkeypatch.setattr(store, "txn", unanswered)
        monkeypatch.setattr(store, "get", late)
        joined = await Membership.join(store, VirtualClock(), None, broker_value(), 3.0)
        assert joined.broker_id == 0
        entries = (await store.range(keys.BROKERS)).entries
        assert [(entry.key, entry.revision) for entry in entries] == [(keys.broker(0), joined.session_id)]


async def test_standing__that_has_ended_is_not_renewed_by_an_answer_that_was_on_its_way() -> None:
    standing = Standing(VirtualClock().monotonic)
    standing.renew(0.0, 3.0)
    assert standing.holds()
    standing.end()
    standing.renew(0.0, 3.0)
    assert not standing.holds()
