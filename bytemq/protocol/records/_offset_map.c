/*
 * The newest offset of each key, in a table of fixed size: the native twin of offset_map_pure.py, which says what it means.
 *
 * Both must select the same records for every input; tests/unit/records runs one suite on both. A key is known by 128 bits of
 * SipHash-2-4 under a secret of the table: keys that collide cannot be made by those who write them. An entry takes 24 bytes,
 * and nothing is allocated by a size that the input claims.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "_records.h"

typedef struct {
    uint64_t low, high;
    int64_t next_offset; /* one above the key's offset; 0: the slot is free */
} Entry;

typedef struct {
    PyObject_HEAD
    Entry *entries;
    uint64_t slots, used, limit;
    uint64_t secret[2];
} OffsetMap;

#define ROTATE(x, b) (((x) << (b)) | ((x) >> (64 - (b))))
#define ROUND                                                                                                                \
    do {                                                                                                                     \
        v0 += v1; v1 = ROTATE(v1, 13); v1 ^= v0; v0 = ROTATE(v0, 32);                                                        \
        v2 += v3; v3 = ROTATE(v3, 16); v3 ^= v2;                                                                             \
        v0 += v3; v3 = ROTATE(v3, 21); v3 ^= v0;                                                                             \
        v2 += v1; v1 = ROTATE(v1, 17); v1 ^= v2; v2 = ROTATE(v2, 32);                                                        \
    } while (0)

static uint64_t little_endian(const uint8_t *bytes, int count)
{
    uint64_t value = 0;
    for (int i = 0; i < count; i++)
        value |= (uint64_t)bytes[i] << (8 * i);
    return value;
}

/* SipHash-2-4 with 128 bits of output (Aumasson, Bernstein 2012). */
static Entry hash_of(const Slice *key, const uint64_t secret[2])
{
    uint64_t v0 = 0x736f6d6570736575ULL ^ secret[0], v1 = 0x646f72616e646f6dULL ^ secret[1] ^ 0xee;
    uint64_t v2 = 0x6c7967656e657261ULL ^ secret[0], v3 = 0x7465646279746573ULL ^ secret[1];
    const uint8_t *at = key->bytes, *end = at + (key->length & ~(int64_t)7);
    for (; at != end; at += 8) {
        uint64_t word = little_endian(at, 8);
        v3 ^= word;
        ROUND; ROUND;
        v0 ^= word;
    }
    uint64_t last = (uint64_t)key->length << 56 | little_endian(at, (int)(key->length & 7));
    v3 ^= last;
    ROUND; ROUND;
    v0 ^= last;
    v2 ^= 0xee;
    ROUND; ROUND; ROUND; ROUND;
    Entry entry = {v0 ^ v1 ^ v2 ^ v3, 0, 0};
    v1 ^= 0xdd;
    ROUND; ROUND; ROUND; ROUND;
    entry.high = v0 ^ v1 ^ v2 ^ v3;
    return entry;
}

/* The entry of a key, or the free slot where it would be. There always is a free slot. */
static Entry *find_entry(OffsetMap *map, const Entry *wanted)
{
    uint64_t slot = (uint64_t)(((unsigned __int128)wanted->low * map->slots) >> 64);
    for (;;) {
        Entry *entry = map->entries + slot;
        if (entry->next_offset == 0 || (entry->low == wanted->low && entry->high == wanted->high))
            return entry;
        if (++slot == map->slots)
            slot = 0;
    }
}

/* With its headers; and its offset has to be above that of the record before it, within the batch. */
static int read_checked(Cursor *cursor, RecordView *view, int64_t *least_delta, int64_t last_delta)
{
    Slice key, value;
    int code = read_record(cursor, view);
    if (code != OK)
        return code;
    Cursor headers = view->headers;
    for (int64_t i = 0; i < view->header_count; i++)
        if ((code = read_header(&headers, &key, &value)) != OK)
            return code;
    if (headers.at != headers.end)
        return BAD_RECORD_BODY;
    if (view->offset_delta < *least_delta || view->offset_delta > last_delta)
        return BAD_OFFSET_DELTA;
    *least_delta = view->offset_delta + 1;
    return OK;
}

