"""ListConfigResources v0-1: what has configs (KIP-1142). v0 lists client metrics subscriptions only (KIP-714).

No types means all. Groups and client metrics subscriptions are listed where they have configs of their own; topics
and brokers always.
"""

from __future__ import annotations

from collections.abc import Iterable

from bytemq.broker.config_resources import KIND_CLIENT_METRICS, KIND_GROUP, ResourceType
from bytemq.broker.context import Broker, RequestContext
from bytemq.protocol.error_codes import ErrorCode
from bytemq.protocol.messages.list_config_resources import (
    ConfigResource,
    ListConfigResourcesRequest,
    ListConfigResourcesResponse,
)


def handle(broker: Broker, context: RequestContext, request: ListConfigResourcesRequest) -> ListConfigResourcesResponse:
    if context.api_version == 0:
        wanted = {int(ResourceType.CLIENT_METRICS)}
    else:
        wanted = set(request.resource_types) or {int(known) for known in ResourceType}
    if not wanted <= set(ResourceType):
        return ListConfigResourcesResponse(error_code=ErrorCode.UNSUPPORTED_VERSION)
    found = [
        ConfigResource(resource_name=name, resource_type=resource_type)
        for resource_type in sorted(wanted)
        for name in _names(broker, ResourceType(resource_type))
    ]
    return ListConfigResourcesResponse(config_resources=found)


def _names(broker: Broker, resource_type: ResourceType) -> Iterable[str]:
    image = broker.image
    if resource_type is ResourceType.TOPIC:
        return sorted(image.topics)
    if resource_type in (ResourceType.BROKER, ResourceType.BROKER_LOGGER):
        return [str(broker_id) for broker_id in sorted(image.brokers)]
    return image.config_names(KIND_GROUP if resource_type is ResourceType.GROUP else KIND_CLIENT_METRICS)
