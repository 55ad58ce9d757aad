"""A table is built by the owners of its partitions, each of its own: who is asked, and what they answer.

Owns: the requests between brokers, which are keys of the metadata, and asking again where a partition has another owner
by now. Must not: convert (`restructuring` does).

    table-builds/<broker>/<asker's session>-<number>    {"topic", "partitions", "lease"}
        becomes {"conversions", "held_back"}, {"failed": "a sentence"} or {"moved": true}, which the asker deletes

A request is under the lease of whoever asks, and so is its answer: nothing is left of an asker that has died.
"""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from bytemq.compaction.restructuring import Built
from bytemq.errors import BytemqError, NotFound, Unavailable
from bytemq.metadata import keys
from bytemq.metadata.image import ClusterImage
from bytemq.metadata.store import Compacted, Compare, MetadataStore, Put
from bytemq.runtime.clock import Clock
from bytemq.runtime.logging import get_logger
from bytemq.runtime.tasks import Supervisor

log = get_logger("compaction.tables")

POLL_S = 0.2
RETRY_S = 1.0


class Moved(Unavailable):
    """Not all of these partitions are ours."""


class Asker(NamedTuple):
    broker_id: int
    session_id: int
    lease: int
    """Of the session."""


class TableBuilds:
    """Call `build`; `run` is a task that answers others."""

    def __init__(
        self,
        metadata: MetadataStore,
        image: Callable[[], ClusterImage],
        build_own: Callable[[str, Sequence[int]], Awaitable[Built]],
        me: Asker,
        clock: Clock,
        supervisor: Supervisor,
    ) -> None:
        """`build_own` builds partitions that this broker owns; raises Moved, BytemqError."""
        self._metadata = metadata
        self._image = image
        self._build_own = build_own
        self._me = me
        self._clock = clock
        self._supervisor = supervisor
        self._asked = 0
        self._answering: set[str] = set()

    async def build(self, topic: str) -> tuple[int, int]:
        """Everything that is committed now is in tables when this returns, as `Restructuring.build` has it. Gives how
        many conversions that took, and how many offsets were held back. Raises BytemqError for the first that cannot
        be.
        """
        conversions = held_back = 0
        left = set(range(len(self._partitions(topic))))
        while left:
            owners: dict[int, list[int]] = defaultdict(list)
            for index in sorted(left):
                owners[self._owner(topic, index)].append(index)
            built = await asyncio.gather(*(self._built(topic, owner, found) for owner, found in owners.items()))
            for outcome, indexes in zip(built, owners.values(), strict=True):
                if outcome is not None:
                    left.difference_update(indexes)
                    conversions += outcome.conversions
                    held_back += outcome.held_back
            if left:
                await self._clock.sleep(RETRY_S)
        return conversions, held_back

    async def run(self) -> None:
        prefix = keys.table_builds(self._me.broker_id)
        while True:
            try:
                entries, revision = await self._metadata.range(prefix)
                for entry in entries:
                    self._take(entry.key, entry.value, entry.revision)
                async for events in self._metadata.watch(prefix, revision):
                    for event in events:
                        self._take(event.key, event.value or b"{}", event.revision)
            except (Compacted, Unavailable):
                await self._clock.sleep(RETRY_S)

    # Asking.

    def _partitions(self, topic: str) -> Sequence[object]:
        known = self._image().topics.get(topic)
        if known is None:
            raise NotFound(f"there is no topic {topic}")
        return known.partitions

    def _owner(self, topic: str, index: int) -> int:
        known = self._image().topics.get(topic)
        if known is None:
            raise NotFound(f"{topic} was deleted")
        return known.partitions[index].owner

    async def _built(self, topic: str, owner: int, indexes: Sequence[int]) -> Built | None:
        """None: not all of them have that owner, or he is gone."""
        if owner == self._me.broker_id:
            with suppress(Moved):
                return await self._build_own(topic, indexes)
            return None
        return await self._asked_of(topic, owner, indexes) if owner in self._image().brokers else None

    async def _asked_of(self, topic: str, owner: int, indexes: Sequence[int]) -> Built | None:
        self._asked += 1
        key = f"{keys.table_builds(owner)}{self._me.session_id}-{self._asked}"
        request = {"topic": topic, "partitions": list(indexes), "lease": self._me.lease}
        await self._metadata.txn([], [Put(key, json.dumps(request).encode(), self._me.lease)])
        try:
            while all(self._owner(topic, index) == owner for index in indexes):
                entry = await self._metadata.get(key)
                if entry is None:
                    raise Unavailable("this broker's session has ended meanwhile")
                answer = json.loads(entry.value)
                if "failed" in answer:
                    raise Unavailable(f"broker {owner}: {answer['failed']}")
                if "conversions" in answer:
                    return Built(answer["conversions"], 0, answer["held_back"])
                if "moved" in answer:
                    break
                await self._clock.sleep(POLL_S)
            return None
        finally:
            await self._metadata.txn([], [], [key])

    # Answering.

    def _take(self, key: str, value: bytes, revision: int) -> None:
        try:
            asked = json.loads(value)
            topic, indexes, lease = str(asked["topic"]), list(map(int, asked["partitions"])), int(asked["lease"])
        except (KeyError, TypeError, ValueError):
            return  # an answer
        if key not in self._answering:
            self._answering.add(key)
            self._supervisor.start("build for others", self._answer(key, revision, topic, indexes, lease))

    async def _answer(self, key: str, revision: int, topic: str, indexes: Sequence[int], lease: int) -> None:
        try:
            answer = Put(key, json.dumps(await self._outcome(topic, indexes)).encode(), lease)
            await self._told(Compare(key, revision), answer)
        except NotFound as error:  # its lease has ended
            log.info("nobody waits for a table that was built", topic=topic, reason=str(error))
        finally:
            self._answering.discard(key)

    async def _told(self, asked: Compare, answer: Put) -> None:
        """Whoever asks waits for it as long as this broker lives. Raises NotFound."""
        while True:
            try:
                await self._metadata.txn([asked], [answer])
                return
            except Unavailable as error:
                log.info("the answer to who wants a table is told later", reason=str(error))
            await self._clock.sleep(RETRY_S)

    async def _outcome(self, topic: str, indexes: Sequence[int]) -> dict[str, Any]:
        try:
            built = await self._build_own(topic, indexes)
        except Moved:
            return {"moved": True}
        except BytemqError as error:
            return {"failed": str(error)}
        return {"conversions": built.conversions, "held_back": built.held_back}
