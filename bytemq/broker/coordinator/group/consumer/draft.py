"""Trying out what a request would do to a group, before any of it is in the log.

Each record is applied at once, so that the next step sees what the one before did; at the end everything is taken back,
and the records remain. Their staging will apply them again. What the group knows of its members and no record tells
goes with a member that is taken out, and comes back with it: the request may be refused yet.
"""

from __future__ import annotations

from types import TracebackType
from typing import TypeVar

from bytemq.broker.coordinator.group.consumer.group import ConsumerGroup
from bytemq.broker.coordinator.group.consumer.records import ConsumerGroupRecord, MemberRecord


class Draft:
    """`with Draft(group) as draft:` the group is as the records added so far make it."""

    __slots__ = ("_asks_at_ms", "_connections", "_undo", "group", "records")

    def __init__(self, group: ConsumerGroup) -> None:
        self.group = group
        self.records: list[ConsumerGroupRecord] = []
        self._undo: list[ConsumerGroupRecord] = []
        self._connections: dict[str, str] = {}
        self._asks_at_ms: dict[str, int] = {}

    def __enter__(self) -> Draft:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        while self._undo:
            self.group.apply(self._undo.pop())
        self.group.connections.update(self._connections)
        self.group.asks_at_ms.update(self._asks_at_ms)

    def add(self, record: ConsumerGroupRecord) -> None:
        if isinstance(record, MemberRecord) and record.value is None:
            _keep(self._connections, self.group.connections, record.member_id)
            _keep(self._asks_at_ms, self.group.asks_at_ms, record.member_id)
        self._undo.append(self.group.apply(record))
        self.records.append(record)


_V = TypeVar("_V")


def _keep(kept: dict[str, _V], known: dict[str, _V], member_id: str) -> None:
    if member_id in known:
        kept[member_id] = known[member_id]
