"""How much there is of everything in one schedule.

Most bugs need little: two clients, one partition and a handful of troubles in the right order. So most schedules are
small (the small scope hypothesis) and have some kinds of clients only, which leaves these more room (swarm testing:
Groce et al., 2012); a share is large, for what needs many things at once. What was chosen here is what finds most
planted bugs in a second: see docs/testing.md.
"""

from __future__ import annotations

from random import Random
from typing import NamedTuple

_LARGE = 0.12
"""The share of large ones."""


class Scope(NamedTuple):
    """`troubles` is the least and the most of them; the others are drawn from."""

    partitions: tuple[int, ...] = (1, 2)
    """Of each topic."""
    batches: tuple[int, ...] = (1, 2, 3)
    """What the idempotent producer writes into each partition that is read by groups."""
    transactional: tuple[int, ...] = (0,)
    """Programs that write in transactions."""
    transactions: tuple[int, ...] = (1, 2, 3)
    """Of each of them."""
    processors: tuple[int, ...] = (0,)
    plain: tuple[int, ...] = (0,)
    """Consumers that commit offsets without a transaction."""
    troubles: tuple[int, int] = (2, 6)


_SMALL = (
    Scope(transactional=(1, 2), batches=(1, 2)),
    Scope(transactional=(1,), processors=(1,), batches=(1, 2)),
    Scope(processors=(1, 2)),
    Scope(plain=(2,), partitions=(2,)),
)
_EVERYTHING = Scope(
    partitions=(1, 2),
    batches=(2, 3, 4, 5),
    transactional=(0, 1, 1, 2),
    transactions=(2, 3, 4),
    processors=(0, 1, 2, 3),
    plain=(0, 0, 1, 2),
    troubles=(3, 15),
)


def draw(random: Random) -> Scope:
    """For one schedule."""
    return _EVERYTHING if random.random() < _LARGE else random.choice(_SMALL)
