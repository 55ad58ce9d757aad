"""Trying out what a request would do to a group, before any of it is in the log.

Each record is applied at once, so that the next step sees what the one before did; at the end everything is taken back,
and the records remain. Their staging will apply them again.
"""

from __future__ import annotations

from types import TracebackType

from bytemq.broker.coordinator.group.consumer.group import ConsumerGroup
from bytemq.broker.coordinator.group.consumer.records import ConsumerGroupRecord


class Draft:
    """`with Draft(group) as draft:` the group is as the records added so far make it."""

    __slots__ = ("_undo", "group", "records")

    def __init__(self, group: ConsumerGroup) -> None:
        self.group = group
        self.records: list[ConsumerGroupRecord] = []
        self._undo: list[ConsumerGroupRecord] = []

    def __enter__(self) -> Draft:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        while self._undo:
            self.group.apply(self._undo.pop())

    def add(self, record: ConsumerGroupRecord) -> None:
        self._undo.append(self.group.apply(record))
        self.records.append(record)
