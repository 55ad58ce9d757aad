"""How many producers a broker remembers, over all its partitions. Pure.

Anyone may send batches under ever new producer ids, and each leaves an entry of about 1 KiB. The limit is a bound on
memory, so those not seen for longest are forgotten first; what that costs is only that their retries are no longer
recognised as duplicates.
"""

from __future__ import annotations


class ProducerBudget:
    """Shared by all partitions of a broker. A partition over a limit makes room among its own; few are always
    allowed.
    """

    __slots__ = ("evicted", "in_use", "per_broker", "per_partition")

    ALWAYS_ALLOWED = 32
    """Producers that a partition keeps however full the broker is: a flood on one topic must not harm those of
    another.
    """

    def __init__(self, *, per_partition: int = 20_000, per_broker: int = 200_000) -> None:
        self.per_partition = per_partition
        self.per_broker = per_broker
        self.in_use = 0
        self.evicted = 0

    def surplus(self, in_partition: int) -> int:
        """How many of its `in_partition` producers a partition should forget before it takes one more.

        An eighth at once, so that finding the oldest costs little per new producer.
        """
        over = in_partition >= self.per_partition or (
            self.in_use >= self.per_broker and in_partition >= self.ALWAYS_ALLOWED
        )
        return max(1, in_partition // 8) if over else 0
