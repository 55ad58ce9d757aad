"""The embedded store's file: what it refuses, and that nothing damaged is read as if it were not."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from bytemq.errors import BytemqError, Corrupt, Invalid
from bytemq.metadata import keys
from bytemq.metadata.database import LAYOUT, Database
from bytemq.metadata.store import KeyValue, Put
from bytemq.types import PartitionId, TopicId

MANIFEST = keys.manifest(PartitionId(TopicId(b"\1" * 16), 0))
VALUES = {
    "cluster/configs/broker/0": b'{"num.partitions": "7"}',
    "cluster/topics/a": b'{"partitions": 3}',
    "cluster/topics/large": b"0123456789abcdef" * 700,
    MANIFEST: b"a manifest that ends in a checksum",
}


@contextmanager
def opened(path: Path) -> Iterator[Database]:
    with closing(Database(path, "page-cache")) as database:
        yield database


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Some entries, one of a session; nothing in SQLite's write-ahead log."""
    path = tmp_path / "meta.db"
    with opened(path) as database:
        for key, value in VALUES.items():
            change(database, Put(key, value))
        change(database, Put("cluster/brokers/0", b"session", database.grant_lease()))
    return path


def change(database: Database, *puts: Put) -> None:
    database.begin(names_a_session=False)
    assert database.txn([], puts, []).succeeded
    database.commit()


def flip(path: Path, position: int, bit: int) -> None:
    with open(path, "r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ (1 << bit)]))


def test_database__refuses_a_file_of_a_newer_version(tmp_path: Path) -> None:
    with opened(tmp_path / "meta.db") as database:
        database._sql.execute(f"PRAGMA user_version = {LAYOUT + 1}")
    with pytest.raises(Invalid, match="newer version"):
        Database(tmp_path / "meta.db", "fsync")


def test_database__refuses_what_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "meta.db").write_bytes(b"anything but SQLite" * 100)
    with pytest.raises(Exception, match="is damaged"):
        Database(tmp_path / "meta.db", "fsync")


def test_database__takes_over_a_file_that_has_no_checksums_yet(tmp_path: Path) -> None:
    path = tmp_path / "meta.db"
    with closing(sqlite3.connect(path)) as old, old:
        old.execute("CREATE TABLE entries (key TEXT PRIMARY KEY, value BLOB NOT NULL, revision INTEGER NOT NULL, "
                    "lease INTEGER)")  # fmt: skip
        old.execute("CREATE INDEX leased ON entries (lease) WHERE lease IS NOT NULL")
        old.execute("CREATE TABLE state (revision INTEGER NOT NULL)")
        old.execute("INSERT INTO state VALUES (9)")
        rows = [("cluster/topics/ä", b"what it was", 7, None), ("cluster/brokers/0", b"session", 8, 1)]
        old.executemany("INSERT INTO entries VALUES (?, ?, ?, ?)", rows)
        old.execute("PRAGMA user_version = 1")
    for _ in range(2):
        with opened(path) as database:
            assert database.range("") == ([KeyValue("cluster/topics/ä", b"what it was", 7)], 10)
            assert list(database.problems()) == []
    flip(path, path.read_bytes().index(b"what it was"), 0)
    with opened(path) as database, pytest.raises(Corrupt, match="cluster/topics/ä"):
        database.get("cluster/topics/ä")


@pytest.mark.parametrize("key", [key for key in VALUES if key != MANIFEST])
def test_database__does_not_read_a_value_with_a_flipped_bit(file: Path, key: str) -> None:
    at = file.read_bytes().index(VALUES[key][:16])
    for position in range(at, at + 16):
        flip(file, position, position % 8)
        with opened(file) as database:
            for read in (lambda database=database: database.get(key), lambda database=database: database.range("")):
                with pytest.raises(Corrupt, match=f"the entry {key} is not as it was written"):
                    read()
            assert [found for found, _ in database.problems()] == [key]
        flip(file, position, position % 8)


def test_database__leaves_the_value_of_a_manifest_to_its_own_checksum(file: Path) -> None:
    """So that one partition is offline, and not the node."""
    flip(file, file.read_bytes().index(VALUES[MANIFEST]), 0)
    with opened(file) as database:
        found = database.get(MANIFEST)
        assert found is not None and found.value != VALUES[MANIFEST]
        assert database.range("").entries


def test_database__a_flipped_bit_anywhere_is_never_read_as_something_else(file: Path, tmp_path: Path) -> None:
    """Whatever is read is what was written, or it is said that it is not."""
    whole = file.read_bytes()
    with opened(file) as database:
        expected = database.range("")
    copy = tmp_path / "copy.db"
    silent = []
    for position in range(0, len(whole), 37):
        copy.write_bytes(whole)
        flip(copy, position, position % 8)
        if not _is_sound_or_refused(copy, lambda found: found == expected):
            silent.append(position)
    assert silent == []


def _is_sound_or_refused(path: Path, is_right: Callable[[object], bool]) -> bool:
    try:
        with opened(path) as database:
            found = database.range("")
            manifests = [entry for entry in found.entries if entry.key == MANIFEST and entry.value == VALUES[MANIFEST]]
            return is_right(found) or not manifests or any(database.problems())
    except (BytemqError, sqlite3.Error, UnicodeDecodeError):
        return True
