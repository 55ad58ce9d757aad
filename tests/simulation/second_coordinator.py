"""A coordinator that reads the log behind the one that writes it: what it knows is what a restart would find.

It takes only what is new in the log each time, so that asking it after every step costs no more than the log is long.
"""

from __future__ import annotations

from bytemq.broker.coordinator.group.environment import GroupSettings
from bytemq.broker.coordinator.group.shard import GroupShard
from bytemq.broker.coordinator.timers import TimerQueue
from tests.unit.coordinator.group_world import LogRecord


class SecondCoordinator:
    def __init__(self, settings: GroupSettings) -> None:
        self.shard = GroupShard(settings, TimerQueue(lambda: 0), lambda: 0, str)
        self._read_to = 0

    def read(self, log: list[LogRecord]) -> bool:
        """Takes what is new; whether there was anything."""
        if self._read_to == len(log):
            return False
        self.shard.replay(log[self._read_to :])
        self._read_to = len(log)
        return True
