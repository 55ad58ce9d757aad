"""ConsumerGroupDescribe v0-1 (KIP-848): consumer groups with their members, what they have and what they should have.

- An unknown group, or a classic one: GROUP_ID_NOT_FOUND. v1 says by which protocol a member takes part (KIP-1099).
"""

from __future__ import annotations

from bytemq.broker.authorized_operations import ON_GROUP
from bytemq.broker.context import Broker, RequestContext
from bytemq.broker.coordinator.group.consumer.description import describe_consumer_group
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.protocol.messages.consumer_group_describe import (
    ConsumerGroupDescribeRequest,
    ConsumerGroupDescribeResponse,
    DescribedGroup,
)


def handle(
    broker: Broker, context: RequestContext, request: ConsumerGroupDescribeRequest
) -> ConsumerGroupDescribeResponse:
    groups = [_describe(broker, group_id) for group_id in dict.fromkeys(request.group_ids)]
    if request.include_authorized_operations:
        for group in groups:
            if not group.error_code:
                group.authorized_operations = ON_GROUP
    return ConsumerGroupDescribeResponse(groups=groups)


def _describe(broker: Broker, group_id: str) -> DescribedGroup:
    if not group_id:
        return DescribedGroup(error_code=ErrorCode.INVALID_GROUP_ID)
    try:
        machine = broker.groups.shard_of(group_id).serving_machine()
    except KafkaError as error:
        return DescribedGroup(group_id=group_id, error_code=error.code)
    return describe_consumer_group(machine.environment, group_id)