static int check_all(Cursor cursor, int64_t count, int64_t last_delta)
{
    RecordView view;
    int64_t least_delta = 0;
    for (int64_t i = 0; i < count; i++) {
        int code = read_checked(&cursor, &view, &least_delta, last_delta);
        if (code != OK)
            return code;
    }
    return cursor.at == cursor.end ? OK : TRAILING_BYTES;
}

/* 0 when there is no room for another key. */
static int put_key(OffsetMap *map, const Slice *key, int64_t offset)
{
    Entry wanted = hash_of(key, map->secret);
    Entry *entry = find_entry(map, &wanted);
    if (entry->next_offset == 0) {
        if (map->used == map->limit)
            return 0;
        map->used++;
        *entry = wanted;
    }
    if (entry->next_offset <= offset)
        entry->next_offset = offset + 1;
    return 1;
}

static int is_newest(OffsetMap *map, const Slice *key, int64_t offset)
{
    Entry wanted = hash_of(key, map->secret);
    return offset + 1 >= find_entry(map, &wanted)->next_offset;
}

static int put_all(OffsetMap *map, Cursor cursor, int64_t count, int64_t base_offset)
{
    RecordView view;
    for (int64_t i = 0; i < count; i++) {
        read_record(&cursor, &view); /* checked before */
        if (view.key.length >= 0 && !put_key(map, &view.key, base_offset + view.offset_delta))
            return 0;
    }
    return 1;
}

static PyObject *map_put(PyObject *self, PyObject *arguments)
{
    Py_buffer data;
    long long count, base_offset, last_delta;
    int complete = 0;
    if (!PyArg_ParseTuple(arguments, "y*LLL", &data, &count, &base_offset, &last_delta))
        return NULL;
    Cursor cursor = {data.buf, (const uint8_t *)data.buf + data.len};
    int code = check_all(cursor, count, last_delta);
    if (code == OK)
        complete = put_all((OffsetMap *)self, cursor, count, base_offset);
    PyBuffer_Release(&data);
    return Py_BuildValue("(iO)", code, complete ? Py_True : Py_False);
}

typedef struct {
    int64_t kept, tombstones, max_timestamp_delta;
    Py_ssize_t size_bytes;
} Selection;

static int varint_bytes(int64_t value)
{
    uint64_t bits = ((uint64_t)value << 1) ^ (uint64_t)(value >> 63);
    int bytes = 1;
    while (bits >>= 7)
        bytes++;
    return bytes;
}

static uint8_t *write_varint(uint8_t *at, int64_t value)
{
    uint64_t bits = ((uint64_t)value << 1) ^ (uint64_t)(value >> 63);
    for (; bits > 0x7F; bits >>= 7)
        *at++ = (uint8_t)(bits | 0x80);
    *at++ = (uint8_t)bits;
    return at;
}

static int64_t shifted_by(int64_t delta, int64_t shift)
{
    return (int64_t)((uint64_t)delta + (uint64_t)shift);
}

/* Where a record's key begins: from there on other deltas leave everything as it is. */
static const uint8_t *after_deltas(const uint8_t *start, const uint8_t *end)
{
    int64_t ignored;
    Cursor cursor = {start, end};
    read_varint(&cursor, &ignored);
    cursor.at++; /* attributes */
    read_varlong(&cursor, &ignored);
    read_varint(&cursor, &ignored);
    return cursor.at;
}

static Py_ssize_t rewritten_bytes(const uint8_t *start, const uint8_t *end, int64_t timestamp_delta, int64_t offset_delta)
{
    int64_t body = 1 + varint_bytes(timestamp_delta) + varint_bytes(offset_delta) + (end - after_deltas(start, end));
    return (Py_ssize_t)(varint_bytes(body) + body);
}

