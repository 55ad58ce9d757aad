"""The table of benchmarks: a row is replaced by a newer one, and never lost by what becomes of others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from benchmarks.against_kafka.report import in_their_places, read, write
from benchmarks.against_kafka.rows import Goal, Row, at_least
from benchmarks.against_kafka.stand import RowResult, spread

ROWS = [
    Row(name, f"the row {name}", None, [at_least("MB/s", 1.5), Goal("KB each", "most", 2, "itself")])
    for name in ("first", "second", "third")
]


def result(row: Row, commit: str, ours: float, theirs: float) -> RowResult:
    figures = [{"MB/s": ours, "KB each": 1.0}, {"MB/s": ours * 2, "KB each": 1.0}]
    return RowResult(row, spread(figures), spread([{"MB/s": theirs}]), {"disk": 1.0}, commit, "just now")


def table_of(folder: Path) -> list[tuple[str, str, float]]:
    return [(one.row.name, one.commit, one.ours["MB/s"].median) for one in read(folder, ROWS)]


def test_report__a_row_takes_its_place_and_all_others_stay(tmp_path: Path) -> None:
    first, second, third = ROWS
    write(tmp_path, {}, [result(first, "old", 2.0, 2.0), result(third, "old", 4.0, 2.0)])
    for newer in (result(second, "new", 6.0, 2.0), result(third, "new", 8.0, 2.0)):
        write(tmp_path, {}, in_their_places(ROWS, read(tmp_path, ROWS), [newer]))
    assert table_of(tmp_path) == [("first", "old", 3.0), ("second", "new", 9.0), ("third", "new", 12.0)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kafka.json", "kafka.md"]
    page = (tmp_path / "kafka.md").read_text()
    assert "| the row second | MB/s >= 1.5 x | 4.50 | yes |" in page
    assert "| the row first | MB/s >= 1.5 x | 1.50 | yes |" in page
    assert "| the row first | KB each <= 2 | 1.00 | yes |" in page
    assert "`second`, commit new, just now" in page


def test_report__what_stops_in_the_middle_of_writing_leaves_the_page_as_it_was(tmp_path: Path) -> None:
    write(tmp_path, {}, [result(ROWS[0], "old", 2.0, 2.0)])
    before = (tmp_path / "kafka.json").read_text()
    (tmp_path / ".kafka.json.new").write_text(before[: len(before) // 2])
    assert table_of(tmp_path) == [("first", "old", 3.0)]
    write(tmp_path, {}, [result(ROWS[1], "new", 2.0, 2.0)])
    assert table_of(tmp_path) == [("second", "new", 3.0)]


def test_report__a_limit_of_the_machine_that_older_rows_lack_is_shown_of_those_that_have_it(tmp_path: Path) -> None:
    first, _, third = ROWS
    older = result(first, "old", 2.0, 2.0)
    newer = replace(result(third, "new", 4.0, 2.0), machine={"disk": 3.0, "new pages": 7.0})
    for order in ([older, newer], [newer, older]):
        write(tmp_path, {}, order)
        page = (tmp_path / "kafka.md").read_text()
        assert "| disk | 3 | 1 | 3 |" in page
        assert "| new pages | 7 | 7 | 7 |" in page
