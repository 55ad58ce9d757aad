/*
 * Records as columns and back: the native twin of columns_pure.py, which says what the functions mean.
 *
 * Both must give the same results for every input; tests/unit/records runs one suite on both. Uses the stable ABI of Python 3.11
 * only. Columns are laid out as Apache Arrow lays them out (little-endian, 32-bit offsets, validity bitmaps), so that neither side
 * copies them again. `measure` and `encode` believe nothing that they are given; `fill` is given what `measure` passed.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>

#include "_records.h"
#include "_utf8.h"

enum { TIMESTAMP_TYPE_FLAG = 0x08, TRANSACTIONAL_FLAG = 0x10, DELETE_HORIZON_FLAG = 0x40 };
#define SEQUENCE_MASK 0x7FFFFFFF

typedef struct {
    int64_t records, key_bytes, value_bytes, headers, header_key_bytes, header_value_bytes;
} Sizes;

static int measure_all(Cursor cursor, int64_t count, int64_t last_delta, Sizes *sizes)
{
    int64_t least_delta = 0;
    for (int64_t i = 0; i < count; i++) {
        RecordView view;
        int code = read_record(&cursor, &view);
        if (code != OK)
            return code;
        if (view.offset_delta < least_delta || view.offset_delta > last_delta)
            return BAD_OFFSET_DELTA;
        least_delta = view.offset_delta + 1;
        sizes->records++;
        sizes->key_bytes += view.key.length > 0 ? view.key.length : 0;
        sizes->value_bytes += view.value.length > 0 ? view.value.length : 0;
        sizes->headers += view.header_count;
        for (int64_t h = 0; h < view.header_count; h++) {
            Slice key, value;
            if ((code = read_header(&view.headers, &key, &value)) != OK)
                return code;
            if (!is_utf8(key.bytes, key.length))
                return BAD_HEADER_KEY;
            sizes->header_key_bytes += key.length;
            sizes->header_value_bytes += value.length > 0 ? value.length : 0;
        }
        if (view.headers.at != view.headers.end)
            return BAD_RECORD_BODY;
    }
    return cursor.at == cursor.end ? OK : TRAILING_BYTES;
}

static PyObject *columns_measure(PyObject *module, PyObject *arguments)
{
    Py_buffer data;
    long long count, last_delta;
    Sizes sizes = {0};
    (void)module;
    if (!PyArg_ParseTuple(arguments, "y*LL", &data, &count, &last_delta))
        return NULL;
    Cursor cursor = {data.buf, (const uint8_t *)data.buf + data.len};
    int code = measure_all(cursor, count, last_delta, &sizes);
    PyBuffer_Release(&data);
    if (code != OK)
        memset(&sizes, 0, sizeof sizes);
    return Py_BuildValue("(i(LLLLLL))", code, (long long)sizes.records, (long long)sizes.key_bytes, (long long)sizes.value_bytes,
                         (long long)sizes.headers, (long long)sizes.header_key_bytes, (long long)sizes.header_value_bytes);
}

/* The columns, in the order in which `fill` returns and `encode` takes them. */
enum {
    OFFSET,
    TIMESTAMP,
    TIMESTAMP_TYPE,
    KEY_VALIDITY,
    KEY_OFFSETS,
    KEY_DATA,
    VALUE_VALIDITY,
    VALUE_OFFSETS,
    VALUE_DATA,
    HEADERS_OFFSETS,
    HEADER_KEY_OFFSETS,
    HEADER_KEY_DATA,
    HEADER_VALUE_VALIDITY,
    HEADER_VALUE_OFFSETS,
    HEADER_VALUE_DATA,
    PRODUCER_ID,
    PRODUCER_EPOCH,
    SEQUENCE,
    TRANSACTIONAL,
    LEADER_EPOCH,
    HORIZON_VALIDITY,
    HORIZON,
    COLUMNS,
};

typedef struct {
    uint8_t *validity;
    int32_t *offsets;
    uint8_t *data;
    int64_t count;
} Binary;

