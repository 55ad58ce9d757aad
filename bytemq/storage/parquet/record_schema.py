"""The columns of every table, and the way from a record's columns to Arrow and back without copying what is large.

Owns: names, types and Iceberg field ids of the fixed columns, which are for ever: files that exist have them; and what
the typed columns of a topic are in Arrow.

`timestamp` is for people and engines (UTC microseconds, null for "no timestamp" and where years would not be within 1
to 9999); `timestamp_ms` is what Kafka gives back. Numbers that are small stay 32-bit integers: Iceberg has nothing
narrower.
"""

from __future__ import annotations

from itertools import chain
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from bytemq.protocol.records.batch import NO_TIMESTAMP
from bytemq.protocol.records.columns import Columns
from bytemq.storage.tables.table_columns import OUTCOMES, ROOTS, Column, Kind, TableColumns

_LEAST_MS, _GREATEST_MS = -62_135_596_800_000, 253_402_300_799_999


def _field(name: str, type_: pa.DataType, field_id: int, *, nullable: bool = False) -> pa.Field:
    return pa.field(name, type_, nullable, {"PARQUET:field_id": str(field_id)})


HEADER_TYPE = pa.struct([_field("key", pa.string(), 13), _field("value", pa.binary(), 14, nullable=True)])

SCHEMA = pa.schema(
    [
        _field("offset", pa.int64(), 1),
        _field("partition", pa.int32(), 2),
        _field("timestamp", pa.timestamp("us", "UTC"), 3, nullable=True),
        _field("timestamp_ms", pa.int64(), 4),
        _field("timestamp_type", pa.int32(), 5),
        _field("key", pa.binary(), 6, nullable=True),
        _field("value", pa.binary(), 7, nullable=True),
        _field("headers", pa.list_(_field("element", HEADER_TYPE, 12)), 8),
        _field("producer_id", pa.int64(), 9),
        _field("producer_epoch", pa.int32(), 10),
        _field("sequence", pa.int32(), 11),
        _field("transactional", pa.bool_(), 15),
        _field("leader_epoch", pa.int32(), 16),
        _field("delete_horizon_ms", pa.int64(), 17, nullable=True),
    ]
)

_OUTCOMES = {
    root: (
        _field(error, pa.string(), first_id, nullable=True),
        _field(left_out, pa.int32(), first_id + 1, nullable=True),
    )
    for root, error, left_out, first_id in zip(ROOTS, OUTCOMES[::2], OUTCOMES[1::2], (18, 20), strict=True)
}
_TYPES = {
    Kind.BOOLEAN: pa.bool_(),
    Kind.LONG: pa.int64(),
    Kind.DOUBLE: pa.float64(),
    Kind.STRING: pa.string(),
    Kind.JSON: pa.string(),
}


def table_schema(columns: TableColumns) -> pa.Schema:
    """All columns of a table, in their order."""
    return pa.schema([*SCHEMA, *typed_fields(columns)])


def typed_fields(columns: TableColumns) -> list[pa.Field]:
    """Those that are not fixed."""
    outcomes = [field for root in ROOTS if root in columns.declared for field in _OUTCOMES[root]]
    return [*outcomes, *map(column_field, columns.of_table())]


def column_field(column: Column) -> pa.Field:
    return _field(column.name, column_type(column), column.field_id, nullable=True)


def column_type(column: Column) -> pa.DataType:
    if column.kind is Kind.STRUCT:
        return pa.struct(list(map(column_field, chain.from_iterable(column.fields.values()))))
    if column.kind is Kind.LIST:
        assert column.element is not None
        return pa.list_(column_field(column.element))
    return _TYPES[column.kind]


