"""A broker that starts finds out whether its storage and its metadata belong together, while others go on."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from bytemq.errors import Corrupt
from bytemq.runtime.clock import Clock, SystemClock
from bytemq.storage.objects import shared_store
from bytemq.storage.objects.session_log import FlushRef, flush_name
from bytemq.storage.objects.shared_store import open_shared_store
from bytemq.storage.stores.interface import ObjectStore
from bytemq.storage.stores.self_test import SelfTest


class Metadata:
    """Its revision of the moment."""

    def __init__(self, revision: int) -> None:
        self.revision = revision

    async def ask(self) -> int:
        return self.revision


async def open_beside_a_session(folder: Path, metadata: Metadata, patch: pytest.MonkeyPatch, revision: int) -> None:
    """Another broker's session 7 begins and writes while this one starts; the metadata are at `revision` then."""

    async def self_test(store: ObjectStore, clock: Clock, unique: str) -> SelfTest:
        await store.create(flush_name(7, FlushRef(1, 1, 1, 1, 1)), [b"x"])
        metadata.revision = revision
        return SelfTest(1.0, 1.0, 1.0)

    patch.setattr(shared_store, "self_test", self_test)
    store = await open_shared_store(folder.as_uri(), "cluster", metadata.ask, SystemClock(), Random(1))
    await store.close()


async def test_open__is_not_misled_by_a_session_that_begins_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await open_beside_a_session(tmp_path, Metadata(5), monkeypatch, 8)


async def test_open__refuses_metadata_that_end_before_a_session_of_the_storage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Corrupt, match="the metadata end before it"):
        await open_beside_a_session(tmp_path, Metadata(5), monkeypatch, 6)
