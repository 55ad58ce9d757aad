"""Reading the heads of flushes, natively where the package was compiled: recovery meets a hundred thousand of them."""

from __future__ import annotations

from bytemq.storage.wal.heads_pure import PARTITION, ROW, ByPartition, Head

try:
    from bytemq.storage.wal._heads import by_partition, chained
except ImportError:  # no compiler when the package was installed: the same, slower
    from bytemq.storage.wal.heads_pure import by_partition, chained

__all__ = ["PARTITION", "ROW", "ByPartition", "Head", "by_partition", "chained"]
