"""The embedded store's tables: keys, revisions and leases in one SQLite file.

Owns: SQL and the file's layout. Must not: know the event loop; every call is made in one thread and may block.

Only the holder of the data folder's lock opens the file. So at opening every lease of an earlier process is proved
dead, and its keys are deleted then: a session ends by proof of its process's death, never by a clock.

SQLite has no checksums, so every row has one of ours, which is checked whenever the row is read. Only the values of
manifests are left out: they end in a checksum of their own, and whoever reads one can do without that partition.
"""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from crc32c import crc32c

from bytemq.errors import Corrupt, Full, Invalid, NotFound, Unavailable
from bytemq.metadata import keys
from bytemq.metadata.store import Compare, Event, KeyValue, Listing, Put, Txn

Durability = Literal["fsync", "page-cache"]

_FIRST_LAYOUT = """
CREATE TABLE entries (key TEXT PRIMARY KEY, value BLOB NOT NULL, revision INTEGER NOT NULL, lease INTEGER);
CREATE INDEX leased ON entries (lease) WHERE lease IS NOT NULL;
CREATE TABLE state (revision INTEGER NOT NULL);
INSERT INTO state VALUES (0)
"""
_CHECKSUMS = """
ALTER TABLE entries ADD COLUMN checksum INTEGER NOT NULL DEFAULT 0;
ALTER TABLE state ADD COLUMN checksum INTEGER NOT NULL DEFAULT 0;
UPDATE entries SET checksum = checksum_of(CAST(key AS BLOB), value, revision, lease);
UPDATE state SET checksum = checksum_of(x'', x'', revision, NULL)
"""
_LAYOUTS = (_FIRST_LAYOUT, _CHECKSUMS)
"""What makes each layout of the one before."""
LAYOUT = len(_LAYOUTS)
"""SQLite's user_version of our files."""

_ROWS = "SELECT CAST(key AS BLOB), value, revision, lease, checksum FROM entries"
_PUT = (
    "INSERT INTO entries VALUES (?, ?, ?, ?, ?) ON CONFLICT (key) DO UPDATE "
    "SET value = excluded.value, revision = excluded.revision, lease = excluded.lease, checksum = excluded.checksum"
)
_NUMBERS = struct.Struct("<qq")
_NO_LEASE = -1
_MANIFESTS = keys.MANIFESTS.encode()
_Row = tuple[bytes, bytes, int, int | None, int]


