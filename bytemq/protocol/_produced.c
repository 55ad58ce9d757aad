/*
 * What most Produce requests are, taken apart without detours: the native part of framing.py, produce.py and records/batch.py.
 *
 * Each function knows the plain case only: one batch to each partition, names in ASCII, no tagged fields, nothing wrong.
 * For anything else, the damaged included, it returns None, and the Python code beside it decides: whatever is refused is
 * refused there, and says why. What it does return is what the Python code would have; test_plain_produce.py and
 * fuzz_produced.py compare the two. Uses the stable ABI of Python 3.11 only. Allocates nothing by a size that the input
 * claims: lengths are compared with the bytes that are left first.
 *
 * header, decode and batch are three steps of a request on its general way. take does all steps at once for all requests
 * that lie in a row, and finds their partitions; what it gives, a Requests, also writes their answers. Fields are the
 * numbers of a batch, the base of batch.py's RecordBatch.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <structmember.h>

enum {
    PRODUCE = 0,
    LOWEST_VERSION = 3,
    FLEXIBLE_FROM = 9,
    TOPIC_IDS_FROM = 13,
    HIGHEST_VERSION = 13,
    TOPIC_ID_BYTES = 16,
    REQUEST_HEADER_BYTES = 10,
    BATCH_HEADER_BYTES = 61,
    BATCH_ENTRY_BYTES = BATCH_HEADER_BYTES + 4, /* in the index of a flush */
    BATCH_PREFIX_BYTES = 12,
    ATTRIBUTES_POSITION = 21, /* a batch's CRC covers what is behind it */
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
    MOST_REQUESTS = 64,
    MOST_PARTS = 128, /* of all requests of a row; each is compared with the others of its request */
    MOST_ANSWER_BYTES = 24, /* without topics */
    MOST_TOPIC_BYTES = 12,  /* without its name and its partitions */
    MOST_PART_BYTES = 40,
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

/* One batch to one partition. The topic has a name or, from v13 on, an id. */
typedef struct {
    const uint8_t *topic;
    const uint8_t *records;
    int64_t topic_bytes;
    int64_t records_bytes;
    int32_t index;
    int topic_parts; /* so many from here on are of this topic; 0: of the same as the one before */
} Part;

typedef struct {
    int acks;
    int32_t timeout_ms;
    int parts;
} Body;

static int64_t take_count(Bytes *from, int version)
{
    return version >= FLEXIBLE_FROM ? take_compact_length(from) : take_int32(from);
}

static void expect_no_tags(Bytes *from, int version)
{
    if (version >= FLEXIBLE_FROM)
        expect_byte(from, 0);
}

static int is_same_topic(const Part *one, const Part *other)
{
    return one->topic_bytes == other->topic_bytes && memcmp(one->topic, other->topic, (size_t)one->topic_bytes) == 0;
}

/* The partitions of the topic at parts[first], or the topic itself, were named before: the last one counts then. */
static int is_repeated(const Part *parts, int first, int count)
{
    for (int i = 0; i < first; i += parts[i].topic_parts)
        if (is_same_topic(&parts[i], &parts[first]))
            return 1;
    for (int i = first; i < count; i++)
        for (int k = first; k < i; k++)
            if (parts[k].index == parts[i].index)
                return 1;
    return 0;
}

/* At most `room` of them. */
static int take_parts(Bytes *from, int version, Part *parts, int room)
{
    int count = 0;
    int64_t topics = take_count(from, version);
    if (topics < 1 || topics > room)
        from->plain = 0;
    while (from->plain && topics-- > 0) {
        int first = count, by_id = version >= TOPIC_IDS_FROM;
        int64_t topic_bytes = by_id ? TOPIC_ID_BYTES : version >= FLEXIBLE_FROM ? take_compact_length(from) : take_int16(from);
        const uint8_t *topic = by_id ? take(from, topic_bytes) : take_ascii(from, topic_bytes);
        int64_t partitions = take_count(from, version);
        if (partitions < 1 || partitions > room - count)
            from->plain = 0;
        for (int64_t left = partitions; from->plain && left > 0; left--) {
            Part *part = &parts[count++];
            part->topic = topic;
            part->topic_bytes = topic_bytes;
            part->topic_parts = left == partitions ? (int)partitions : 0;
            part->index = take_int32(from);
            part->records_bytes = take_count(from, version);
            part->records = take(from, part->records_bytes);
            expect_no_tags(from, version);
        }
        expect_no_tags(from, version);
        if (from->plain && is_repeated(parts, first, count))
            from->plain = 0;
    }
    expect_no_tags(from, version);
    return count;
}

static void take_body(Bytes *from, int version, Body *body, Part *parts, int room)
{
    if (version >= FLEXIBLE_FROM)
        expect_byte(from, 0); /* no transactional id */
    else if (take_int16(from) >= 0)
        from->plain = 0;
    body->acks = take_int16(from);
    body->timeout_ms = take_int32(from);
    body->parts = take_parts(from, version, parts, room);
}

/* The fields of a batch's header, and whether they say that of the batch its CRC only is still to be checked. */
typedef struct {
    long long base_offset, base_timestamp, max_timestamp, producer_id;
    unsigned int crc;
    int length, leader_epoch, magic, attributes, last_offset_delta, producer_epoch, base_sequence, record_count;
} Batch;

static int is_plain_batch(const uint8_t *header, int64_t size, int zstd_allowed, Batch *batch)
{
    batch->base_offset = int64_at(header);
    batch->length = int32_at(header + 8);
    batch->leader_epoch = int32_at(header + 12);
    batch->magic = (int8_t)header[16];
    batch->crc = (uint32_t)big_endian(header + 17, 4);
    batch->attributes = int16_at(header + 21);
    batch->last_offset_delta = int32_at(header + 23);
    batch->base_timestamp = int64_at(header + 27);
    batch->max_timestamp = int64_at(header + 35);
    batch->producer_id = int64_at(header + 43);
    batch->producer_epoch = int16_at(header + 51);
    batch->base_sequence = int32_at(header + 53);
    batch->record_count = int32_at(header + 57);
    int codec = batch->attributes & CODEC_MASK;
    return (int64_t)batch->length + BATCH_PREFIX_BYTES == size && batch->magic == MAGIC && batch->base_offset == 0 &&
           codec <= ZSTD && (codec != ZSTD || zstd_allowed) && batch->record_count > 0 &&
           (int64_t)batch->last_offset_delta + 1 == batch->record_count &&
           !(batch->producer_id >= 0 && batch->base_sequence < 0) && !(batch->attributes & CONTROL_FLAG);
}

