"""`verify` and `dump` on a real folder: silent when all is well, and every kind of damage is a finding."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from bytemq.metadata import keys
from bytemq.metadata.data_lock import DataLock
from bytemq.metadata.embedded import EmbeddedStore
from bytemq.runtime.clock import SystemClock
from bytemq.runtime.tasks import Supervisor
from bytemq.storage.checks.dump import dump
from bytemq.storage.checks.verify import verify
from bytemq.storage.checks.verify_wal import verify_session
from bytemq.storage.log_storage import LogStorage
from bytemq.storage.manifests.manifest import PartitionSnapshot, ProducerSnapshot
from bytemq.storage.stores.local import LocalStore
from bytemq.storage.wal.wal_index import TailRecord
from tests.unit.storage.bench import CONFIG, Bench, batch_at, pid


@pytest.fixture
async def folder(tmp_path: Path) -> AsyncIterator[Path]:
    """A data folder with sealed and open segments, a large snapshot, and a write-ahead log; its node has stopped."""
    data = tmp_path / "data"
    store = LocalStore(data)
    lock = DataLock.acquire(data)
    metadata = EmbeddedStore.open(lock, "page-cache")
    config = replace(CONFIG, snapshot_inline_bytes=50)
    clock = SystemClock()
    supervisor = Supervisor(clock, lambda name, error: None)
    storage = await LogStorage.open(store, metadata, session_id=1, config=config, clock=clock, supervisor=supervisor)
    log = await storage.open_log(pid(1), 1)
    producers = [ProducerSnapshot(n, 1, -1, 5, [(0, 1, 2, 3, 4, 5)], None) for n in range(4)]
    log.snapshot_source = lambda: PartitionSnapshot(log.end_offset, [(1, 0)], producers)
    answers: list[object] = []
    for offset in range(40):
        storage.append(log, [batch_at(offset, b"%03d" % offset * 200)], answers.append)
        if offset == 29:
            await _answered(answers, 30)
            await storage.checkpoint()
    await _answered(answers, 40)
    await storage.close()
    await metadata.close()
    await store.close()
    lock.release()
    yield data


async def _answered(answers: list[object], count: int) -> None:
    for _ in range(10_000):
        if len(answers) == count:
            break
        await asyncio.sleep(0.001)  # real files, real threads
    assert answers == [None] * count


def files(folder: Path, pattern: str) -> list[Path]:
    return sorted(path for path in folder.glob(pattern) if path.is_file())


def flip(path: Path, position: int) -> None:
    with open(path, "r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ 0x08]))


async def test_verify__finds_nothing_in_what_was_written(folder: Path) -> None:
    assert list(verify(folder)) == []


async def test_verify__changes_nothing(folder: Path) -> None:
    before = {path: path.read_bytes() for path in files(folder, "**/*")}
    list(verify(folder))
    assert {path: path.read_bytes() for path in files(folder, "**/*")} == before


@pytest.mark.parametrize("position", [0, 8, 13, 17, 40, 61, 300, 5000])
async def test_verify__finds_a_flipped_bit_in_a_sealed_segment(folder: Path, position: int) -> None:
    segment = files(folder, "topics/**/*.log")[0]
    flip(segment, position)
    assert any(finding.name.endswith(segment.name) for finding in verify(folder))


async def test_verify__finds_every_flipped_byte_of_a_footer(folder: Path) -> None:
    segment = files(folder, "topics/**/*.log")[0]
    size = segment.stat().st_size
    footer = size - segment.read_bytes().rindex(b"BMQS")
    for position in range(size - footer, size, 5):
        flip(segment, position)
        assert list(verify(folder)), f"at {position - size + footer} of the footer"
        flip(segment, position)
    assert list(verify(folder)) == []


async def test_verify__finds_a_flipped_bit_anywhere_in_the_write_ahead_log(folder: Path) -> None:
    wal = files(folder, "wal/*.log")[-1]
    used = wal.read_bytes().rstrip(b"\0")
    for position in range(0, len(used), 97):
        flip(wal, position)
        assert list(verify(folder)), f"at {position}"
        flip(wal, position)
    assert list(verify(folder)) == []


@pytest.mark.parametrize("first_sequence", [1, 1 << 61])
async def test_verify__finds_a_flipped_bit_in_the_first_flush_of_a_session_that_was_killed(
    bench: Bench, tmp_path: Path, first_sequence: int
) -> None:
    await bench.start(first_sequence=first_sequence)
    await bench.write(await bench.log(), b"first")
    await bench.write(await bench.log(), b"second")
    await bench.kill()
    [path] = bench.names(".log")
    (tmp_path / "wal").mkdir()
    (tmp_path / path).write_bytes(bench.store.content(path).replace(b"first", b"burst"))
    tail = TailRecord(bench.session, 0, first_sequence)
    [(name, problem)] = verify_session(tmp_path, tail, {pid(1): 0}, set())
    assert (name, f"flush {first_sequence}" in problem) == (path, True)


async def test_verify__finds_damage_in_indexes_snapshots_and_metadata(folder: Path) -> None:
    for path in (files(folder, "wal/*.index")[-1], files(folder, "topics/**/*.snapshot")[0]):
        flip(path, 20)
        assert list(verify(folder)), path.name
        flip(path, 20)
    (folder / "meta.db").write_bytes(b"not a database at all" * 100)
    assert list(verify(folder))


async def test_verify__finds_a_flipped_bit_within_a_value_of_the_metadata(folder: Path) -> None:
    with closing(sqlite3.connect(folder / "meta.db")) as database:
        entries = database.execute("SELECT key, value FROM entries").fetchall()
    assert len(entries) > 1
    for key, value in entries:
        at = (folder / "meta.db").read_bytes().index(value)
        for position in (at, at + len(value) - 1):
            flip(folder / "meta.db", position)
            assert key in [finding.name for finding in verify(folder)]
            flip(folder / "meta.db", position)
    assert list(verify(folder)) == []


async def test_verify__tells_when_an_index_of_the_write_ahead_log_is_gone(folder: Path) -> None:
    index = files(folder, "wal/*.index")[-1]
    index.unlink()
    assert [(finding.name, finding.is_leftover) for finding in verify(folder)] == [(f"wal/{index.name}", False)]


async def test_verify__finds_missing_and_superfluous_files(folder: Path) -> None:
    extra = folder / "topics" / "x" / "0" / "left.log"
    extra.parent.mkdir(parents=True)
    extra.write_bytes(b"left")
    assert [(finding.name, finding.is_leftover) for finding in verify(folder)] == [("topics/x/0/left.log", True)]
    extra.unlink()
    segment = files(folder, "topics/**/*.log")[0]
    os.rename(segment, folder / "elsewhere")
    assert any("cannot be read" in finding.problem and not finding.is_leftover for finding in verify(folder))


async def test_verify__names_a_partition_whose_manifest_is_damaged_and_calls_none_of_its_files_a_leftover(
    folder: Path,
) -> None:
    with closing(sqlite3.connect(folder / "meta.db")) as database, database:
        ((key, value),) = database.execute("SELECT key, value FROM entries WHERE key GLOB ?", (f"{keys.MANIFESTS}*",))
        database.execute("UPDATE entries SET value = ? WHERE key = ?", (value[:-1] + bytes([value[-1] ^ 1]), key))
    findings = list(verify(folder))
    assert (findings[0].name, findings[0].is_leftover) == (keys.manifest(pid(1)), False)
    assert "offline" in findings[0].problem
    assert not any(finding.is_leftover for finding in findings)


async def test_verify__says_when_it_is_no_data_folder(tmp_path: Path) -> None:
    assert len(list(verify(tmp_path))) == 1


async def test_dump__shows_what_is_in_each_kind_of_file(folder: Path) -> None:
    shown = {}
    for path in files(folder, "[tw]*/**/*"):
        shown.setdefault(path.suffix, []).append("\n".join(line.text for line in dump(path)))
    assert any("of session 1" in text and "offsets 39..39" in text for text in shown[".log"])
    assert any("footer, next offset" in text for text in shown[".log"])
    assert all("flush" in text for text in shown[".index"])
    assert "state before offset 30" in shown[".snapshot"][0]
    assert not any("DAMAGED" in text for texts in shown.values() for text in texts)


async def test_dump__marks_damage_and_goes_on(folder: Path) -> None:
    segment = files(folder, "topics/**/*.log")[0]
    flip(segment, 100)
    lines = [line.text for line in dump(segment)]
    assert [line for line in lines if "DAMAGED" in line] == [lines[0]]
    assert "footer" in "\n".join(lines[1:])


async def test_dump__tells_a_damaged_index_from_a_foreign_file(folder: Path) -> None:
    index = files(folder, "wal/*.index")[0]
    flip(index, 0)
    assert [line.text.split(":")[0] for line in dump(index)] == ["damaged"]
