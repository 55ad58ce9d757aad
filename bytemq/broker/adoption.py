"""Opens what this broker owns and nobody has touched, where another session's write-ahead log waits for it.

Owns: this one background task. Partitions are opened when they are first used; what their last owner had committed
stays in that owner's write-ahead log until then, whether it has ended or released them, and the log can go only when
each was opened and written behind.
"""

from __future__ import annotations

from bytemq.broker.log.partitions import Opening, PartitionTable
from bytemq.protocol.error_codes import KafkaError
from bytemq.runtime.clock import Clock

INTERVAL_S = 5.0


async def adopt(partitions: PartitionTable, clock: Clock) -> None:
    while True:
        await clock.sleep(INTERVAL_S)
        for pid in [*partitions.services.storage.held_logs, *await partitions.handed_over()]:
            if isinstance(partitions.get_by_id(pid.topic_id, pid.index), Opening):
                try:
                    await partitions.open_by_id(pid.topic_id, pid.index)
                except KafkaError:
                    continue  # said where it happened; the next round tries again
