"""The next step of a member towards its target: give up, take over, or wait. Pure.

Kafka's CurrentAssignmentBuilder. A partition is given to a member only when nobody else has it, and a member's epoch
moves on only when it has said that it gave up what it had to: hence no partition has two owners.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from bytemq.broker.coordinator.group.consumer.member import (
    NO_PARTITIONS,
    Assigned,
    CurrentAssignment,
    MemberState,
    Target,
)

Owned = Mapping[bytes, frozenset[int]]
"""What a member says that it owns, by topic id."""
IsFree = Callable[[bytes, int], bool]
"""Whether nobody but this member has the partition."""


def put_together(pieces: Iterable[tuple[bytes, Iterable[int]]]) -> dict[bytes, frozenset[int]]:
    """Partitions by topic id, of a list that may name a topic as often as it likes."""
    found: dict[bytes, set[int]] = {}
    for topic_id, partitions in pieces:
        found.setdefault(topic_id, set()).update(partitions)
    return {topic_id: frozenset(partitions) for topic_id, partitions in found.items()}


def reconcile(
    current: CurrentAssignment,
    target: Target,
    target_epoch: int,
    *,
    subscribed: Iterable[bytes],
    subscription_changed: bool,
    is_free: IsFree,
    owned: Owned | None,
) -> CurrentAssignment:
    """`subscribed` are the ids of the member's topics; `owned` is None when it did not say. The same object if there is
    nothing to do.
    """
    topics = frozenset(subscribed)
    is_waiting = current.state is MemberState.UNREVOKED_PARTITIONS and _owns_any(owned, current.revoking)
    if is_waiting or current.is_reconciled_to(target_epoch):
        return _drop_unsubscribed(current, topics, owned) if subscription_changed else current
    wanted = {topic_id: partitions for topic_id, partitions in target.items() if topic_id in topics}
    return _towards(current, wanted, target_epoch, is_free, owned)


def _towards(
    current: CurrentAssignment, target: Target, target_epoch: int, is_free: IsFree, owned: Owned | None
) -> CurrentAssignment:
    kept: dict[bytes, Mapping[int, int]] = {}
    revoking: dict[bytes, Mapping[int, int]] = {}
    for topic_id, epochs in current.assigned.items():
        wanted = target.get(topic_id, frozenset())
        keep = {partition: epoch for partition, epoch in epochs.items() if partition in wanted}
        if keep:
            kept[topic_id] = keep
        if len(keep) < len(epochs):
            revoking[topic_id] = {partition: epoch for partition, epoch in epochs.items() if partition not in wanted}
    if revoking and _owns_any(owned, revoking):
        return _next(current, current.epoch, MemberState.UNREVOKED_PARTITIONS, kept, revoking)
    is_complete = True
    for topic_id, wanted in target.items():
        missing = [partition for partition in sorted(wanted) if partition not in kept.get(topic_id, ())]
        free = [partition for partition in missing if is_free(topic_id, partition)]
        is_complete = is_complete and len(free) == len(missing)
        if free:
            kept[topic_id] = {**kept.get(topic_id, {}), **dict.fromkeys(free, target_epoch)}
    state = MemberState.STABLE if is_complete else MemberState.UNRELEASED_PARTITIONS
    return _next(current, target_epoch, state, kept, NO_PARTITIONS)


def _drop_unsubscribed(current: CurrentAssignment, topics: frozenset[bytes], owned: Owned | None) -> CurrentAssignment:
    """Topics that the member has just turned away from are taken from it at once: it has stopped reading them."""
    dropped = {topic_id: epochs for topic_id, epochs in current.assigned.items() if topic_id not in topics}
    if not dropped:
        return current
    kept = {topic_id: epochs for topic_id, epochs in current.assigned.items() if topic_id in topics}
    revoking = {**current.revoking}
    for topic_id, epochs in dropped.items():
        revoking[topic_id] = {**revoking.get(topic_id, {}), **epochs}
    if _owns_any(owned, revoking):
        return _next(current, current.epoch, MemberState.UNREVOKED_PARTITIONS, kept, revoking)
    return current._replace(assigned=kept)


def _next(
    current: CurrentAssignment, epoch: int, state: MemberState, assigned: Assigned, revoking: Assigned
) -> CurrentAssignment:
    previous = current.epoch if epoch != current.epoch else current.previous_epoch
    following = CurrentAssignment(epoch, previous, state, assigned, revoking)
    return current if following == current else following


def _owns_any(owned: Owned | None, partitions: Assigned) -> bool:
    """Whether the member may still own one of them; it may own anything while it does not say."""
    if owned is None:
        return True
    return any(not epochs.keys().isdisjoint(owned.get(topic_id, ())) for topic_id, epochs in partitions.items())
