"""Brokers with a classic bug in them: `python -m tests.chaos.planted NAME ... bytemq start ...` runs what comes behind
`bytemq` with that bug. Each must be found by the checker, or the chaos is not worth its time.

Owns: the bugs, as context managers that patch the broker while they last. The product knows nothing of them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from unittest.mock import patch

from bytemq.broker.log.partition import Partition
from bytemq.broker.log.results import ListedOffset
from bytemq.metadata.etcd.store import EtcdStore
from bytemq.metadata.store import Compare
from tests.simulation.cluster.planted import lease_not_looked_at
from tests.simulation.cluster_storage.planted import commit_before_the_object_is_written
from tests.simulation.log.planted import acknowledge_before_durable, stable_offset_ignores_transactions, watermark_early

LATEST = -1
Planted = Callable[[], AbstractContextManager[Any]]


@contextmanager
def fencing_removed() -> Iterator[None]:
    """Neither does a commit compare the session, nor does anybody look at the lease."""
    txn = EtcdStore.txn

    async def forgetful(self: EtcdStore, compares: Sequence[Compare], *changes: Any, **more: Any) -> Any:
        kept = [
            compare for compare in compares if not compare.key.startswith("cluster/brokers/") or not compare.revision
        ]
        return await txn(self, kept, *changes, **more)

    with patch.object(EtcdStore, "txn", forgetful), lease_not_looked_at():
        yield


@contextmanager
def watermark_told_early() -> Iterator[None]:
    """Fetch and ListOffsets tell an end of which the last records are still on their way to the store."""
    list_offset = Partition.list_offset

    async def early(self: Partition, timestamp_ms: int, isolation: int) -> ListedOffset:
        listed = await list_offset(self, timestamp_ms, isolation)
        is_end = timestamp_ms == LATEST and listed.offset == self._state.high_watermark
        return listed._replace(offset=self._state.end_offset) if is_end else listed

    with watermark_early(), patch.object(Partition, "list_offset", early):
        yield


PLANTED: dict[str, Planted] = {
    each.__name__: each
    for each in (
        fencing_removed,
        lease_not_looked_at,
        commit_before_the_object_is_written,
        acknowledge_before_durable,
        watermark_told_early,
        stable_offset_ignores_transactions,
    )
}


def main(arguments: Sequence[str]) -> int:
    from bytemq.__main__ import main as bytemq

    with PLANTED[arguments[0]]():
        return bytemq(list(arguments[arguments.index("bytemq") + 1 :]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