static void put_binary(Binary *column, const Slice *slice)
{
    int64_t row = column->count++;
    int32_t end = column->offsets[row];
    if (slice->length >= 0) {
        if (column->validity != NULL)
            column->validity[row >> 3] |= (uint8_t)(1 << (row & 7));
        memcpy(column->data + end, slice->bytes, (size_t)slice->length);
        end += (int32_t)slice->length;
    }
    column->offsets[row + 1] = end;
}

typedef struct {
    long long count, base_offset, leader_epoch, attributes, base_timestamp, max_timestamp, producer_id, producer_epoch, base_sequence;
} Batch;

static int fill_batch(uint8_t **columns, Binary *key, Binary *value, Binary *header_key, Binary *header_value, Cursor cursor,
                      const Batch *batch)
{
    for (long long i = 0; i < batch->count; i++) {
        RecordView view;
        int64_t row = key->count;
        int code = read_record(&cursor, &view);
        if (code != OK)
            return code;
        ((int64_t *)columns[OFFSET])[row] = batch->base_offset + view.offset_delta;
        ((int64_t *)columns[TIMESTAMP])[row] = batch->attributes & TIMESTAMP_TYPE_FLAG
                                                   ? batch->max_timestamp
                                                   : (int64_t)((uint64_t)batch->base_timestamp + (uint64_t)view.timestamp_delta);
        columns[TIMESTAMP_TYPE][row] = (batch->attributes & TIMESTAMP_TYPE_FLAG) != 0;
        put_binary(key, &view.key);
        put_binary(value, &view.value);
        for (int64_t h = 0; h < view.header_count; h++) {
            Slice name, content;
            if ((code = read_header(&view.headers, &name, &content)) != OK)
                return code;
            put_binary(header_key, &name);
            put_binary(header_value, &content);
        }
        ((int32_t *)columns[HEADERS_OFFSETS])[row + 1] = (int32_t)header_key->count;
        ((int64_t *)columns[PRODUCER_ID])[row] = batch->producer_id;
        ((int16_t *)columns[PRODUCER_EPOCH])[row] = (int16_t)batch->producer_epoch;
        ((int32_t *)columns[SEQUENCE])[row] =
            batch->base_sequence < 0 ? (int32_t)batch->base_sequence
                                     : (int32_t)((batch->base_sequence + view.offset_delta) & SEQUENCE_MASK);
        if (batch->attributes & TRANSACTIONAL_FLAG)
            columns[TRANSACTIONAL][row >> 3] |= (uint8_t)(1 << (row & 7));
        ((int32_t *)columns[LEADER_EPOCH])[row] = (int32_t)batch->leader_epoch;
        if (batch->attributes & DELETE_HORIZON_FLAG) {
            columns[HORIZON_VALIDITY][row >> 3] |= (uint8_t)(1 << (row & 7));
            ((int64_t *)columns[HORIZON])[row] = batch->base_timestamp;
        }
    }
    return OK;
}