static uint8_t *rewrite(uint8_t *out, const uint8_t *start, const uint8_t *end, int64_t timestamp_delta, int64_t offset_delta)
{
    const uint8_t *rest = after_deltas(start, end);
    out = write_varint(out, 1 + varint_bytes(timestamp_delta) + varint_bytes(offset_delta) + (end - rest));
    *out++ = 0; /* attributes: unused in v2 */
    out = write_varint(out, timestamp_delta);
    out = write_varint(out, offset_delta);
    memcpy(out, rest, (size_t)(end - rest));
    return out + (end - rest);
}

typedef struct {
    int64_t timestamp, offset;
} Shift;

static int is_shift(const Shift *shift)
{
    return shift->timestamp != 0 || shift->offset != 0;
}

/* Marks in `kept` what stays; a NULL map keeps everything. The records were checked. */
static void mark(OffsetMap *map, Cursor cursor, int64_t count, int64_t base_offset, int drop_tombstones, const Shift *shift,
                 uint8_t *kept, Selection *selection)
{
    RecordView view;
    for (int64_t i = 0; i < count; i++) {
        const uint8_t *start = cursor.at;
        read_record(&cursor, &view);
        if (map != NULL) {
            if (view.key.length < 0 || (view.value.length < 0 && drop_tombstones))
                continue;
            if (!is_newest(map, &view.key, base_offset + view.offset_delta))
                continue;
        }
        int64_t timestamp_delta = shifted_by(view.timestamp_delta, shift->timestamp);
        kept[i / 8] |= (uint8_t)(1 << (i % 8));
        if (selection->kept++ == 0 || timestamp_delta > selection->max_timestamp_delta)
            selection->max_timestamp_delta = timestamp_delta;
        selection->tombstones += view.value.length < 0;
        selection->size_bytes += !is_shift(shift) ? cursor.at - start
                                                  : rewritten_bytes(start, cursor.at, timestamp_delta,
                                                                    shifted_by(view.offset_delta, shift->offset));
    }
}

static void copy_marked(Cursor cursor, int64_t count, const Shift *shift, const uint8_t *kept, uint8_t *out)
{
    RecordView view;
    for (int64_t i = 0; i < count; i++) {
        const uint8_t *start = cursor.at;
        read_record(&cursor, &view);
        if (!(kept[i / 8] & (1 << (i % 8))))
            continue;
        if (is_shift(shift)) {
            out = rewrite(out, start, cursor.at, shifted_by(view.timestamp_delta, shift->timestamp),
                          shifted_by(view.offset_delta, shift->offset));
        } else {
            memcpy(out, start, (size_t)(cursor.at - start));
            out += cursor.at - start;
        }
    }
}

static PyObject *selected(OffsetMap *map, const Py_buffer *data, int64_t count, int64_t base_offset, int64_t last_delta,
                          int drop_tombstones, const Shift *shift)
{
    Cursor cursor = {data->buf, (const uint8_t *)data->buf + data->len};
    Selection selection = {0, 0, 0, 0};
    int code = check_all(cursor, count, last_delta);
    if (code != OK)
        return Py_BuildValue("(iLLLO)", code, 0LL, 0LL, 0LL, Py_None);
    if (count < 0)
        count = 0;
    uint8_t *kept = calloc(1, (size_t)(count / 8 + 1)); /* count <= bytes of the records: checked */
    if (kept == NULL)
        return PyErr_NoMemory();
    mark(map, cursor, count, base_offset, drop_tombstones, shift, kept, &selection);
    PyObject *records = Py_None;
    if (selection.kept == count && !is_shift(shift)) {
        Py_INCREF(records);
    } else {
        records = PyBytes_FromStringAndSize(NULL, selection.size_bytes);
        if (records != NULL)
            copy_marked(cursor, count, shift, kept, (uint8_t *)PyBytes_AsString(records));
    }
    free(kept);
    return records == NULL ? NULL
                           : Py_BuildValue("(iLLLN)", code, (long long)selection.kept, (long long)selection.tombstones,
                                           (long long)selection.max_timestamp_delta, records);
}

