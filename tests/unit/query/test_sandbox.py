"""What a statement names: a column that it may read must be among them. And that there is no way out."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bytemq.query.sandbox import Refused, SandboxLimits, limit, lock, understood

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
    deep = "select * from " + ",".join(["(select 1)"] * 2000), f"select {'(' * 20_000}1{')' * 20_000}"
    for sql in ("drop table t", "select 1; select 2", "", "selekt", *deep):
        with pytest.raises(Refused):
            understood(duckdb.connect(), sql)


OUT = (
    "from read_text('{other}')",
    "from read_blob('/etc/passwd')",
    "from read_text('/proc/self/environ')",
    "from read_csv('/dev/stdin')",
    "from read_json('/etc/passwd')",
    "from '{other}'",
    "from read_parquet('{other}')",
    "from read_parquet('{allowed}/../other.parquet')",
    "from read_parquet(['{allowed}', '{other}'])",
    "from read_parquet('{folder}/*.parquet')",
    "from parquet_metadata('{other}')",
    "from parquet_kv_metadata('{other}')",
    "from parquet_schema('{other}')",
    "from read_duckdb('{folder}/made.db', table_name = 't')",
    "from sniff_csv('/etc/passwd')",
    "from glob('/etc/*')",
    "from 'http://127.0.0.1:9/x.parquet'",
    "from 's3://bucket/x.parquet'",
    "from query('copy (select 1) to ''{folder}/made.csv''')",
    "from query('from read_text(''/etc/passwd'')')",
    "from query_table('/etc/passwd')",
    "from json_execute_serialized_sql(json_serialize_sql('select * from read_text(''/etc/passwd'')'))",
    "from enable_logging('QueryLog', storage = 'file', storage_path = '{folder}/made')",
    "from enable_profiling(save_location = '{folder}/made.json')",
    "from duckdb_secrets()",
    "from load_aws_credentials()",
    "from arrow_scan(1::pointer, 2::pointer, 3::pointer)",
    "from python_arrow_scan(1)",
    "from python_map_function((select 1))",
    "from pandas_scan(1)",
    "select getenv('HOME')",
    "select environ from os",
    "from secret_frame",
    "with gone as (delete from t returning *) from gone",
    "with made as (insert into t values (1) returning *) from made",
    "copy t to '{folder}/made.csv'",
    "export database '{folder}/made'",
    "attach '{folder}/made.db'",
    "install httpfs",
    "load httpfs",
    "pragma version",
    "set lock_configuration = false",
    "reset enable_external_access",
    "call enable_logging()",
    "create table made as select 1",
    "create secret made (type s3)",
    "prepare made as select 1",
    "explain select 1",
)


def test_lock__leaves_nothing_but_the_files_of_the_query(tmp_path: Path) -> None:
    """Whatever a SELECT can call, and whatever is no SELECT."""
    allowed, other = tmp_path / "allowed.parquet", tmp_path / "other.parquet"
    for path in (allowed, other):
        pq.write_table(pa.table({"a": [1]}), path)
    secret_frame = pa.table({"a": [1]})  # a variable of the process is no table
    before = sorted(tmp_path.iterdir())
    connection = duckdb.connect()
    limit(connection, SandboxLimits(100_000_000, 1, tmp_path / "scratch", 1_000_000))
    lock(connection, [str(allowed)])
    connection.execute(f"create view t as select * from read_parquet(['{allowed}'])")
    assert connection.execute("select count(*) from t").fetchall() == [(len(secret_frame),)]
    for statement in OUT:
        sql = statement.format(other=other, allowed=allowed, folder=tmp_path)
        with pytest.raises((Refused, duckdb.Error)):
            understood(duckdb.connect(), sql)
            found = connection.sql(sql).fetchall()
            pytest.fail(f"{sql} gave {found}")
    assert sorted(tmp_path.iterdir()) == before
