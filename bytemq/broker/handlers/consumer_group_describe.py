"""ConsumerGroupDescribe v0-1 (KIP-848): consumer groups with their members, what they have and what they should have.

- An unknown group, or a classic one: GROUP_ID_NOT_FOUND. v1 says by which protocol a member takes part (KIP-1099).
- A few bytes ask for all names that the members of large groups are subscribed to: between some of them others are
  served.
"""

from __future__ import annotations

from bytemq.broker.authorized_operations import ON_GROUP
from bytemq.broker.context import Broker, RequestContext
from bytemq.broker.coordinator.group.consumer.description import Description, describe_consumer_group
from bytemq.broker.sliced_response import EncodedInTurns, response_of
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.protocol.messages.consumer_group_describe import (
    ConsumerGroupDescribeRequest,
    ConsumerGroupDescribeResponse,
    DescribedGroup,
)

_BEHIND_MEMBERS_BYTES = 5
"""authorized_operations and the number of tagged fields."""


async def handle(broker: Broker, context: RequestContext, request: ConsumerGroupDescribeRequest) -> bytes:
    """The encoded response."""
    encoding = EncodedInTurns(broker.turns, ConsumerGroupDescribeResponse, context.api_version)
    groups = []
    for group_id in dict.fromkeys(request.group_ids):
        described, members = _describe(broker, group_id)
        if request.include_authorized_operations and not described.error_code:
            described.authorized_operations = ON_GROUP
        groups.append(await encoding.filled(described, _BEHIND_MEMBERS_BYTES, await encoding.array(members)))
    return response_of(ConsumerGroupDescribeResponse, context.api_version, groups)


def _describe(broker: Broker, group_id: str) -> Description:
    if not group_id:
        return Description(DescribedGroup(error_code=ErrorCode.INVALID_GROUP_ID), ())
    try:
        machine = broker.groups.shard_of(group_id).serving_machine()
    except KafkaError as error:
        return Description(DescribedGroup(group_id=group_id, error_code=error.code), ())
    return describe_consumer_group(machine.environment, group_id)