static PyObject *batch_fields(const Batch *batch)
{
    return Py_BuildValue("(LiiiIiiLLLiii)", batch->base_offset, batch->length, batch->leader_epoch, batch->magic, batch->crc,
                         batch->attributes, batch->last_offset_delta, batch->base_timestamp, batch->max_timestamp,
                         batch->producer_id, batch->producer_epoch, batch->base_sequence, batch->record_count);
}

static PyObject *text_of(const uint8_t *ascii, int64_t count)
{
    return PyUnicode_DecodeASCII((const char *)ascii, (Py_ssize_t)count, NULL);
}

/* A topic's name and id, one of them None. 0, or -1 with an exception set. */
static int topic_of(const Part *part, int version, PyObject **name, PyObject **topic_id)
{
    int by_id = version >= TOPIC_IDS_FROM;
    *name = by_id ? Py_NewRef(Py_None) : text_of(part->topic, part->topic_bytes);
    *topic_id = by_id ? PyBytes_FromStringAndSize((const char *)part->topic, TOPIC_ID_BYTES) : Py_NewRef(Py_None);
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
    Part part;
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
    take_body(&bytes, (int)version, &body, &part, 1);
    if (bytes.plain && topic_of(&part, (int)version, &name, &topic_id) == 0) {
        records = slice_of(arguments[1], &bytes, part.records, part.records + part.records_bytes);
        if (records == NULL) {
            Py_DECREF(name);
            Py_DECREF(topic_id);
        }
    }
    PyBuffer_Release(&buffer);
    if (records == NULL)
        return not_plain();
    return Py_BuildValue("(Oii[(NN[(iN)])])", Py_None, body.acks, (int)body.timeout_ms, name, topic_id, (int)part.index,
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

/* The numbers of a batch's header, for whoever has its bytes in `view`: the base of a RecordBatch. */
typedef struct {
    PyObject_HEAD
    PyObject *view;
    Batch batch;
    long long sent_crc, size_bytes;
} Fields;

static PyTypeObject *fields_type, *requests_type;

static PyObject *new_fields(PyTypeObject *type, PyObject *view, const Batch *batch)
{
    Fields *fields = (Fields *)PyType_GenericAlloc(type, 0);
    if (fields == NULL)
        return NULL;
    fields->view = Py_NewRef(view);
    fields->batch = *batch;
    fields->sent_crc = batch->crc;
    fields->size_bytes = (long long)batch->length + BATCH_PREFIX_BYTES;
    return (PyObject *)fields;
}

/* Fields(view, header): the header as `batch` gives it. */
static PyObject *fields_new(PyTypeObject *type, PyObject *arguments, PyObject *named)
{
    PyObject *view;
    Batch batch;
    if (named != NULL && PyDict_Size(named) > 0) {
        PyErr_SetString(PyExc_TypeError, "Fields(view, header)");
        return NULL;
    }
    if (!PyArg_ParseTuple(arguments, "O(LiiiIiiLLLiii)", &view, &batch.base_offset, &batch.length, &batch.leader_epoch,
                          &batch.magic, &batch.crc, &batch.attributes, &batch.last_offset_delta, &batch.base_timestamp,
                          &batch.max_timestamp, &batch.producer_id, &batch.producer_epoch, &batch.base_sequence,
                          &batch.record_count))
        return NULL;
    return new_fields(type, view, &batch);
}

static void fields_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    Py_XDECREF(((Fields *)self)->view);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

#define FIELD(name, kind) {#name, kind, offsetof(Fields, name), 0, NULL}
#define OF_BATCH(name, kind) {#name, kind, offsetof(Fields, batch.name), 0, NULL}

static PyMemberDef fields_members[] = {
    FIELD(view, T_OBJECT_EX),
    OF_BATCH(base_offset, T_LONGLONG),
    OF_BATCH(base_timestamp, T_LONGLONG),
    OF_BATCH(max_timestamp, T_LONGLONG),
    OF_BATCH(producer_id, T_LONGLONG),
    FIELD(sent_crc, T_LONGLONG),
    FIELD(size_bytes, T_LONGLONG),
    OF_BATCH(crc, T_UINT),
    OF_BATCH(leader_epoch, T_INT),
    OF_BATCH(magic, T_INT),
    OF_BATCH(attributes, T_INT),
    OF_BATCH(last_offset_delta, T_INT),
    OF_BATCH(producer_epoch, T_INT),
    OF_BATCH(base_sequence, T_INT),
    OF_BATCH(record_count, T_INT),
    {NULL, 0, 0, 0, NULL},
};

static uint8_t *put(uint8_t *at, uint64_t value, int count)
{
    for (int i = count - 1; i >= 0; i--, value >>= 8)
        at[i] = (uint8_t)value;
    return at + count;
}

/* place(base_offset, leader_epoch): into the bytes, neither is under the CRC, and into the fields. */
static PyObject *fields_place(PyObject *self, PyObject *const *arguments, Py_ssize_t count)
{
    Fields *fields = (Fields *)self;
    Py_buffer buffer;
    if (count != 2 || fields->view == NULL) {
        PyErr_SetString(PyExc_TypeError, "place(base_offset, leader_epoch)");
        return NULL;
    }
    long long base_offset = PyLong_AsLongLong(arguments[0]);
    long leader_epoch = PyLong_AsLong(arguments[1]);
    if (PyErr_Occurred() || PyObject_GetBuffer(fields->view, &buffer, PyBUF_WRITABLE) < 0)
        return NULL;
    if (buffer.len >= BATCH_HEADER_BYTES) {
        put(buffer.buf, (uint64_t)base_offset, 8);
        put((uint8_t *)buffer.buf + BATCH_PREFIX_BYTES, (uint64_t)leader_epoch, 4);
        fields->batch.base_offset = base_offset;
        fields->batch.leader_epoch = (int)leader_epoch;
    } else {
        PyErr_SetString(PyExc_ValueError, "the view is shorter than a header");
    }
    PyBuffer_Release(&buffer);
    if (PyErr_Occurred())
        return NULL;
    Py_RETURN_NONE;
}

/* CRC-32C, its bits reflected: the polynomial, of each byte, and x to the power of 8 times 1, 2, 4 ... bytes. */
static const uint32_t polynomial = 0x82F63B78u;
static uint32_t crc_of_byte[256], powers[32];

/* The product of two polynomials, modulo that of CRC-32C. */
static uint32_t product(uint32_t a, uint32_t b)
{
    uint32_t sum = 0;
    for (int bit = 31; bit >= 0; bit--) {
        sum ^= b & (0u - (a >> bit & 1));
        b = b >> 1 ^ (polynomial & (0u - (b & 1)));
    }
    return sum;
}

static void fill_crc_tables(void)
{
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t crc = byte;
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (polynomial & (0u - (crc & 1)));
        crc_of_byte[byte] = crc;
    }
    powers[0] = 0x80000000u >> 8;
    for (int i = 1; i < 32; i++)
        powers[i] = product(powers[i - 1], powers[i - 1]);
}

static uint32_t crc32c(uint32_t crc, const uint8_t *at, int size)
{
    crc = ~crc;
    for (; size > 0; size--)
        crc = crc >> 8 ^ crc_of_byte[(crc ^ *at++) & 0xFF];
    return ~crc;
}

/* x to the power of 8 times `size`: batches of one size come in a row, so the last one is kept. Under the interpreter's lock. */
static uint32_t power_of(uint32_t size)
{
    static uint32_t known_size, known_power = 0x80000000u;
    if (size != known_size) {
        uint32_t power = 0x80000000u; /* one */
        uint32_t left = size;
        for (int i = 0; left > 0; i++, left >>= 1)
            if (left & 1)
                power = product(powers[i], power);
        known_size = size;
        known_power = power;
    }
    return known_power;
}

/* Of what has the one, and behind it `size` bytes that have the other by themselves. */
static uint32_t joined_crcs(uint32_t before, uint32_t behind, uint32_t size)
{
    return product(power_of(size), before) ^ behind;
}

/* Moves `crc`, of what lies before the batch, on behind it. 0, or -1 with an exception set. */
static int joined_checksum(const Fields *fields, const Py_buffer *buffer, uint32_t *crc)
{
    if (buffer->len != fields->size_bytes || buffer->len < BATCH_HEADER_BYTES || buffer->len > INT32_MAX) {
        PyErr_SetString(PyExc_ValueError, "the view is not the whole batch");
        return -1;
    }
    uint32_t of_prefix = crc32c(*crc, buffer->buf, ATTRIBUTES_POSITION);
    *crc = joined_crcs(of_prefix, fields->batch.crc, (uint32_t)buffer->len - ATTRIBUTES_POSITION);
    return 0;
}

/* checksum(before): CRC-32C of what has the CRC `before` with the batch behind it, of which only the first bytes are read. */
static PyObject *fields_checksum(PyObject *self, PyObject *argument)
{
    Fields *fields = (Fields *)self;
    Py_buffer buffer;
    unsigned long before = PyLong_AsUnsignedLong(argument);
    if (PyErr_Occurred())
        return NULL;
    if (fields->view == NULL) {
        PyErr_SetString(PyExc_ValueError, "there is no view");
        return NULL;
    }
    if (PyObject_GetBuffer(fields->view, &buffer, PyBUF_SIMPLE) < 0)
        return NULL;
    uint32_t crc = (uint32_t)before;
    int failed = joined_checksum(fields, &buffer, &crc) < 0;
    PyBuffer_Release(&buffer);
    return failed ? NULL : PyLong_FromUnsignedLong(crc);
}

static PyObject *fields_next_offset(PyObject *self, void *closure)
{
    (void)closure;
    const Batch *batch = &((Fields *)self)->batch;
    return PyLong_FromLongLong(batch->base_offset + batch->last_offset_delta + 1);
}

static PyMethodDef fields_methods[] = {
    {"place", (PyCFunction)(void (*)(void))fields_place, METH_FASTCALL,
     "place(base_offset, leader_epoch): patches them into the bytes; `view` must be writable."},
    {"checksum", fields_checksum, METH_O,
     "checksum(before): CRC-32C of what has the CRC `before` with the batch behind it, by the batch's own CRC."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef fields_properties[] = {
    {"next_offset", fields_next_offset, NULL, "The offset behind the last record.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot fields_slots[] = {
    {Py_tp_doc, "Fields(view, header): the numbers of a batch's header."},
    {Py_tp_new, fields_new},
    {Py_tp_dealloc, fields_dealloc},
    {Py_tp_members, fields_members},
    {Py_tp_methods, fields_methods},
    {Py_tp_getset, fields_properties},
    {0, NULL},
};

static PyType_Spec fields_spec = {
    "bytemq.protocol._produced.Fields", sizeof(Fields), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE, fields_slots,
};

/* What a row of batches is: of one partition, in the order in which they are appended. */
typedef struct {
    Py_ssize_t count;
    PyObject *batches; /* a list or a tuple */
} Row;

/* 0, or -1 with an exception set. */
static int open_row(PyObject *batches, Row *row)
{
    row->batches = batches;
    row->count = PyList_Check(batches) ? PyList_Size(batches) : PyTuple_Check(batches) ? PyTuple_Size(batches) : -1;
    if (row->count < 0)
        PyErr_SetString(PyExc_TypeError, "a row of batches is a list or a tuple");
    return row->count < 0 ? -1 : 0;
}

/* The batch at `number`; NULL with an exception set where there is something else. */
static Fields *batch_at(const Row *row, Py_ssize_t number)
{
    PyObject *batch = PyList_Check(row->batches) ? PyList_GetItem(row->batches, number) : PyTuple_GetItem(row->batches, number);
    if (batch != NULL && PyType_IsSubtype(Py_TYPE(batch), fields_type) && ((Fields *)batch)->view != NULL)
        return (Fields *)batch;
    if (!PyErr_Occurred())
        PyErr_SetString(PyExc_TypeError, "a row has batches only, each with its view");
    return NULL;
}

/* The bytes of a batch, from its header on; `size` at least. 0, or -1 with an exception set. */
static int open_batch(const Fields *fields, int flags, Py_ssize_t size, Py_buffer *buffer)
{
    if (PyObject_GetBuffer(fields->view, buffer, flags) < 0)
        return -1;
    if (buffer->len >= size)
        return 0;
    PyBuffer_Release(buffer);
    PyErr_SetString(PyExc_ValueError, "the view of a batch is shorter than it ought to be");
    return -1;
}

/* survey(batches): see rows_pure.py. */
static PyObject *produced_survey(PyObject *module, PyObject *batches)
{
    Row row;
    long long offsets = 0, size_bytes = 0, largest = 0, newest = NO_TIMESTAMP, producer = -1;
    int epoch = -1, is_one = 1;
    (void)module;
    if (open_row(batches, &row) < 0)
        return NULL;
    for (Py_ssize_t i = 0; i < row.count; i++) {
        const Fields *fields = batch_at(&row, i);
        if (fields == NULL)
            return NULL;
        const Batch *batch = &fields->batch;
        offsets += (long long)batch->last_offset_delta + 1;
        size_bytes += fields->size_bytes;
        largest = fields->size_bytes > largest ? fields->size_bytes : largest;
        newest = batch->max_timestamp > newest ? batch->max_timestamp : newest;
        is_one = is_one && (i == 0 || (batch->producer_id == producer && batch->producer_epoch == epoch));
        producer = batch->producer_id;
        epoch = batch->producer_epoch;
    }
    return Py_BuildValue("(LLLLLi)", offsets, size_bytes, largest, newest, producer, is_one);
}

/* place(batches, base_offset, leader_epoch): each behind the one before it. */
static PyObject *produced_place(PyObject *module, PyObject *const *arguments, Py_ssize_t count)
{
    Row row;
    Py_buffer buffer;
    (void)module;
    if (count != 3) {
        PyErr_SetString(PyExc_TypeError, "place(batches, base_offset, leader_epoch)");
        return NULL;
    }
    long long offset = PyLong_AsLongLong(arguments[1]);
    long leader_epoch = PyLong_AsLong(arguments[2]);
    if (PyErr_Occurred() || open_row(arguments[0], &row) < 0)
        return NULL;
    for (Py_ssize_t i = 0; i < row.count; i++) {
        Fields *fields = batch_at(&row, i);
        if (fields == NULL || open_batch(fields, PyBUF_WRITABLE, BATCH_HEADER_BYTES, &buffer) < 0)
            return NULL;
        put(buffer.buf, (uint64_t)offset, 8);
        put((uint8_t *)buffer.buf + BATCH_PREFIX_BYTES, (uint64_t)leader_epoch, 4);
        PyBuffer_Release(&buffer);
        fields->batch.base_offset = offset;
        fields->batch.leader_epoch = (int)leader_epoch;
        offset += (long long)fields->batch.last_offset_delta + 1;
    }
    Py_RETURN_NONE;
}

/* extent(batches): (base offset, next offset, bytes); the next offset is -1 where one does not follow the one before. */
static PyObject *produced_extent(PyObject *module, PyObject *batches)
{
    Row row;
    long long base = -1, next = -1, size_bytes = 0;
    (void)module;
    if (open_row(batches, &row) < 0)
        return NULL;
    for (Py_ssize_t i = 0; i < row.count; i++) {
        const Fields *fields = batch_at(&row, i);
        if (fields == NULL)
            return NULL;
        const Batch *batch = &fields->batch;
        if (i == 0)
            base = next = batch->base_offset;
        next = batch->base_offset == next ? next + batch->last_offset_delta + 1 : -1;
        size_bytes += fields->size_bytes;
        if (next < 0)
            break;
    }
    return Py_BuildValue("(LLL)", base, next, size_bytes);
}

/* chunks(batches, chunk_bytes): of each chunk (how many batches, bytes, newest timestamp, checksum). */
static PyObject *produced_chunks(PyObject *module, PyObject *const *arguments, Py_ssize_t count)
{
    Row row;
    Py_buffer buffer;
    Py_ssize_t first = 0;
    long long size_bytes = 0, newest = NO_TIMESTAMP;
    uint32_t checksum = 0;
    (void)module;
    if (count != 2) {
        PyErr_SetString(PyExc_TypeError, "chunks(batches, chunk_bytes)");
        return NULL;
    }
    long long most = PyLong_AsLongLong(arguments[1]);
    if (PyErr_Occurred() || open_row(arguments[0], &row) < 0)
        return NULL;
    PyObject *chunks = PyList_New(0);
    for (Py_ssize_t i = 0; chunks != NULL && i <= row.count; i++) {
        const Fields *fields = i < row.count ? batch_at(&row, i) : NULL;
        int is_last = i == row.count;
        if ((!is_last && fields == NULL) || PyErr_Occurred())
            Py_CLEAR(chunks);
        else if (i > first && (is_last || size_bytes + fields->size_bytes > most)) {
            PyObject *chunk = Py_BuildValue("(nLLI)", i - first, size_bytes, newest, (unsigned int)checksum);
            if (chunk == NULL || PyList_Append(chunks, chunk) < 0)
                Py_CLEAR(chunks);
            Py_XDECREF(chunk);
            first = i;
            size_bytes = 0;
            newest = NO_TIMESTAMP;
            checksum = 0;
        }
        if (chunks == NULL || is_last)
            break;
        if (open_batch(fields, PyBUF_SIMPLE, BATCH_HEADER_BYTES, &buffer) < 0) {
            Py_CLEAR(chunks);
            break;
        }
        if (joined_checksum(fields, &buffer, &checksum) < 0)
            Py_CLEAR(chunks);
        PyBuffer_Release(&buffer);
        size_bytes += fields->size_bytes;
        newest = fields->batch.max_timestamp > newest ? fields->batch.max_timestamp : newest;
    }
    return chunks;
}

/* entries(batches): of each its header and, in four bytes, the CRC that it was sent with. */
static PyObject *produced_entries(PyObject *module, PyObject *batches)
{
    Row row;
    Py_buffer buffer;
    (void)module;
    if (open_row(batches, &row) < 0)
        return NULL;
    if (row.count > PY_SSIZE_T_MAX / BATCH_ENTRY_BYTES)
        return PyErr_NoMemory();
    size_t size = (size_t)row.count * BATCH_ENTRY_BYTES;
    uint8_t *entries = PyMem_Malloc(size > 0 ? size : 1), *at = entries;
    if (entries == NULL)
        return PyErr_NoMemory();
    for (Py_ssize_t i = 0; i < row.count; i++) {
        const Fields *fields = batch_at(&row, i);
        if (fields == NULL || open_batch(fields, PyBUF_SIMPLE, BATCH_HEADER_BYTES, &buffer) < 0) {
            PyMem_Free(entries);
            return NULL;
        }
        memcpy(at, buffer.buf, BATCH_HEADER_BYTES);
        PyBuffer_Release(&buffer);
        at = put(at + BATCH_HEADER_BYTES, (uint64_t)fields->sent_crc, 4);
    }
    PyObject *made = PyBytes_FromStringAndSize((const char *)entries, (Py_ssize_t)size);
    PyMem_Free(entries);
    return made;
}

/* Plain requests in a row: what of them their memory does not show by itself, and that memory. */
typedef struct {
    int32_t correlation_id;
    int parts;
    const uint8_t *end;
} Request;

typedef struct {
    PyObject_HEAD
    Py_buffer memory;
    int is_held;
    int version, acks, timeout_ms;
    Py_ssize_t count;
    Py_ssize_t end; /* where the last one ends */
    Request *requests;
    Part *parts;
    PyObject *batches; /* of all parts in a row, and so: */
    PyObject *entries; /* what was found for their partitions, None for what was not */
    PyObject *rows;    /* the same by partition */
} Requests;

static void requests_dealloc(PyObject *self)
{
    Requests *of = (Requests *)self;
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    Py_XDECREF(of->batches);
    Py_XDECREF(of->entries);
    Py_XDECREF(of->rows);
    PyMem_Free(of->requests);
    PyMem_Free(of->parts);
    if (of->is_held)
        PyBuffer_Release(&of->memory);
    PyObject_GC_Del(self);
    Py_DECREF(type);
}

static int requests_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(((Requests *)self)->batches);
    Py_VISIT(((Requests *)self)->entries);
    Py_VISIT(((Requests *)self)->rows);
    return 0;
}

/* Before the request `number`. */
static const Part *parts_before(const Requests *of, Py_ssize_t number)
{
    const Part *part = of->parts;
    for (Py_ssize_t i = 0; i < number; i++)
        part += of->requests[i].parts;
    return part;
}

/* A request that its partitions may take as it is: nothing in it asks for a look at records, transactions or the time. */
static int is_plain_request(const uint8_t *at, int64_t size, Header *header, Body *body, Part *parts, Batch *batches, int room)
{
    Bytes bytes = {at, at, at + size, 1};
    take_header(&bytes, header);
    take_body(&bytes, header->version, body, parts, room);
    if (!bytes.plain || body->acks < -1 || body->acks > 1)
        return 0;
    for (int i = 0; i < body->parts; i++)
        if (parts[i].records_bytes < BATCH_HEADER_BYTES ||
            !is_plain_batch(parts[i].records, parts[i].records_bytes, header->version >= ZSTD_FROM, &batches[i]) ||
            batches[i].attributes & APPEND_TIME_TRANSACTIONAL_OR_CONTROL || batches[i].base_timestamp < NO_TIMESTAMP)
            return 0;
    return 1;
}

/* The requests from `at` on that are like the first: same version, acks and time-out. Each has its size in front, unless
 * there is only one (`is_whole`). How many they are; of all their parts there are `part_count`. */
static int take_row(const uint8_t *at, const uint8_t *end, int64_t most_bytes, int most, int is_whole, Requests *of,
                    Request *requests, Part *parts, Batch *batches, int *part_count)
{
    Header header;
    Body body;
    int count = 0;
    *part_count = 0;
    while (count < most && end - at >= SIZE_BYTES) {
        int64_t size = is_whole ? end - at : int32_at(at);
        if (!is_whole)
            at += SIZE_BYTES;
        if (size < 0 || size > most_bytes || size > end - at)
            break;
        if (!is_plain_request(at, size, &header, &body, parts + *part_count, batches + *part_count, MOST_PARTS - *part_count))
            break;
        if (count > 0 && (header.version != of->version || body.acks != of->acks || body.timeout_ms != of->timeout_ms))
            break;
        of->version = header.version;
        of->acks = body.acks;
        of->timeout_ms = body.timeout_ms;
        at += size;
        requests[count++] = (Request){header.correlation_id, body.parts, at};
        *part_count += body.parts;
    }
    return count;
}

/* What `by_name` or `by_id` has for the topic of a part: a dictionary, by index. Borrowed; NULL for none, or an error. */
static PyObject *partitions_of(const Part *part, int version, PyObject *by_name, PyObject *by_id)
{
    PyObject *name, *topic_id;
    if (topic_of(part, version, &name, &topic_id) < 0)
        return NULL;
    int by = version >= TOPIC_IDS_FROM;
    PyObject *found = PyDict_GetItemWithError(by ? by_id : by_name, by ? topic_id : name);
    Py_DECREF(name);
    Py_DECREF(topic_id);
    return found;
}

static PyObject *batch_of(PyObject *class, PyObject *slice, const Batch *batch)
{
    if (PyType_IsSubtype((PyTypeObject *)class, fields_type))
        return new_fields((PyTypeObject *)class, slice, batch);
    PyObject *header = batch_fields(batch); /* this module is not the one that the class was made with */
    PyObject *made = header == NULL ? NULL : PyObject_CallFunctionObjArgs(class, slice, header, NULL);
    Py_XDECREF(header);
    return made;
}

/* Puts the batch into the row of its partition, a new one if there is none yet. 0, or -1 with an exception set. */
static int into_row(PyObject *rows, PyObject *entry, PyObject *batch)
{
    for (Py_ssize_t i = PyList_Size(rows) - 1; i >= 0; i--) {
        PyObject *row = PyList_GetItem(rows, i);
        if (PyTuple_GetItem(row, 0) == entry)
            return PyList_Append(PyTuple_GetItem(row, 1), batch);
    }
    PyObject *row = Py_BuildValue("(O[O])", entry, batch);
    int failed = row == NULL || PyList_Append(rows, row) < 0;
    Py_XDECREF(row);
    return failed ? -1 : 0;
}

/* Batches and entries of all parts. 0, or -1 with an exception set. */
static int fill(Requests *of, PyObject *view, const Batch *batches, int part_count, PyObject *by_name, PyObject *by_id,
                PyObject *class)
{
    const uint8_t *start = of->memory.buf;
    const Part *topic = NULL;
    PyObject *partitions = NULL;
    for (int i = 0; i < part_count; i++) {
        const Part *part = &of->parts[i];
        if (topic == NULL || !is_same_topic(topic, part)) {
            partitions = partitions_of(part, of->version, by_name, by_id);
            topic = part;
        }
        PyObject *entry = NULL;
        if (partitions != NULL) {
            PyObject *index = PyLong_FromLong(part->index);
            entry = index == NULL ? NULL : PyDict_GetItemWithError(partitions, index);
            Py_XDECREF(index);
        }
        if (entry == NULL && PyErr_Occurred())
            return -1;
        entry = entry == NULL ? Py_None : entry;
        PyList_SetItem(of->entries, i, Py_NewRef(entry));
        PyObject *slice = PySequence_GetSlice(view, part->records - start, part->records - start + (Py_ssize_t)part->records_bytes);
        PyObject *batch = slice == NULL ? NULL : batch_of(class, slice, &batches[i]);
        Py_XDECREF(slice);
        if (batch == NULL)
            return -1;
        PyList_SetItem(of->batches, i, batch);
        if (into_row(of->rows, entry, batch) < 0)
            return -1;
    }
    return 0;
}

static PyObject *requests_of(PyObject *view, Py_ssize_t position, Py_ssize_t end, int64_t most_bytes, int most, int is_whole,
                             PyObject *by_name, PyObject *by_id, PyObject *class)
{
    Request requests[MOST_REQUESTS];
    Part parts[MOST_PARTS];
    Batch batches[MOST_PARTS];
    int part_count = 0;
    if (!PyDict_Check(by_name) || !PyDict_Check(by_id) || !PyType_Check(class)) {
        PyErr_SetString(PyExc_TypeError, "take and whole look partitions up in dictionaries");
        return NULL;
    }
    Requests *of = PyObject_GC_New(Requests, requests_type);
    if (of == NULL)
        return NULL;
    memset((char *)of + sizeof(PyObject), 0, sizeof(Requests) - sizeof(PyObject));
    if (PyObject_GetBuffer(view, &of->memory, PyBUF_WRITABLE) == 0) {
        const uint8_t *start = of->memory.buf;
        of->is_held = 1;
        if (0 <= position && position <= end && end <= of->memory.len)
            of->count = take_row(start + position, start + end, most_bytes, most, is_whole, of, requests, parts, batches,
                                 &part_count);
    }
    if (of->count > 0) {
        of->requests = PyMem_Malloc((size_t)of->count * sizeof(Request));
        of->parts = PyMem_Malloc((size_t)part_count * sizeof(Part));
        of->batches = PyList_New(part_count);
        of->entries = PyList_New(part_count);
        of->rows = PyList_New(0);
        if (of->requests != NULL && of->parts != NULL && of->batches != NULL && of->entries != NULL && of->rows != NULL) {
            memcpy(of->requests, requests, (size_t)of->count * sizeof(Request));
            memcpy(of->parts, parts, (size_t)part_count * sizeof(Part));
            of->end = requests[of->count - 1].end - (const uint8_t *)of->memory.buf;
            if (fill(of, view, batches, part_count, by_name, by_id, class) == 0) {
                PyObject_GC_Track(of);
                return (PyObject *)of;
            }
        } else if (!PyErr_Occurred()) {
            PyErr_NoMemory();
        }
    }
    PyObject_GC_Track(of);
    Py_DECREF(of);
    return not_plain();
}

static PyObject *produced_take(PyObject *module, PyObject *const *arguments, Py_ssize_t count)
{
    (void)module;
    if (count != 8) {
        PyErr_SetString(PyExc_TypeError, "take(view, position, end, most_bytes, most, by_name, by_id, batch_class)");
        return NULL;
    }
    Py_ssize_t position = PyLong_AsSsize_t(arguments[1]), end = PyLong_AsSsize_t(arguments[2]);
    long long most_bytes = PyLong_AsLongLong(arguments[3]);
    long most = PyLong_AsLong(arguments[4]);
    if (PyErr_Occurred())
        return NULL;
    return requests_of(arguments[0], position, end, most_bytes, most < MOST_REQUESTS ? (int)most : MOST_REQUESTS, 0, arguments[5],
                       arguments[6], arguments[7]);
}

static PyObject *produced_whole(PyObject *module, PyObject *const *arguments, Py_ssize_t count)
{
    (void)module;
    if (count != 5) {
        PyErr_SetString(PyExc_TypeError, "whole(view, size_bytes, by_name, by_id, batch_class)");
        return NULL;
    }
    Py_ssize_t size = PyLong_AsSsize_t(arguments[1]);
    if (PyErr_Occurred())
        return NULL;
    return requests_of(arguments[0], 0, size, size, 1, 1, arguments[2], arguments[3], arguments[4]);
}

/* Keeps the first so many requests. */
static PyObject *requests_keep(PyObject *self, PyObject *argument)
{
    Requests *of = (Requests *)self;
    Py_ssize_t count = PyLong_AsSsize_t(argument);
    if (PyErr_Occurred())
        return NULL;
    if (count < 1 || count > of->count) {
        PyErr_SetString(PyExc_ValueError, "keep(count): at least one, at most all");
        return NULL;
    }
    Py_ssize_t parts = parts_before(of, count) - of->parts;
    if (PyList_SetSlice(of->batches, parts, PyList_Size(of->batches), NULL) < 0 ||
        PyList_SetSlice(of->entries, parts, PyList_Size(of->entries), NULL) < 0)
        return NULL;
    of->count = count;
    of->end = of->requests[count - 1].end - (const uint8_t *)of->memory.buf;
    Py_RETURN_NONE;
}

/* The request `number` as the general way has it: (correlation id, [(name, topic id, [(index, records)])]). */
static PyObject *requests_request(PyObject *self, PyObject *argument)
{
    Requests *of = (Requests *)self;
    Py_ssize_t number = PyLong_AsSsize_t(argument);
    if (PyErr_Occurred())
        return NULL;
    if (number < 0 || number >= of->count) {
        PyErr_SetString(PyExc_IndexError, "request(number)");
        return NULL;
    }
    const Part *part = parts_before(of, number), *behind = part + of->requests[number].parts;
    PyObject *topics = PyList_New(0), *name, *topic_id;
    while (topics != NULL && part < behind) {
        const Part *next = part + part->topic_parts;
        PyObject *partitions = PyList_New(part->topic_parts), *topic = NULL;
        if (partitions != NULL && topic_of(part, of->version, &name, &topic_id) == 0) {
            int is_whole = 1;
            for (Py_ssize_t i = 0; i < next - part; i++) {
                PyObject *batch = PyList_GetItem(of->batches, part - of->parts + i);
                PyObject *view = batch == NULL ? NULL : PyObject_GetAttrString(batch, "view");
                PyObject *pair = view == NULL ? NULL : Py_BuildValue("(iN)", (int)part[i].index, view);
                is_whole = is_whole && pair != NULL;
                PyList_SetItem(partitions, i, pair);
            }
            if (is_whole)
                topic = Py_BuildValue("(OOO)", name, topic_id, partitions);
            Py_DECREF(name);
            Py_DECREF(topic_id);
        }
        Py_XDECREF(partitions);
        if (topic == NULL || PyList_Append(topics, topic) < 0)
            Py_CLEAR(topics);
        Py_XDECREF(topic);
        part = next;
    }
    return topics == NULL ? NULL : Py_BuildValue("(iN)", (int)of->requests[number].correlation_id, topics);
}

static uint8_t *put_compact(uint8_t *at, uint64_t length)
{
    for (length++; length >= 0x80; length >>= 7)
        *at++ = (uint8_t)(length | 0x80);
    *at++ = (uint8_t)length;
    return at;
}

static uint8_t *put_count(uint8_t *at, int version, int64_t count)
{
    return version >= FLEXIBLE_FROM ? put_compact(at, (uint64_t)count) : put(at, (uint64_t)count, 4);
}

/* Of a part that was appended: its base offset is in its bytes. */
static uint8_t *put_part(uint8_t *at, int version, const Part *part, int64_t log_start_offset)
{
    at = put(put(at, (uint64_t)part->index, 4), 0, 2);
    at = put(put(at, (uint64_t)int64_at(part->records), 8), (uint64_t)NO_TIMESTAMP, 8);
    if (version >= LOG_START_FROM)
        at = put(at, (uint64_t)log_start_offset, 8);
    if (version >= FLEXIBLE_FROM)
        return put(at, 0x010000, 3); /* no record errors, no message, no tagged fields */
    return version >= RECORD_ERRORS_FROM ? put(put(at, 0, 4), 0xFFFF, 2) : at;
}

static uint8_t *put_topic(uint8_t *at, int version, const Part *part)
{
    if (version < FLEXIBLE_FROM)
        at = put(at, (uint64_t)part->topic_bytes, 2);
    else if (version < TOPIC_IDS_FROM)
        at = put_compact(at, (uint64_t)part->topic_bytes);
    memcpy(at, part->topic, (size_t)part->topic_bytes);
    return put_count(at + part->topic_bytes, version, part->topic_parts);
}

/* One answer, with its size in front: no error, no throttling. */
static uint8_t *put_answer(uint8_t *at, int version, const Request *request, const Part *parts, const int64_t *log_starts)
{
    uint8_t *start = at;
    int flexible = version >= FLEXIBLE_FROM, topics = 0;
    for (int i = 0; i < request->parts; i++)
        topics += parts[i].topic_parts > 0;
    at = put(at + SIZE_BYTES, (uint64_t)request->correlation_id, 4);
    at = put_count(flexible ? put(at, 0, 1) : at, version, topics);
    for (int i = 0, left = 0; i < request->parts; i++) {
        if (parts[i].topic_parts > 0) {
            at = put_topic(at, version, &parts[i]);
            left = parts[i].topic_parts;
        }
        at = put_part(at, version, &parts[i], log_starts[i]);
        if (--left == 0 && flexible)
            at = put(at, 0, 1);
    }
    at = put(at, 0, flexible ? 5 : 4); /* no throttling, no tagged fields */
    put(start, (uint64_t)(at - start - SIZE_BYTES), SIZE_BYTES);
    return at;
}

/* The answers of all requests, when every batch has the base offset that it was appended at. */
static PyObject *requests_answers(PyObject *self, PyObject *log_start_offsets)
{
    Requests *of = (Requests *)self;
    Py_ssize_t parts = parts_before(of, of->count) - of->parts, most = 0;
    int64_t log_starts[MOST_PARTS];
    if (!PyList_Check(log_start_offsets) || PyList_Size(log_start_offsets) != parts) {
        PyErr_SetString(PyExc_TypeError, "answers(log_start_offsets): a list, one for each batch");
        return NULL;
    }
    for (Py_ssize_t i = 0; i < parts; i++) {
        log_starts[i] = PyLong_AsLongLong(PyList_GetItem(log_start_offsets, i));
        most += MOST_PART_BYTES + (of->parts[i].topic_parts > 0 ? MOST_TOPIC_BYTES + (Py_ssize_t)of->parts[i].topic_bytes : 0);
    }
    if (PyErr_Occurred())
        return NULL;
    most += of->count * MOST_ANSWER_BYTES;
    uint8_t *answers = PyMem_Malloc((size_t)most), *at = answers;
    if (answers == NULL)
        return PyErr_NoMemory();
    const Part *part = of->parts;
    for (Py_ssize_t number = 0; number < of->count; number++) {
        at = put_answer(at, of->version, &of->requests[number], part, log_starts + (part - of->parts));
        part += of->requests[number].parts;
    }
    PyObject *written = PyBytes_FromStringAndSize((const char *)answers, at - answers);
    PyMem_Free(answers);
    return written;
}

/* How many parts each request has, a byte each. */
static PyObject *requests_part_counts(PyObject *self, void *closure)
{
    Requests *of = (Requests *)self;
    char counts[MOST_REQUESTS];
    (void)closure;
    for (Py_ssize_t i = 0; i < of->count; i++)
        counts[i] = (char)of->requests[i].parts;
    return PyBytes_FromStringAndSize(counts, of->count);
}

#define MEMBER(name, kind) {#name, kind, offsetof(Requests, name), READONLY, NULL}

static PyMemberDef requests_members[] = {
    MEMBER(version, T_INT),
    MEMBER(acks, T_INT),
    MEMBER(timeout_ms, T_INT),
    MEMBER(count, T_PYSSIZET),
    MEMBER(end, T_PYSSIZET),
    MEMBER(batches, T_OBJECT_EX),
    MEMBER(entries, T_OBJECT_EX),
    MEMBER(rows, T_OBJECT_EX),
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef requests_properties[] = {
    {"part_counts", requests_part_counts, NULL, "How many batches each request has, a byte each.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMethodDef requests_methods[] = {
    {"keep", requests_keep, METH_O, "keep(count): forgets the requests behind the first so many."},
    {"request", requests_request, METH_O, "request(number): its correlation id and topics, as the general way has them."},
    {"answers", requests_answers, METH_O, "answers(log_start_offsets): of all requests, without errors."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot requests_slots[] = {
    {Py_tp_doc, "Plain requests in a row."},
    {Py_tp_dealloc, requests_dealloc},
    {Py_tp_traverse, requests_traverse},
    {Py_tp_members, requests_members},
    {Py_tp_getset, requests_properties},
    {Py_tp_methods, requests_methods},
    {0, NULL},
};

static PyType_Spec requests_spec = {
    "bytemq.protocol._produced.Requests",
    sizeof(Requests),
    0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    requests_slots,
};

static PyMethodDef methods[] = {
    {"header", produced_header, METH_O, "header(frame): of a Produce request, as framing.parse_request_header."},
    {"decode", (PyCFunction)(void (*)(void))produced_decode, METH_FASTCALL,
     "decode(version, body): the fields of produce.ProduceRequest."},
    {"batch", (PyCFunction)(void (*)(void))produced_batch, METH_FASTCALL,
     "batch(payload, max_message_bytes, zstd_allowed): the header's fields, of a batch that needs its CRC checked only."},
    {"take", (PyCFunction)(void (*)(void))produced_take, METH_FASTCALL,
     "take(view, position, end, most_bytes, most, by_name, by_id, batch_class): the requests in a row at `position`, each "
     "with its size in front."},
    {"whole", (PyCFunction)(void (*)(void))produced_whole, METH_FASTCALL,
     "whole(view, size_bytes, by_name, by_id, batch_class): the one request that is in there, without its size."},
    {"survey", produced_survey, METH_O, "survey(batches): (offsets, bytes, largest, newest timestamp, producer id, is one producer)."},
    {"place", (PyCFunction)(void (*)(void))produced_place, METH_FASTCALL,
     "place(batches, base_offset, leader_epoch): each behind the one before it."},
    {"extent", produced_extent, METH_O, "extent(batches): (base offset, next offset or -1, bytes)."},
    {"chunks", (PyCFunction)(void (*)(void))produced_chunks, METH_FASTCALL,
     "chunks(batches, chunk_bytes): of each (batches, bytes, newest timestamp, checksum)."},
    {"entries", produced_entries, METH_O, "entries(batches): their headers, each with the CRC that it was sent with."},
    {NULL, NULL, 0, NULL},
};

static int add_types(PyObject *module)
{
    fields_type = (PyTypeObject *)PyType_FromSpec(&fields_spec);
    requests_type = (PyTypeObject *)PyType_FromSpec(&requests_spec);
    if (fields_type == NULL || requests_type == NULL)
        return -1;
    return PyModule_AddType(module, fields_type) < 0 ? -1 : PyModule_AddType(module, requests_type);
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, add_types},
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_produced", "Plain Produce requests, taken apart.", 0, methods, module_slots, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__produced(void)
{
    fill_crc_tables();
    return PyModuleDef_Init(&definition);
}
