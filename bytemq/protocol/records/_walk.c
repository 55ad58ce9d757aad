/*
 * Walking the records of one batch: the native twin of walk_pure.py, which says what the functions mean.
 *
 * Both must give the same results for every input; tests/unit/records runs one suite on both. Uses the stable ABI of Python 3.11
 * only. Nothing here allocates by a size that the input claims: lengths are compared with the bytes that are left first.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>

#include "_records.h"

enum { NO_TIMESTAMP = -1 };

/* Releasing the interpreter lock costs more than walking a small batch. */
#define RELEASE_LOCK_ABOVE_BYTES 65536

/* With its headers, which begin at view->headers. */
static int read_checked_record(Cursor *cursor, RecordView *view)
{
    Slice key, value;
    int code = read_record(cursor, view);
    if (code != OK)
        return code;
    Cursor headers = view->headers;
    for (int64_t i = 0; i < view->header_count; i++)
        if ((code = read_header(&headers, &key, &value)) != OK)
            return code;
    return headers.at == headers.end ? OK : BAD_RECORD_BODY;
}

typedef struct {
    int code;
    int64_t index;
    int64_t max_timestamp;
    int64_t offset_delta_of_max;
    int dense;
    int64_t min_timestamp;
    int64_t longest_bytes;
} Walk;

static void walk_all(Cursor cursor, int64_t count, int64_t base_timestamp, int require_keys, Walk *walk)
{
    RecordView view;
    walk->max_timestamp = base_timestamp;
    walk->offset_delta_of_max = 0;
    walk->dense = 1;
    walk->min_timestamp = NO_TIMESTAMP;
    walk->longest_bytes = 0;
    for (walk->index = 0; walk->index < count; walk->index++) {
        walk->code = read_checked_record(&cursor, &view);
        if (walk->code == OK && require_keys && view.key.length < 0)
            walk->code = MISSING_KEY;
        if (walk->code != OK)
            return;
        int64_t timestamp = (int64_t)((uint64_t)base_timestamp + (uint64_t)view.timestamp_delta);
        if (walk->index == 0 || timestamp > walk->max_timestamp) {
            walk->max_timestamp = timestamp;
            walk->offset_delta_of_max = view.offset_delta;
        }
        if (timestamp != NO_TIMESTAMP && (walk->min_timestamp == NO_TIMESTAMP || timestamp < walk->min_timestamp))
            walk->min_timestamp = timestamp;
        if (view.offset_delta != walk->index)
            walk->dense = 0;
        if (view.length > walk->longest_bytes)
            walk->longest_bytes = view.length;
    }
    walk->code = cursor.at == cursor.end ? OK : TRAILING_BYTES;
}

static PyObject *walk_walk(PyObject *module, PyObject *arguments)
{
    Py_buffer data;
    long long count, base_timestamp;
    int require_keys;
    Walk walk;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "y*LLp", &data, &count, &base_timestamp, &require_keys))
        return NULL;
    Cursor cursor = {data.buf, (const uint8_t *)data.buf + data.len};
    if (data.len > RELEASE_LOCK_ABOVE_BYTES) {
        Py_BEGIN_ALLOW_THREADS
        walk_all(cursor, count, base_timestamp, require_keys, &walk);
        Py_END_ALLOW_THREADS
    } else {
        walk_all(cursor, count, base_timestamp, require_keys, &walk);
    }
    PyBuffer_Release(&data);
    return Py_BuildValue("(iLLLOLL)", walk.code, (long long)walk.index, (long long)walk.max_timestamp,
                         (long long)walk.offset_delta_of_max, walk.dense ? Py_True : Py_False,
                         (long long)walk.min_timestamp, (long long)walk.longest_bytes);
}