static PyObject *columns_fill(PyObject *module, PyObject *arguments)
{
    PyObject *parts;
    long long records, key_bytes, value_bytes, headers, header_key_bytes, header_value_bytes;
    uint8_t *columns[COLUMNS];
    (void)module;
    if (!PyArg_ParseTuple(arguments, "O!(LLLLLL)", &PyList_Type, &parts, &records, &key_bytes, &value_bytes, &headers,
                          &header_key_bytes, &header_value_bytes))
        return NULL;
    const long long bits = (records + 7) / 8, header_bits = (headers + 7) / 8;
    const long long sizes[COLUMNS] = {
        records * 8,       records * 8,          records,      bits, (records + 1) * 4, key_bytes,          bits, (records + 1) * 4,
        value_bytes,       (records + 1) * 4,    (headers + 1) * 4, header_key_bytes, header_bits, (headers + 1) * 4,
        header_value_bytes, records * 8,         records * 2,  records * 4, bits, records * 4, bits, records * 8,
    };
    if (key_bytes > INT32_MAX || value_bytes > INT32_MAX || header_key_bytes > INT32_MAX || header_value_bytes > INT32_MAX ||
        headers > INT32_MAX || records > INT32_MAX) {
        PyErr_SetString(PyExc_OverflowError, "more than 2 GiB in one column");
        return NULL;
    }
    PyObject *result = PyTuple_New(COLUMNS);
    if (result == NULL)
        return NULL;
    for (int i = 0; i < COLUMNS; i++) {
        PyObject *column = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)sizes[i]);
        if (column == NULL || PyTuple_SetItem(result, i, column) < 0) {
            Py_DECREF(result);
            return NULL;
        }
        columns[i] = (uint8_t *)PyBytes_AsString(column);
        if (i == KEY_VALIDITY || i == VALUE_VALIDITY || i == HEADER_VALUE_VALIDITY || i == TRANSACTIONAL || i == HORIZON_VALIDITY ||
            i == HORIZON)
            memset(columns[i], 0, (size_t)sizes[i]);
        else if (sizes[i] >= 4)
            memset(columns[i], 0, 4); /* the first of a column of offsets */
    }
    Binary key = {columns[KEY_VALIDITY], (int32_t *)columns[KEY_OFFSETS], columns[KEY_DATA], 0};
    Binary value = {columns[VALUE_VALIDITY], (int32_t *)columns[VALUE_OFFSETS], columns[VALUE_DATA], 0};
    Binary header_key = {NULL, (int32_t *)columns[HEADER_KEY_OFFSETS], columns[HEADER_KEY_DATA], 0};
    Binary header_value = {columns[HEADER_VALUE_VALIDITY], (int32_t *)columns[HEADER_VALUE_OFFSETS], columns[HEADER_VALUE_DATA], 0};
    for (Py_ssize_t i = 0; i < PyList_Size(parts); i++) {
        Py_buffer data;
        Batch batch;
        if (!PyArg_ParseTuple(PyList_GetItem(parts, i), "y*LLLLLLLLL", &data, &batch.count, &batch.base_offset, &batch.leader_epoch,
                              &batch.attributes, &batch.base_timestamp, &batch.max_timestamp, &batch.producer_id,
                              &batch.producer_epoch, &batch.base_sequence)) {
            Py_DECREF(result);
            return NULL;
        }
        Cursor cursor = {data.buf, (const uint8_t *)data.buf + data.len};
        int code = batch.count <= records - key.count ? OK : TRAILING_BYTES;
        if (code == OK)
            code = fill_batch(columns, &key, &value, &header_key, &header_value, cursor, &batch);
        PyBuffer_Release(&data);
        if (code != OK) {
            PyErr_SetString(PyExc_ValueError, "the batches are not those that were measured");
            Py_DECREF(result);
            return NULL;
        }
    }
    return result;
}

static int bit(const uint8_t *bitmap, int64_t row)
{
    return bitmap == NULL || (bitmap[row >> 3] >> (row & 7)) & 1;
}

static Slice slice_at(const uint8_t *validity, const int32_t *offsets, const uint8_t *data, int64_t row)
{
    Slice slice = {data + offsets[row], bit(validity, row) ? (int64_t)offsets[row + 1] - offsets[row] : -1};
    return slice;
}

static int unsigned_size(uint64_t value)
{
    int size = 1;
    while (value > 0x7F) {
        value >>= 7;
        size++;
    }
    return size;
}

static uint64_t zigzag(int64_t value)
{
    return ((uint64_t)value << 1) ^ (uint64_t)(value >> 63);
}

static uint8_t *put_varint(uint8_t *at, int64_t value)
{
    uint64_t bits = zigzag(value);
    while (bits > 0x7F) {
        *at++ = (uint8_t)(bits | 0x80);
        bits >>= 7;
    }
    *at++ = (uint8_t)bits;
    return at;
}

static int64_t slice_size(const Slice *slice)
{
    return unsigned_size(zigzag(slice->length)) + (slice->length > 0 ? slice->length : 0);
}

