"""ListGroups (v0-5) and DescribeGroups (v0-6) over the groups of one shard. Reads only."""

from __future__ import annotations

from collections.abc import Iterable

from bytemq.broker.coordinator.group.classic_group import ClassicGroup
from bytemq.broker.coordinator.group.consumer.description import CONSUMER, list_consumer_groups
from bytemq.broker.coordinator.group.environment import GroupEnvironment
from bytemq.broker.coordinator.group.states import GroupState
from bytemq.protocol.error_codes import ErrorCode
from bytemq.protocol.messages.describe_groups import DescribedGroup, DescribedGroupMember
from bytemq.protocol.messages.list_groups import ListedGroup

CLASSIC = "classic"
_NOT_FOUND_VERSION = 6


def list_groups(environment: GroupEnvironment, states: Iterable[str], types: Iterable[str]) -> list[ListedGroup]:
    """Groups in one of the states and of one of the types, whatever their case; an empty filter lets all pass
    (KIP-518, KIP-848).
    """
    wanted_states = {state.casefold() for state in states}
    wanted_types = {group_type.casefold() for group_type in types}
    consumers = (
        [] if wanted_types and CONSUMER not in wanted_types else list_consumer_groups(environment, wanted_states)
    )
    if wanted_types and CLASSIC not in wanted_types:
        return consumers
    return consumers + [
        ListedGroup(
            group_id=group.group_id,
            protocol_type=group.protocol_type or "",
            group_state=group.state.value,
            group_type=CLASSIC,
        )
        for group in environment.groups.values()
        if not wanted_states or group.state.value.casefold() in wanted_states
    ]


def describe_group(environment: GroupEnvironment, group_id: str, api_version: int) -> DescribedGroup:
    """One group; an unknown one is Dead, from v6 with GROUP_ID_NOT_FOUND (KIP-1043).

    Protocol and metadata are shown when Stable only.
    """
    group = environment.groups.get(group_id)
    if group is None:
        dead = DescribedGroup(group_id=group_id, group_state=GroupState.DEAD.value)
        if api_version >= _NOT_FOUND_VERSION:
            dead.error_code = ErrorCode.GROUP_ID_NOT_FOUND
            is_other = group_id in environment.consumer_groups
            dead.error_message = f"Group {group_id} {'is not a classic group' if is_other else 'not found'}."
        return dead
    is_stable = group.state is GroupState.STABLE
    return DescribedGroup(
        group_id=group_id,
        group_state=group.state.value,
        protocol_type=group.protocol_type or "",
        protocol_data=(group.protocol_name or "") if is_stable else "",
        members=_members(group, is_stable),
    )


def _members(group: ClassicGroup, with_metadata: bool) -> list[DescribedGroupMember]:
    name = group.protocol_name or ""
    return [
        DescribedGroupMember(
            member_id=member.member_id,
            group_instance_id=member.group_instance_id,
            client_id=member.client_id,
            client_host=member.client_host,
            member_metadata=member.metadata_of(name) if with_metadata else b"",
            member_assignment=member.assignment,
        )
        for member in group.members.values()
    ]
