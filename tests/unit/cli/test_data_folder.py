"""`verify` and `dump` where they cannot judge: they say so, and fail."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from bytemq.cli.main import main
from bytemq.metadata import keys, values
from bytemq.metadata.data_lock import DataLock
from bytemq.metadata.embedded import EmbeddedStore
from bytemq.metadata.features import SUPPORTED
from bytemq.metadata.store import Put


async def folder_of_level(data: Path, level: int) -> None:
    lock = DataLock.acquire(data)
    store = EmbeddedStore.open(lock, "page-cache")
    await store.txn([], [Put(keys.FEATURE_LEVEL, values.encode_number(level))])
    await store.close()
    lock.release()
    (data / "wal").mkdir()
    (data / "wal" / "1.log").write_bytes(bytes(64))


@pytest.mark.parametrize(("newer", "code"), [(0, 0), (1, 1)])
async def test_verify_and_dump__refuse_a_newer_feature_level(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], newer: int, code: int
) -> None:
    await folder_of_level(tmp_path / "data", SUPPORTED.highest + newer)
    for command in (["verify", str(tmp_path / "data")], ["dump", str(tmp_path / "data" / "wal" / "1.log")]):
        assert main(command) == code
        said = capsys.readouterr()
        assert ("newer version of bytemq" in said.err) == bool(newer)
        assert bool(said.out) != bool(newer)


@pytest.mark.parametrize(
    ("cluster_id", "storage", "said"),
    [
        (b"", b"theirs", "there is no cluster at this address of the metadata; is the prefix right?"),
        (b"ours", b"", "was never used by a cluster: there is no cluster/id in it. Give the storage that"),
        (b"ours", b"theirs", "is the storage of cluster theirs, and these are the metadata of cluster ours"),
        (b"ours", b"ours", ""),
    ],
)
def test_verify__says_that_it_was_given_the_wrong_storage_or_metadata_and_not_that_all_is_lost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], cluster_id: bytes, storage: bytes, said: str
) -> None:
    asyncio.run(metadata_of(tmp_path / "data", cluster_id))
    shared = tmp_path / "shared"
    if storage:
        (shared / "cluster").mkdir(parents=True)
        (shared / "cluster" / "id").write_bytes(storage)
    assert main(["verify", shared.as_uri(), "--data", str(tmp_path / "data")]) == bool(said)
    printed = capsys.readouterr()
    assert said in printed.err and bool(printed.out) != bool(said)


async def metadata_of(data: Path, cluster_id: bytes) -> None:
    lock = DataLock.acquire(data)
    store = EmbeddedStore.open(lock, "page-cache")
    if cluster_id:
        await store.txn([], [Put(keys.IDENTITY, cluster_id)])
    await store.close()
    lock.release()


@pytest.mark.parametrize("name", ["meta.db", "README.md"])
def test_dump__of_another_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    (tmp_path / name).write_bytes(b"SQLite or prose" * 10)
    assert main(["dump", str(tmp_path / name)]) == 1
    assert name in capsys.readouterr().err


def test_verify__of_a_storage_takes_the_metadata_that_the_environment_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["verify", (tmp_path / "storage").as_uri()]
    monkeypatch.delenv("BYTEMQ_METADATA", raising=False)
    assert main(command) == 1 and "name the metadata of this storage" in capsys.readouterr().err
    monkeypatch.setenv("BYTEMQ_METADATA", "metadata-of-nobody")
    assert main(command) == 1 and "metadata-of-nobody" in capsys.readouterr().err
