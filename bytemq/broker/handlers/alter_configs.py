"""AlterConfigs v0-2: replace all configs of a resource at once; what is not named is unset. Kafka keeps it for old
clients.

Each resource succeeds or fails alone; log levels cannot be altered this way.
"""

from __future__ import annotations

from bytemq.broker.config_changes import Change, ConfigChanger, Operation, alter_each
from bytemq.broker.context import Broker, RequestContext
from bytemq.protocol.messages.alter_configs import (
    AlterConfigsRequest,
    AlterConfigsResource,
    AlterConfigsResourceResponse,
    AlterConfigsResponse,
)


async def handle(broker: Broker, context: RequestContext, request: AlterConfigsRequest) -> AlterConfigsResponse:
    changer = ConfigChanger(broker, validate_only=request.validate_only)

    async def alter(resource: AlterConfigsResource) -> None:
        changes = [Change(config.name, Operation.SET, config.value) for config in resource.configs]
        await changer.replace(resource.resource_type, resource.resource_name, changes)

    altered = [AlterConfigsResourceResponse(*one) for one in await alter_each(broker.turns, request.resources, alter)]
    return AlterConfigsResponse(responses=altered)
