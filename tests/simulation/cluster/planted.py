"""Classic bugs of a cluster, planted on purpose. Each is a context manager that breaks the brokers while it lasts."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any
from unittest.mock import patch

from bytemq.metadata.standing import Standing
from tests.simulation.cluster_storage.planted import commit_before_the_object_is_written
from tests.simulation.log.planted import watermark_early

Planted = Callable[[], AbstractContextManager[Any]]


def lease_not_looked_at() -> AbstractContextManager[Any]:
    """A broker that stood still answers what it knew before, without asking whether it still owns anything."""
    return patch.object(Standing, "holds", lambda self: True)


PLANTED: tuple[Planted, ...] = (
    lease_not_looked_at,
    commit_before_the_object_is_written,
    watermark_early,
)