static uint8_t *put_slice(uint8_t *at, const Slice *slice)
{
    at = put_varint(at, slice->length < 0 ? -1 : slice->length);
    if (slice->length > 0) {
        memcpy(at, slice->bytes, (size_t)slice->length);
        at += slice->length;
    }
    return at;
}

typedef struct {
    const uint8_t *column[COLUMNS];
    int64_t size_bytes[COLUMNS];
} Rows;

/* How many bytes of a column its first `rows` take; those of keys, values and headers are as long as their offsets say. */
static int64_t least_bytes(int column, int64_t rows)
{
    switch (column) {
    case OFFSET:
    case TIMESTAMP:
    case PRODUCER_ID:
    case HORIZON:
        return 8 * rows;
    case SEQUENCE:
    case LEADER_EPOCH:
        return 4 * rows;
    case PRODUCER_EPOCH:
        return 2 * rows;
    case TIMESTAMP_TYPE:
        return rows;
    case KEY_VALIDITY:
    case VALUE_VALIDITY:
    case TRANSACTIONAL:
    case HORIZON_VALIDITY:
        return (rows + 7) / 8;
    case KEY_OFFSETS:
    case VALUE_OFFSETS:
    case HEADERS_OFFSETS:
        return 4 * (rows + 1);
    default:
        return 0;
    }
}

static int may_be_absent(int column)
{
    return column == KEY_VALIDITY || column == VALUE_VALIDITY || column == HEADER_VALUE_VALIDITY || column == HORIZON_VALIDITY ||
           column == HORIZON;
}

static int are_columns_of(const Rows *rows, int64_t count)
{
    for (int i = 0; i < COLUMNS; i++)
        if (rows->column[i] == NULL ? !may_be_absent(i) : rows->size_bytes[i] < least_bytes(i, count))
            return 0;
    return 1;
}

static int is_within(const Rows *rows, int offsets, int64_t limit, int64_t row)
{
    const int32_t *at = (const int32_t *)rows->column[offsets] + row;
    return at[0] >= 0 && at[0] <= at[1] && at[1] <= limit;
}

/* Whether all that `row` refers to is there, and its offset is one that may follow the one before it. */
static int is_sound(const Rows *rows, int64_t first, int64_t row)
{
    const int64_t *offset = (const int64_t *)rows->column[OFFSET];
    const int32_t *headers = (const int32_t *)rows->column[HEADERS_OFFSETS];
    if (offset[row] < 0 || (row > first && offset[row] <= offset[row - 1]) ||
        !is_within(rows, KEY_OFFSETS, rows->size_bytes[KEY_DATA], row) ||
        !is_within(rows, VALUE_OFFSETS, rows->size_bytes[VALUE_DATA], row) || !is_within(rows, HEADERS_OFFSETS, INT32_MAX - 1, row))
        return 0;
    int64_t end = headers[row + 1];
    if (end == headers[row])
        return 1;
    if (rows->size_bytes[HEADER_KEY_OFFSETS] < 4 * (end + 1) || rows->size_bytes[HEADER_VALUE_OFFSETS] < 4 * (end + 1) ||
        (rows->column[HEADER_VALUE_VALIDITY] != NULL && rows->size_bytes[HEADER_VALUE_VALIDITY] < (end + 7) / 8))
        return 0;
    for (int64_t h = headers[row]; h < end; h++)
        if (!is_within(rows, HEADER_KEY_OFFSETS, rows->size_bytes[HEADER_KEY_DATA], h) ||
            !is_within(rows, HEADER_VALUE_OFFSETS, rows->size_bytes[HEADER_VALUE_DATA], h))
            return 0;
    return 1;
}

static Slice key_at(const Rows *rows, int64_t row)
{
    return slice_at(rows->column[KEY_VALIDITY], (const int32_t *)rows->column[KEY_OFFSETS], rows->column[KEY_DATA], row);
}

static Slice value_at(const Rows *rows, int64_t row)
{
    return slice_at(rows->column[VALUE_VALIDITY], (const int32_t *)rows->column[VALUE_OFFSETS], rows->column[VALUE_DATA], row);
}

