"""The controller's last moves and why it made them: the value of `scheduler/moves`. Pure; for people."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from bytemq.errors import Corrupt

MOST = 200


class RecordedMove(NamedTuple):
    wall_ms: int
    topic: str
    partition: int
    source: int
    """-1: it had no live broker."""
    target: int
    reason: str


def encode_moves(moves: Sequence[RecordedMove]) -> bytes:
    """The newest of them."""
    return json.dumps(moves[-MOST:], separators=(",", ":")).encode()


def decode_moves(data: bytes) -> list[RecordedMove]:
    try:
        entries: Iterable[list[object]] = json.loads(data)
        return [RecordedMove(*entry) for entry in entries]  # type: ignore[arg-type]
    except (ValueError, TypeError) as error:
        raise Corrupt(f"the controller's moves cannot be read: {error!r}") from error
