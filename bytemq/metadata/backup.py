"""Metadata written to a file, and put back.

Owns: the form of the file, what is left out (sessions and what belongs to them: they end), and the rule that makes a
restored store safe: its revisions go on above those of the export. Session ids are revisions, and what is in storage is
named by them; one that came again would meet what an earlier session left.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from bytemq.errors import Corrupt, Invalid
from bytemq.metadata import keys, values
from bytemq.metadata.store import Compare, KeyValue, Listing, MetadataStore, Put

FORMAT = 1
LEFT_OUT = (keys.BROKERS, keys.CONTROLLER, keys.PREPARED, keys.DOUBTS, keys.LOADS, keys.TABLE_BUILDS)
KEYS_PER_TRANSACTION = 100
BYTES_PER_TRANSACTION = 1024 * 1024
MAX_RAISED = 200_000
"""Revisions that are used up one by one: some minutes of an etcd's time."""
RAISED_AT_ONCE = 50
LOOK_S = 0.2
_SCRATCH = "restore/revision"
_OF_A_START = frozenset({keys.IDENTITY, keys.FEATURE_LEVEL, _SCRATCH})
"""Keys that a broker writes which then refuses to start because these are not the metadata of its storage."""


class Backup(NamedTuple):
    cluster_id: str
    revision: int
    entries: list[tuple[str, bytes]]


def lines_of(listing: Listing) -> Iterator[str]:
    """Lines of the file, of all that is in a store. Raises Invalid when that is no cluster."""
    entries, revision = listing
    cluster_id = next((entry.value.decode() for entry in entries if entry.key == keys.IDENTITY), "")
    if not cluster_id:
        raise Invalid("there is no cluster at this address of the metadata; is the prefix right?")
    return _lines(cluster_id, revision, entries)


def _lines(cluster_id: str, revision: int, entries: Sequence[KeyValue]) -> Iterator[str]:
    beginning = _beginning(entries)
    kept = [entry for entry in entries if not entry.key.startswith(LEFT_OUT)]
    yield json.dumps({"bytemq_metadata": FORMAT, "cluster": cluster_id, "revision": revision, "keys": len(kept)})
    for key, value, changed_at in kept:
        if key == keys.LAST_SESSION:  # its revision does not come along
            last = values.decode_last_session(value, changed_at)
            value = values.encode_number(min([last, *(session_id - 1 for session_id in beginning)]))
        yield json.dumps([key, base64.b64encode(value).decode()])


def _beginning(entries: Sequence[KeyValue]) -> list[int]:
    """Sessions that live and have no write-ahead log yet in the storage that brokers share. What they write is told of
    by nothing else in the file, so it counts them among those that came after it: of others without one it was
    released.
    """
    if all(entry.key != keys.STORAGE for entry in entries):
        return []
    logs = {keys.session_of_log(entry.key) for entry in entries if entry.key.startswith(keys.SESSION_LOGS)}
    return [entry.revision for entry in entries if entry.key.startswith(keys.BROKERS) and entry.revision not in logs]


def parse(lines: Iterable[str]) -> Backup:
    """Raises Corrupt for a file that is cut short or something else, Invalid for one of a newer version."""
    try:
        remaining = iter(lines)
        head = json.loads(next(remaining))
        if head["bytemq_metadata"] > FORMAT:
            raise Invalid("the export was written by a newer version of bytemq; use that one")
        entries = [(key, base64.b64decode(value, validate=True)) for key, value in map(json.loads, remaining)]
        if len(entries) != head["keys"]:
            raise Corrupt(f"the export has {len(entries)} of its {head['keys']} keys: it was cut short")
        return Backup(head["cluster"], head["revision"], entries)
    except (ValueError, KeyError, TypeError, StopIteration) as error:
        raise Corrupt(f"this is no export of metadata: {error!r}") from error


async def restore(store: MetadataStore, backup: Backup, *, replace: bool = False, patience_s: float = 0.0) -> None:
    """Into an empty store, or in place of what is there. Raises Invalid with what to do when that must not be, or when
    the store's revisions are too far behind. Sessions of brokers that are dead end within `patience_s`.
    """
    while True:
        existing, revision = await store.range("")
        if not any(entry.key.startswith(keys.BROKERS) for entry in existing):
            break
        if patience_s <= 0:
            raise Invalid("a broker uses the metadata at this address; stop every broker first")
        await asyncio.sleep(LOOK_S)
        patience_s -= LOOK_S
    if not replace and any(entry.key not in _OF_A_START for entry in existing):
        raise Invalid(
            "there are metadata at this address already; an export is restored to an empty prefix, or with --replace"
        )
    if backup.revision - revision > MAX_RAISED:
        raise Invalid(
            f"this store is at revision {revision}, the export was made at {backup.revision}; session ids would come "
            "again. Start etcd from a snapshot restored with: etcdutl snapshot restore SNAPSHOT --bump-revision "
            f"{backup.revision - revision + MAX_RAISED} --mark-compacted (a snapshot of an empty etcd will do)."
        )
    await _raise_revision(store, revision, backup.revision)
    if replace:
        await _remove(store, [entry.key for entry in existing])
        existing = []
    known = {entry.key: entry.revision for entry in existing}
    for puts in _batches(backup.entries):
        written = await store.txn([Compare(put.key, known.get(put.key, 0)) for put in puts], puts)
        if not written.succeeded:
            raise Invalid("somebody else writes metadata at this address; stop every broker first")


async def _remove(store: MetadataStore, names: list[str]) -> None:
    """The feature level goes first: without it the rest is not used."""
    names.sort(key=lambda name: name != keys.FEATURE_LEVEL)
    for start in range(0, len(names), KEYS_PER_TRANSACTION):
        await store.txn([], deletes=names[start : start + KEYS_PER_TRANSACTION])


async def _raise_revision(store: MetadataStore, revision: int, wanted: int) -> None:
    while revision <= wanted:
        count = min(RAISED_AT_ONCE, wanted - revision + 1)
        raised = await asyncio.gather(*(store.txn([], [Put(_SCRATCH, b"")]) for _ in range(count)))
        revision = max(txn.revision for txn in raised)
    await store.txn([], [], [_SCRATCH])


def _batches(entries: Iterable[tuple[str, bytes]]) -> Iterator[list[Put]]:
    """The feature level comes last: a store without it is not used, so that half a restore is none."""
    puts: list[Put] = []
    size_bytes = 0
    for key, value in sorted(entries, key=lambda entry: (entry[0] == keys.FEATURE_LEVEL, entry[0])):
        if puts and (len(puts) == KEYS_PER_TRANSACTION or size_bytes + len(value) > BYTES_PER_TRANSACTION):
            yield puts
            puts, size_bytes = [], 0
        puts.append(Put(key, value))
        size_bytes += len(key) + len(value)
    if puts:
        yield puts
