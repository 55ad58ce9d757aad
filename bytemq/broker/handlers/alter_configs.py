"""AlterConfigs v0-2: replace all configs of a resource at once; what is not named is unset. Kafka keeps it for old
clients.

Each resource succeeds or fails alone; log levels cannot be altered this way.
"""

from __future__ import annotations

from collections import Counter

from bytemq.broker.config_changes import Change, ConfigChanger, Operation
from bytemq.broker.context import Broker, RequestContext
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.protocol.messages.alter_configs import (
    AlterConfigsRequest,
    AlterConfigsResource,
    AlterConfigsResourceResponse,
    AlterConfigsResponse,
)


async def handle(broker: Broker, context: RequestContext, request: AlterConfigsRequest) -> AlterConfigsResponse:
    changer = ConfigChanger(broker, validate_only=request.validate_only)
    named = Counter((resource.resource_type, resource.resource_name) for resource in request.resources)
    responses = []
    for resource in request.resources:
        is_repeated = named[resource.resource_type, resource.resource_name] > 1
        responses.append(await _alter(changer, resource, is_repeated))
    return AlterConfigsResponse(responses=responses)


async def _alter(
    changer: ConfigChanger, resource: AlterConfigsResource, is_repeated: bool
) -> AlterConfigsResourceResponse:
    kind, name = resource.resource_type, resource.resource_name
    try:
        if is_repeated:
            raise KafkaError(ErrorCode.INVALID_REQUEST, "Each resource must appear at most once.")
        changes = [Change(config.name, Operation.SET, config.value) for config in resource.configs]
        await changer.replace(kind, name, changes)
    except KafkaError as error:
        return AlterConfigsResourceResponse(error.code, error.message, kind, name)
    return AlterConfigsResourceResponse(ErrorCode.NONE, None, kind, name)
