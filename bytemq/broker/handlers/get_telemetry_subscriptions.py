"""GetTelemetrySubscriptions v0 (KIP-714): which metrics clients shall push. None: there is no receiver for them.

As a Kafka broker without one: not advertised, answered all the same, with an instance id for clients that have none.
The subscription id is a function of the instance id, so that nothing need be remembered between the two requests.
"""

from zlib import crc32

from bytemq.broker.context import Broker, RequestContext
from bytemq.protocol.messages.get_telemetry_subscriptions import (
    GetTelemetrySubscriptionsRequest,
    GetTelemetrySubscriptionsResponse,
)
from bytemq.types import ZERO_TOPIC_ID

ZSTD, LZ4, GZIP, SNAPPY = 4, 3, 1, 2
ACCEPTED_COMPRESSION_TYPES = (ZSTD, LZ4, GZIP, SNAPPY)
PUSH_INTERVAL_MS = 300_000
ZERO_UUID = bytes(ZERO_TOPIC_ID)
ONE_UUID = bytes(15) + b"\1"


def handle(
    broker: Broker, context: RequestContext, request: GetTelemetrySubscriptionsRequest
) -> GetTelemetrySubscriptionsResponse:
    """Never waits."""
    instance_id = bytes(request.client_instance_id)
    while instance_id in (ZERO_UUID, ONE_UUID):
        instance_id = broker.random.randbytes(16)
    return GetTelemetrySubscriptionsResponse(
        client_instance_id=instance_id,
        subscription_id=subscription_id(instance_id),
        accepted_compression_types=list(ACCEPTED_COMPRESSION_TYPES),
        push_interval_ms=PUSH_INTERVAL_MS,
        telemetry_max_bytes=broker.config.telemetry_max_bytes,
        delta_temporality=True,
    )


def subscription_id(instance_id: bytes) -> int:
    """A positive int32."""
    return crc32(instance_id) & 0x7FFFFFFF
