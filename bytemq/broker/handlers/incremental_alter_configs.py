"""IncrementalAlterConfigs v0-1: set, delete, append to and subtract from single configs (KIP-339).

Each resource succeeds or fails alone. Deleting what is not set succeeds, even if no such config exists. Log levels
of the broker (BROKER_LOGGER, KIP-412) change at once and are gone with the process.
"""

from __future__ import annotations

from bytemq.broker.config_changes import Change, ConfigChanger, alter_each
from bytemq.broker.context import Broker, RequestContext
from bytemq.protocol.messages.incremental_alter_configs import (
    AlterConfigsResource,
    AlterConfigsResourceResponse,
    IncrementalAlterConfigsRequest,
    IncrementalAlterConfigsResponse,
)


async def handle(
    broker: Broker, context: RequestContext, request: IncrementalAlterConfigsRequest
) -> IncrementalAlterConfigsResponse:
    changer = ConfigChanger(broker, validate_only=request.validate_only)

    async def alter(resource: AlterConfigsResource) -> None:
        changes = [Change(config.name, config.config_operation, config.value) for config in resource.configs]
        await changer.incrementally(resource.resource_type, resource.resource_name, changes)

    altered = [AlterConfigsResourceResponse(*one) for one in await alter_each(broker.turns, request.resources, alter)]
    return IncrementalAlterConfigsResponse(responses=altered)