static Slice header_key_at(const Rows *rows, int64_t row)
{
    return slice_at(NULL, (const int32_t *)rows->column[HEADER_KEY_OFFSETS], rows->column[HEADER_KEY_DATA], row);
}

static Slice header_value_at(const Rows *rows, int64_t row)
{
    return slice_at(rows->column[HEADER_VALUE_VALIDITY], (const int32_t *)rows->column[HEADER_VALUE_OFFSETS],
                    rows->column[HEADER_VALUE_DATA], row);
}

static int64_t horizon_at(const Rows *rows, int64_t row, int *has_horizon)
{
    *has_horizon = rows->column[HORIZON] != NULL && bit(rows->column[HORIZON_VALIDITY], row);
    return *has_horizon ? ((const int64_t *)rows->column[HORIZON])[row] : 0;
}

/* Whether `row` may be in the batch that `first` begins. */
static int belongs(const Rows *rows, int64_t first, int64_t row)
{
    const int64_t *offset = (const int64_t *)rows->column[OFFSET];
    const int32_t *sequence = (const int32_t *)rows->column[SEQUENCE];
    const int64_t *timestamp = (const int64_t *)rows->column[TIMESTAMP];
    int64_t delta = offset[row] - offset[first];
    int first_has, row_has;
    int64_t first_horizon = horizon_at(rows, first, &first_has), row_horizon = horizon_at(rows, row, &row_has);
    if (((const int64_t *)rows->column[PRODUCER_ID])[row] != ((const int64_t *)rows->column[PRODUCER_ID])[first] ||
        ((const int16_t *)rows->column[PRODUCER_EPOCH])[row] != ((const int16_t *)rows->column[PRODUCER_EPOCH])[first] ||
        ((const int32_t *)rows->column[LEADER_EPOCH])[row] != ((const int32_t *)rows->column[LEADER_EPOCH])[first] ||
        rows->column[TIMESTAMP_TYPE][row] != rows->column[TIMESTAMP_TYPE][first] ||
        bit(rows->column[TRANSACTIONAL], row) != bit(rows->column[TRANSACTIONAL], first) || first_has != row_has ||
        first_horizon != row_horizon || delta >= INT32_MAX)
        return 0;
    if (rows->column[TIMESTAMP_TYPE][row] && timestamp[row] != timestamp[first])
        return 0;
    if (sequence[first] < 0)
        return sequence[row] == sequence[first];
    return sequence[row] == (int32_t)((sequence[first] + delta) & SEQUENCE_MASK);
}

static int64_t body_size(const Rows *rows, int64_t row, int64_t timestamp_delta, int64_t offset_delta)
{
    const int32_t *headers = (const int32_t *)rows->column[HEADERS_OFFSETS];
    Slice key = key_at(rows, row), value = value_at(rows, row);
    int64_t size = 1 + unsigned_size(zigzag(timestamp_delta)) + unsigned_size(zigzag(offset_delta)) + slice_size(&key) +
                   slice_size(&value) + unsigned_size(zigzag(headers[row + 1] - headers[row]));
    for (int32_t h = headers[row]; h < headers[row + 1]; h++) {
        Slice name = header_key_at(rows, h), content = header_value_at(rows, h);
        size += slice_size(&name) + slice_size(&content);
    }
    return size;
}

static uint8_t *put_record(uint8_t *at, const Rows *rows, int64_t row, int64_t timestamp_delta, int64_t offset_delta)
{
    const int32_t *headers = (const int32_t *)rows->column[HEADERS_OFFSETS];
    Slice key = key_at(rows, row), value = value_at(rows, row);
    at = put_varint(at, body_size(rows, row, timestamp_delta, offset_delta));
    *at++ = 0;
    at = put_varint(at, timestamp_delta);
    at = put_varint(at, offset_delta);
    at = put_slice(at, &key);
    at = put_slice(at, &value);
    at = put_varint(at, headers[row + 1] - headers[row]);
    for (int32_t h = headers[row]; h < headers[row + 1]; h++) {
        Slice name = header_key_at(rows, h), content = header_value_at(rows, h);
        at = put_slice(at, &name);
        at = put_slice(at, &content);
    }
    return at;
}

