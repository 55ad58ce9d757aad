"""IncrementalAlterConfigs v0-1: set, delete, append to and subtract from single configs (KIP-339).

Each resource succeeds or fails alone. Deleting what is not set succeeds, even if no such config exists. Log levels
of the broker (BROKER_LOGGER, KIP-412) change at once and are gone with the process.
"""

from __future__ import annotations

from collections import Counter

from bytemq.broker.config_changes import Change, ConfigChanger
from bytemq.broker.context import Broker, RequestContext
from bytemq.protocol.error_codes import ErrorCode, KafkaError
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
    named = Counter((resource.resource_type, resource.resource_name) for resource in request.resources)
    responses = []
    for resource in request.resources:
        is_repeated = named[resource.resource_type, resource.resource_name] > 1
        responses.append(await _alter(changer, resource, is_repeated))
    return IncrementalAlterConfigsResponse(responses=responses)


async def _alter(
    changer: ConfigChanger, resource: AlterConfigsResource, is_repeated: bool
) -> AlterConfigsResourceResponse:
    kind, name = resource.resource_type, resource.resource_name
    try:
        if is_repeated:
            raise KafkaError(ErrorCode.INVALID_REQUEST, "Each resource must appear at most once.")
        changes = [Change(config.name, config.config_operation, config.value) for config in resource.configs]
        await changer.incrementally(kind, name, changes)
    except KafkaError as error:
        return AlterConfigsResourceResponse(error.code, error.message, kind, name)
    return AlterConfigsResourceResponse(ErrorCode.NONE, None, kind, name)
