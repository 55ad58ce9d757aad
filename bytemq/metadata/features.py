"""The feature level of a cluster: which formats its brokers may write, because each of them can read them.

Owns: what the levels mean, which of them this program supports, and the rules by which the finalised level changes.
Must not: know how a format looks.

The cluster has one level, in its metadata; Kafka's tools show and change it as the feature bytemq.version. Each broker
says in its session key which levels it supports, so that two versions of this program can live side by side:

- A broker joins only while the finalised level is one of its own: the transaction that registers it compares the level.
- The level is raised only when all live brokers support the new one: the transaction compares a key that each broker
  writes as it joins. Until it is, every broker can go back to the version before.
- It is not lowered once there may be data that the lower one does not know.

A new format is a new level here, read by this version whatever the level is, and written where
`image.feature_level >= features.THAT_LEVEL`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from bytemq.errors import Invalid
from bytemq.metadata import keys, values
from bytemq.metadata.store import Compare, KeyValue, Listing, MetadataStore, Put
from bytemq.metadata.values import Levels
from bytemq.protocol.error_codes import ErrorCode, KafkaError

NAME = "bytemq.version"
"""As a feature of Kafka's."""
CLEANED_FILES = 2
LAST_SESSION_KNOWN = 3
POOLS = 4


class Level(NamedTuple):
    means: str
    leaves_data: bool = True
    """Whether data may be there that the level before does not know, once this one has been finalised."""


LEVELS = {
    1: Level("manifests name segments"),
    CLEANED_FILES: Level("manifests name cleaned files and Parquet"),
    LAST_SESSION_KNOWN: Level("the metadata tell the newest session", leaves_data=False),
    POOLS: Level("objects may be in pools"),
}
SUPPORTED = Levels(min(LEVELS), max(LEVELS))
"""By this program: what it can read."""
NO_DOWNGRADE = (
    "Can't downgrade the version of this feature without setting the upgrade type to either safe or unsafe downgrade."
)
_ATTEMPTS = 5


def require_supported(level: KeyValue | None, supported: Levels) -> None:
    """Raises Invalid when `level`, the entry of keys.FEATURE_LEVEL, is none of these: then nothing else may be read."""
    if level is None:
        return
    finalised = values.decode_number(level.value)
    if finalised > supported.highest:
        raise Invalid(
            f"this data was written by a newer version of bytemq (feature level {finalised}, this version knows "
            f"{supported}). Use that version or a later one."
        )
    if finalised < supported.lowest:
        raise Invalid(
            f"this data is at feature level {finalised}, and this version knows {supported}. Start the version before "
            "this one on every broker, raise the level by `bytemq cluster upgrade`, then start this one."
        )


def check_change(
    finalised: int, wanted: int, brokers: Mapping[int, Levels], *, downgrade: bool, levels: Mapping[int, Level] = LEVELS
) -> None:
    """`brokers`: what the live ones support, by id. `downgrade`: that the caller is ready for it. Raises KafkaError."""
    for broker_id, supported in sorted(brokers.items()):
        if not supported.lowest <= wanted <= supported.highest:
            raise refused(wanted, f"Broker {broker_id} only supports versions {supported}.")
    if wanted not in levels:
        known = Levels(min(levels), max(levels))
        raise refused(wanted, f"This version of bytemq only supports versions {known}.")
    if wanted > finalised and downgrade:
        raise refused(wanted, "Can't downgrade to a newer version.")
    if wanted < finalised:
        if not downgrade:
            raise refused(wanted, NO_DOWNGRADE)
        for number in range(finalised, wanted, -1):
            if levels[number].leaves_data:
                raise refused(
                    wanted,
                    f"There may be data that version {wanted} does not know: since version {number} "
                    f"{levels[number].means}.",
                )


async def change_level(
    store: MetadataStore,
    wanted: int | None = None,
    *,
    downgrade: bool = False,
    validate_only: bool = False,
    levels: Mapping[int, Level] = LEVELS,
) -> int:
    """Finalises `wanted`, by default the highest that all live brokers and this program support; returns it.

    Raises KafkaError with a sentence when that must not be, Unavailable.
    """
    for _ in range(_ATTEMPTS):
        listing = await store.range(keys.CLUSTER)
        finalised, changed_at = _entry(listing, keys.FEATURE_LEVEL)
        brokers = supported_by_brokers(listing)
        new = highest_of([Levels(min(levels), max(levels)), *brokers.values()]) if wanted is None else wanted
        check_change(finalised, new, brokers, downgrade=downgrade, levels=levels)
        if new == finalised or validate_only:
            return new
        _, joined_at = _entry(listing, keys.LAST_SESSION)
        changed = await store.txn(
            [Compare(keys.FEATURE_LEVEL, changed_at), Compare(keys.LAST_SESSION, joined_at)],
            [Put(keys.FEATURE_LEVEL, values.encode_number(new)), Put(keys.LAST_SESSION, values.THIS_REVISION)],
        )
        if changed.succeeded:
            return new
    raise KafkaError(ErrorCode.FEATURE_UPDATE_FAILED, "Brokers join all the time; try again when they have.")


def supported_by_brokers(listing: Listing) -> dict[int, Levels]:
    """By the id of each live broker."""
    return {
        int(entry.key[len(keys.BROKERS) :]): values.decode_broker(entry.value).levels
        for entry in listing.entries
        if entry.key.startswith(keys.BROKERS)
    }


def highest_of(supported: Iterable[Levels]) -> int:
    """That all of them support; where there is none, that this program does."""
    return min((levels.highest for levels in supported), default=SUPPORTED.highest)


def _entry(listing: Listing, key: str) -> tuple[int, int]:
    """The number there and its revision; 0 and 0 when there is none."""
    entry = next((entry for entry in listing.entries if entry.key == key), None)
    return (0, 0) if entry is None else (values.decode_number(entry.value), entry.revision)


def refused(wanted: int, why: str, *, feature: str = NAME) -> KafkaError:
    """In Kafka's words."""
    return KafkaError(ErrorCode.INVALID_UPDATE_VERSION, f"Invalid update version {wanted} for feature {feature}. {why}")
