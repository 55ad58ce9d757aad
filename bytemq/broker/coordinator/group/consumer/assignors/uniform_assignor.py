"""The uniform assignor: everybody gets the same number of partitions, and keeps what it has as far as that goes. Pure.

Of what it has to give up, and of what nobody has, as much as can be goes to a member in a rack of the partition.

With equal subscriptions one pass suffices: each member keeps at most its share, and what is left fills up those below
theirs. With different ones, partitions move from members with more to subscribers with at least two less until no such
move is left. Deterministic: what is free and could go to one as well as to another goes to whom the request names
first.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Iterator, Mapping

from bytemq.broker.coordinator.group.consumer.assignors.racks import Racks, bring_near
from bytemq.broker.coordinator.group.consumer.assignors.specification import AssignmentRequest, TopicPartition
from bytemq.broker.coordinator.group.consumer.member import Target

_MOST_ROUNDS = 32
"""Of evening out. Each leaves the loads more equal; a group that needed more would still be correct."""


def assign_uniformly(request: AssignmentRequest) -> dict[str, Target]:
    """See `Assignor`."""
    racks = Racks(request)
    assigned: Mapping[str, Collection[TopicPartition]]
    assigned = _assign_equal(request, racks) if request.is_homogeneous else _Balance(request, racks).assign()
    if racks.matter:
        assigned = bring_near(request, racks, assigned)
    return {member_id: _target(request.members[member_id].before, mine) for member_id, mine in assigned.items()}


def _assign_equal(request: AssignmentRequest, racks: Racks) -> dict[str, list[TopicPartition]]:
    members = sorted(request.members)
    if not members:
        return {}
    share, extra = divmod(sum(request.partition_counts.values()), len(members))
    taken: set[TopicPartition] = set()
    kept: dict[str, list[TopicPartition]] = {}
    # Those who already have one more than the share may keep it, as long as there are such places.
    for member_id in members:
        mine = [partition for partition in _valid(request, member_id) if partition not in taken]
        limit = share
        if len(mine) > share and extra:
            limit, extra = share + 1, extra - 1
        if len(mine) > limit and racks.matter:
            mine.sort(key=lambda partition: racks.reluctance(partition, member_id), reverse=True)
        kept[member_id] = mine[:limit]
        taken.update(kept[member_id])
    free = (partition for partition in _all_partitions(request) if partition not in taken)
    for member_id in request.members:
        mine = kept[member_id]
        missing = share - len(mine)
        if missing >= 0 and extra:
            missing, extra = missing + 1, extra - 1
        for _ in range(missing):
            mine.append(next(free))
    return kept


class _Balance:
    """Evens out the loads of members with different subscriptions."""

    def __init__(self, request: AssignmentRequest, racks: Racks) -> None:
        self._request = request
        self._racks = racks
        self._assigned: dict[str, set[TopicPartition]] = {member_id: set() for member_id in request.members}
        self._subscribers: dict[bytes, list[str]] = {topic_id: [] for topic_id in request.partition_counts}
        for member_id in request.members:
            for topic_id in request.members[member_id].topics:
                if topic_id in self._subscribers:
                    self._subscribers[topic_id].append(member_id)

    def assign(self) -> dict[str, set[TopicPartition]]:
        taken: set[TopicPartition] = set()
        for member_id in sorted(self._assigned):
            mine = {partition for partition in _valid(self._request, member_id) if partition not in taken}
            self._assigned[member_id] = mine
            taken |= mine
        # Topics with few subscribers first: their partitions have the least choice.
        topics = sorted(self._subscribers, key=lambda topic_id: (len(self._subscribers[topic_id]), topic_id))
        for topic_id in topics:
            self._place(topic_id, taken)
        for _ in range(_MOST_ROUNDS):
            if not sum(self._even_out(topic_id) for topic_id in topics):
                break
        return self._assigned

    def _place(self, topic_id: bytes, taken: set[TopicPartition]) -> None:
        """Gives each free partition to the subscriber with the least."""
        loads = self._loads(topic_id)
        if not loads:
            return
        heapq.heapify(loads)
        for index in range(self._request.partition_counts[topic_id]):
            if (topic_id, index) not in taken:
                load, rank, member_id = loads[0]
                self._assigned[member_id].add((topic_id, index))
                heapq.heapreplace(loads, (load + 1, rank, member_id))

    def _even_out(self, topic_id: bytes) -> bool:
        """Moves partitions of one topic among its subscribers, most loaded to least; whether any moved."""
        subscribers = self._subscribers[topic_id]
        least = self._loads(topic_id)
        heapq.heapify(least)
        moved = False
        for giver in sorted(subscribers, key=lambda member_id: (-len(self._assigned[member_id]), member_id)):
            mine = self._assigned[giver]
            if not least or len(mine) < least[0][0] + 2:
                break  # nobody after it has more
            for partition in self._as_given_up(giver, topic_id):
                load, rank, taker = least[0]
                if len(mine) < load + 2:
                    break
                mine.remove(partition)
                self._assigned[taker].add(partition)
                heapq.heapreplace(least, (load + 1, rank, taker))
                moved = True
        return moved

    def _loads(self, topic_id: bytes) -> list[tuple[int, int, str]]:
        """How much each subscriber has, and its place in the request."""
        return [
            (len(self._assigned[member_id]), rank, member_id)
            for rank, member_id in enumerate(self._subscribers[topic_id])
        ]

    def _as_given_up(self, giver: str, topic_id: bytes) -> list[TopicPartition]:
        """What the member has of the topic: first what it gives up most easily."""
        mine = sorted((each for each in self._assigned[giver] if each[0] == topic_id), reverse=True)
        if self._racks.matter:
            mine.sort(key=lambda partition: self._racks.reluctance(partition, giver))
        return mine


def _valid(request: AssignmentRequest, member_id: str) -> Iterator[TopicPartition]:
    """What the member has and may still have, in order."""
    member = request.members[member_id]
    for topic_id in sorted(member.before):
        if topic_id in member.topics:
            count = request.partition_counts.get(topic_id, 0)
            for index in sorted(member.before[topic_id]):
                if index < count:
                    yield topic_id, index


def _all_partitions(request: AssignmentRequest) -> Iterator[TopicPartition]:
    for topic_id in sorted(request.partition_counts):
        for index in range(request.partition_counts[topic_id]):
            yield topic_id, index


def _target(before: Target, partitions: Iterable[TopicPartition]) -> Target:
    """The same object as before if nothing changed, so that who compares need not look inside."""
    by_topic: dict[bytes, list[int]] = {}
    for topic_id, index in partitions:
        by_topic.setdefault(topic_id, []).append(index)
    target = {topic_id: frozenset(indexes) for topic_id, indexes in by_topic.items()}
    return before if target == before else target
