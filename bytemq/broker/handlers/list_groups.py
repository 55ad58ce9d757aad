"""ListGroups v0-5: the groups that this broker coordinates. v4+ filters by state, v5+ by type; case does not matter."""

from __future__ import annotations

from bytemq.broker.context import Broker, RequestContext
from bytemq.broker.coordinator.group.description import list_groups
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.protocol.messages.list_groups import ListedGroup, ListGroupsRequest, ListGroupsResponse


def handle(broker: Broker, context: RequestContext, request: ListGroupsRequest) -> ListGroupsResponse:
    groups: list[ListedGroup] = []
    for shard in broker.groups.shards():
        try:
            machine = shard.serving_machine()
        except KafkaError as error:
            if error.code is ErrorCode.NOT_COORDINATOR:
                continue  # it has just moved away: another broker lists it
            raise
        groups += list_groups(machine.environment, request.states_filter, request.types_filter)
    return ListGroupsResponse(groups=groups)
