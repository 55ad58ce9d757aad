"""A broker that is to have partitions of others looks at their logs first, and says so."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, cast

from bytemq.broker.preparation import Preparation
from bytemq.errors import Unavailable
from bytemq.metadata import keys, values
from bytemq.metadata.follower import ImageFollower
from bytemq.metadata.store import Put
from bytemq.scheduler.membership import Membership
from tests.support.metadata import broker_value, embedded_store, topic_id, topic_puts
from tests.support.virtual_time import VirtualClock

T1 = topic_id(1)


class Logs:
    def __init__(self) -> None:
        self.looked_at: list[int] = []
        self.error: Exception | None = None

    async def look_ahead(self, session_id: int) -> None:
        self.looked_at.append(session_id)
        if self.error is not None:
            raise self.error


async def test_preparation__looks_ahead_in_the_owners_logs_and_says_up_to_which_wish(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        store, clock, logs = await stack.enter_async_context(embedded_store(tmp_path)), VirtualClock(), Logs()
        owner, other = [await Membership.join(store, clock, one, broker_value(str(one)), 3.0) for one in (0, 1)]
        follower = ImageFollower(store, clock)
        await follower.load()
        preparation = Preparation(
            broker_id=1,
            session_id=other.session_id,
            lease=other.lease,
            store=store,
            follower=follower,
            logs=cast(Any, logs),
        )
        tasks = [asyncio.ensure_future(work()) for work in (follower.run, preparation.run)]
        stack.push_async_callback(asyncio.wait, tasks)
        stack.callback(lambda: [task.cancel() for task in tasks])

        async def wish(brokers: list[int]) -> int:
            written = await store.txn([], [Put(keys.assignments(T1, 0), values.encode_assignments(brokers))])
            await follower.wait_for(written.revision)
            return written.revision

        async def prepared(revision: int) -> None:
            async with asyncio.timeout(30):
                while follower.image.prepared.get(1, 0) < revision:  # noqa: ASYNC110  (its writer tells nobody)
                    await asyncio.sleep(0.001)

        facts = values.OwnersValue([0, 0, 0], [owner.session_id] * 3, [0, 0, 0])
        await store.txn([], topic_puts("t", T1, [0, 0, 0], facts))
        await prepared(await wish([1, 1, 0]))
        assert logs.looked_at == [owner.session_id], "once for all of them"
        logs.error = Unavailable("the store is down")
        await wish([1, 1, 1])
        before = follower.image.prepared[1]
        await asyncio.sleep(0.02)
        assert follower.image.prepared[1] == before, "it does not say what is not so"
        logs.error = None
        await prepared(await wish([1, 0, 1]))
        looked_at = len(logs.looked_at)
        await wish([0, 0, 0])
        await asyncio.sleep(0.02)
        assert len(logs.looked_at) == looked_at, "nothing is to come"
        await owner.leave()
        await prepared(await wish([1, 0, 0]))
        assert logs.looked_at[looked_at:] == [owner.session_id], "what is claimed after a death is read meanwhile"
        await other.leave()
        assert await store.get(keys.prepared(1)) is None, "it goes with its session"
