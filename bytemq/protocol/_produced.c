/*
 * What most Produce requests are, taken apart without detours: the native part of framing.py, produce.py and records/batch.py.
 *
 * Each function knows the plain case only: one batch to one partition, names in ASCII, no tagged fields, nothing wrong.
 * For anything else, the damaged included, it returns None, and the Python code beside it decides: whatever is refused is
 * refused there, and says why. What it does return is what the Python code would have; tests/unit/protocol/test_produced.py
 * compares the two. Uses the stable ABI of Python 3.11 only. Allocates nothing by a size that the input claims: lengths are
 * compared with the bytes that are left first.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>

enum {
    PRODUCE = 0,
    LOWEST_VERSION = 3,
    FLEXIBLE_FROM = 9,
    TOPIC_IDS_FROM = 13,
    HIGHEST_VERSION = 13,
    TOPIC_ID_BYTES = 16,
    REQUEST_HEADER_BYTES = 10,
    BATCH_HEADER_BYTES = 61,
    BATCH_PREFIX_BYTES = 12,
    MAGIC = 2,
    CODEC_MASK = 0x07,
    ZSTD = 4,
    CONTROL_FLAG = 0x20,
};

/* What is left to be read. Once something was not as expected, `plain` is 0 and nothing more is read. */
typedef struct {
    const uint8_t *start;
    const uint8_t *at;
    const uint8_t *end;
    int plain;
} Bytes;

static const uint8_t *take(Bytes *from, int64_t count)
{
    if (!from->plain || count < 0 || count > from->end - from->at) {
        from->plain = 0;
        return NULL;
    }
    const uint8_t *taken = from->at;
    from->at += count;
    return taken;
}

static uint64_t big_endian(const uint8_t *at, int count)
{
    uint64_t value = 0;
    for (int i = 0; i < count; i++)
        value = value << 8 | at[i];
    return value;
}

static int16_t int16_at(const uint8_t *at) { return (int16_t)big_endian(at, 2); }
static int32_t int32_at(const uint8_t *at) { return (int32_t)big_endian(at, 4); }
static int64_t int64_at(const uint8_t *at) { return (int64_t)big_endian(at, 8); }

static int take_int16(Bytes *from)
{
    const uint8_t *at = take(from, 2);
    return at == NULL ? 0 : int16_at(at);
}

static int32_t take_int32(Bytes *from)
{
    const uint8_t *at = take(from, 4);
    return at == NULL ? 0 : int32_at(at);
}

static void expect_byte(Bytes *from, uint8_t value)
{
    const uint8_t *at = take(from, 1);
    if (at != NULL && *at != value)
        from->plain = 0;
}

/* Of a compact field: its length, which is written as one more. Null counts as not plain, and so do five bytes. */
static int64_t take_compact_length(Bytes *from)
{
    uint32_t value = 0;
    for (int shift = 0; shift <= 21; shift += 7) {
        const uint8_t *at = take(from, 1);
        if (at == NULL)
            return 0;
        value |= (uint32_t)(*at & 0x7F) << shift;
        if (!(*at & 0x80))
            return (int64_t)value - 1;
    }
    from->plain = 0;
    return 0;
}

static PyObject *take_ascii(Bytes *from, int64_t count)
{
    const uint8_t *text = take(from, count);
    for (int64_t i = 0; text != NULL && i < count; i++)
        if (text[i] >= 0x80)
            text = NULL;
    if (text == NULL) {
        from->plain = 0;
        return NULL;
    }
    return PyUnicode_DecodeASCII((const char *)text, (Py_ssize_t)count, NULL);
}

/* None, unless an exception is set. */
static PyObject *not_plain(void)
{
    if (PyErr_Occurred())
        return NULL;
    Py_RETURN_NONE;
}

/* Of the memoryview `view`, which `bytes` are. */
static PyObject *slice_of(PyObject *view, const Bytes *bytes, const uint8_t *from, const uint8_t *to)
{
    return PySequence_GetSlice(view, from - bytes->start, to - bytes->start);
}

static int open_bytes(PyObject *object, Py_buffer *buffer, Bytes *bytes)
{
    if (PyObject_GetBuffer(object, buffer, PyBUF_SIMPLE) < 0)
        return -1;
    bytes->start = bytes->at = buffer->buf;
    bytes->end = bytes->start + buffer->len;
    bytes->plain = 1;
    return 0;
}

static PyObject *produced_header(PyObject *module, PyObject *frame)
{
    Py_buffer buffer;
    Bytes bytes;
    PyObject *client_id = NULL, *body = NULL;
    (void)module;
    if (open_bytes(frame, &buffer, &bytes) < 0)
        return NULL;
    int api_key = take_int16(&bytes), version = take_int16(&bytes);
    int32_t correlation_id = take_int32(&bytes);
    int client_id_bytes = take_int16(&bytes);
    if (api_key != PRODUCE || version < LOWEST_VERSION || version > HIGHEST_VERSION)
        bytes.plain = 0;
    if (bytes.plain)
        client_id = client_id_bytes < 0 ? Py_NewRef(Py_None) : take_ascii(&bytes, client_id_bytes);
    if (version >= FLEXIBLE_FROM)
        expect_byte(&bytes, 0);
    if (bytes.plain && client_id != NULL)
        body = slice_of(frame, &bytes, bytes.at, bytes.end);
    PyBuffer_Release(&buffer);
    if (body == NULL) {
        Py_XDECREF(client_id);
        return not_plain();
    }
    return Py_BuildValue("(iiiNN)", api_key, version, (int)correlation_id, client_id, body);
}

