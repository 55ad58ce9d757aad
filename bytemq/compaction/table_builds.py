"""A table is built by the owners of its partitions, each of its own: who is asked, and what they answer.

Owns: the requests between brokers, which are keys of the metadata, and asking again where a partition has another owner
by now. Must not: convert (`restructuring` does).

    table-builds/<broker>/<asker's session>-<number>    {"topic", "partitions", "lease"}
        becomes {"conversions", "held_back"}, {"failed": "why"} or {"moved": "why"}, which the asker deletes

A request is under the lease of whoever asks, and so is its answer: nothing is left of an asker that has died.
"""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

from bytemq.compaction.restructuring import Built
from bytemq.errors import BytemqError, NotFound, Unavailable
from bytemq.metadata import keys
from bytemq.metadata.image import ClusterImage, TopicImage
from bytemq.metadata.store import Compacted, Compare, MetadataStore, Put
from bytemq.runtime.clock import Clock
from bytemq.runtime.logging import get_logger
from bytemq.runtime.tasks import Supervisor

log = get_logger("compaction.tables")

POLL_S = 0.2
RETRY_S = 1.0
MOST_ROUNDS = 60
"""In a row in which nobody has built anything, because partitions are between brokers, or cannot be opened."""


class Moved(Unavailable):
    """Not all of these partitions are ours, or not any more."""


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
        known = self._image().topics.get(topic)
        if known is None:
            raise NotFound(f"there is no topic {topic}")
        conversions = held_back = rounds = 0
        left = set(range(len(known.partitions)))
        while left:
            owners: dict[int, list[int]] = defaultdict(list)
            for index in sorted(left):
                owners[self._owner(known, index)].append(index)
            outcomes = await asyncio.gather(*(self._built(known, owner, found) for owner, found in owners.items()))
            rounds += 1
            problem = ""
            for outcome, indexes in zip(outcomes, owners.values(), strict=True):
                if isinstance(outcome, str):
                    problem = f"partition {indexes[0]} of {topic}: {outcome}"
                    continue
                left.difference_update(indexes)
                conversions += outcome.conversions
                held_back += outcome.held_back
                rounds = 0
            if rounds == MOST_ROUNDS:
                raise Unavailable(problem)
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

    def _owner(self, topic: TopicImage, index: int) -> int:
        known = self._image().topics.get(topic.name)
        if known is None or known.topic_id != topic.topic_id:
            raise NotFound(f"{topic.name} was deleted")
        return known.partitions[index].owner

    async def _built(self, topic: TopicImage, owner: int, indexes: Sequence[int]) -> Built | str:
        """Or why not: not all of them have that owner, or he is gone."""
        if owner == self._me.broker_id:
            try:
                return await self._build_own(topic.name, indexes)
            except Moved as error:
                return str(error)
        if owner not in self._image().brokers:
            return "it has no owner" if owner < 0 else f"its owner, broker {owner}, is away"
        return await self._asked_of(topic, owner, indexes)

    async def _asked_of(self, topic: TopicImage, owner: int, indexes: Sequence[int]) -> Built | str:
        self._asked += 1
        key = f"{keys.table_builds(owner)}{self._me.session_id}-{self._asked}"
        request = {"topic": topic.name, "partitions": list(indexes), "lease": self._me.lease}
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
                    return f"broker {owner}: {answer['moved']}"
                await self._clock.sleep(POLL_S)
            return f"it moves away from broker {owner}"
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
        except Moved as error:
            return {"moved": str(error)}
        except BytemqError as error:
            return {"failed": str(error)}
        return {"conversions": built.conversions, "held_back": built.held_back}
