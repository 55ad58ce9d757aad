"""Rows in the forms that somebody may ask for."""

from __future__ import annotations

import duckdb
import pytest

from bytemq.query.formats import encoded


@pytest.mark.parametrize("form", ["csv", "json", "table"])
@pytest.mark.parametrize("value", ["'infinity'::timestamp", "date '290000-01-01'", "date '0001-01-01 (BC)'"])
def test_time__that_python_does_not_know_is_refused_with_a_sentence(value: str, form: str) -> None:
    reader = duckdb.connect().sql(f"select {value} as t, [t] as ts").to_arrow_reader(10)
    with pytest.raises(ValueError, match="cast it to varchar"):
        list(encoded(reader.schema, iter(reader), form))
