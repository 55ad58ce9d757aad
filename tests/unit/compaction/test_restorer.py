"""What is left in scratch of a unit that could not be restored: nothing."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from bytemq.compaction.restorer import WorkerRestorer
from bytemq.compaction.table_jobs import Restore
from bytemq.errors import NotFound, Unavailable
from bytemq.storage.manifests.manifest import FileKind, SegmentInfo
from bytemq.storage.segments import segment_files
from bytemq.storage.stores.interface import ObjectStore
from bytemq.storage.tables import restored
from bytemq.storage.tables.companion import Unit, encode_index
from bytemq.storage.tables.restored import RestoredFile, RestoredUnits
from bytemq.storage.tables.table_file import TableFile, encode_details
from tests.support.object_store import MemoryObjectStore

DETAILS = encode_details(TableFile("a.companion", 10, 100, 0))
INFO = SegmentInfo(0, 9, 200, 0, 0, "a.parquet", sealed=True, kind=FileKind.PARQUET, details=DETAILS)


class FillingWorker:
    """Writes what it was asked for as far as there is room, or all of it."""

    def __init__(self, *, has_room: bool) -> None:
        self._has_room = has_room

    async def run(self, job: Restore) -> RestoredFile:
        (Path(job.folder) / job.name).write_bytes(b"batches")
        if not self._has_room:
            raise Unavailable("the job failed: OSError(28, 'No space left on device')")
        return RestoredFile(job.name, 7)


def restorer(folder: Path, *, has_room: bool) -> WorkerRestorer:
    worker: Any = FillingWorker(has_room=has_room)
    return WorkerRestorer(worker, folder)


async def test_restoring__that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(Unavailable):
        await restorer(tmp_path, has_room=False).restore("a.parquet", "a.companion", 0)
    assert os.listdir(tmp_path) == []


async def test_unit__that_cannot_be_opened_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def failing(store: ObjectStore, info: SegmentInfo, chunk_bytes: int) -> segment_files.Segment:
        raise NotFound(f"{info.name} is gone")

    monkeypatch.setattr(restored, "open_segment", failing)
    store = MemoryObjectStore()
    store.objects = {"a.companion": encode_index([Unit(0, 10, 0, 0)], 0)}
    units = RestoredUnits(store, restorer(tmp_path, has_room=True), 1 << 20, 4096)
    with pytest.raises(NotFound):
        await units.get(INFO, 0)
    assert os.listdir(tmp_path) == []
    assert units.size_bytes == 0
