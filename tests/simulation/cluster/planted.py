"""Classic bugs of a cluster, planted on purpose. Each is a context manager that breaks the brokers while it lasts."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any
from unittest.mock import patch

from bytemq.metadata.standing import Standing
from bytemq.metadata.store import Compare
from bytemq.scheduler.membership import Membership
from bytemq.storage.objects.session_log import SessionTail
from bytemq.storage.objects.session_tail import SessionTailKeeper
from tests.simulation.cluster_storage.planted import commit_before_the_object_is_written, size_not_compared
from tests.simulation.log.planted import watermark_early

Planted = Callable[[], AbstractContextManager[Any]]


def lease_not_looked_at() -> AbstractContextManager[Any]:
    """A broker that stood still answers what it knew before, without asking whether it still owns anything."""
    return patch.object(Standing, "holds", lambda self: True)


def fencing_removed() -> AbstractContextManager[Any]:
    """Commits do not compare the session: who was taken for dead in the middle of a write goes on with it."""
    publish = SessionTailKeeper._publish

    async def unfenced(self: SessionTailKeeper, tail: SessionTail) -> None:
        self._fence = Compare(self._key, self._revision)
        await publish(self, tail)

    return patch.object(SessionTailKeeper, "_publish", unfenced)


def doubts_not_looked_at() -> AbstractContextManager[Any]:
    """A renewal counts although somebody doubts the session, and ends it."""

    async def broken(self: Membership) -> bool:
        return True

    return patch.object(Membership, "_take_back_doubts", broken)


PLANTED: dict[Planted, int] = {
    lease_not_looked_at: 141,
    fencing_removed: 213,
    commit_before_the_object_is_written: 0,
    watermark_early: 8,
    doubts_not_looked_at: 39,
    size_not_compared: 1,
}
"""Each with a seed that finds it."""