class Database:
    """Changes made between `begin` and `commit` are applied together, each at its own revision."""

    def __init__(self, path: Path, durability: Durability) -> None:
        """Raises `Invalid` when a newer version wrote the file, `Corrupt`, `Full` or `Unavailable`."""
        self._path = path
        self._durability = durability
        self._pending: list[tuple[int, list[Event]]] = []
        self._leases: set[int] = set()
        self._last_lease = 0
        try:
            self._sql = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            try:
                self._open()
            except BaseException:
                self._sql.close()
                raise
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise error_of(error, path) from error
        self._committed_revision = self.revision

    def _open(self) -> None:
        sql = self._sql
        sql.create_function("checksum_of", 4, _checksum, deterministic=True)
        sql.execute("PRAGMA locking_mode = EXCLUSIVE")  # and so no shared-memory file beside it
        sql.execute("PRAGMA journal_mode = WAL")
        sql.execute("PRAGMA journal_size_limit = 16777216")
        sql.execute("PRAGMA synchronous = FULL")
        (layout,) = sql.execute("PRAGMA user_version").fetchone()
        if layout > LAYOUT:
            raise Invalid(
                f"{self._path} was written by a newer version of bytemq "
                f"(layout {layout}, this version knows {LAYOUT}). Start it with that version or a later one."
            )
        sql.execute("BEGIN IMMEDIATE")
        for step in _LAYOUTS[layout:]:
            for statement in step.strip().split(";\n"):
                sql.execute(statement)
        sql.execute(f"PRAGMA user_version = {LAYOUT}")
        self.revision: int
        self.revision, checksum = sql.execute("SELECT revision, checksum FROM state").fetchone()
        if not _is_whole((b"", b"", self.revision, None, checksum)):
            raise self._damaged("the revision")
        leased = sql.execute(f"{_ROWS} WHERE lease IS NOT NULL").fetchall()
        if leased:
            for row in leased:  # what is damaged must not be deleted with a session that it was never part of
                if row[3] is None:
                    raise self._damaged(f"the index to the entry {_shown(row)}")
                self._checked(row, "")
            sql.execute("DELETE FROM entries WHERE lease IS NOT NULL")
            self.revision += 1
            self._write_revision()
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
            self._write_revision()
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
        """Raises `Corrupt`."""
        row = self._sql.execute(f"{_ROWS} WHERE key = ?", (key,)).fetchone()
        return None if row is None else self._checked(row, key)

    def range(self, prefix: str) -> Listing:
        """Raises `Corrupt`."""
        if prefix:
            end = prefix[:-1] + chr(ord(prefix[-1]) + 1)
            rows = self._sql.execute(f"{_ROWS} WHERE key >= ? AND key < ? ORDER BY key", (prefix, end))
        else:
            rows = self._sql.execute(f"{_ROWS} ORDER BY key")
        return Listing([self._checked(row, prefix) for row in rows], self.revision)

    def problems(self) -> Iterator[tuple[str, str]]:
        """(key, what is wrong with it) of every row, and what SQLite finds about the file: ("", what)."""
        for (said,) in self._sql.execute("PRAGMA integrity_check"):
            if said != "ok":
                yield "", said
        for row in self._sql.execute(f"{_ROWS} ORDER BY key"):
            if not _is_whole(row):
                yield _shown(row), "the entry is not as it was written"
            elif row[2] > self.revision:
                yield _shown(row), f"revision {row[2]} is above that of the store, {self.revision}"

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
        self._sql.executemany(_PUT, [(*row, _checksum(row[0].encode(), *row[1:])) for row in rows])
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

    def _write_revision(self) -> None:
        checksum = _checksum(b"", b"", self.revision, None)
        self._sql.execute("UPDATE state SET revision = ?, checksum = ?", (self.revision, checksum))

    def _checked(self, row: _Row, prefix: str) -> KeyValue:
        if not _is_whole(row):
            raise self._damaged(f"the entry {_shown(row)}")
        key = row[0].decode()
        if not key.startswith(prefix):
            raise self._damaged(f"the index to the entry {key}")
        return KeyValue(key, row[1], row[2])

    def _damaged(self, what: str) -> Corrupt:
        return Corrupt(
            f"{self._path} is damaged: {what} is not as it was written. Put a whole copy of the file back; "
            "`bytemq verify` says what else is wrong."
        )


def _checksum(key: bytes, value: bytes, revision: int, lease: int | None) -> int:
    checksum = crc32c(_NUMBERS.pack(revision, _NO_LEASE if lease is None else lease), crc32c(key))
    return checksum if key.startswith(_MANIFESTS) else crc32c(value, checksum)


def _is_whole(row: _Row) -> bool:
    key, value, revision, lease, checksum = row
    try:
        return checksum == _checksum(key, value, revision, lease)
    except (TypeError, AttributeError, struct.error):  # a flipped bit can make another type of a column
        return False


def _shown(row: _Row) -> str:
    return str(row[0], errors="replace") if isinstance(row[0], bytes) else repr(row[0])


def error_of(error: Exception, path: Path) -> Exception:
    """What the caller of the store must do about an error of SQLite; any other error is a bug and stays what it is."""
    if isinstance(error, UnicodeDecodeError):  # of a text that is damaged, maybe in SQLite's own message
        return Corrupt(f"{path} is damaged: {error}")
    if not isinstance(error, sqlite3.Error):
        return error
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the low byte is the class of error
    if code == sqlite3.SQLITE_FULL:
        return Full(f"no space for metadata in {path}")
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return Corrupt(f"{path} is damaged: {error}")
    return Unavailable(f"{path}: {error}")