static int find_first(Cursor cursor, int64_t count, int64_t base_timestamp, int64_t least_timestamp, int64_t least_delta,
                      int64_t *timestamp, int64_t *offset_delta)
{
    RecordView view;
    *offset_delta = -1;
    for (int64_t i = 0; i < count; i++) {
        int code = read_checked_record(&cursor, &view);
        if (code != OK)
            return code;
        *timestamp = (int64_t)((uint64_t)base_timestamp + (uint64_t)view.timestamp_delta);
        if (*timestamp >= least_timestamp && view.offset_delta >= least_delta) {
            *offset_delta = view.offset_delta;
            return OK;
        }
    }
    return OK;
}

static PyObject *walk_find(PyObject *module, PyObject *arguments)
{
    Py_buffer data;
    long long count, base_timestamp, least_timestamp, least_delta;
    int64_t timestamp = 0, offset_delta;
    int code;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "y*LLLL", &data, &count, &base_timestamp, &least_timestamp, &least_delta))
        return NULL;
    Cursor cursor = {data.buf, (const uint8_t *)data.buf + data.len};
    Py_BEGIN_ALLOW_THREADS
    code = find_first(cursor, count, base_timestamp, least_timestamp, least_delta, &timestamp, &offset_delta);
    Py_END_ALLOW_THREADS
    PyBuffer_Release(&data);
    if (code != OK || offset_delta < 0)
        return Py_BuildValue("(iO)", code, Py_None);
    return Py_BuildValue("(i(LL))", code, (long long)offset_delta, (long long)timestamp);
}

static PyObject *slice_object(const Slice *slice)
{
    if (slice->length < 0)
        Py_RETURN_NONE;
    return PyBytes_FromStringAndSize((const char *)slice->bytes, (Py_ssize_t)slice->length);
}

static PyObject *headers_object(Cursor cursor, int64_t count)
{
    Slice key = {NULL, -1}, value = {NULL, -1};
    PyObject *headers = PyTuple_New((Py_ssize_t)count); /* count <= bytes of this record: checked by read_record */
    for (int64_t i = 0; headers != NULL && i < count; i++) {
        read_header(&cursor, &key, &value);
        PyObject *value_object = slice_object(&value);
        PyObject *key_object = PyUnicode_DecodeUTF8((const char *)key.bytes, (Py_ssize_t)key.length, "surrogateescape");
        PyObject *pair = key_object && value_object ? PyTuple_Pack(2, key_object, value_object) : NULL;
        Py_XDECREF(key_object);
        Py_XDECREF(value_object);
        if (pair == NULL)
            Py_CLEAR(headers);
        else
            PyTuple_SetItem(headers, (Py_ssize_t)i, pair);
    }
    return headers;
}

static PyObject *record_object(const RecordView *view)
{
    PyObject *headers = headers_object(view->headers, view->header_count);
    if (headers == NULL)
        return NULL;
    PyObject *key = slice_object(&view->key);
    PyObject *value = slice_object(&view->value);
    if (key == NULL || value == NULL) {
        Py_XDECREF(key);
        Py_XDECREF(value);
        Py_DECREF(headers);
        return NULL;
    }
    return Py_BuildValue("(LLNNN)", (long long)view->timestamp_delta, (long long)view->offset_delta, key, value, headers);
}

static PyObject *walk_parse(PyObject *module, PyObject *arguments)
{
    Py_buffer data;
    Py_ssize_t position;
    long long most;
    int code = OK;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "y*nL", &data, &position, &most))
        return NULL;
    const uint8_t *start = data.buf;
    if (position < 0 || position > data.len)
        position = data.len;
    Cursor cursor = {start + position, start + data.len};
    PyObject *records = PyList_New(0);
    for (long long i = 0; records != NULL && i < most; i++) {
        RecordView view;
        if ((code = read_checked_record(&cursor, &view)) != OK)
            break;
        PyObject *record = record_object(&view);
        if (record == NULL || PyList_Append(records, record) < 0)
            Py_CLEAR(records);
        Py_XDECREF(record);
    }
    position = cursor.at - start;
    PyBuffer_Release(&data);
    return records == NULL ? NULL : Py_BuildValue("(inN)", code, position, records);
}

