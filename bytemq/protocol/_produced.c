/*
 * What most Produce requests are, taken apart without detours: the native part of framing.py, produce.py and records/batch.py.
 *
 * Each function knows the plain case only: one batch to one partition, names in ASCII, no tagged fields, nothing wrong.
 * For anything else, the damaged included, it returns None, and the Python code beside it decides: whatever is refused is
 * refused there, and says why. What it does return is what the Python code would have; test_plain_produce.py and
 * fuzz_produced.py compare the two. Uses the stable ABI of Python 3.11 only. Allocates nothing by a size that the input
 * claims: lengths are compared with the bytes that are left first.
 *
 * header, decode and batch are three steps of a request on its general way. run takes all steps at once for all requests
 * that lie in a row, and answers writes what they get.
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
    ZSTD_FROM = 7,
    CONTROL_FLAG = 0x20,
    APPEND_TIME_TRANSACTIONAL_OR_CONTROL = 0x38,
    NO_TIMESTAMP = -1,
    SIZE_BYTES = 4,
    LOG_START_FROM = 5,
    RECORD_ERRORS_FROM = 8,
    MOST_ANSWER_BYTES = 80, /* without the topic's name */
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

static const uint8_t *take_ascii(Bytes *from, int64_t count)
{
    const uint8_t *text = take(from, count);
    for (int64_t i = 0; text != NULL && i < count; i++)
        if (text[i] >= 0x80)
            from->plain = 0;
    return text;
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

/* A request's header. */
typedef struct {
    int api_key;
    int version;
    int32_t correlation_id;
    const uint8_t *client_id; /* NULL: null */
    int64_t client_id_bytes;
} Header;

static void take_header(Bytes *from, Header *header)
{
    header->api_key = take_int16(from);
    header->version = take_int16(from);
    header->correlation_id = take_int32(from);
    header->client_id_bytes = take_int16(from);
    header->client_id = NULL;
    if (header->api_key != PRODUCE || header->version < LOWEST_VERSION || header->version > HIGHEST_VERSION)
        from->plain = 0;
    if (header->client_id_bytes >= 0)
        header->client_id = take_ascii(from, header->client_id_bytes);
    if (header->version >= FLEXIBLE_FROM)
        expect_byte(from, 0);
}

/* A request's body: one batch to one partition. The topic has a name or, from v13 on, an id. */
typedef struct {
    int acks;
    int32_t timeout_ms;
    const uint8_t *topic;
    int64_t topic_bytes;
    int32_t index;
    const uint8_t *records;
    int64_t records_bytes;
} Body;

static void take_body(Bytes *from, int version, Body *body)
{
    int flexible = version >= FLEXIBLE_FROM;
    if (flexible)
        expect_byte(from, 0); /* no transactional id */
    else if (take_int16(from) >= 0)
        from->plain = 0;
    body->acks = take_int16(from);
    body->timeout_ms = take_int32(from);
    if ((flexible ? take_compact_length(from) : take_int32(from)) != 1)
        from->plain = 0;
    if (version >= TOPIC_IDS_FROM) {
        body->topic_bytes = TOPIC_ID_BYTES;
        body->topic = take(from, TOPIC_ID_BYTES);
    } else {
        body->topic_bytes = flexible ? take_compact_length(from) : take_int16(from);
        body->topic = take_ascii(from, body->topic_bytes);
    }
    if ((flexible ? take_compact_length(from) : take_int32(from)) != 1)
        from->plain = 0;
    body->index = take_int32(from);
    body->records_bytes = flexible ? take_compact_length(from) : take_int32(from);
    body->records = take(from, body->records_bytes);
    for (int i = 0; flexible && i < 3; i++) /* no tagged fields of partition, topic, request */
        expect_byte(from, 0);
}

/* The fields of a batch's header, and whether they say that of the batch its CRC only is still to be checked. */
typedef struct {
    int64_t base_offset, base_timestamp, max_timestamp, producer_id;
    int32_t length, leader_epoch, delta, sequence, records;
    uint32_t crc;
    int magic, attributes, producer_epoch;
} Batch;

static int is_plain_batch(const uint8_t *header, int64_t size, int zstd_allowed, Batch *batch)
{
    batch->base_offset = int64_at(header);
    batch->length = int32_at(header + 8);
    batch->leader_epoch = int32_at(header + 12);
    batch->magic = (int8_t)header[16];
    batch->crc = (uint32_t)big_endian(header + 17, 4);
    batch->attributes = int16_at(header + 21);
    batch->delta = int32_at(header + 23);
    batch->base_timestamp = int64_at(header + 27);
    batch->max_timestamp = int64_at(header + 35);
    batch->producer_id = int64_at(header + 43);
    batch->producer_epoch = int16_at(header + 51);
    batch->sequence = int32_at(header + 53);
    batch->records = int32_at(header + 57);
    int codec = batch->attributes & CODEC_MASK;
    return (int64_t)batch->length + BATCH_PREFIX_BYTES == size && batch->magic == MAGIC && batch->base_offset == 0 &&
           codec <= ZSTD && (codec != ZSTD || zstd_allowed) && batch->records > 0 &&
           (int64_t)batch->delta + 1 == batch->records && !(batch->producer_id >= 0 && batch->sequence < 0) &&
           !(batch->attributes & CONTROL_FLAG);
}

static PyObject *batch_fields(const Batch *batch)
{
    return Py_BuildValue("(LiiiIiiLLLiii)", (long long)batch->base_offset, (int)batch->length, (int)batch->leader_epoch,
                         batch->magic, (unsigned int)batch->crc, batch->attributes, (int)batch->delta,
                         (long long)batch->base_timestamp, (long long)batch->max_timestamp,
                         (long long)batch->producer_id, batch->producer_epoch, (int)batch->sequence,
                         (int)batch->records);
}

static PyObject *text_of(const uint8_t *ascii, int64_t count)
{
    return PyUnicode_DecodeASCII((const char *)ascii, (Py_ssize_t)count, NULL);
}

/* A topic's name and id, one of them None. 0, or -1 with an exception set. */
static int topic_of(const Body *body, int version, PyObject **name, PyObject **topic_id)
{
    int by_id = version >= TOPIC_IDS_FROM;
    *name = by_id ? Py_NewRef(Py_None) : text_of(body->topic, body->topic_bytes);
    *topic_id = by_id ? PyBytes_FromStringAndSize((const char *)body->topic, TOPIC_ID_BYTES) : Py_NewRef(Py_None);
    if (*name != NULL && *topic_id != NULL)
        return 0;
    Py_XDECREF(*name);
    Py_XDECREF(*topic_id);
    return -1;
}

static PyObject *produced_header(PyObject *module, PyObject *frame)
{
    Py_buffer buffer;
    Bytes bytes;
    Header header;
    PyObject *client_id = NULL, *body = NULL;
    (void)module;
    if (open_bytes(frame, &buffer, &bytes) < 0)
        return NULL;
    take_header(&bytes, &header);
    if (bytes.plain) {
        client_id = header.client_id == NULL ? Py_NewRef(Py_None) : text_of(header.client_id, header.client_id_bytes);
        if (client_id != NULL)
            body = slice_of(frame, &bytes, bytes.at, bytes.end);
    }
    PyBuffer_Release(&buffer);
    if (body == NULL) {
        Py_XDECREF(client_id);
        return not_plain();
    }
    return Py_BuildValue("(iiiNN)", header.api_key, header.version, (int)header.correlation_id, client_id, body);
}

static PyObject *produced_decode(PyObject *module, PyObject *const *arguments, Py_ssize_t count)
{
    Py_buffer buffer;
    Bytes bytes;
    Body body;
    PyObject *name, *topic_id, *records = NULL;
    (void)module;
    if (count != 2) {
        PyErr_SetString(PyExc_TypeError, "decode(version, body)");
        return NULL;
    }
    long version = PyLong_AsLong(arguments[0]);
    if (PyErr_Occurred() || open_bytes(arguments[1], &buffer, &bytes) < 0)
        return NULL;
    if (version < LOWEST_VERSION || version > HIGHEST_VERSION)
        bytes.plain = 0;
    take_body(&bytes, (int)version, &body);
    if (bytes.plain && topic_of(&body, (int)version, &name, &topic_id) == 0) {
        records = slice_of(arguments[1], &bytes, body.records, body.records + body.records_bytes);
        if (records == NULL) {
            Py_DECREF(name);
            Py_DECREF(topic_id);
        }
    }
    PyBuffer_Release(&buffer);
    if (records == NULL)
        return not_plain();
    return Py_BuildValue("(Oii[(NN[(iN)])])", Py_None, body.acks, (int)body.timeout_ms, name, topic_id, (int)body.index,
                         records);
}

static PyObject *produced_batch(PyObject *module, PyObject *const *arguments, Py_ssize_t count)
{
    Py_buffer buffer;
    Bytes bytes;
    Batch batch;
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
    int is_plain = size >= BATCH_HEADER_BYTES && size <= most && is_plain_batch(buffer.buf, size, zstd_allowed, &batch);
    PyBuffer_Release(&buffer);
    if (!is_plain)
        Py_RETURN_NONE;
    return batch_fields(&batch);
}

/* A request that its partition may take as it is: nothing in it asks for a look at records, transactions or the time. */
typedef struct {
    Header header;
    Body body;
    Batch batch;
    const uint8_t *end;
} Request;

static int is_plain_request(const uint8_t *at, int64_t size, Request *request)
{
    Bytes bytes = {at, at, at + size, 1};
    take_header(&bytes, &request->header);
    take_body(&bytes, request->header.version, &request->body);
    request->end = at + size;
    return bytes.plain && request->body.acks >= -1 && request->body.acks <= 1 &&
           request->body.records_bytes >= BATCH_HEADER_BYTES &&
           is_plain_batch(request->body.records, request->body.records_bytes, request->header.version >= ZSTD_FROM,
                          &request->batch) &&
           !(request->batch.attributes & APPEND_TIME_TRANSACTIONAL_OR_CONTROL) &&
           request->batch.base_timestamp >= NO_TIMESTAMP;
}

/* Whether a whole one of at most `most_bytes` is at `at`, its size in front. */
static int is_plain_frame(const uint8_t *at, const uint8_t *end, int64_t most_bytes, Request *request)
{
    if (end - at < SIZE_BYTES)
        return 0;
    int64_t size = int32_at(at);
    if (size < 0 || size > most_bytes || size > end - at - SIZE_BYTES)
        return 0;
    return is_plain_request(at + SIZE_BYTES, size, request);
}

/* (correlation id, name, topic id, partition index, records, fields of the batch's header, end); `view` is on `start`. */
static PyObject *request_fields(const Request *request, PyObject *view, const uint8_t *start)
{
    PyObject *name, *topic_id;
    Py_ssize_t records = request->body.records - start;
    if (topic_of(&request->body, request->header.version, &name, &topic_id) < 0)
        return NULL;
    PyObject *batch = batch_fields(&request->batch);
    PyObject *slice = PySequence_GetSlice(view, records, records + (Py_ssize_t)request->body.records_bytes);
    if (batch == NULL || slice == NULL) {
        Py_DECREF(name);
        Py_DECREF(topic_id);
        Py_XDECREF(batch);
        Py_XDECREF(slice);
        return NULL;
    }
    return Py_BuildValue("(iNNiNNn)", (int)request->header.correlation_id, name, topic_id, (int)request->body.index, slice,
                         batch, (Py_ssize_t)(request->end - start));
}

/* How many requests from `first` on are like it, and where the last one of them ends. */
static long count_alike(const Request *first, const uint8_t *end, int64_t most_bytes, long most, const uint8_t **stop)
{
    Request next;
    long count = 1;
    *stop = first->end;
    while (count < most && is_plain_frame(*stop, end, most_bytes, &next) &&
           next.header.version == first->header.version && next.body.acks == first->body.acks &&
           next.body.timeout_ms == first->body.timeout_ms) {
        *stop = next.end;
        count++;
    }
    return count;
}

/* So many requests as lie in a row in `memory`, which was looked through before, and which nobody else knows. */
static PyObject *requests_of(PyObject *memory, long count, int64_t most_bytes)
{
    PyObject *view = PyMemoryView_FromObject(memory), *requests = PyList_New(count);
    const uint8_t *start = (const uint8_t *)PyByteArray_AsString(memory), *end = start + PyByteArray_Size(memory);
    Request request = {.end = start};
    for (long number = 0; view != NULL && requests != NULL && number < count; number++) {
        PyObject *fields = NULL;
        if (is_plain_frame(request.end, end, most_bytes, &request))
            fields = request_fields(&request, view, start);
        if (fields == NULL) {
            Py_DECREF(requests);
            requests = NULL;
        } else {
            PyList_SetItem(requests, number, fields);
        }
    }
    if (view == NULL)
        Py_CLEAR(requests);
    Py_XDECREF(view);
    return requests;
}

static PyObject *run_of(const Request *first, PyObject *memory, PyObject *requests)
{
    if (memory == NULL || requests == NULL) {
        Py_XDECREF(memory);
        Py_XDECREF(requests);
        return NULL;
    }
    return Py_BuildValue("(iiiNN)", first->header.version, first->body.acks, (int)first->body.timeout_ms, memory, requests);
}

static PyObject *produced_run(PyObject *module, PyObject *const *arguments, Py_ssize_t count)
{
    Py_buffer buffer;
    Bytes bytes;
    Request first;
    PyObject *memory = NULL, *requests = NULL;
    (void)module;
    if (count != 5) {
        PyErr_SetString(PyExc_TypeError, "run(data, position, end, most_bytes, most)");
        return NULL;
    }
    Py_ssize_t position = PyLong_AsSsize_t(arguments[1]), end = PyLong_AsSsize_t(arguments[2]);
    long long most_bytes = PyLong_AsLongLong(arguments[3]);
    long most = PyLong_AsLong(arguments[4]);
    if (PyErr_Occurred() || open_bytes(arguments[0], &buffer, &bytes) < 0)
        return NULL;
    if (0 <= position && position <= end && end <= buffer.len && most > 0 &&
        is_plain_frame(bytes.start + position, bytes.start + end, most_bytes, &first)) {
        const uint8_t *from = bytes.start + position, *stop;
        long alike = count_alike(&first, bytes.start + end, most_bytes, most, &stop);
        memory = PyByteArray_FromStringAndSize((const char *)from, stop - from);
        if (memory != NULL)
            requests = requests_of(memory, alike, most_bytes);
    }
    PyBuffer_Release(&buffer);
    PyObject *run = run_of(&first, memory, requests);
    return run == NULL ? not_plain() : run;
}

static PyObject *produced_whole(PyObject *module, PyObject *const *arguments, Py_ssize_t count)
{
    Py_buffer buffer;
    Bytes bytes;
    Request request;
    PyObject *fields = NULL, *requests = NULL;
    (void)module;
    if (count != 2) {
        PyErr_SetString(PyExc_TypeError, "whole(memory, size_bytes)");
        return NULL;
    }
    Py_ssize_t size = PyLong_AsSsize_t(arguments[1]);
    if (PyErr_Occurred() || open_bytes(arguments[0], &buffer, &bytes) < 0)
        return NULL;
    if (0 <= size && size <= buffer.len && is_plain_request(bytes.start, size, &request)) {
        PyObject *view = PyMemoryView_FromObject(arguments[0]);
        fields = view == NULL ? NULL : request_fields(&request, view, bytes.start);
        Py_XDECREF(view);
    }
    PyBuffer_Release(&buffer);
    if (fields != NULL)
        requests = Py_BuildValue("[N]", fields);
    PyObject *run = run_of(&request, Py_NewRef(arguments[0]), requests);
    return run == NULL ? not_plain() : run;
}

static uint8_t *put(uint8_t *at, uint64_t value, int count)
{
    for (int i = count - 1; i >= 0; i--, value >>= 8)
        at[i] = (uint8_t)value;
    return at + count;
}

static uint8_t *put_topic(uint8_t *at, int version, const char *topic, Py_ssize_t topic_bytes)
{
    if (version < FLEXIBLE_FROM) {
        at = put(at, (uint64_t)topic_bytes, 2);
    } else if (version < TOPIC_IDS_FROM) {
        uint32_t length = (uint32_t)topic_bytes + 1; /* a topic's name has 249 bytes at most */
        for (; length >= 0x80; length >>= 7)
            *at++ = (uint8_t)(length | 0x80);
        *at++ = (uint8_t)length;
    }
    memcpy(at, topic, (size_t)topic_bytes);
    return at + topic_bytes;
}

/* One answer, with its size in front: no error, no throttling. */
static uint8_t *put_answer(uint8_t *at, int version, long correlation_id, const char *topic, Py_ssize_t topic_bytes,
                           long index, const long long result[3])
{
    uint8_t *start = at;
    int flexible = version >= FLEXIBLE_FROM;
    at = put(at + SIZE_BYTES, (uint64_t)correlation_id, 4);
    at = flexible ? put(at, 0x0002, 2) : put(at, 1, 4); /* no tagged fields; one topic */
    at = put_topic(at, version, topic, topic_bytes);
    at = flexible ? put(at, 2, 1) : put(at, 1, 4); /* one partition */
    at = put(put(at, (uint64_t)index, 4), 0, 2);
    at = put(put(at, (uint64_t)result[0], 8), (uint64_t)result[1], 8);
    if (version >= LOG_START_FROM)
        at = put(at, (uint64_t)result[2], 8);
    if (flexible)
        at = put(at, 0x01000000, 4); /* no record errors, no message, no tagged fields of partition and topic */
    else if (version >= RECORD_ERRORS_FROM)
        at = put(put(at, 0, 4), 0xFFFF, 2);
    at = put(at, 0, flexible ? 5 : 4); /* no throttling, no tagged fields */
    put(start, (uint64_t)(at - start - SIZE_BYTES), SIZE_BYTES);
    return at;
}

/* The answer of one request of a run. 0, or -1 with an exception set; *at is NULL for what is not plain. */
static int put_answer_of(uint8_t **at, const uint8_t *end, int version, PyObject *request, PyObject *result)
{
    int by_id = version >= TOPIC_IDS_FROM;
    char *topic = NULL;
    Py_ssize_t topic_bytes = 0;
    long correlation_id = PyLong_AsLong(PyTuple_GetItem(request, 0)), index = PyLong_AsLong(PyTuple_GetItem(request, 3));
    long error = PyLong_AsLong(PyTuple_GetItem(result, 0));
    long long fields[3];
    for (int i = 0; i < 3; i++)
        fields[i] = PyLong_AsLongLong(PyTuple_GetItem(result, i + 1));
    if (by_id)
        PyBytes_AsStringAndSize(PyTuple_GetItem(request, 2), &topic, &topic_bytes);
    else
        topic = (char *)PyUnicode_AsUTF8AndSize(PyTuple_GetItem(request, 1), &topic_bytes);
    if (PyErr_Occurred())
        return -1;
    if (error != 0 || topic_bytes > end - *at - MOST_ANSWER_BYTES)
        *at = NULL;
    else
        *at = put_answer(*at, version, correlation_id, topic, topic_bytes, index, fields);
    return 0;
}

static PyObject *produced_answers(PyObject *module, PyObject *const *arguments, Py_ssize_t count)
{
    uint8_t chunk[4096], *at;
    PyObject *written = NULL;
    (void)module;
    if (count != 3 || !PyList_Check(arguments[1]) || !PyList_Check(arguments[2]) ||
        PyList_Size(arguments[1]) != PyList_Size(arguments[2])) {
        PyErr_SetString(PyExc_TypeError, "answers(version, requests, results)");
        return NULL;
    }
    long version = PyLong_AsLong(arguments[0]);
    Py_ssize_t requests = PyList_Size(arguments[1]);
    if (PyErr_Occurred())
        return NULL;
    at = chunk;
    written = PyByteArray_FromStringAndSize(NULL, 0);
    for (Py_ssize_t number = 0; written != NULL && number < requests; number++) {
        PyObject *request = PyList_GetItem(arguments[1], number), *result = PyList_GetItem(arguments[2], number);
        if (put_answer_of(&at, chunk + sizeof chunk, (int)version, request, result) < 0 || at == NULL) {
            Py_DECREF(written);
            return not_plain();
        }
        if (number + 1 == requests || chunk + sizeof chunk - at < 512) {
            Py_ssize_t before = PyByteArray_Size(written), more = at - chunk;
            if (PyByteArray_Resize(written, before + more) < 0) {
                Py_DECREF(written);
                return NULL;
            }
            memcpy(PyByteArray_AsString(written) + before, chunk, (size_t)more);
            at = chunk;
        }
    }
    return written;
}

static PyMethodDef methods[] = {
    {"header", produced_header, METH_O, "header(frame): of a Produce request, as framing.parse_request_header."},
    {"decode", (PyCFunction)(void (*)(void))produced_decode, METH_FASTCALL,
     "decode(version, body): the fields of produce.ProduceRequest."},
    {"batch", (PyCFunction)(void (*)(void))produced_batch, METH_FASTCALL,
     "batch(payload, max_message_bytes, zstd_allowed): the header's fields, of a batch that needs its CRC checked only."},
    {"run", (PyCFunction)(void (*)(void))produced_run, METH_FASTCALL,
     "run(data, position, end, most_bytes, most): the requests in a row at `position`, each with its size in front."},
    {"whole", (PyCFunction)(void (*)(void))produced_whole, METH_FASTCALL,
     "whole(memory, size_bytes): a run of the one request that is in there, without its size."},
    {"answers", (PyCFunction)(void (*)(void))produced_answers, METH_FASTCALL,
     "answers(version, requests, results): of requests of a run, without errors."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_produced", "Plain Produce requests, taken apart.", 0, methods, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__produced(void)
{
    return PyModuleDef_Init(&definition);
}
