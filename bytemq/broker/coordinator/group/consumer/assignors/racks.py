"""Racks: of partitions that have no reader yet, as many as can be go to a reader in a rack of theirs. Pure.

Owns: which partition a member gives up first, and the exchange of partitions between members. Must not: change how many
a member has, or touch what a member had before and still has. So balance comes first, then stickiness, then racks.

A partition is in the racks of its replicas. An exchange brings one of two partitions to its rack and takes neither from
its own; when no such exchange is left, it ends. Nearly linear: candidates are looked up by rack.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from itertools import islice

from bytemq.broker.coordinator.group.consumer.assignors.specification import AssignmentRequest, TopicPartition

_MOST_LOOKS = 64
"""At candidates in one rack, for one partition: with very different subscriptions many will not do."""


class Racks:
    """Where members and partitions are."""

    def __init__(self, request: AssignmentRequest) -> None:
        self._request = request
        self._members_racks = {member.rack for member in request.members.values() if member.rack is not None}

    @property
    def matter(self) -> bool:
        return bool(self._members_racks and self._request.racks)

    def of_partition(self, partition: TopicPartition) -> frozenset[str]:
        """Those of its racks where there are members."""
        topic_id, index = partition
        racks = self._request.racks.get(topic_id, ())
        return racks[index] & self._members_racks if index < len(racks) else frozenset()

    def is_near(self, partition: TopicPartition, member_id: str) -> bool:
        return self._request.members[member_id].rack in self.of_partition(partition)

    def reluctance(self, partition: TopicPartition, member_id: str) -> int:
        """How loath the member is to give it up: most what is near, least what is near to others."""
        if self.is_near(partition, member_id):
            return 2
        return 0 if self.of_partition(partition) else 1


def bring_near(
    request: AssignmentRequest, racks: Racks, assigned: Mapping[str, Collection[TopicPartition]]
) -> dict[str, list[TopicPartition]]:
    """The same numbers for everybody, with more partitions near to their readers."""
    return _Exchange(request, racks, assigned).run()


class _Exchange:
    def __init__(
        self, request: AssignmentRequest, racks: Racks, assigned: Mapping[str, Collection[TopicPartition]]
    ) -> None:
        self._members = request.members
        self._racks = racks
        self._readers = {partition: member_id for member_id, mine in assigned.items() for partition in mine}
        self._near_elsewhere: dict[tuple[str | None, str], dict[TopicPartition, None]] = defaultdict(dict)
        """Free partitions by the rack of their reader and each rack of their own (a dictionary keeps the order)."""
        self._far: dict[str | None, dict[TopicPartition, None]] = defaultdict(dict)
        """Those that are not near to their reader, by its rack."""
        self._free = sorted(
            partition for partition, reader in self._readers.items() if not self._had(reader, partition)
        )
        for partition in self._free:
            self._enter(partition)

    def run(self) -> dict[str, list[TopicPartition]]:
        for partition in self._free:
            if not self._racks.is_near(partition, self._readers[partition]):
                other = self._counterpart(partition)
                if other is not None:
                    self._exchange(partition, other)
        assigned: dict[str, list[TopicPartition]] = {member_id: [] for member_id in self._members}
        for partition, reader in self._readers.items():
            assigned[reader].append(partition)
        return assigned

    def _counterpart(self, partition: TopicPartition) -> TopicPartition | None:
        """What somebody in a rack of the partition can give for it, best what is near to its present reader."""
        here = self._members[self._readers[partition]].rack
        wanted = sorted(self._racks.of_partition(partition))
        candidates = [self._near_elsewhere[rack, here] for rack in wanted] if here is not None else []
        candidates += [self._far[rack] for rack in wanted]
        for found in candidates:
            for other in islice(found, _MOST_LOOKS):
                if self._may_exchange(partition, other):
                    return other
        return None

    def _may_exchange(self, one: TopicPartition, other: TopicPartition) -> bool:
        return (
            one[0] in self._members[self._readers[other]].topics
            and other[0] in self._members[self._readers[one]].topics
        )

    def _exchange(self, one: TopicPartition, other: TopicPartition) -> None:
        for partition in (one, other):
            self._leave(partition)
        self._readers[one], self._readers[other] = self._readers[other], self._readers[one]
        for partition in (one, other):
            self._enter(partition)

    def _enter(self, partition: TopicPartition) -> None:
        here = self._members[self._readers[partition]].rack
        for rack in self._racks.of_partition(partition):
            self._near_elsewhere[here, rack][partition] = None
        if here not in self._racks.of_partition(partition):
            self._far[here][partition] = None

    def _leave(self, partition: TopicPartition) -> None:
        here = self._members[self._readers[partition]].rack
        for rack in self._racks.of_partition(partition):
            del self._near_elsewhere[here, rack][partition]
        self._far[here].pop(partition, None)

    def _had(self, member_id: str, partition: TopicPartition) -> bool:
        topic_id, index = partition
        return index in self._members[member_id].before.get(topic_id, ())
