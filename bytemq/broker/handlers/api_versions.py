"""ApiVersions v0-5: what this broker serves.

- A version above 5 is answered by dispatch.py in the form of version 0 (KIP-511).
- v3+: the client says which software it is; a name or version that is no such thing: INVALID_REQUEST.
- v5 (KIP-1242): a client that names the cluster and node it expects and finds another: REBOOTSTRAP_REQUIRED. A node id
  without a cluster id is not looked at, as in Kafka.
- Of Kafka's features those are finalised here whose protocols are served: group.version (1: KIP-848), metadata.version
  and transaction.version (2: KIP-890). Ours is bytemq.version: the formats of the data (metadata/features.py).
"""

import re

from bytemq.broker.context import Broker, RequestContext
from bytemq.broker.dispatch import HANDLERS
from bytemq.metadata import features, keys
from bytemq.metadata.image import ClusterImage
from bytemq.protocol.api_versions import advertised
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.protocol.messages.api_versions import (
    ApiVersion,
    ApiVersionsRequest,
    ApiVersionsResponse,
    FinalizedFeatureKey,
    SupportedFeatureKey,
)

_SOFTWARE = re.compile(r"[a-zA-Z0-9](?:[a-zA-Z0-9\-.]*[a-zA-Z0-9])?")

FEATURES = {"group.version": (0, 1), "metadata.version": (7, 33), "transaction.version": (0, 2)}
"""Lowest supported, highest supported and finalised level."""


def handle(broker: Broker, context: RequestContext, request: ApiVersionsRequest) -> ApiVersionsResponse:
    """Never waits: it is the first thing that every client asks."""
    if context.api_version >= 3:
        software = (request.client_software_name, request.client_software_version)
        if not all(map(_SOFTWARE.fullmatch, software)):
            raise KafkaError(ErrorCode.INVALID_REQUEST)
        context.client.software_name, context.client.software_version = software
    expected = request.cluster_id
    if expected is not None and (expected != broker.cluster_id or request.node_id != broker.node_id):
        raise KafkaError(ErrorCode.REBOOTSTRAP_REQUIRED)
    return ApiVersionsResponse(
        api_keys=[
            ApiVersion(api_key=int(api.api_key), min_version=api.min_version, max_version=api.max_version)
            for api in advertised(HANDLERS)
        ],
        supported_features=[
            SupportedFeatureKey(name=name, min_version=lowest, max_version=highest)
            for name, (lowest, highest) in {**FEATURES, features.NAME: features.SUPPORTED}.items()
        ],
        finalized_features_epoch=broker.image.key_revision(keys.FEATURE_LEVEL),
        finalized_features=[
            FinalizedFeatureKey(name=name, min_version_level=level, max_version_level=level)
            for name, level in finalised(broker.image).items()
        ],
    )


def finalised(image: ClusterImage) -> dict[str, int]:
    """The level of each feature."""
    return {**{name: highest for name, (_, highest) in FEATURES.items()}, features.NAME: image.feature_level}
