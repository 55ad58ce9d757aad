"""The committed offsets of the groups of one shard.

Two views of one truth. *Committed*: what is durable; it is all that readers see, so an offset once read never goes
back. *Latest*: with the writes on their way laid over; operations decide by it, so that deleting an offset whose commit
is still in flight deletes it. A write is staged under its sequence number, then committed or rolled back.

Values stay as stored (see records.py): about 160 bytes for each offset, and no decoding when a million of them are
loaded.
"""

from __future__ import annotations

from collections.abc import Iterator

from bytemq.broker.coordinator.group.records import OffsetCommitRecord

_Key = tuple[str, str, int]  # group id, topic, partition
_Topics = dict[str, dict[int, bytes]]


class OffsetStore:
    """Offsets by group, topic and partition."""

    __slots__ = ("_groups", "_staged", "_staged_per_group", "count")

    def __init__(self) -> None:
        self._groups: dict[str, _Topics] = {}
        self._staged: dict[_Key, list[tuple[int, bytes | None]]] = {}
        self._staged_per_group: dict[str, set[_Key]] = {}
        self.count = 0

    # -- committed

    def committed(self, group_id: str, topic: str, partition: int) -> bytes | None:
        topics = self._groups.get(group_id)
        partitions = topics.get(topic) if topics is not None else None
        return partitions.get(partition) if partitions is not None else None

    def committed_topics(self, group_id: str) -> _Topics:
        """Partitions and values by topic. Look, don't touch."""
        return self._groups.get(group_id, {})

    def group_ids(self) -> Iterator[str]:
        """Groups with committed offsets."""
        return iter(self._groups)

    def apply(self, record: OffsetCommitRecord) -> None:
        """A record that is durable: from the log, or committed just now."""
        group_id, topic, partition, encoded = record
        topics = self._groups.get(group_id)
        if encoded is None:
            self._remove(topics, record)
            return
        if topics is None:
            topics = self._groups[group_id] = {}
        partitions = topics.get(topic)
        if partitions is None:
            partitions = topics[topic] = {}
        if partition not in partitions:
            self.count += 1
        partitions[partition] = encoded

    def partitions_of(self, group_id: str, topic: str) -> dict[int, bytes]:
        """The values of a topic that the group has offsets of, for replay to write to; `count` is then the caller's
        duty.
        """
        return self._groups[group_id][topic]

    def count_of(self, group_id: str) -> int:
        """How many offsets of the group are committed."""
        return sum(map(len, self._groups.get(group_id, {}).values()))

    # -- on the way

    def stage(self, sequence: int, record: OffsetCommitRecord) -> None:
        key = record[:3]
        self._staged.setdefault(key, []).append((sequence, record.encoded))
        self._staged_per_group.setdefault(record.group_id, set()).add(key)

    def commit(self, sequence: int, record: OffsetCommitRecord) -> None:
        self._unstage(sequence, record)
        self.apply(record)

    def roll_back(self, sequence: int, record: OffsetCommitRecord) -> None:
        self._unstage(sequence, record)

    def latest(self, group_id: str, topic: str, partition: int) -> bytes | None:
        staged = self._staged.get((group_id, topic, partition))
        return self.committed(group_id, topic, partition) if staged is None else staged[-1][1]

    def latest_partitions(self, group_id: str) -> Iterator[tuple[str, int, bytes]]:
        """(topic, partition, value) of each offset that there will be when all writes on their way are committed."""
        staged = self._staged_per_group.get(group_id, set())
        for topic, partitions in self._groups.get(group_id, {}).items():
            for partition, encoded in partitions.items():
                if (group_id, topic, partition) not in staged:
                    yield topic, partition, encoded
        for key in sorted(staged):
            latest = self._staged[key][-1][1]
            if latest is not None:
                yield key[1], key[2], latest

    def has_any(self, group_id: str) -> bool:
        """Whether the group has, or will have, an offset."""
        return next(self.latest_partitions(group_id), None) is not None

    def _unstage(self, sequence: int, record: OffsetCommitRecord) -> None:
        key = record[:3]
        staged = self._staged[key]
        staged.remove((sequence, record.encoded))
        if not staged:
            del self._staged[key]
            of_group = self._staged_per_group[record.group_id]
            of_group.discard(key)
            if not of_group:
                del self._staged_per_group[record.group_id]

    def _remove(self, topics: _Topics | None, record: OffsetCommitRecord) -> None:
        if topics is None:
            return
        partitions = topics.get(record.topic)
        if partitions is None or partitions.pop(record.partition, None) is None:
            return
        self.count -= 1
        if not partitions:
            del topics[record.topic]
            if not topics:
                del self._groups[record.group_id]