enum {
    PREFIX_BYTES = 12,
    MAGIC_POSITION = 16,
    ATTRIBUTES_POSITION = 21,
    LAST_OFFSET_DELTA_POSITION = 23,
    COUNT_POSITION = 57,
    HEADER_BYTES = 61,
    CURRENT_MAGIC = 2,
    NOT_PLAIN = 0x37 /* codec, transactional, control */
};

static uint64_t read_big_endian(const uint8_t *at, int bytes)
{
    uint64_t value = 0;
    for (int i = 0; i < bytes; i++)
        value = value << 8 | at[i];
    return value;
}

typedef struct {
    Cursor records;
    int64_t count;
    int64_t next_offset;
} PlainBatch;

/* The batch at `start`, if it is whole, plain, and all its records can be read. */
static int read_plain_batch(const uint8_t *start, const uint8_t *end, PlainBatch *batch)
{
    if (end - start < HEADER_BYTES)
        return 0;
    int64_t size = (int64_t)(int32_t)read_big_endian(start + 8, 4) + PREFIX_BYTES;
    batch->count = (int32_t)read_big_endian(start + COUNT_POSITION, 4);
    if (size < HEADER_BYTES || size > end - start || start[MAGIC_POSITION] != CURRENT_MAGIC || batch->count < 0 ||
        read_big_endian(start + ATTRIBUTES_POSITION, 2) & NOT_PLAIN)
        return 0;
    batch->records = (Cursor){start + HEADER_BYTES, start + size};
    batch->next_offset = (int64_t)(read_big_endian(start, 8) + 1 +
                                   (uint64_t)(int64_t)(int32_t)read_big_endian(start + LAST_OFFSET_DELTA_POSITION, 4));
    Cursor cursor = batch->records;
    RecordView view;
    for (int64_t i = 0; i < batch->count; i++)
        if (read_checked_record(&cursor, &view) != OK)
            return 0;
    return 1;
}

static int append_pair(PyObject *records, const RecordView *view)
{
    PyObject *key = slice_object(&view->key);
    PyObject *value = slice_object(&view->value);
    PyObject *pair = key && value ? PyTuple_Pack(2, key, value) : NULL;
    Py_XDECREF(key);
    Py_XDECREF(value);
    int failed = pair == NULL || PyList_Append(records, pair) < 0;
    Py_XDECREF(pair);
    return failed ? -1 : 0;
}

static PyObject *walk_plain_records(PyObject *module, PyObject *arguments)
{
    Py_buffer data;
    Py_ssize_t position;
    int64_t next_offset = -1;
    PlainBatch batch;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "y*n", &data, &position))
        return NULL;
    const uint8_t *start = data.buf, *end = start + data.len;
    if (position < 0 || position > data.len)
        position = data.len;
    const uint8_t *at = start + position;
    PyObject *records = PyList_New(0);
    while (records != NULL && read_plain_batch(at, end, &batch)) {
        for (int64_t i = 0; records != NULL && i < batch.count; i++) {
            RecordView view;
            read_record(&batch.records, &view);
            if (append_pair(records, &view) < 0)
                Py_CLEAR(records);
        }
        next_offset = batch.next_offset;
        at = batch.records.end;
    }
    position = at - start;
    PyBuffer_Release(&data);
    return records == NULL ? NULL : Py_BuildValue("(nLN)", position, (long long)next_offset, records);
}

enum { NUMBER_BYTES = 4 };

typedef struct {
    PyObject *tables;
    PyObject *other;
    Py_ssize_t least_bytes;
    int highest_version;
    PyObject *table; /* of the last key: most keys in a row differ in the number only */
    Slice prefix;
    int64_t added;
} Fold;

/* The table of a key; NULL where there is none, or with an exception set. Kept in `fold`. */
static PyObject *table_of(Fold *fold, const Slice *key)
{
    int64_t length = key->length - NUMBER_BYTES;
    if (fold->table != NULL && fold->prefix.length == length &&
        memcmp(fold->prefix.bytes, key->bytes, (size_t)length) == 0)
        return fold->table;
    Py_CLEAR(fold->table);
    PyObject *prefix = PyBytes_FromStringAndSize((const char *)key->bytes, (Py_ssize_t)length);
    if (prefix == NULL)
        return NULL;
    fold->table = PyDict_GetItemWithError(fold->tables, prefix);
    Py_XINCREF(fold->table);
    Py_DECREF(prefix);
    fold->prefix = (Slice){key->bytes, length};
    return fold->table;
}

