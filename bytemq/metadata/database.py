"""The embedded store's tables: keys, revisions and leases in one SQLite file.

Owns: SQL and the file's layout. Must not: know the event loop; every call is made in one thread and may block.

Only the holder of the data folder's lock opens the file. So at opening every lease of an earlier process is proved
dead, and its keys are deleted then: a session ends by proof of its process's death, never by a clock.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from bytemq.errors import Corrupt, Full, Invalid, NotFound, Unavailable
from bytemq.metadata.store import Compare, Event, KeyValue, Listing, Put, Txn

Durability = Literal["fsync", "page-cache"]

LAYOUT = 1
"""SQLite's user_version of our files."""

_TABLES = """
CREATE TABLE entries (key TEXT PRIMARY KEY, value BLOB NOT NULL, revision INTEGER NOT NULL, lease INTEGER);
CREATE INDEX leased ON entries (lease) WHERE lease IS NOT NULL;
CREATE TABLE state (revision INTEGER NOT NULL);
INSERT INTO state VALUES (0);
"""
_PUT = (
    "INSERT INTO entries VALUES (?, ?, ?, ?) ON CONFLICT (key) DO UPDATE "
    "SET value = excluded.value, revision = excluded.revision, lease = excluded.lease"
)


class Database:
    """Changes made between `begin` and `commit` are applied together, each at its own revision."""

    def __init__(self, path: Path, durability: Durability) -> None:
        """Raises `Invalid` when a newer version wrote the file, `Corrupt`, `Full` or `Unavailable`."""
        self._durability = durability
        self._pending: list[tuple[int, list[Event]]] = []
        self._leases: set[int] = set()
        self._last_lease = 0
        try:
            self._sql = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._open(path)
        except sqlite3.Error as error:
            raise error_of(error, path) from error
        self._committed_revision = self.revision

    def _open(self, path: Path) -> None:
        sql = self._sql
        sql.execute("PRAGMA locking_mode = EXCLUSIVE")  # and so no shared-memory file beside it
        sql.execute("PRAGMA journal_mode = WAL")
        sql.execute("PRAGMA journal_size_limit = 16777216")
        sql.execute("PRAGMA synchronous = FULL")
        (layout,) = sql.execute("PRAGMA user_version").fetchone()
        if layout > LAYOUT:
            raise Invalid(
                f"{path} was written by a newer version of bytemq (layout {layout}, this version knows {LAYOUT}). "
                "Start it with that version or a later one."
            )
        sql.execute("BEGIN IMMEDIATE")
        if layout == 0:
            for statement in _TABLES.strip().split(";\n"):
                sql.execute(statement)
            sql.execute(f"PRAGMA user_version = {LAYOUT}")
        self.revision: int
        (self.revision,) = sql.execute("SELECT revision FROM state").fetchone()
        if sql.execute("DELETE FROM entries WHERE lease IS NOT NULL").rowcount:
            self.revision += 1
            sql.execute("UPDATE state SET revision = ?", (self.revision,))
        sql.execute("COMMIT")

    def begin(self, *, names_a_session: bool) -> None:
        """`names_a_session`: synchronous even in the page-cache mode.

        A session id is a revision, and files are named by it: after a power cut it must not be given a second time.
        """
        synchronous = "FULL" if names_a_session or self._durability == "fsync" else "NORMAL"
        self._sql.execute(f"PRAGMA synchronous = {synchronous}")
        self._sql.execute("BEGIN IMMEDIATE")

    def commit(self) -> list[tuple[int, list[Event]]]:
        """The committed changes by revision, in order."""
        if self.revision != self._committed_revision:
            self._sql.execute("UPDATE state SET revision = ?", (self.revision,))
        self._sql.execute("COMMIT")
        self._committed_revision = self.revision
        changes, self._pending = self._pending, []
        return changes

    def rollback(self) -> None:
        self.revision = self._committed_revision
        self._pending = []
        if self._sql.in_transaction:
            self._sql.execute("ROLLBACK")

    def get(self, key: str) -> KeyValue | None:
        row = self._sql.execute("SELECT key, value, revision FROM entries WHERE key = ?", (key,)).fetchone()
        return None if row is None else KeyValue(*row)

    def range(self, prefix: str) -> Listing:
        if prefix:
            end = prefix[:-1] + chr(ord(prefix[-1]) + 1)
            rows = self._sql.execute(
                "SELECT key, value, revision FROM entries WHERE key >= ? AND key < ? ORDER BY key", (prefix, end)
            )
        else:
            rows = self._sql.execute("SELECT key, value, revision FROM entries ORDER BY key")
        return Listing([KeyValue(*row) for row in rows], self.revision)

    def txn(self, compares: Sequence[Compare], puts: Sequence[Put], deletes: Sequence[str]) -> Txn:
        for put in puts:
            if put.lease is not None and put.lease not in self._leases:
                raise NotFound(f"lease {put.lease} has ended")
        for key, expected in compares:
            row = self._sql.execute("SELECT revision FROM entries WHERE key = ?", (key,)).fetchone()
            if (0 if row is None else row[0]) != expected:
                return Txn(False, self.revision)
        revision = self.revision + 1
        rows = [(key, bytes(value), revision, lease) for key, value, lease in puts]
        self._sql.executemany(_PUT, rows)
        events = [Event(key, value, revision) for key, value, _, _ in rows]
        events.extend(
            Event(key, None, revision)
            for key in deletes
            if self._sql.execute("DELETE FROM entries WHERE key = ?", (key,)).rowcount
        )
        return Txn(True, self._record(revision, events))

    def grant_lease(self) -> int:
        self._last_lease += 1
        self._leases.add(self._last_lease)
        return self._last_lease

    def has_lease(self, lease: int) -> bool:
        return lease in self._leases

    def revoke(self, lease: int) -> None:
        self._leases.discard(lease)
        leased = self._sql.execute("SELECT key FROM entries WHERE lease = ? ORDER BY key", (lease,)).fetchall()
        self._sql.execute("DELETE FROM entries WHERE lease = ?", (lease,))
        revision = self.revision + 1
        self._record(revision, [Event(key, None, revision) for (key,) in leased])

    def close(self) -> None:
        self._sql.close()

    def _record(self, revision: int, events: list[Event]) -> int:
        if events:
            self.revision = revision
            self._pending.append((revision, events))
        return self.revision


def error_of(error: Exception, path: Path) -> Exception:
    """What the caller of the store must do about an error of SQLite; any other error is a bug and stays what it is."""
    if not isinstance(error, sqlite3.Error):
        return error
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the low byte is the class of error
    if code == sqlite3.SQLITE_FULL:
        return Full(f"no space for metadata in {path}")
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return Corrupt(f"{path} is damaged: {error}")
    return Unavailable(f"{path}: {error}")
