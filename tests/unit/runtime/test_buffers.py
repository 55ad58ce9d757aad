"""Receive buffers: used again, never while somebody looks at them, never too many kept."""

import pytest

from bytemq.runtime.buffers import LARGEST_POOLED_BYTES, BufferPool

MIB = 1024 * 1024


@pytest.mark.parametrize("size", [1, 65_536, 65_537, 100_000, MIB, MIB + 1, 5 * MIB, LARGEST_POOLED_BYTES + 1])
def test_pool__gives_at_least_what_was_asked(size: int) -> None:
    buffer = BufferPool(64 * MIB).take(size)
    view = memoryview(buffer)[:size]
    view[size - 1] = 7
    assert len(view) == size


@pytest.mark.parametrize("size", [100_000, 2 * MIB])
def test_pool__uses_a_returned_buffer_again_but_not_one_that_is_viewed(size: int) -> None:
    pool = BufferPool(64 * MIB)
    buffer = pool.take(size)
    view = memoryview(buffer)[10:20]
    pool.give_back(buffer)
    assert pool.take(size) is not buffer
    view.release()
    assert pool.take(size) is buffer
    assert pool.kept_bytes == 0


def test_pool__keeps_no_more_than_its_limit_and_nothing_huge() -> None:
    pool = BufferPool(MIB)
    for buffer in [pool.take(300_000) for _ in range(10)]:
        pool.give_back(buffer)
    pool.give_back(pool.take(LARGEST_POOLED_BYTES + 1))
    pool.give_back(pool.take(100))
    assert 0 < pool.kept_bytes <= MIB


def test_pool__makes_room_for_what_is_asked_for_now() -> None:
    pool = BufferPool(4 * MIB)
    for buffer in [pool.take(100_000) for _ in range(64)]:
        pool.give_back(buffer)
    wanted = pool.take(2 * MIB)
    pool.give_back(wanted)
    assert pool.take(2 * MIB) is wanted
    assert 0 < pool.kept_bytes <= 4 * MIB


def test_pool__finds_the_one_that_is_free_again_among_many_still_in_view() -> None:
    pool = BufferPool(64 * MIB)
    lent = [pool.take(MIB) for _ in range(20)]
    views = [memoryview(buffer) for buffer in lent]
    for buffer in lent:
        pool.give_back(buffer)
    views[0].release()
    assert pool.take(MIB) is lent[0]
