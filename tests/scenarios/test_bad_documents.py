"""Records and statements as bad as they come, on a node with a neighbour: clear words, nothing lost, nobody hurt."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import confluent_kafka
import pytest

import bytemq
from bytemq.errors import BytemqError
from bytemq.query.client import Connection
from tests.scenarios.test_tables_kill import consumed
from tests.support.node_process import NodeProcess, free_port

MAKE = Callable[..., NodeProcess]
FIELDS = 10_000
DOCUMENTS: tuple[bytes, ...] = (
    json.dumps({f"field {number}": number for number in range(FIELDS)}).encode(),
    *(b'{"other %d": {"x": %d}}' % (number, number) for number in range(200)),
    b'{"deep": ' + b"[" * 900 + b"]" * 900 + b"}",
    b'{"deep": ' + b'{"a":' * 900 + b"1" + b"}" * 900 + b"}",
    b'{"a": 123456789012345678901234567890, "c": -0.0}',
    b'{"name": 1, "Name": 2, "NAME": 3, "offset": 4, "value": 5}',
    b'{"a.b": 1, "a\\"b": 2, "a\'b": 3, "": 4, "\\u0000": 5, "; drop table t; --": 6}',
)
NO_DOCUMENTS: tuple[bytes, ...] = (
    b"[1, 2",
    b'{"a": 1e400}',
    b'{"a": "\\ud800"}',
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b'{"a": NaN}',
    b'{"a": Infinity}',
    b'{"a": 1,}',
    b'{"a": "\xff\xfe"}',
    b"\xff\xfe\x00",
    b"",
    b"1" * 1_000_000 + b".",
)
STATEMENTS = (
    ("selekt 1", "syntax error"),
    ("select nothing from t", "nothing"),
    ("select * from nothing", "there is no topic nothing"),
    ("select " + "(" * 5000 + "1" + ")" * 5000, ""),
    ("select * from range(1000000000000)", "more than 1000 rows"),
    ("select repeat('x', 1000000000) from range(1000)", "memory"),
    ("select \"field 1\"::integer / 0, error('boom') from t", "boom"),
)


class Neighbour(threading.Thread):
    """Produces to a topic of its own, one record at a time, and knows how long each took."""

    def __init__(self, bootstrap: str) -> None:
        super().__init__(daemon=True)
        self._producer = confluent_kafka.Producer({"bootstrap.servers": bootstrap, "linger.ms": 0})
        self._stopped = threading.Event()
        self.seconds: list[float] = []

    def run(self) -> None:
        while not self._stopped.wait(0.01):
            began = time.monotonic()
            self._producer.produce("neighbour", b"x" * 100)
            assert self._producer.flush(60) == 0
            self.seconds.append(time.monotonic() - began)

    def stop(self) -> None:
        self._stopped.set()
        self.join(60)

    def told(self) -> str:
        ordered = sorted(self.seconds)
        at = [1000 * ordered[int(len(ordered) * share)] for share in (0.5, 0.99)]
        return f"{len(ordered)} appends: median {at[0]:.1f} ms, p99 {at[1]:.1f} ms, most {1000 * ordered[-1]:.1f} ms"


def test_bad_documents_and_statements__are_kept_counted_refused_and_hurt_nobody(make_node: MAKE) -> None:
    http = f"127.0.0.1:{free_port()}"
    configs = {
        "bytemq.http.listen": http,
        "bytemq.table.value.format": "json",
        "bytemq.sql.max.rows": "1000",
    }
    node = make_node(options=[part for item in configs.items() for part in ("--set", "=".join(item))]).start()
    sql = bytemq.connect(http)
    values = [*DOCUMENTS, *NO_DOCUMENTS]
    produce(node.bootstrap, values)
    neighbour = Neighbour(node.bootstrap)
    neighbour.start()
    check(sql, values)
    assert sql.post("/tables/t/build")["records"] == len(values)
    check(sql, values)
    assert consumed(node.bootstrap, len(values)) == values
    [described] = sql.get("/tables/t")["partitions"]
    assert described["invalid_records"] == len(NO_DOCUMENTS)
    assert described["left_out_values"] > FIELDS - 500
    with ThreadPoolExecutor(3) as threads:
        sentences = list(threads.map(partial(refused, sql), (statement for statement, _ in STATEMENTS)))
    for (statement, problem), sentence in zip(STATEMENTS, sentences, strict=True):
        print(f"{statement[:70]}: {sentence}")
        assert problem in sentence, statement[:100]
        assert len(sentence) < 5000
    neighbour.stop()
    assert sql.sql("select 1 as one").rows() == [{"one": 1}]
    print(neighbour.told())
    assert max(neighbour.seconds) < 10, neighbour.told()


def refused(sql: Connection, statement: str) -> str:
    with pytest.raises(BytemqError) as error:
        sql.sql(statement).rows()
    return str(error.value)


def check(sql: Connection, values: Sequence[bytes]) -> None:
    table = sql.sql('select * from t order by "offset"').arrow()
    assert table.column("value").to_pylist() == list(values)
    errors = table.column("value_error").to_pylist()
    assert [value for value, error in zip(values, errors, strict=True) if error] == [*NO_DOCUMENTS]
    assert 400 < table.num_columns <= 520
    folded = [name.casefold() for name in table.column_names]
    assert len(set(folded)) == len(folded)


def produce(bootstrap: str, values: Sequence[bytes]) -> None:
    producer = confluent_kafka.Producer({"bootstrap.servers": bootstrap, "message.max.bytes": 2_000_000})
    for value in values:
        producer.produce("t", value, partition=0)
    assert producer.flush(60) == 0