def conformed(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """A table that was written when there were fewer columns, with those of now: null, within objects, too."""
    if table.schema == schema:
        return table
    arrays = []
    for field in schema:
        if field.name in table.schema.names:
            chunks = [_conformed(chunk, field.type) for chunk in table.column(field.name).chunks]
            arrays.append(pa.chunked_array(chunks, field.type))
        else:
            arrays.append(pa.chunked_array([pa.nulls(len(table), field.type)]))
    return pa.Table.from_arrays(arrays, schema=schema)


def _conformed(array: pa.Array, type_: pa.DataType) -> pa.Array:
    if array.type == type_:
        return array
    if pa.types.is_struct(type_):
        known = {field.name: number for number, field in enumerate(array.type)}
        children = [
            _conformed(array.field(known[field.name]), field.type)
            if field.name in known
            else pa.nulls(len(array), field.type)
            for field in type_
        ]
        return pa.StructArray.from_arrays(children, fields=list(type_), mask=array.is_null())
    if pa.types.is_list(type_):
        array = _from_start(array)
        values = _conformed(array.values, type_.value_type)
        return pa.ListArray.from_arrays(array.offsets, values, type=type_, mask=array.is_null())
    return array.cast(type_)


def record_table(columns: Columns, records: int, headers: int, partition: int) -> pa.Table:
    """The fixed columns of so many records."""
    timestamp_ms = _array(pa.int64(), records, None, columns.timestamp_ms)
    header_structs = pa.StructArray.from_arrays(
        [
            _array(pa.string(), headers, None, columns.header_key_offsets, columns.header_key_data),
            _array(
                pa.binary(),
                headers,
                columns.header_value_validity,
                columns.header_value_offsets,
                columns.header_value_data,
            ),
        ],
        fields=list(HEADER_TYPE),
    )
    arrays = [
        _array(pa.int64(), records, None, columns.offset),
        pa.repeat(pa.scalar(partition, pa.int32()), records),
        timestamps(timestamp_ms),
        timestamp_ms,
        _array(pa.int8(), records, None, columns.timestamp_type).cast(pa.int32()),
        _array(pa.binary(), records, columns.key_validity, columns.key_offsets, columns.key_data),
        _array(pa.binary(), records, columns.value_validity, columns.value_offsets, columns.value_data),
        pa.Array.from_buffers(
            SCHEMA.field("headers").type,
            records,
            [None, pa.py_buffer(columns.headers_offsets)],
            children=[header_structs],
        ),
        _array(pa.int64(), records, None, columns.producer_id),
        _array(pa.int16(), records, None, columns.producer_epoch).cast(pa.int32()),
        _array(pa.int32(), records, None, columns.sequence),
        _array(pa.bool_(), records, None, columns.transactional),
        _array(pa.int32(), records, None, columns.leader_epoch),
        _array(pa.int64(), records, columns.horizon_validity, columns.horizon_ms),
    ]
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


def timestamps(timestamp_ms: pa.Array) -> pa.Array:
    """The column `timestamp` of the raw one."""
    exists = pc.and_(
        pc.not_equal(timestamp_ms, NO_TIMESTAMP),
        pc.and_(pc.greater_equal(timestamp_ms, _LEAST_MS), pc.less_equal(timestamp_ms, _GREATEST_MS)),
    )
    in_range = pc.if_else(exists, timestamp_ms, pa.scalar(None, pa.int64()))
    return pc.multiply(in_range, 1000).view(pa.timestamp("us")).cast(pa.timestamp("us", "UTC"))


def record_columns(table: pa.Table) -> Columns:
    """The inverse of `record_table`; columns beyond the fixed ones are passed over."""
    fixed = {name: _one_chunk(table.column(name)) for name in SCHEMA.names if name not in ("partition", "timestamp")}
    key, value, headers = fixed["key"].buffers(), fixed["value"].buffers(), fixed["headers"]
    structs = headers.values
    header_keys, header_values = structs.field("key"), structs.field("value")
    horizon = fixed["delete_horizon_ms"]
    has_horizon = horizon.null_count < len(horizon)
    return Columns(
        offset=_values(fixed["offset"]),
        timestamp_ms=_values(fixed["timestamp_ms"]),
        timestamp_type=_values(fixed["timestamp_type"].cast(pa.int8())),
        key_validity=key[0],
        key_offsets=key[1],
        key_data=key[2] or b"",
        value_validity=value[0],
        value_offsets=value[1],
        value_data=value[2] or b"",
        headers_offsets=headers.buffers()[1],
        header_key_offsets=_offsets(header_keys),
        header_key_data=header_keys.buffers()[2] or b"",
        header_value_validity=header_values.buffers()[0],
        header_value_offsets=_offsets(header_values),
        header_value_data=header_values.buffers()[2] or b"",
        producer_id=_values(fixed["producer_id"]),
        producer_epoch=_values(fixed["producer_epoch"].cast(pa.int16())),
        sequence=_values(fixed["sequence"]),
        transactional=_values(fixed["transactional"]),
        leader_epoch=_values(fixed["leader_epoch"]),
        horizon_validity=horizon.buffers()[0] if has_horizon else None,
        horizon_ms=_values(horizon) if has_horizon else None,
    )


class KeyColumn(NamedTuple):
    """Buffers of the keys and offsets of records, in Arrow's layout."""

    validity: Any
    key_ends: Any
    key_data: Any
    offsets: Any


KEY_COLUMNS = ("offset", "key")


def key_column(table: pa.Table) -> KeyColumn:
    key, offset = (_one_chunk(table.column(name)) for name in ("key", "offset"))
    validity, ends, data = key.buffers()
    return KeyColumn(validity, ends or bytes(4), data or b"", _values(offset) or b"")


def _array(type_: pa.DataType, length: int, *buffers: Any) -> pa.Array:
    wrapped = [None if buffer is None else pa.py_buffer(buffer) for buffer in buffers]
    return pa.Array.from_buffers(type_, length, wrapped)


def one_array(column: pa.ChunkedArray) -> pa.Array:
    combined = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    if isinstance(combined, pa.ChunkedArray):
        combined = combined.chunk(0) if combined.num_chunks else pa.array([], column.type)
    return combined


def _one_chunk(column: pa.ChunkedArray) -> pa.Array:
    """As one array that begins at the start of its buffers."""
    return _from_start(one_array(column))


def _from_start(array: pa.Array) -> pa.Array:
    return array if not array.offset else pa.concat_arrays([array, pa.array([], array.type)])


def _values(array: pa.Array) -> Any:
    return array.buffers()[1]


def _offsets(array: pa.Array) -> Any:
    return array.buffers()[1] or bytes(4)
