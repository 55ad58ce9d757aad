"""What only the local store has to care about."""

from __future__ import annotations

from pathlib import Path

from bytemq.storage.local import LocalStore


async def test_delete__also_removes_what_a_killed_process_had_half_made(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    await store.create("topics/x/a.log", [b"a"])
    for half_made in ("a.log.123-1.creating", "b.log.123-2.creating", "other.log.123-3.creating"):
        (tmp_path / "topics/x" / half_made).write_bytes(b"half")
    await store.delete(["topics/x/a.log", "topics/x/b.log"])
    assert [path.name for path in (tmp_path / "topics/x").iterdir()] == ["other.log.123-3.creating"]
    await store.close()
