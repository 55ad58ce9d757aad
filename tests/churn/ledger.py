"""What was acknowledged of a topic, against what one follower of it was given. Pure.

Owns: whether both agree. Forgets what does, so that an hour fits. Must not: know how either was come by.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from threading import Lock


class Ledger:
    """Of one follower: a reader of the whole topic, or a group. It is given offsets upwards; what it is given again
    does not count. `acknowledged` and `read` come in any order, from any thread.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.wrong: list[str] = []
        """What cannot be right, whatever comes."""
        self.read_count = 0
        self.let_go_count = 0
        """Acknowledged and not read, because the log began behind them by then."""
        self._lock = Lock()
        self._unread: dict[int, dict[int, int]] = defaultdict(dict)
        """By partition: acknowledged numbers by offset."""
        self._unconfirmed: dict[int, dict[int, int]] = defaultdict(dict)
        """By partition: numbers that were read and not acknowledged, by offset."""
        self._uncertain: set[int] = set()
        self._next: dict[int, int] = {}
        self._passed_over: dict[int, list[range]] = defaultdict(list)

    def acknowledged(self, partition: int, offset: int, number: int) -> None:
        with self._lock:
            found = self._unconfirmed[partition].pop(offset, None)
            if found is None and any(offset in offsets for offsets in self._passed_over[partition]):
                self.let_go_count += 1
            elif found is None:
                self._unread[partition][offset] = number
            else:
                self._compare(partition, offset, number, found)

    def uncertain(self, number: int) -> None:
        """Nobody knows whether it was written: it may be there."""
        with self._lock:
            self._uncertain.add(number)

    def read(self, partition: int, offset: int, number: int, log_start: Callable[[], int]) -> None:
        """`log_start` asks for the first offset there is now; where it cannot be told, it raises what it likes."""
        expected = self._next.get(partition, 0)
        if offset < expected:
            return
        start = min(offset, log_start()) if offset > expected else expected
        with self._lock:
            if offset < self._next.get(partition, 0):  # another member was faster
                return
            self._next[partition] = offset + 1
            self.read_count += 1
            if start > expected:
                self._pass_over(partition, range(expected, start))
            acknowledged = self._unread[partition].pop(offset, None)
            if acknowledged is None:
                self._unconfirmed[partition][offset] = number
            else:
                self._compare(partition, offset, acknowledged, number)

    def ended(self, partition: int, log_start: int) -> None:
        """The follower is at the end of the log, and there is nothing any more below `log_start`."""
        with self._lock:
            expected = self._next.get(partition, 0)
            if log_start > expected:
                self._next[partition] = log_start
                self._pass_over(partition, range(expected, log_start))

    def _pass_over(self, partition: int, offsets: range) -> None:
        self._passed_over[partition].append(offsets)
        unread = self._unread[partition]
        for offset in [offset for offset in unread if offset in offsets]:
            del unread[offset]
            self.let_go_count += 1

    def _compare(self, partition: int, offset: int, acknowledged: int, read: int) -> None:
        if acknowledged != read:
            self.wrong.append(f"{self.name}: {partition}@{offset} is {read}, acknowledged was {acknowledged}")

    def is_settled(self) -> bool:
        """Everything acknowledged was read, and everything read was acknowledged or may have been written."""
        with self._lock:
            return not self._open()

    def problems(self) -> list[str]:
        """All that is wrong, when everybody is done."""
        with self._lock:
            return [*self.wrong, *self._open()]

    def _open(self) -> list[str]:
        lost = [(partition, *one) for partition, unread in self._unread.items() for one in unread.items()]
        unasked = [
            (partition, *one)
            for partition, unconfirmed in self._unconfirmed.items()
            for one in unconfirmed.items()
            if one[1] not in self._uncertain
        ]
        return [
            f"{self.name}: {len(found)} records {what}, such as {partition}@{offset}, number {number}"
            for found, what in ((lost, "acknowledged and not read"), (unasked, "read and never acknowledged"))
            for partition, offset, number in found[:1]
        ]


class Newest:
    """Of a compacted topic with one writer: the newest acknowledged number of each key."""

    def __init__(self) -> None:
        self._newest: dict[bytes, int] = {}
        self._uncertain: dict[bytes, set[int]] = defaultdict(set)
        self._lock = Lock()

    def acknowledged(self, key: bytes, number: int) -> None:
        with self._lock:
            self._newest[key] = max(number, self._newest.get(key, -1))

    def uncertain(self, key: bytes, number: int) -> None:
        with self._lock:
            self._uncertain[key].add(number)

    def problems(self, name: str, found: dict[bytes, int]) -> list[str]:
        """`found`: what a reader from the beginning knows at the end."""
        with self._lock:
            return [
                f"{name}: {key!r} is {found.get(key)}, the newest acknowledged is {number}"
                for key, number in self._newest.items()
                if found.get(key) not in {number, *(one for one in self._uncertain[key] if one > number)}
            ]
