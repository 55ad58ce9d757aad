"""What is said of a query that fails among its rows."""

from __future__ import annotations

from typing import Any

import duckdb
import pytest

from bytemq.query.process import _batches, _sentence


def failing(sql: str) -> Exception:
    with pytest.raises(duckdb.Error) as failed:
        list(_batches(duckdb.connect().sql(sql).to_arrow_reader(100)))
    return failed.value


def test_batches__fail_with_the_words_of_duckdb_and_not_with_a_kind_of_error() -> None:
    assert _sentence(failing("select case when range = 5000 then error('a: boom') end from range(9000)")) == "a: boom"
    sentence = _sentence(failing("select (range || 'x')::int from range(10)"))
    assert sentence.startswith("Could not convert string '0x' to INT32")


def test_batches__that_need_too_much_memory_are_told_whose_limit_it_is() -> None:
    class Starved:
        def read_next_batch(self) -> None:
            raise OSError("Out of Memory Error: ArrowBuffer: failed to allocate 1073741824 bytes\n\nPossible solutions")

    reader: Any = Starved()
    with pytest.raises(duckdb.OutOfMemoryException) as failed:
        list(_batches(reader))
    assert "bytemq.sql.memory.bytes" in _sentence(failed.value)
