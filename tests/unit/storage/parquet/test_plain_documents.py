"""Documents become columns natively, and these are the columns that they would have become otherwise."""

from __future__ import annotations

import json
import os
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bytemq.storage.parquet import plain_documents as module
from bytemq.storage.parquet.plain_documents import plain_documents
from bytemq.storage.parquet.typed_columns import TypedReader
from tests.fuzz.fuzz_documents import JSON, SEEDS, columns_of, documents, outcome, read
from tests.fuzz.runner import FuzzFailure, run
from tests.unit.storage.parquet.test_typed_columns import VALUES

EXAMPLES = int(os.environ.get("BYTEMQ_TYPED_EXAMPLES", "60"))

pytestmark = pytest.mark.skipif(not module.IS_NATIVE, reason="the package was installed without a C compiler")

KNOWN = columns_of(
    [b'{"a": 1, "b": 1.5, "c": "x", "d": true, "e": {"f": [1.5], "g": [{"h": "x"}]}, "j": [1, "x"], "s": ["x"]}']
)
PLAIN = [
    b"{}",
    b' {\t"a" :\r\n 1 } ',
    b'{"b": 0, "a": -1}',
    b'{"a": 9223372036854775807}',
    b'{"a": -9223372036854775807}',
    b'{"a": null, "b": null, "c": null, "d": null, "e": null, "j": null}',
    b'{"b": 9007199254740992, "d": false}',
    b'{"b": 0.30000000000000004}',
    b'{"b": 1.7976931348623157e308}',
    b'{"b": 5e-324}',
    b'{"b": 123456789012345678901234567890.5}',
    b'{"b": 1e22}',
    b'{"b": 1E+23}',
    b'{"b": -0.0}',
    b'{"b": 0.000000000000000000000000000001}',
    b'{"c": ""}',
    '{"c": "é 漢字 😀"}'.encode(),
    rb'{"c": "\"\\\/\b\f\n\r\t\u0000\u00e9\u6f22\ud83d\uDE00"}',
    rb'{"\u0061": 5}',
    b'{"e": {"g": [], "f": []}}',
    b'{"e": {"g": [null, {}, {"h": null}, {"h": "y"}], "f": [null, 2]}}',
    b'{"unknown": null, "x": {}, "y": [ ]}',
]
ODD = [
    b"",
    b"{",
    b"}",
    b'{"a"',
    b'{"a": ',
    b'{"a": 1',
    b'{"a": 1,}',
    b'{"a": 1}}',
    b'{"a": 1} 2',
    b'{"a": 01}',
    b'{"a": +1}',
    b'{"a": 1.}',
    b'{"b": .5}',
    b'{"b": 1e}',
    b'{"b": 1e999}',
    b'{"b": -}',
    b'{"b": NaN}',
    b'{"a": 1, "a": 2}',
    b'{"a": "1"}',
    b'{"a": 1.0}',
    b'{"a": 1e5}',
    b'{"a": -0}',
    b'{"a": 9223372036854775808}',
    b'{"a": -9223372036854775808}',
    b'{"a": 18446744073709551616}',
    b'{"b": 9007199254740993}',
    b'{"b": 18446744073709551615}',
    b'{"c": 1}',
    b'{"c": "\xff"}',
    b'{"c": "\xed\xa0\x80"}',
    b'{"c": "\x01"}',
    b'{"c": "x}',
    b'{"c": "x\\"}',
    rb'{"c": "\ud800"}',
    rb'{"c": "\ud800\ud800"}',
    rb'{"c": "\udc00"}',
    rb'{"c": "\udc00\udc00"}',
    rb'{"c": "\u00g0"}',
    rb'{"c": "\x"}',
    b'{"c": "x"\x00}',
    b'{"d": True}',
    b'{"d": tru',
    b'{"d": nul',
    b'{"e": []}',
    b'{"e": {"f": [1,]}}',
    b'{"e": {"f": [1',
    b'{"e": {"g": [{"h": "x", "new": 1}]}}',
    b'{"e": {"g": [{"h": "x"}, 1]}}',
    b'{"j": []}',
    rb'{"s": ["not to be left behind", "\x"]}',
    b'{"j": [1, "x"]}',
    b'{"new": 1}',
    b'{"\xff": null}',
    b'{"x": {"y": 1}}',
    b"[]",
    b"1",
    b'"x"',
    b"null",
]