static PyObject *produced_decode(PyObject *module, PyObject *const *arguments, Py_ssize_t count)
{
    Py_buffer buffer;
    Bytes bytes;
    PyObject *name = NULL, *topic_id = NULL, *records = NULL;
    (void)module;
    if (count != 2) {
        PyErr_SetString(PyExc_TypeError, "decode(version, body)");
        return NULL;
    }
    long version = PyLong_AsLong(arguments[0]);
    if (PyErr_Occurred() || open_bytes(arguments[1], &buffer, &bytes) < 0)
        return NULL;
    int flexible = version >= FLEXIBLE_FROM, by_id = version >= TOPIC_IDS_FROM;
    if (version < LOWEST_VERSION || version > HIGHEST_VERSION)
        bytes.plain = 0;
    if (flexible)
        expect_byte(&bytes, 0); /* no transactional id */
    else if (take_int16(&bytes) >= 0)
        bytes.plain = 0;
    int acks = take_int16(&bytes);
    int32_t timeout_ms = take_int32(&bytes);
    if ((flexible ? take_compact_length(&bytes) : take_int32(&bytes)) != 1)
        bytes.plain = 0;
    if (by_id) {
        const uint8_t *id = take(&bytes, TOPIC_ID_BYTES);
        if (id != NULL) {
            topic_id = PyBytes_FromStringAndSize((const char *)id, TOPIC_ID_BYTES);
            name = Py_NewRef(Py_None);
        }
    } else {
        name = take_ascii(&bytes, flexible ? take_compact_length(&bytes) : take_int16(&bytes));
        topic_id = Py_NewRef(Py_None);
    }
    if ((flexible ? take_compact_length(&bytes) : take_int32(&bytes)) != 1)
        bytes.plain = 0;
    int32_t index = take_int32(&bytes);
    int64_t size = flexible ? take_compact_length(&bytes) : take_int32(&bytes);
    const uint8_t *batch = take(&bytes, size);
    for (int i = 0; flexible && i < 3; i++) /* no tagged fields of partition, topic, request */
        expect_byte(&bytes, 0);
    if (bytes.plain && name != NULL && topic_id != NULL)
        records = slice_of(arguments[1], &bytes, batch, batch + size);
    PyBuffer_Release(&buffer);
    if (records == NULL) {
        Py_XDECREF(name);
        Py_XDECREF(topic_id);
        return not_plain();
    }
    return Py_BuildValue("(Oii[(NN[(iN)])])", Py_None, acks, (int)timeout_ms, name, topic_id, (int)index, records);
}

static PyObject *produced_batch(PyObject *module, PyObject *const *arguments, Py_ssize_t count)
{
    Py_buffer buffer;
    Bytes bytes;
    (void)module;
    if (count != 3) {
        PyErr_SetString(PyExc_TypeError, "batch(payload, max_message_bytes, zstd_allowed)");
        return NULL;
    }
    long long most = PyLong_AsLongLong(arguments[1]);
    int zstd_allowed = PyObject_IsTrue(arguments[2]);
    if (PyErr_Occurred() || open_bytes(arguments[0], &buffer, &bytes) < 0)
        return NULL;
    Py_ssize_t size = buffer.len;
    uint8_t header[BATCH_HEADER_BYTES];
    int is_whole = size >= BATCH_HEADER_BYTES && size <= most;
    if (is_whole)
        memcpy(header, buffer.buf, BATCH_HEADER_BYTES);
    PyBuffer_Release(&buffer);
    if (!is_whole)
        Py_RETURN_NONE;
    int64_t base_offset = int64_at(header), base_timestamp = int64_at(header + 27), max_timestamp = int64_at(header + 35);
    int64_t producer_id = int64_at(header + 43);
    int32_t length = int32_at(header + 8), leader_epoch = int32_at(header + 12), delta = int32_at(header + 23);
    int32_t sequence = int32_at(header + 53), records = int32_at(header + 57);
    int magic = (int8_t)header[16], attributes = int16_at(header + 21), producer_epoch = int16_at(header + 51);
    int codec = attributes & CODEC_MASK;
    if ((int64_t)length + BATCH_PREFIX_BYTES != size || magic != MAGIC || base_offset != 0 || codec > ZSTD ||
        (codec == ZSTD && !zstd_allowed) || records <= 0 || (int64_t)delta + 1 != records ||
        (producer_id >= 0 && sequence < 0) || attributes & CONTROL_FLAG)
        Py_RETURN_NONE;
    return Py_BuildValue("(LiiiIiiLLLiii)", (long long)base_offset, (int)length, (int)leader_epoch, magic,
                         (unsigned int)big_endian(header + 17, 4), attributes, (int)delta, (long long)base_timestamp,
                         (long long)max_timestamp, (long long)producer_id, producer_epoch, (int)sequence, (int)records);
}

static PyMethodDef methods[] = {
    {"header", produced_header, METH_O, "header(frame): of a Produce request, as framing.parse_request_header."},
    {"decode", (PyCFunction)(void (*)(void))produced_decode, METH_FASTCALL,
     "decode(version, body): the fields of produce.ProduceRequest."},
    {"batch", (PyCFunction)(void (*)(void))produced_batch, METH_FASTCALL,
     "batch(payload, max_message_bytes, zstd_allowed): the header's fields, of a batch that needs its CRC checked only."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_produced", "Plain Produce requests, taken apart.", 0, methods, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__produced(void)
{
    return PyModuleDef_Init(&definition);
}
