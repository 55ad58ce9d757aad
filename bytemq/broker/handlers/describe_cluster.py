"""DescribeCluster v0-2: the brokers and the controller.

- v1+: only endpoints of brokers can be asked for here; controllers: MISMATCHED_ENDPOINT_TYPE, anything else:
  UNSUPPORTED_ENDPOINT_TYPE (KIP-919).
- v2+: fenced brokers (KIP-1073): there are none, a broker without a session is no member.
"""

from bytemq.broker.authorized_operations import NOT_ASKED, ON_CLUSTER
from bytemq.broker.context import Broker, RequestContext
from bytemq.protocol.error_codes import ErrorCode
from bytemq.protocol.messages.describe_cluster import (
    DescribeClusterBroker,
    DescribeClusterRequest,
    DescribeClusterResponse,
)

BROKERS, CONTROLLERS = 1, 2


def handle(broker: Broker, context: RequestContext, request: DescribeClusterRequest) -> DescribeClusterResponse:
    """Never waits."""
    if request.endpoint_type == CONTROLLERS:
        why = "The request was sent to an endpoint of type BROKER, but we wanted an endpoint of type CONTROLLER"
        return DescribeClusterResponse(error_code=ErrorCode.MISMATCHED_ENDPOINT_TYPE, error_message=why)
    if request.endpoint_type != BROKERS:
        why = f"Unsupported endpoint type {request.endpoint_type}"
        return DescribeClusterResponse(error_code=ErrorCode.UNSUPPORTED_ENDPOINT_TYPE, error_message=why)
    brokers = []
    for broker_id, node in sorted(broker.image.brokers.items()):
        if context.listener in node.endpoints:
            host, port = node.endpoints[context.listener]
            brokers.append(DescribeClusterBroker(broker_id=broker_id, host=host, port=port, rack=node.rack))
    return DescribeClusterResponse(
        cluster_id=broker.cluster_id,
        controller_id=broker.image.controller_id,
        brokers=brokers,
        cluster_authorized_operations=ON_CLUSTER if request.include_cluster_authorized_operations else NOT_ASKED,
    )
