"""What a store says of the cluster as a whole: its id, made once, and the feature level of its data.

Owns: these two keys. Must not: draw random numbers (the caller's are used).
"""

from __future__ import annotations

from collections.abc import Callable

from bytemq.errors import Invalid, Unavailable
from bytemq.metadata import keys, values
from bytemq.metadata.store import Compare, KeyValue, MetadataStore, Put
from bytemq.types import format_topic_id

FEATURE_LEVEL = 2
"""Raised whenever a format changes in a way that an older version would misread. 2: manifests name cleaned files."""


async def ensure_identity(store: MetadataStore, random_bytes: Callable[[int], bytes]) -> str:
    """The cluster id, in Kafka's form of a UUID; a new store gets one now.

    Data of a lower feature level is at ours from now on: what is written next needs it. Raises `Invalid` when it was
    written at a level above ours.
    """
    for _ in range(3):
        level = await store.get(keys.FEATURE_LEVEL)
        require_known_level(level)
        identity = await store.get(keys.IDENTITY)
        if identity is not None and level is not None and _is_ours(level):
            return identity.value.decode()
        if identity is not None:
            await _raise_level(store, level)
            continue
        cluster_id = _random_uuid(random_bytes)
        created = await store.txn(
            [Compare(keys.IDENTITY, 0), Compare(keys.FEATURE_LEVEL, 0)],
            [
                Put(keys.IDENTITY, cluster_id.encode()),
                Put(keys.FEATURE_LEVEL, values.encode_number(FEATURE_LEVEL)),
            ],
        )
        if created.succeeded:
            return cluster_id
    raise Unavailable("the metadata store lost its cluster id while it was read; start again")


def require_known_level(level: KeyValue | None) -> None:
    """Raises Invalid when `level`, the entry of keys.FEATURE_LEVEL, is above ours: then nothing else may be read."""
    if level is not None and values.decode_number(level.value) > FEATURE_LEVEL:
        raise Invalid(
            f"this data was written by a newer version of bytemq (feature level {level.value.decode()}, "
            f"this version knows {FEATURE_LEVEL}). Use that version or a later one."
        )


def _is_ours(level: KeyValue) -> bool:
    return values.decode_number(level.value) == FEATURE_LEVEL


async def _raise_level(store: MetadataStore, level: KeyValue | None) -> None:
    """Whether that was done shows when it is read again."""
    before = Compare(keys.FEATURE_LEVEL, 0 if level is None else level.revision)
    await store.txn([before], [Put(keys.FEATURE_LEVEL, values.encode_number(FEATURE_LEVEL))])


def _random_uuid(random_bytes: Callable[[int], bytes]) -> str:
    """Like Kafka, none that starts with a dash: it would read as a flag on a command line."""
    while True:
        text = format_topic_id(random_bytes(16))
        if not text.startswith("-"):
            return text