static int put(Fold *fold, PyObject *table, const RecordView *view)
{
    int32_t number = (int32_t)read_big_endian(view->key.bytes + view->key.length - NUMBER_BYTES, NUMBER_BYTES);
    PyObject *key = PyLong_FromLong(number);
    PyObject *value = slice_object(&view->value);
    Py_ssize_t before = PyDict_Size(table);
    int failed = key == NULL || value == NULL || before < 0 || PyDict_SetItem(table, key, value) < 0;
    Py_XDECREF(key);
    Py_XDECREF(value);
    if (failed)
        return -1;
    fold->added += PyDict_Size(table) - before;
    return 0;
}

static int hand_over(Fold *fold, const RecordView *view)
{
    PyObject *key = slice_object(&view->key);
    PyObject *value = slice_object(&view->value);
    PyObject *result = key && value ? PyObject_CallFunctionObjArgs(fold->other, key, value, NULL) : NULL;
    Py_XDECREF(key);
    Py_XDECREF(value);
    Py_XDECREF(result);
    Py_CLEAR(fold->table); /* it may not be the right one any more */
    return result == NULL ? -1 : 0;
}

static int fold_record(Fold *fold, const RecordView *view)
{
    const Slice *value = &view->value;
    if (view->key.length >= NUMBER_BYTES && value->length >= fold->least_bytes && value->length >= 2 &&
        (int16_t)read_big_endian(value->bytes, 2) >= 0 &&
        (int16_t)read_big_endian(value->bytes, 2) <= fold->highest_version) {
        PyObject *table = table_of(fold, &view->key);
        if (table != NULL)
            return put(fold, table, view);
        if (PyErr_Occurred())
            return -1;
    }
    return hand_over(fold, view);
}

static PyObject *walk_fold(PyObject *module, PyObject *arguments)
{
    Py_buffer data;
    Py_ssize_t position;
    long long count = 0, next_offset = -1;
    int failed = 0;
    Fold fold = {0};
    PlainBatch batch;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "y*nO!niO", &data, &position, &PyDict_Type, &fold.tables, &fold.least_bytes,
                          &fold.highest_version, &fold.other))
        return NULL;
    const uint8_t *start = data.buf, *end = start + data.len;
    if (position < 0 || position > data.len)
        position = data.len;
    const uint8_t *at = start + position;
    while (!failed && read_plain_batch(at, end, &batch)) {
        for (int64_t i = 0; !failed && i < batch.count; i++) {
            RecordView view;
            read_record(&batch.records, &view);
            failed = fold_record(&fold, &view) < 0;
        }
        count += batch.count;
        next_offset = batch.next_offset;
        at = batch.records.end;
    }
    Py_XDECREF(fold.table);
    position = at - start;
    PyBuffer_Release(&data);
    return failed ? NULL : Py_BuildValue("(nLLL)", position, next_offset, count, (long long)fold.added);
}

static PyMethodDef methods[] = {
    {"walk", walk_walk, METH_VARARGS, "walk(data, count, base_timestamp, require_keys): see walk_pure.walk"},
    {"find", walk_find, METH_VARARGS,
     "find(data, count, base_timestamp, least_timestamp, least_delta): see walk_pure.find"},
    {"parse", walk_parse, METH_VARARGS, "parse(data, position, most): see walk_pure.parse"},
    {"plain_records", walk_plain_records, METH_VARARGS,
     "plain_records(data, position): see walk_pure.plain_records"},
    {"fold", walk_fold, METH_VARARGS,
     "fold(data, position, tables, least_bytes, highest_version, other): see walk_pure.fold"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_walk", "Native walk over the records of a batch.", 0, methods, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__walk(void)
{
    return PyModuleDef_Init(&definition);
}
