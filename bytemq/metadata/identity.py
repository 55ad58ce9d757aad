"""What a store says of the cluster as a whole: its id, made once, and a feature level that this program supports.

Owns: making them. Must not: draw random numbers (the caller's are used), or know the rules of levels (`features.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from bytemq.errors import Invalid, Unavailable
from bytemq.metadata import keys, values
from bytemq.metadata.features import SUPPORTED, change_level, require_supported
from bytemq.metadata.store import Compare, MetadataStore, Put
from bytemq.metadata.values import Levels
from bytemq.protocol.error_codes import KafkaError
from bytemq.types import format_topic_id


async def ensure_identity(
    store: MetadataStore, random_bytes: Callable[[int], bytes], supported: Levels = SUPPORTED
) -> str:
    """The cluster id, in Kafka's form of a UUID; a new store gets one now, and the highest level.

    Raises `Invalid` when the store's data is at a level that is not supported. On one machine all brokers are of one
    version: there the level is raised with the program.
    """
    for _ in range(3):
        identity = await store.get(keys.IDENTITY)  # first: another broker may make both of them in between
        level = await store.get(keys.FEATURE_LEVEL)
        require_supported(level, supported)
        if identity is not None and level is not None:
            if not store.leases_time_out and values.decode_number(level.value) < supported.highest:
                with suppress(KafkaError):  # a broker lives there that the program was replaced under
                    await change_level(store)
            return identity.value.decode()
        if identity is not None:
            raise Invalid(
                "these metadata are not complete: a restore was interrupted. Restore them again, by "
                "`bytemq metadata restore --replace`."
            )
        cluster_id = _random_uuid(random_bytes)
        created = await store.txn(
            [Compare(keys.IDENTITY, 0), Compare(keys.FEATURE_LEVEL, 0)],
            [
                Put(keys.IDENTITY, cluster_id.encode()),
                Put(keys.FEATURE_LEVEL, values.encode_number(supported.highest)),
            ],
        )
        if created.succeeded:
            return cluster_id
    raise Unavailable("the metadata store lost its cluster id while it was read; start again")


def _random_uuid(random_bytes: Callable[[int], bytes]) -> str:
    """Like Kafka, none that starts with a dash: it would read as a flag on a command line."""
    while True:
        text = format_topic_id(random_bytes(16))
        if not text.startswith("-"):
            return text
