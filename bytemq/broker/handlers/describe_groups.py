"""DescribeGroups v0-6: groups with their members.

- An unknown group is Dead without an error up to v5, GROUP_ID_NOT_FOUND from v6 (KIP-1043). v3+ authorized operations.
"""

from __future__ import annotations

from bytemq.broker.authorized_operations import ON_GROUP
from bytemq.broker.context import Broker, RequestContext
from bytemq.broker.coordinator.group.description import describe_group
from bytemq.broker.sliced_response import encode_in_turns
from bytemq.protocol.error_codes import KafkaError
from bytemq.protocol.messages.describe_groups import DescribedGroup, DescribeGroupsRequest, DescribeGroupsResponse

SLICE_GROUPS = 50
"""Some have a thousand members."""


async def handle(broker: Broker, context: RequestContext, request: DescribeGroupsRequest) -> bytes:
    """The encoded response."""
    version, tells_operations = context.api_version, request.include_authorized_operations
    groups = (_describe(broker, group_id, version, tells_operations) for group_id in dict.fromkeys(request.groups))
    return await encode_in_turns(broker.turns, DescribeGroupsResponse, version, groups, SLICE_GROUPS)


def _describe(broker: Broker, group_id: str, api_version: int, tells_operations: bool) -> DescribedGroup:
    try:
        machine = broker.groups.shard_of(group_id).serving_machine()
    except KafkaError as error:
        return DescribedGroup(group_id=group_id, error_code=error.code)
    described = describe_group(machine.environment, group_id, api_version)
    if tells_operations and not described.error_code:
        described.authorized_operations = ON_GROUP
    return described