static PyObject *map_select(PyObject *self, PyObject *arguments)
{
    Py_buffer data;
    long long count, base_offset, last_delta, timestamp_shift;
    int drop_tombstones;
    if (!PyArg_ParseTuple(arguments, "y*LLLpL", &data, &count, &base_offset, &last_delta, &drop_tombstones, &timestamp_shift))
        return NULL;
    Shift shift = {timestamp_shift, 0};
    PyObject *result = selected((OffsetMap *)self, &data, count, base_offset, last_delta, drop_tombstones, &shift);
    PyBuffer_Release(&data);
    return result;
}

static PyObject *shift_records(PyObject *module, PyObject *arguments)
{
    Py_buffer data;
    long long count, timestamp_shift, offset_shift;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "y*LLL", &data, &count, &timestamp_shift, &offset_shift))
        return NULL;
    Shift shift = {timestamp_shift, offset_shift};
    PyObject *result = selected(NULL, &data, count, 0, INT32_MAX, 0, &shift);
    PyBuffer_Release(&data);
    return result;
}

/* Keys of records that are columns, in Arrow's layout. */
typedef struct {
    Py_buffer validity, ends, data, offsets;
    int64_t first, stop; /* rows */
} KeyColumn;

static void release_column(KeyColumn *column)
{
    PyBuffer_Release(&column->validity);
    PyBuffer_Release(&column->ends);
    PyBuffer_Release(&column->data);
    PyBuffer_Release(&column->offsets);
}

static int64_t end_of_key(const KeyColumn *column, int64_t number)
{
    int32_t end;
    memcpy(&end, (const uint8_t *)column->ends.buf + 4 * number, sizeof end);
    return end;
}

/* Nothing that the buffers claim is believed before it was compared with their lengths. */
static int is_sound(const KeyColumn *column)
{
    int64_t stop = column->stop;
    if (column->first < 0 || stop < column->first || column->ends.len / 4 <= stop || column->offsets.len / 8 < stop)
        return 0;
    if (column->validity.buf != NULL && column->validity.len < (stop + 7) / 8)
        return 0;
    int64_t end = end_of_key(column, column->first);
    if (end < 0)
        return 0;
    for (int64_t row = column->first; row < stop; row++) {
        int64_t start = end;
        end = end_of_key(column, row + 1);
        if (end < start)
            return 0;
    }
    return end <= column->data.len;
}

static int take_column(PyObject *arguments, KeyColumn *column)
{
    long long first, stop;
    memset(column, 0, sizeof *column);
    if (!PyArg_ParseTuple(arguments, "z*y*y*y*LL", &column->validity, &column->ends, &column->data, &column->offsets, &first,
                          &stop))
        return 0;
    column->first = first;
    column->stop = stop;
    if (is_sound(column))
        return 1;
    release_column(column);
    PyErr_SetString(PyExc_ValueError, "the buffers of a column of keys contradict each other");
    return 0;
}

static Slice key_of(const KeyColumn *column, int64_t row)
{
    const uint8_t *validity = column->validity.buf;
    int64_t start = end_of_key(column, row);
    Slice key = {(const uint8_t *)column->data.buf + start, end_of_key(column, row + 1) - start};
    if (validity != NULL && !(validity[row / 8] & (1 << (row % 8))))
        key.length = -1;
    return key;
}

static int64_t offset_of(const KeyColumn *column, int64_t row)
{
    int64_t offset;
    memcpy(&offset, (const uint8_t *)column->offsets.buf + 8 * row, sizeof offset);
    return offset;
}

static PyObject *map_put_keys(PyObject *self, PyObject *arguments)
{
    OffsetMap *map = (OffsetMap *)self;
    KeyColumn column;
    if (!take_column(arguments, &column))
        return NULL;
    int64_t row = column.first;
    for (; row < column.stop; row++) {
        Slice key = key_of(&column, row);
        if (key.length >= 0 && !put_key(map, &key, offset_of(&column, row)))
            break;
    }
    release_column(&column);
    return PyLong_FromLongLong(row);
}

