"""UpdateFeatures v0-2 (KIP-584, KIP-778): all of the named features get their versions, or none of them does.

The version of our own feature (metadata/features.py) is raised when every live broker supports the new one. Those of
Kafka's features are what this program serves and stay what they are. INVALID_UPDATE_VERSION says why not, in Kafka's
words. Whatever the time-out, the answer comes when it is done, as in Kafka.
"""

from __future__ import annotations

from bytemq.broker.context import Broker, RequestContext
from bytemq.broker.handlers.api_versions import FEATURES, finalised
from bytemq.metadata import features
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.protocol.messages.update_features import (
    FeatureUpdateKey,
    UpdatableFeatureResult,
    UpdateFeaturesRequest,
    UpdateFeaturesResponse,
)

UPGRADE, SAFE_DOWNGRADE, UNSAFE_DOWNGRADE = 1, 2, 3


async def handle(broker: Broker, context: RequestContext, request: UpdateFeaturesRequest) -> UpdateFeaturesResponse:
    known = finalised(broker.image)
    updates = {update.feature: update for update in request.feature_updates}
    own = updates.get(features.NAME)
    for update in updates.values():
        downgrade = _downgrades(update, context.api_version)
        if update is not own:
            _check(update, downgrade, known)
    if own is not None:
        await features.change_level(
            broker.metadata,
            own.max_version_level,
            downgrade=_downgrades(own, context.api_version),
            validate_only=request.validate_only,
        )
    results = [UpdatableFeatureResult(feature, ErrorCode.NONE, None) for feature in updates]
    return UpdateFeaturesResponse(error_message=None, results=results)


def _downgrades(update: FeatureUpdateKey, version: int) -> bool:
    """Raises KafkaError for a type of upgrade that does not exist."""
    if version == 0:
        return update.allow_downgrade
    if update.upgrade_type not in (UPGRADE, SAFE_DOWNGRADE, UNSAFE_DOWNGRADE):
        raise _invalid(update, "The controller does not support the given upgrade type.")
    return update.upgrade_type != UPGRADE


def _check(update: FeatureUpdateKey, downgrade: bool, known: dict[str, int]) -> None:
    """Raises KafkaError unless the feature has this version already."""
    wanted = update.max_version_level
    if wanted < 0:
        raise _invalid(update, "A feature version cannot be less than 0.")
    if update.feature not in known:
        raise _invalid(update, "This server does not support this feature.")
    lowest, highest = FEATURES[update.feature]
    if not lowest <= wanted <= highest:
        raise _invalid(update, f"This server only supports versions {lowest}-{highest}")
    if wanted < known[update.feature]:
        if not downgrade:
            raise _invalid(update, features.NO_DOWNGRADE)
        raise _invalid(update, f"This server serves version {known[update.feature]} always.")


def _invalid(update: FeatureUpdateKey, why: str) -> KafkaError:
    return features.refused(update.max_version_level, why, feature=update.feature)
