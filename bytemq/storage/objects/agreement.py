"""Whether storage and metadata are of the same moment: looked at by each broker that starts, before it changes them.

Owns: how one is seen to be older than the other, and the sentences that name the repair. Must not: write.

What the storage has beyond the metadata was acknowledged by brokers that these metadata have forgotten, and would be
taken for garbage: etcd was put back to an older state. What the metadata name and the storage lacks: the storage was.
Brokers that run meanwhile go on, so each side is read in the order in which that cannot mislead.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from bytemq.errors import Corrupt
from bytemq.metadata import features, keys, values
from bytemq.metadata.store import MetadataStore
from bytemq.storage.objects.roll_forward import MOST_IN_FLIGHT
from bytemq.storage.objects.session_log import (
    FOLDER,
    SessionTail,
    decode_tail,
    flush_name,
    flush_of,
    pools_of_tail,
    session_of,
)
from bytemq.storage.pools.pooled_store import PooledStore


async def check_agreement(store: PooledStore, url: str, metadata: MetadataStore) -> None:
    """Of a pool that does not answer nothing is asked. Raises Corrupt, Unavailable."""
    before = await _tails(metadata)
    listed, unseen = await store.list_everywhere(FOLDER)
    names = {info.name for info in listed}
    after = await _tails(metadata)
    newest = max((session_of(name) or 0 for name in names), default=0)
    known = await _last_session(metadata)
    if newest > known:
        raise _ahead(url, f"the write-ahead log of session {newest}, and they end at session {known}")
    written = _last_sequences(names)
    for session_id, tail in after.items():
        last = written.get(session_id, 0)
        if last > tail.last_sequence + MOST_IN_FLIGHT:
            raise _ahead(url, f"flush {last} of session {session_id}, and they end at flush {tail.last_sequence}")
    before = {session: tail for session, tail in before.items() if not pools_of_tail(tail) & unseen}
    _require_newest(before, after, names, url)  # which older metadata would fail, too


def _require_newest(
    before: Mapping[int, SessionTail], after: Mapping[int, SessionTail], names: set[str], url: str
) -> None:
    """The last flush of each session that was named before the listing, and still is."""
    for session_id, tail in before.items():
        current = after.get(session_id)
        if not tail.flushes or current is None or tail.last_sequence < current.first_sequence:
            continue
        name = flush_name(session_id, tail.flushes[-1])
        if name not in names:
            raise Corrupt(
                f"{url} lacks {name}, which the metadata name: it is an older copy of the storage, or a damaged one. "
                "Nothing was changed. Put the right one back; or go back to what this one holds: stop every broker and "
                f"run `bytemq metadata restore --replace --storage {url}` (docs/operations.md, "
                '"The storage was put back").'
            )


def _ahead(url: str, what: str) -> Corrupt:
    return Corrupt(
        f"{url} is ahead of the metadata: it holds {what}. etcd was put back to an older state. Nothing was changed. "
        f"Stop every broker and run `bytemq metadata restore --replace --storage {url}`, which finds in the storage "
        'what is missing (docs/operations.md, "etcd was lost or restored").'
    )


async def _tails(metadata: MetadataStore) -> dict[int, SessionTail]:
    """A damaged one is the business of whoever opens a log."""
    found: dict[int, SessionTail] = {}
    for key, value, _ in (await metadata.range(keys.SESSION_LOGS)).entries:
        try:
            found[keys.session_of_log(key)] = decode_tail(value)
        except Corrupt:
            continue
    return found


async def _last_session(metadata: MetadataStore) -> int:
    """The newest that the metadata know of; before they tell it, any that their revisions leave room for."""
    level = await metadata.get(keys.FEATURE_LEVEL)
    last = await metadata.get(keys.LAST_SESSION)
    if level is None or values.decode_number(level.value) < features.LAST_SESSION_KNOWN or last is None:
        return (await metadata.range(keys.FEATURE_LEVEL)).revision
    return values.decode_last_session(last.value, last.revision)


def _last_sequences(names: Iterable[str]) -> dict[int, int]:
    """Of each session's flushes in the storage."""
    found: dict[int, int] = {}
    for flush in map(flush_of, names):
        if flush is not None:
            found[flush[0]] = max(flush[1], found.get(flush[0], 0))
    return found
