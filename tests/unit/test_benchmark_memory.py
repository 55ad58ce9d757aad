"""Memory of benchmarks: filled with page cache that takes no room on the disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import memory

MIB = 1 << 20


def test_fill__reads_until_little_is_free_and_goes_on_where_it_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = [3 * MIB, MIB // 2, 0, 2 * MIB, 0]
    monkeypatch.setattr(memory, "_free_bytes", lambda: memory.LEFT_BYTES + free.pop(0))
    memory.fill(tmp_path)
    [file] = tmp_path.iterdir()
    assert file.stat().st_size == 4 * MIB, "whole pieces"
    memory.fill(tmp_path)
    assert file.stat().st_size == 6 * MIB
    assert file.stat().st_blocks == 0
    assert not free
    memory.empty(tmp_path)
    memory.empty(tmp_path)
    assert not list(tmp_path.iterdir())


def test_fill__ends_where_its_pages_take_none_of_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = [9 * MIB, 8 * MIB, 8 * MIB]
    monkeypatch.setattr(memory, "_free_bytes", lambda: memory.LEFT_BYTES + free.pop(0))
    memory.fill(tmp_path)
    assert not free
    memory.empty(tmp_path)
