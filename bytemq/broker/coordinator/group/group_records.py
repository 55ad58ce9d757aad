"""From a group to its record and back: what of a classic group survives a change of its coordinator.

Kept: the generation, its protocol and leader, and each member's subscription and assignment. Not kept: parked requests,
ids given out but never used, and a rebalance in progress; members notice by their errors and join again.
"""

from __future__ import annotations

from collections.abc import Mapping

from bytemq.broker.coordinator.group.classic_group import ClassicGroup
from bytemq.broker.coordinator.group.member import Member
from bytemq.broker.coordinator.group.memory import MembershipMemory
from bytemq.broker.coordinator.group.records import GroupMetadataRecord, member_metadata
from bytemq.protocol.messages.group_metadata_record import GroupMetadataValue, MemberMetadata


def generation_record(group: ClassicGroup, assignment: Mapping[str, bytes]) -> GroupMetadataRecord:
    """The present generation with `assignment` by member id."""
    members = [
        MemberMetadata(
            member_id=member.member_id,
            group_instance_id=member.group_instance_id,
            client_id=member.client_id,
            client_host=member.client_host,
            rebalance_timeout=member.rebalance_timeout_ms,
            session_timeout=member.session_timeout_ms,
            subscription=member.metadata_of(group.protocol_name or ""),
            assignment=assignment.get(member.member_id, b""),
        )
        for member in group.members.values()
    ]
    value = GroupMetadataValue(
        protocol_type=group.protocol_type or "",
        generation=group.generation_id,
        protocol=group.protocol_name,
        leader=group.leader_id,
        current_state_timestamp=group.state_timestamp_ms,
        members=members,
    )
    return GroupMetadataRecord(group.group_id, value)


def new_group_record(group: ClassicGroup) -> GroupMetadataRecord:
    """A group that was just created: generation 0, nobody in it."""
    value = GroupMetadataValue(
        protocol_type="",
        generation=0,
        protocol=None,
        leader=None,
        current_state_timestamp=group.state_timestamp_ms,
        members=[],
    )
    return GroupMetadataRecord(group.group_id, value)


def restore_group(group_id: str, value: GroupMetadataValue, memory: MembershipMemory) -> ClassicGroup:
    """The group of a stored generation. Its members support the selected protocol only, as far as anyone knows."""
    group = ClassicGroup(group_id, value.current_state_timestamp, memory)
    for stored in member_metadata(value):
        group.add(
            Member(
                member_id=stored.member_id,
                group_instance_id=stored.group_instance_id,
                client_id=stored.client_id,
                client_host=stored.client_host,
                rebalance_timeout_ms=stored.rebalance_timeout,
                session_timeout_ms=stored.session_timeout,
                protocol_type=value.protocol_type,
                protocols=((value.protocol or "", bytes(stored.subscription)),),
                assignment=bytes(stored.assignment),
            )
        )
    group.protocol_type = value.protocol_type or None
    group.restore_generation(value.generation, value.protocol, value.leader)
    return group
