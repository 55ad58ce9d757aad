"""What is kept out of the collector's sight, and for how long."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from bytemq.runtime import garbage_collection


class Part:
    """Of a node: parts know each other."""

    def __init__(self) -> None:
        self.other = self


@pytest.fixture(autouse=True)
def thawed() -> Iterator[None]:
    yield
    gc.unfreeze()


def test_settle__what_the_last_session_left_goes_when_a_node_joins_anew() -> None:
    part = Part()
    left = weakref.ref(part)
    garbage_collection.settle()
    del part
    gc.collect()
    assert left() is not None, "out of the collector's sight"
    garbage_collection.settle()
    assert left() is None
