"""Flushes are written on the loop as long as the kernel does not hold the writer back."""

from __future__ import annotations

import pytest

from bytemq.storage.wal.inline_writes import LONG_S, REST_S, SLEPT_S, SMALL_BYTES, InlineWrites
from tests.support.virtual_time import VirtualClock

LARGE_BYTES = 1024 * 1024


class Writer:
    def __init__(self, most_bytes: int = LARGE_BYTES) -> None:
        self.clock = VirtualClock()
        self.slept = 0
        self.inline = InlineWrites(most_bytes, self.clock, lambda: self.slept)

    def write(self, size_bytes: int = LARGE_BYTES, seconds: float = 0.0, *, sleeps: bool = False) -> bool:
        """Whether it was written on the loop."""
        if not self.inline.begins(size_bytes):
            return False
        self.slept += sleeps
        self.clock.advance(seconds)
        self.inline.ended()
        return True


@pytest.mark.parametrize(("seconds", "sleeps"), [(2 * SLEPT_S, True), (2 * LONG_S, False)])
def test_inline_writes__are_only_small_ones_for_a_while_after_one_was_held_back(seconds: float, sleeps: bool) -> None:
    writer = Writer()
    assert writer.write(seconds=seconds, sleeps=sleeps)
    assert not writer.write()
    assert writer.write(SMALL_BYTES), "a thread costs more than so little"
    writer.clock.advance(REST_S)
    assert writer.write()


def test_inline_writes__go_on_where_the_machine_was_busy_or_the_pause_was_short() -> None:
    writer = Writer()
    assert all(writer.write(seconds=LONG_S / 2) for _ in range(3))
    assert all(writer.write(seconds=SLEPT_S / 2, sleeps=True) for _ in range(3))


def test_inline_writes__have_a_limit_and_are_none_below_zero() -> None:
    assert not Writer().write(LARGE_BYTES + 1)
    assert not Writer(-1).write(0)
