"""Waiting for records: until there are enough, or the client's time is over.

Owns: what the partitions of one Fetch have by now, kept up with each commit, and its timer. Must not: read. It waits
once; after that its fetch is answered with whatever there is.

A client has one Fetch at a time on its way to a broker. One that waits here could not ask for a partition that has
just come here from another broker, so it is answered then.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set

from bytemq.broker.fetch_sessions import WantedPartition
from bytemq.broker.log.waiters import Waiters, register_with_all, unregister_from_all
from bytemq.broker.partition_lookup import Readable
from bytemq.runtime.clock import Clock, TimerHandle


class LongPoll:
    """`watch` every partition, then `wait`: whatever is committed from then on is noticed.

    `begin` where turns of the loop go by before that: partitions that come meanwhile are noticed, too.
    """

    __slots__ = (
        "_available",
        "_available_bytes",
        "_clock",
        "_come",
        "_isolation",
        "_min_bytes",
        "_newcomers",
        "_timer",
        "_wakes_soon",
        "_woken",
        "is_on",
    )

    def __init__(
        self,
        clock: Clock,
        newcomers: Waiters[Set[str]],
        min_bytes: int,
        isolation: int,
        *,
        is_on: bool,
    ) -> None:
        self._clock = clock
        self._newcomers = newcomers
        self._min_bytes = min_bytes
        self._isolation = isolation
        # Only while it waits: what it calls holds on to it, and to all that was read, until the garbage is collected.
        self._woken: Callable[[], None] | None = None
        self._available: dict[Readable, tuple[WantedPartition, int]] = {}
        self._available_bytes = 0
        self._come: Set[str] = frozenset()
        """In these topics partitions have come before it waits."""
        self._wakes_soon = False
        self._timer: TimerHandle | None = None
        self.is_on = is_on
        """Records may still be waited for; else the next pass answers whatever it finds."""

    def begin(self) -> None:
        if self.is_on:
            self._newcomers.register(self._joined)

    def watch(self, wanted: WantedPartition, partition: Readable) -> None:
        size_bytes = 0
        if self._min_bytes > 1:  # else whoever has something is not waited for
            size_bytes = partition.available_bytes(wanted.fetch_offset, self._isolation, self._min_bytes) or 0
        before = self._available.get(partition)
        self._available[partition] = (wanted, size_bytes)
        self._available_bytes += size_bytes - (0 if before is None else before[1])
        partition.waiters.register(self._grown)

    def watch_all(self, found: Sequence[tuple[WantedPartition, Readable]]) -> None:
        """As `watch` each."""
        if self._min_bytes > 1:
            for wanted, partition in found:
                self.watch(wanted, partition)
            return
        for wanted, partition in found:
            self._available[partition] = (wanted, 0)
        register_with_all([partition.waiters for _, partition in found], self._grown)

    def watch_late(self, wanted: WantedPartition, partition: Readable) -> None:
        """As `watch`, of one that came while others are read or waited for: there may be something in it."""
        self.watch(wanted, partition)
        self._grown(partition)

    def wait(self, wait_s: float, woken: Callable[[], None]) -> None:
        """Calls `woken` later than this returns, once, unless it is over before."""
        self._newcomers.register(self._joined)
        if self._come:
            self._joined(self._come)
        self._woken = woken
        if self._wakes_soon:  # something came while others were looked at
            self._clock.call_later(0, self._wake)
        else:
            self._timer = self._clock.call_later(wait_s, self._wake)

    def wake_soon(self) -> None:
        """In the next loop turn: the other commits of this one then go into the same answer."""
        if not self._wakes_soon:
            self._wakes_soon = True
            if self._woken is not None:
                self._clock.call_later(0, self._wake)

    def end(self) -> None:
        self.is_on = False
        self._woken = None
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
        self._newcomers.unregister(self._joined)
        if self._available:
            unregister_from_all([partition.waiters for partition in self._available], self._grown)
            self._available.clear()

    def _grown(self, partition: Readable) -> None:
        """A partition has committed more, or is closed."""
        if self._wakes_soon:
            return
        wanted, before = self._available[partition]
        now = partition.available_bytes(wanted.fetch_offset, self._isolation, self._min_bytes)
        if now is None:
            self.wake_soon()
            return
        self._available[partition] = (wanted, now)
        self._available_bytes += now - before
        if self._available_bytes >= max(1, self._min_bytes):
            self.wake_soon()

    def _joined(self, topics: Set[str]) -> None:
        """Of these topics there are more partitions here."""
        if self._woken is None:
            self._come |= topics
        if any(partition.topic in topics for partition in self._available):
            self.wake_soon()

    def _wake(self) -> None:
        woken = self._woken
        if woken is not None:
            self.end()
            woken()
