"""What brokers and the controller have told in the metadata, as far as this program can read it.

Owns: going on without what another version has written in its own way: none of it decides what is right. Must not: know
what it is used for.
"""

from __future__ import annotations

from typing import NamedTuple

from bytemq.errors import Corrupt
from bytemq.metadata import keys
from bytemq.metadata.loads import LoadReport, decode_load
from bytemq.metadata.moves import RecordedMove, decode_moves
from bytemq.metadata.store import MetadataStore
from bytemq.runtime.logging import get_logger

log = get_logger("scheduler.reports")


class LastMoves(NamedTuple):
    moves: list[RecordedMove]
    revision: int
    """0: there is no such key."""


async def load_reports(store: MetadataStore) -> dict[int, LoadReport]:
    """By broker id."""
    found: dict[int, LoadReport] = {}
    for key, value, _ in (await store.range(keys.LOADS)).entries:
        try:
            found[int(key[len(keys.LOADS) :])] = decode_load(value)
        except (Corrupt, ValueError) as error:  # the latter: what is behind loads/ is no number
            log.warning("load report left out", key=key, reason=str(error))
    return found


async def last_moves(store: MetadataStore) -> LastMoves:
    entry = await store.get(keys.MOVES)
    if entry is None:
        return LastMoves([], 0)
    try:
        return LastMoves(decode_moves(entry.value), entry.revision)
    except Corrupt as error:
        log.warning("last moves left out", reason=str(error))
        return LastMoves([], entry.revision)
