"""What the metadata say of a pool, a further store of the cluster: the value of `cluster/pools/<name>`. Pure.

Owns: the encoding, and what may become of a pool. Must not: know how a store is reached.

A name never comes to mean another store, and a key never goes: whoever meets the name of an object, however old, finds
where it is.
"""

from __future__ import annotations

import enum
import json
from typing import NamedTuple

from bytemq.errors import Corrupt


class PoolUse(enum.Enum):
    IN_USE = "in use"
    DRAINED = "drained"
    """Nothing new goes there, and what is there is written elsewhere."""
    REMOVED = "removed"
    """As DRAINED, and nobody looks after it: nothing refers to anything in it."""


class PoolValue(NamedTuple):
    url: str
    """"" for the primary store, whose URL each broker is started with."""
    use: PoolUse = PoolUse.IN_USE


def encode_pool(value: PoolValue) -> bytes:
    return json.dumps({"url": value.url, "use": value.use.value}, separators=(",", ":")).encode()


def decode_pool(data: bytes) -> PoolValue:
    """Raises Corrupt."""
    try:
        fields = json.loads(data)
        return PoolValue(str(fields["url"]), PoolUse(fields["use"]))
    except (ValueError, KeyError, TypeError) as error:
        raise Corrupt(f"what the metadata say of a pool cannot be read: {error!r}") from error
