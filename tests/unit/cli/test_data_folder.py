"""`verify` and `dump` where they cannot judge: they say so, and fail."""

from __future__ import annotations

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
