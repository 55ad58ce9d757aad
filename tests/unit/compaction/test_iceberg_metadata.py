"""What of a table's metadata stays, however often it changes."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

from bytemq.compaction.iceberg import KnownStatistics, _new, _with_columns, _with_snapshot
from bytemq.compaction.iceberg_jobs import WriteIceberg
from bytemq.storage.tables.table_columns import Kind, Seen, TableColumns, grown

KEEP_MS = 1000


def test_schemas__stay_as_long_as_a_snapshot_has_them() -> None:
    """There may be one for each of five hundred columns, of up to so many columns."""
    job = WriteIceberg(
        "t",
        str(UUID(int=1)),
        "s3://b",
        "tables/t/x/",
        "iceberg/t/x/",
        "1-7-i",
        (),
        "{}",
        0,
        TableColumns(),
        "",
        KEEP_MS,
    )
    metadata, columns = _new(job), TableColumns()
    for number in range(1, 20):
        seen = Seen()
        seen.kinds.add(Kind.STRUCT)
        seen.at(f"f{number}").kinds.add(Kind.LONG)
        columns = grown(columns, {"value": seen})
        metadata = _with_columns(metadata, columns)
        at_ms = number * KEEP_MS // 2
        metadata = _with_snapshot(metadata, replace(job, changed_ms=at_ms), number, number, "list")
        used = {snapshot.schema_id for snapshot in metadata.snapshots}
        assert {schema.schema_id for schema in metadata.schemas} == used | {metadata.current_schema_id}
    assert len(metadata.schemas) == 3


def test_statistics__of_many_columns_are_kept_of_fewer_files() -> None:
    known = KnownStatistics(most_columns=1000)
    for number in range(100):
        known.keep(f"{number}", {"value_counts": dict.fromkeys(range(10), 1)})
    assert known.columns == 1000 and known.get("0") is not None
    known.keep("wide", {"value_counts": dict.fromkeys(range(500), 1)})
    assert known.columns == 1000
    assert known.get("49") is None and known.get("50") is not None and known.get("wide") is not None
