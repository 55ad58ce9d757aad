"""Metadata to a file and back: whole, above the revisions of before, and only where there is nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from bytemq.errors import Corrupt, Invalid
from bytemq.metadata import backup, keys, values
from bytemq.metadata.embedded import EmbeddedStore
from bytemq.metadata.store import Put
from tests.support.metadata import embedded_store


async def filled(store: EmbeddedStore) -> list[str]:
    """A store with 300 keys, sessions among them, as an export."""
    lease = await store.grant_lease(3)
    await store.txn([], [Put(keys.IDENTITY, b"cluster-1"), Put(keys.FEATURE_LEVEL, b"1")])
    await store.txn([], [Put(keys.broker(1), b"session", lease), Put(keys.CONTROLLER, b"1", lease)])
    for number in range(300):
        await store.txn([], [Put(f"storage/{number:03d}", bytes([number % 256]) * number)])
    return list(backup.lines_of(await store.range("")))


async def test_backup__comes_back_whole_above_the_revisions_of_before(tmp_path: Path) -> None:
    async with embedded_store(tmp_path / "a") as store:
        lines = await filled(store)
        entries, revision = await store.range("")
        kept = {entry.key: entry.value for entry in entries if not entry.key.startswith(backup.LEFT_OUT)}
    assert len(kept) == 302
    async with embedded_store(tmp_path / "b") as store:
        await backup.restore(store, backup.parse(lines))
        restored, now = await store.range("")
        assert {entry.key: entry.value for entry in restored} == kept
        assert now > revision and all(entry.revision > revision for entry in restored)


async def test_backup__is_not_restored_over_metadata_that_are_there(tmp_path: Path) -> None:
    async with embedded_store(tmp_path / "a") as store:
        lines = await filled(store)
        with pytest.raises(Invalid, match="a broker uses"):
            await backup.restore(store, backup.parse(lines), replace=True)
        await store.txn([], [], [keys.broker(1)])
        with pytest.raises(Invalid, match="already"):
            await backup.restore(store, backup.parse(lines))


async def test_backup__may_take_the_place_of_what_is_there(tmp_path: Path) -> None:
    async with embedded_store(tmp_path / "a") as store:
        lines = await filled(store)
        last = (await store.range("")).revision
        await store.txn([], [Put("storage/new", b"x")], [keys.broker(1), keys.CONTROLLER, "storage/001"])
        await backup.restore(store, backup.parse(lines), replace=True)
        entries, _ = await store.range("")
        assert {entry.key for entry in entries} == {key for key, _ in backup.parse(lines).entries}
        assert all(entry.revision > last for entry in entries)


async def test_backup__tells_the_newest_session_although_revisions_change(tmp_path: Path) -> None:
    async with embedded_store(tmp_path / "a") as store:
        await filled(store)
        session = (await store.txn([], [Put(keys.LAST_SESSION, values.THIS_REVISION)])).revision
        lines = list(backup.lines_of(await store.range("")))
    async with embedded_store(tmp_path / "b") as store:
        await backup.restore(store, backup.parse(lines))
        entry = await store.get(keys.LAST_SESSION)
        assert entry is not None and values.decode_last_session(entry.value, entry.revision) == session
        assert list(backup.lines_of(await store.range("")))[1:] == lines[1:], "nor in an export of a restored one"


async def test_backup__counts_a_session_whose_log_has_not_begun_among_those_that_come_after_it(tmp_path: Path) -> None:
    """What it acknowledges is in a log that nothing else here tells of: it would be taken for a released one's."""
    async with embedded_store(tmp_path / "a") as store:
        await filled(store)

        async def join(broker: int) -> int:
            puts = [Put(keys.broker(broker), b"session"), Put(keys.LAST_SESSION, values.THIS_REVISION)]
            return (await store.txn([], puts)).revision

        async def told() -> int:
            saved = backup.parse(backup.lines_of(await store.range("")))
            return values.decode_number(dict(saved.entries)[keys.LAST_SESSION])

        await store.txn([], [Put(keys.STORAGE, b"mark")], [keys.broker(1)])
        first, second = await join(2), await join(3)
        await store.txn([], [Put(keys.session_log(second), b"tail")])
        assert await told() < first
        await store.txn([], [Put(keys.session_log(first), b"tail")])
        assert await told() == second


async def test_backup__of_revisions_far_ahead_says_how_to_get_there(tmp_path: Path) -> None:
    async with embedded_store(tmp_path / "a") as store:
        saved = backup.Backup("c", 10_000_000, [])
        with pytest.raises(Invalid, match="--bump-revision"):
            await backup.restore(store, saved)


async def test_backup__of_no_cluster_is_refused(tmp_path: Path) -> None:
    async with embedded_store(tmp_path / "a") as store:
        with pytest.raises(Invalid, match="no cluster"):
            list(backup.lines_of(await store.range("")))


@pytest.mark.parametrize("damage", ["cut short", "empty", "other file", "newer"])
async def test_backup__that_is_damaged_is_refused(tmp_path: Path, damage: str) -> None:
    async with embedded_store(tmp_path / "a") as store:
        lines = await filled(store)
    broken = {
        "cut short": lines[:-1],
        "empty": [],
        "other file": ["# Kafka", *lines],
        "newer": [lines[0].replace('"bytemq_metadata": 1', '"bytemq_metadata": 2'), *lines[1:]],
    }[damage]
    with pytest.raises((Corrupt, Invalid)):
        backup.parse(broken)