static PyObject *map_newest(PyObject *self, PyObject *arguments)
{
    OffsetMap *map = (OffsetMap *)self;
    KeyColumn column;
    if (!take_column(arguments, &column))
        return NULL;
    Py_ssize_t bytes = (Py_ssize_t)((column.stop - column.first + 7) / 8);
    PyObject *result = PyBytes_FromStringAndSize(NULL, bytes);
    if (result != NULL) {
        uint8_t *bits = (uint8_t *)PyBytes_AsString(result);
        memset(bits, 0, (size_t)bytes);
        for (int64_t row = column.first; row < column.stop; row++) {
            Slice key = key_of(&column, row);
            int64_t bit = row - column.first;
            if (key.length >= 0 && is_newest(map, &key, offset_of(&column, row)))
                bits[bit / 8] |= (uint8_t)(1 << (bit % 8));
        }
    }
    release_column(&column);
    return result;
}

static PyObject *map_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords)
{
    long long memory_bytes;
    double load_factor;
    const char *secret;
    Py_ssize_t secret_bytes;
    (void)keywords;
    if (!PyArg_ParseTuple(arguments, "Ldy#", &memory_bytes, &load_factor, &secret, &secret_bytes))
        return NULL;
    uint64_t slots = memory_bytes < 0 ? 0 : (uint64_t)memory_bytes / sizeof(Entry);
    if (slots < 2 || !(load_factor > 0 && load_factor < 1) || secret_bytes != 16) {
        PyErr_SetString(PyExc_ValueError, "an offset map needs room for two keys, a load factor below 1 and 16 secret bytes");
        return NULL;
    }
    OffsetMap *map = (OffsetMap *)((allocfunc)PyType_GetSlot(type, Py_tp_alloc))(type, 0);
    if (map == NULL)
        return NULL;
    map->slots = slots;
    map->limit = (uint64_t)((double)slots * load_factor);
    if (map->limit == 0)
        map->limit = 1;
    map->secret[0] = little_endian((const uint8_t *)secret, 8);
    map->secret[1] = little_endian((const uint8_t *)secret + 8, 8);
    map->entries = calloc(slots, sizeof(Entry));
    if (map->entries == NULL) {
        Py_DECREF(map);
        return PyErr_NoMemory();
    }
    return (PyObject *)map;
}

static void map_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    free(((OffsetMap *)self)->entries);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

static Py_ssize_t map_length(PyObject *self)
{
    return (Py_ssize_t)((OffsetMap *)self)->used;
}

static PyMethodDef map_methods[] = {
    {"put", map_put, METH_VARARGS, "put(records, count, base_offset, last_delta): see offset_map_pure"},
    {"select", map_select, METH_VARARGS,
     "select(records, count, base_offset, last_delta, drop_tombstones, shift): see offset_map_pure"},
    {"put_keys", map_put_keys, METH_VARARGS,
     "put_keys(validity, key_ends, key_data, offsets, first, stop): see offset_map_pure"},
    {"newest", map_newest, METH_VARARGS,
     "newest(validity, key_ends, key_data, offsets, first, stop): see offset_map_pure"},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot map_slots[] = {
    {Py_tp_new, map_new}, {Py_tp_dealloc, map_dealloc}, {Py_tp_methods, map_methods}, {Py_sq_length, map_length}, {0, NULL},
};

static PyType_Spec map_spec = {
    "bytemq.protocol.records._offset_map.OffsetMap", sizeof(OffsetMap), 0, Py_TPFLAGS_DEFAULT, map_slots,
};

static int add_types(PyObject *module)
{
    PyObject *type = PyType_FromSpec(&map_spec);
    if (type == NULL)
        return -1;
    int result = PyModule_AddObjectRef(module, "OffsetMap", type);
    Py_DECREF(type);
    return result;
}

static PyMethodDef methods[] = {
    {"shift", shift_records, METH_VARARGS, "shift(records, count, timestamps, offsets): see offset_map_pure"},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {{Py_mod_exec, add_types}, {0, NULL}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_offset_map", "The newest offset of each key.", 0, methods, slots, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__offset_map(void)
{
    return PyModuleDef_Init(&definition);
}
