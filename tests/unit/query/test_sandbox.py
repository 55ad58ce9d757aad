"""What a statement names: a column that it may read must be among them."""

from __future__ import annotations

import duckdb
import pytest

from bytemq.query.sandbox import Refused, understood

ALL = (
    "select * from t",
    "from t",
    "table t",
    "select t.* from t",
    "select * exclude (a) from t",
    "select columns('a.*') from t",
    "select t from t",
    "select s from t as s",
    "select count(s) from (select a from t) s",
    "select T.to_json() from t",
    "select a from t natural join u",
    "select x from t as s(x, y)",
    "unpivot t on a, b into name n value v",
    "summarize t",
    "select a from query('select a from t')",
    "select exists(from t)",
    "select a from t order by all",
    "select #2 from t",
    "select count(*) from t group by #2",
)
SOME = (
    ("select count(*) from t", set()),
    ("select t.a.b, x as y from t where z > 1", {"a", "b", "x", "z"}),
    ("select a.upper() from t", {"a"}),
    ("select max(a) filter (where b > 1) over (partition by c order by d) from t", {"a", "b", "c", "d"}),
    ("select 1 from t join u using (k)", {"k"}),
    ('select "A b" from t group by 1 having min(h) > 0 order by o', {"A b", "h", "o"}),
    ("with r as (select a from t) select count(*) from r where b", {"a", "b"}),
    ("select list_transform(l, z -> z + q) from t", {"l", "q"}),
    ("select {'a': b} from t", {"b"}),
    ("select (select max(i) from u where u.j = t.k) from t", {"i", "j", "k"}),
)


@pytest.mark.parametrize("sql", ALL)
def test_understood__whole_rows_are_all_columns(sql: str) -> None:
    assert understood(duckdb.connect(), sql).columns is None


@pytest.mark.parametrize(("sql", "named"), SOME)
def test_understood__columns_in_whatever_way_they_are_named(sql: str, named: set[str]) -> None:
    found = understood(duckdb.connect(), sql)
    assert found.columns is not None and named <= found.columns
    assert not {"value", "key"} & found.columns
    assert "t" in found.tables


def test_understood__one_select_and_nothing_else() -> None:
    for sql in ("drop table t", "select 1; select 2", "", "selekt"):
        with pytest.raises(Refused):
            understood(duckdb.connect(), sql)
