"""PushTelemetry v0 (KIP-714): checks what a client pushes, and drops it: there is no receiver.

Reserved instance ids: INVALID_REQUEST; another subscription than the one given: UNKNOWN_SUBSCRIPTION_ID; an unknown
compression: UNSUPPORTED_COMPRESSION_TYPE; more than telemetry.max.bytes: TELEMETRY_TOO_LARGE. Nobody is throttled.
"""

from bytemq.broker.context import Broker, RequestContext
from bytemq.broker.handlers.get_telemetry_subscriptions import (
    ACCEPTED_COMPRESSION_TYPES,
    ONE_UUID,
    ZERO_UUID,
    subscription_id,
)
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.protocol.messages.push_telemetry import PushTelemetryRequest, PushTelemetryResponse

NO_COMPRESSION = 0


def handle(broker: Broker, context: RequestContext, request: PushTelemetryRequest) -> PushTelemetryResponse:
    """Never waits."""
    instance_id = bytes(request.client_instance_id)
    if instance_id in (ZERO_UUID, ONE_UUID):
        raise KafkaError(ErrorCode.INVALID_REQUEST)
    if request.subscription_id != subscription_id(instance_id):
        raise KafkaError(ErrorCode.UNKNOWN_SUBSCRIPTION_ID)
    if request.compression_type not in (NO_COMPRESSION, *ACCEPTED_COMPRESSION_TYPES):
        raise KafkaError(ErrorCode.UNSUPPORTED_COMPRESSION_TYPE)
    if len(request.metrics) > broker.config.telemetry_max_bytes:
        raise KafkaError(ErrorCode.TELEMETRY_TOO_LARGE)
    return PushTelemetryResponse()