static int64_t timestamp_delta_at(const Rows *rows, int64_t row, int64_t base_timestamp)
{
    if (rows->column[TIMESTAMP_TYPE][row])
        return 0;
    return (int64_t)((uint64_t)((const int64_t *)rows->column[TIMESTAMP])[row] - (uint64_t)base_timestamp);
}

static PyObject *encode_rows(const Rows *rows, int64_t first, int64_t stop, int64_t max_bytes)
{
    const int64_t *offset = (const int64_t *)rows->column[OFFSET], *timestamp = (const int64_t *)rows->column[TIMESTAMP];
    int has_horizon;
    int64_t horizon = horizon_at(rows, first, &has_horizon);
    int64_t base_timestamp = has_horizon ? horizon : timestamp[first], max_timestamp = timestamp[first], total = 0, row;
    for (row = first; row < stop; row++) {
        if (!is_sound(rows, first, row)) {
            PyErr_SetString(PyExc_ValueError, "the columns contradict themselves");
            return NULL;
        }
        if (row > first && !belongs(rows, first, row))
            break;
        int64_t size = body_size(rows, row, timestamp_delta_at(rows, row, base_timestamp), offset[row] - offset[first]);
        size += unsigned_size(zigzag(size));
        if (row > first && total + size > max_bytes)
            break;
        total += size;
        if (timestamp[row] > max_timestamp)
            max_timestamp = timestamp[row];
    }
    PyObject *body = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)total);
    if (body == NULL)
        return NULL;
    uint8_t *at = (uint8_t *)PyBytes_AsString(body);
    for (int64_t i = first; i < row; i++)
        at = put_record(at, rows, i, timestamp_delta_at(rows, i, base_timestamp), offset[i] - offset[first]);
    return Py_BuildValue("(LLLN)", (long long)row, (long long)base_timestamp, (long long)max_timestamp, body);
}

static PyObject *columns_encode(PyObject *module, PyObject *arguments)
{
    PyObject *columns;
    long long first, stop, max_bytes;
    Py_buffer buffers[COLUMNS];
    Rows rows;
    PyObject *result = NULL;
    int held = 0;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "O!LLL", &PyTuple_Type, &columns, &first, &stop, &max_bytes))
        return NULL;
    if (PyTuple_Size(columns) != COLUMNS) {
        PyErr_SetString(PyExc_ValueError, "not the columns of records");
        return NULL;
    }
    for (; held < COLUMNS; held++) {
        PyObject *column = PyTuple_GetItem(columns, held);
        if (column == Py_None) {
            rows.column[held] = NULL;
            buffers[held].obj = NULL;
            continue;
        }
        if (PyObject_GetBuffer(column, &buffers[held], PyBUF_SIMPLE) < 0)
            break;
        rows.column[held] = buffers[held].buf;
        rows.size_bytes[held] = buffers[held].len;
    }
    if (held == COLUMNS) {
        if (first < 0 || first >= stop || stop > INT32_MAX || !are_columns_of(&rows, stop))
            PyErr_SetString(PyExc_ValueError, "no such rows");
        else
            result = encode_rows(&rows, first, stop, max_bytes);
    }
    for (int i = 0; i < held; i++)
        if (buffers[i].obj != NULL)
            PyBuffer_Release(&buffers[i]);
    return result;
}

static PyMethodDef methods[] = {
    {"measure", columns_measure, METH_VARARGS, "measure(data, count, last_delta): see columns_pure.measure"},
    {"fill", columns_fill, METH_VARARGS, "fill(parts, sizes): see columns_pure.fill"},
    {"encode", columns_encode, METH_VARARGS, "encode(columns, first, stop, max_bytes): see columns_pure.encode"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_columns", "Records of batches as columns, and back.", 0, methods, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__columns(void)
{
    return PyModuleDef_Init(&definition);
}
