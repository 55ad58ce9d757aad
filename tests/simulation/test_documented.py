"""docs/testing.md says of each planted bug which seed finds it, as the worlds' `planted.py` do."""

from __future__ import annotations

import re
from pathlib import Path

from tests.simulation.worlds import WORLDS

PAGE = Path(__file__).parents[2] / "docs" / "testing.md"
HEAD = re.compile(r"\| bug planted in `(\w+)/planted\.py` \| found by seed \|")
ROW = re.compile(r"\| (\w+)[^|]*\| (\d+) \|")
FOLDERS = {"broker-transactions": "broker"}
"""Of worlds that have no folder of their own."""


def documented() -> list[tuple[str, str, int]]:
    """Folder, bug and seed of each row."""
    found = []
    for table in PAGE.read_text().split("\n\n"):
        if head := HEAD.match(table):
            found += [(head[1], row[1], int(row[2])) for line in table.split("\n")[2:] if (row := ROW.match(line))]
    return found


def test_page__has_a_row_for_each_planted_bug_with_the_seed_that_finds_it() -> None:
    planted = [
        (FOLDERS.get(name, name.replace("-", "_")), bug, of.seed)
        for name, world in WORLDS.items()
        for bug, of in world.planted.items()
    ]
    assert sorted(documented()) == sorted(planted)
