"""ListPartitionReassignments v0 (KIP-455): none is ever in progress, as a move copies nothing."""

from __future__ import annotations

from bytemq.broker.context import Broker, RequestContext
from bytemq.protocol.messages.list_partition_reassignments import (
    ListPartitionReassignmentsRequest,
    ListPartitionReassignmentsResponse,
)


def handle(
    broker: Broker, context: RequestContext, request: ListPartitionReassignmentsRequest
) -> ListPartitionReassignmentsResponse:
    return ListPartitionReassignmentsResponse(topics=[])
