"""DescribeGroups v0-6: groups with their members.

- An unknown group is Dead without an error up to v5, GROUP_ID_NOT_FOUND from v6 (KIP-1043). v3+ authorized operations.
"""

from __future__ import annotations

from bytemq.broker.authorized_operations import ON_GROUP
from bytemq.broker.context import Broker, RequestContext
from bytemq.broker.coordinator.group.description import describe_group
from bytemq.protocol.error_codes import KafkaError
from bytemq.protocol.messages.describe_groups import DescribedGroup, DescribeGroupsRequest, DescribeGroupsResponse


def handle(broker: Broker, context: RequestContext, request: DescribeGroupsRequest) -> DescribeGroupsResponse:
    groups = [_describe(broker, group_id, context.api_version) for group_id in dict.fromkeys(request.groups)]
    if request.include_authorized_operations:
        for group in groups:
            if not group.error_code:
                group.authorized_operations = ON_GROUP
    return DescribeGroupsResponse(groups=groups)


def _describe(broker: Broker, group_id: str, api_version: int) -> DescribedGroup:
    try:
        machine = broker.groups.shard_of(group_id).serving_machine()
    except KafkaError as error:
        return DescribedGroup(group_id=group_id, error_code=error.code)
    return describe_group(machine.environment, group_id, api_version)
