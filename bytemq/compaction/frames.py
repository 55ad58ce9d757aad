"""What the broker and its worker process say to each other, and how it looks on the socket between them.

Owns: the messages and their framing, 4 bytes of length (little-endian) and a pickle. Must not: do I/O. Nobody else has
the socket: what comes from it was made by this same program.
"""

from __future__ import annotations

import pickle
import struct
from typing import Any, NamedTuple

from bytemq import errors
from bytemq.errors import BytemqError, Unavailable
from bytemq.runtime.logging import LogFormat
from bytemq.storage.pools.opening import PoolUrls

LENGTH = struct.Struct("<I")


class Setup(NamedTuple):
    """The first message to the worker process."""

    store_url: str
    pools: PoolUrls
    memory_bytes: int
    log_levels: dict[str, str]
    log_format: LogFormat
    scratch: str
    """A folder for temporary files that nobody else has; "": the system's."""


class Created(NamedTuple):
    """The worker is about to create this object."""

    name: str


class Done(NamedTuple):
    result: Any


class Failed(NamedTuple):
    """`kind`: the name of the class in `errors`."""

    kind: str
    reason: str

    @classmethod
    def of(cls, error: BaseException) -> Failed:
        if isinstance(error, BytemqError):
            return cls(type(error).__name__, str(error))
        if isinstance(error, MemoryError):
            return cls(Unavailable.__name__, "the job needs more memory than it may use")
        return cls(Unavailable.__name__, f"the job failed: {error!r}")

    def error(self) -> BytemqError:
        kind: type[BytemqError] = getattr(errors, self.kind)
        return kind(self.reason)


def encode(message: object) -> bytes:
    data = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    return LENGTH.pack(len(data)) + data


def decode(data: bytes) -> Any:
    return pickle.loads(data)
