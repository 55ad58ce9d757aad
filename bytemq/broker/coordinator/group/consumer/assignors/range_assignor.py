"""The range assignor: topic by topic, each member gets a run of partitions; runs of different topics line up. Pure.

Members are in the order of their instance ids, those without one after them in the order of their member ids: the first
partitions of every topic go to the first member. Racks do not matter, as in Kafka: who asks for it wants runs that line
up. Linear in members and partitions.
"""

from __future__ import annotations

from bytemq.broker.coordinator.group.consumer.assignors.specification import AssignmentRequest
from bytemq.broker.coordinator.group.consumer.member import Target


def assign_ranges(request: AssignmentRequest) -> dict[str, Target]:
    """See `Assignor`."""
    members = request.members
    in_order = sorted(members, key=lambda each: (members[each].instance_id is None, members[each].instance_id, each))
    assigned: dict[str, dict[bytes, frozenset[int]]] = {member_id: {} for member_id in members}
    for topic_id, count in request.partition_counts.items():
        subscribers = (
            in_order
            if request.is_homogeneous
            else [member_id for member_id in in_order if topic_id in members[member_id].topics]
        )
        if not subscribers:
            continue
        share, extra = divmod(count, len(subscribers))
        start = 0
        for position, member_id in enumerate(subscribers):
            end = start + share + (position < extra)
            if end > start:
                assigned[member_id][topic_id] = frozenset(range(start, end))
            start = end
    return dict(assigned)
