"""The timers of one coordinator: a queue of deadlines by key. Pure; the runtime brings the clock.

A heartbeat moves its session's deadline far more often than a session ends, so moving a deadline back costs one dict
store: the queue keeps the old, earlier entry and looks again when that one comes up.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Hashable
from typing import Protocol

from bytemq.broker.coordinator.outcome import Outcome

TimerKey = Hashable
TimerAction = Callable[[], Outcome[None]]


class Timers(Protocol):
    """What a machine sees of time: it asks to be called, it never waits."""

    def schedule(self, key: TimerKey, delay_ms: int, action: TimerAction) -> None:
        """Run `action` after `delay_ms`; an earlier timer of the same key is replaced."""

    def cancel(self, key: TimerKey) -> None:
        """Forget the key's timer; unknown keys are fine."""

    def is_scheduled(self, key: TimerKey) -> bool: ...


class TimerQueue:
    """Timers by deadline; those due at the same moment run in the order in which they were scheduled."""

    __slots__ = ("_entries", "_heap", "_now_ms", "_sequence")

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self._now_ms = now_ms
        self._entries: dict[TimerKey, _Entry] = {}
        self._heap: list[tuple[int, int, TimerKey]] = []
        self._sequence = 0

    def __len__(self) -> int:
        return len(self._entries)

    def schedule(self, key: TimerKey, delay_ms: int, action: TimerAction) -> None:
        deadline = self._now_ms() + max(delay_ms, 0)
        entry = self._entries.get(key)
        if entry is not None and entry.queued_ms <= deadline:
            entry.deadline_ms = deadline
            entry.action = action
            return
        self._entries[key] = entry = _Entry(deadline, action)
        self._push(key, entry)

    def cancel(self, key: TimerKey) -> None:
        self._entries.pop(key, None)
        self._drop_stale()

    def is_scheduled(self, key: TimerKey) -> bool:
        return key in self._entries

    def clear(self) -> None:
        self._entries.clear()
        self._heap.clear()

    def next_deadline_ms(self) -> int | None:
        """When to look again; at or before the earliest deadline. None: nothing is scheduled."""
        return self._heap[0][0] if self._entries and self._heap else None

    def pop_due(self) -> TimerAction | None:
        """The action of one timer that is due, which is forgotten; None when none is."""
        now = self._now_ms()
        while self._heap and self._heap[0][0] <= now:
            _, sequence, key = heapq.heappop(self._heap)
            entry = self._entries.get(key)
            if entry is None or entry.sequence != sequence:
                continue  # cancelled or replaced
            if entry.deadline_ms > now:
                self._push(key, entry)
                continue
            del self._entries[key]
            return entry.action
        return None

    def _push(self, key: TimerKey, entry: _Entry) -> None:
        self._sequence += 1
        entry.sequence = self._sequence
        entry.queued_ms = entry.deadline_ms
        heapq.heappush(self._heap, (entry.deadline_ms, self._sequence, key))
        self._drop_stale()

    def _drop_stale(self) -> None:
        """Forgets what was cancelled or replaced once it is the larger part: clients that come and go must not make
        the heap grow.
        """
        if len(self._heap) <= 64 or len(self._heap) <= 2 * len(self._entries):
            return
        self._heap = [(entry.queued_ms, entry.sequence, key) for key, entry in self._entries.items()]
        heapq.heapify(self._heap)


class _Entry:
    __slots__ = ("action", "deadline_ms", "queued_ms", "sequence")

    def __init__(self, deadline_ms: int, action: TimerAction) -> None:
        self.deadline_ms = deadline_ms
        self.action = action
        self.queued_ms = deadline_ms
        self.sequence = 0