def odd_rows(values: list[bytes | None]) -> list[int]:
    plain = plain_documents(KNOWN.value)
    assert plain is not None
    return plain.read(pa.array(values, pa.binary())).odd


def same(values: list[bytes | None], columns: Any = KNOWN) -> None:
    """Read together, each after the others."""
    natively, otherwise = read(values, columns, is_native=True), read(values, columns, is_native=False)
    assert outcome(natively) == outcome(otherwise)
    natively[1].validate(full=True)
    assert repr(natively[1].to_pylist()) == repr(otherwise[1].to_pylist())
    assert natively[1].schema == otherwise[1].schema


@pytest.mark.parametrize("document", PLAIN)
def test_plain__is_read_natively(document: bytes) -> None:
    assert odd_rows([document, None, document]) == []
    same([document, None, document])


@pytest.mark.parametrize("document", ODD)
def test_odd__is_read_otherwise(document: bytes) -> None:
    values = [b'{"a": 1}', document, b'{"a": 2, "c": "z", "d": true, "e": {"f": [1], "g": [{"h": "y"}]}, "s": ["z"]}']
    assert odd_rows([*values]) == [1]
    same([*values])


def test_odd__documents_among_plain_ones_stay_where_they_are() -> None:
    same([*PLAIN, None, *(document for document in ODD if b"new" not in document and b'"x": {"y"' not in document)])


def test_plain__of_part_of_an_array_is_that_part() -> None:
    values = pa.array([b'{"a": %d}' % number if number % 5 else None for number in range(50)], pa.binary())
    plain = plain_documents(KNOWN.value)
    assert plain is not None
    found = plain.read(values.slice(13, 20)).columns["a"]
    assert found.to_pylist() == [number if number % 5 else None for number in range(13, 33)]


def test_plain__whatever_the_order_and_number_of_fields() -> None:
    names = [f"field {number}" for number in range(300)]
    columns = columns_of([json.dumps(dict.fromkeys(names, 1)).encode()])
    values = [json.dumps(dict.fromkeys(names[number:] + names[:1], number)).encode() for number in range(300)]
    assert plain_documents(columns.value).read(pa.array(values, pa.binary())).odd == []
    same(list(values), columns)


def test_plain__where_there_is_no_native_part_all_is_read_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "IS_NATIVE", False)
    assert plain_documents(KNOWN.value) is None
    assert not TypedReader(KNOWN, JSON).plain


def test_columns__come_in_the_order_of_their_fields_whichever_documents_are_read_with_them() -> None:
    known = columns_of([b'{"a": 1}'])
    values = [b'{"x": null, "y": null}', b'{"a": 1, "n": 1, "m": 1, "l": 1}']
    same([*values], known)
    assert list(columns_of([b'{"a": 1}', *values]).value[0].fields) == ["a", "n", "m", "l"]


@settings(max_examples=EXAMPLES)
@given(st.lists(VALUES, max_size=12), st.lists(VALUES, max_size=12))
def test_columns__are_the_same_natively_and_otherwise(known: list[bytes | None], values: list[bytes | None]) -> None:
    same(values, columns_of(known))
    same(values, columns_of([*known, *values]))


@pytest.mark.parametrize("seed", range(2))
def test_fuzz_documents(seed: int) -> None:
    assert run(documents, SEEDS, seed=seed, rounds=1000) == 1000


def test_fuzz_documents__would_notice_another_value(monkeypatch: pytest.MonkeyPatch) -> None:
    real: Any = vars(module)["read"]

    def wrong(*arguments: Any) -> Any:
        _, buffers = real(*arguments)
        return [], buffers

    monkeypatch.setattr(module, "read", wrong)
    with pytest.raises(FuzzFailure):
        run(documents, SEEDS, seed=0, rounds=500)
