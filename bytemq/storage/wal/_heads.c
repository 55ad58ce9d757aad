/*
 * The heads of many small flushes in a row: the native twin of heads_pure.py, which says what the functions mean.
 *
 * Both must give the same results for every input; tests/unit/storage/test_heads.py runs one suite on both. Uses the stable
 * ABI of Python 3.11 only. No size that a head claims is believed before it was compared with the bytes that are there.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>

enum {
    VERSION = 1,
    HEADER_BYTES = 52, /* without its CRC, which follows */
    FLUSH_HEADER_BYTES = 56,
    SHARE_BYTES = 76,
    BATCH_ENTRY_BYTES = 65,
    PARTITION_BYTES = 20,
    ROW_BYTES = 48,
    ALIGNMENT = 8,
    MAX_INDEX_BYTES = 256 * 1024 * 1024,
    INLINE = 0,
};

#define PAYLOAD_LIMIT ((uint64_t)1 << 40)

static uint32_t crc_table[256];

static void fill_crc_table(void)
{
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t crc = i;
        for (int bit = 0; bit < 8; bit++)
            crc = crc & 1 ? crc >> 1 ^ 0x82F63B78u : crc >> 1;
        crc_table[i] = crc;
    }
}

static uint32_t crc32c(uint32_t crc, const uint8_t *at, uint64_t size)
{
    crc = ~crc;
    for (; size > 0; size--)
        crc = crc >> 8 ^ crc_table[(crc ^ *at++) & 0xFF];
    return ~crc;
}

static uint64_t big_endian(const uint8_t *at, int bytes)
{
    uint64_t value = 0;
    for (int i = 0; i < bytes; i++)
        value = value << 8 | at[i];
    return value;
}

static void put_big_endian(uint8_t *at, uint64_t value, int bytes)
{
    for (int i = bytes - 1; i >= 0; i--, value >>= 8)
        at[i] = (uint8_t)value;
}

typedef struct {
    uint64_t session_id;
    uint64_t sequence;
    uint64_t durable_through;
    uint32_t previous_crc;
    uint32_t share_count;
    uint32_t index_bytes;
    uint64_t payload_bytes;
    uint32_t crc;
    uint64_t head_bytes;
} Header;

/* Whether a head begins at `at`, as far as its header shows. */
static int read_header(const uint8_t *at, uint64_t size, Header *header)
{
    if (size < FLUSH_HEADER_BYTES || memcmp(at, "BMQF", 4) != 0 || big_endian(at + 4, 2) != VERSION)
        return 0;
    header->session_id = big_endian(at + 8, 8);
    header->sequence = big_endian(at + 16, 8);
    header->durable_through = big_endian(at + 24, 8);
    header->previous_crc = (uint32_t)big_endian(at + 32, 4);
    header->share_count = (uint32_t)big_endian(at + 36, 4);
    header->index_bytes = (uint32_t)big_endian(at + 40, 4);
    header->payload_bytes = big_endian(at + 44, 8);
    header->crc = (uint32_t)big_endian(at + HEADER_BYTES, 4);
    header->head_bytes = FLUSH_HEADER_BYTES + (uint64_t)header->index_bytes;
    return header->index_bytes <= MAX_INDEX_BYTES &&
           (uint64_t)header->share_count * SHARE_BYTES <= header->index_bytes && header->payload_bytes < PAYLOAD_LIMIT;
}

static int append_head(PyObject *heads, uint64_t position, const uint8_t *at, uint64_t size)
{
    PyObject *pair = Py_BuildValue("(Ky#)", (unsigned long long)position, (const char *)at, (Py_ssize_t)size);
    int failed = pair == NULL || PyList_Append(heads, pair) < 0;
    Py_XDECREF(pair);
    return failed;
}

static PyObject *heads_chained(PyObject *module, PyObject *arguments)
{
    Py_buffer data;
    unsigned long long position, session_id, sequence, base;
    unsigned int crc;
    int packed;
    Header header;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "y*KKKKIp", &data, &position, &base, &session_id, &sequence, &crc, &packed))
        return NULL;
    PyObject *heads = PyList_New(0);
    while (heads != NULL && position < (uint64_t)data.len) {
        const uint8_t *at = (const uint8_t *)data.buf + position;
        uint64_t left = (uint64_t)data.len - position;
        if (!read_header(at, left, &header) || header.head_bytes > left || header.session_id != session_id ||
            header.sequence != sequence + 1 || header.previous_crc != crc ||
            crc32c(crc32c(0, at, HEADER_BYTES), at + FLUSH_HEADER_BYTES, header.index_bytes) != header.crc)
            break;
        if (append_head(heads, base + position, at, header.head_bytes)) {
            Py_CLEAR(heads);
            break;
        }
        sequence = header.sequence;
        crc = header.crc;
        uint64_t whole = header.head_bytes + (packed ? 0 : header.payload_bytes);
        position += packed ? whole : (whole + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    }
    PyBuffer_Release(&data);
    return heads == NULL ? NULL : Py_BuildValue("(NKKI)", heads, position, sequence, crc);
}

/* Of one share: where its row and its entries are to go, and both. */
typedef struct {
    const uint8_t *start;
    const uint8_t *entries;
    uint64_t entries_bytes;
} Share;

/* The next share in the index of an inline flush; 0 where there is none such. */
static int read_share(const uint8_t **at, const uint8_t *end, const Header *header, Share *share)
{
    if (end - *at < SHARE_BYTES)
        return 0;
    share->start = *at;
    share->entries = *at + SHARE_BYTES;
    share->entries_bytes = big_endian(*at + 28, 4) * BATCH_ENTRY_BYTES;
    uint64_t start = big_endian(*at + 60, 8), size = big_endian(*at + 68, 8);
    if ((*at)[24] != INLINE || big_endian(*at + 26, 2) != 0 || share->entries_bytes == 0 ||
        share->entries_bytes > (uint64_t)(end - share->entries) || start > header->payload_bytes ||
        size > header->payload_bytes - start)
        return 0;
    *at = share->entries + share->entries_bytes;
    return 1;
}

static int extend(PyObject *array, const uint8_t *bytes, uint64_t size)
{
    Py_ssize_t before = PyByteArray_Size(array);
    if (PyByteArray_Resize(array, before + (Py_ssize_t)size) < 0)
        return -1;
    memcpy(PyByteArray_AsString(array) + before, bytes, size);
    return 0;
}

/* A pair of byte arrays: rows and entries. Borrowed. */
static PyObject *columns_of(PyObject *found, const uint8_t *partition)
{
    PyObject *key = PyBytes_FromStringAndSize((const char *)partition, PARTITION_BYTES);
    PyObject *columns = key == NULL ? NULL : PyDict_GetItemWithError(found, key);
    if (key != NULL && columns == NULL && !PyErr_Occurred()) {
        PyObject *made = Py_BuildValue("(NN)", PyByteArray_FromStringAndSize(NULL, 0), PyByteArray_FromStringAndSize(NULL, 0));
        if (made != NULL && PyDict_SetItem(found, key, made) == 0)
            columns = made;
        Py_XDECREF(made);
    }
    Py_XDECREF(key);
    return columns;
}

static int add_share(PyObject *found, const Share *share, uint64_t payload_position)
{
    uint8_t row[ROW_BYTES];
    PyObject *columns = columns_of(found, share->start);
    if (columns == NULL)
        return -1;
    memcpy(row, share->start + 36, 24); /* base offset, next offset, newest timestamp */
    put_big_endian(row + 24, payload_position + big_endian(share->start + 60, 8), 8);
    memcpy(row + 32, share->start + 72, 4); /* size: below 2^32 */
    memcpy(row + 36, share->start + 32, 4); /* checksum */
    put_big_endian(row + 40, share->entries_bytes, 8);
    if (extend(PyTuple_GetItem(columns, 0), row, ROW_BYTES) < 0)
        return -1;
    return extend(PyTuple_GetItem(columns, 1), share->entries, share->entries_bytes);
}

/* 1 when all shares of the flush were added, 0 when it is to be left alone, -1 with an exception set. */
static int add_flush(PyObject *found, const uint8_t *head, uint64_t size, uint64_t position)
{
    Header header;
    Share share;
    if (!read_header(head, size, &header) || header.head_bytes > size)
        return 0;
    const uint8_t *at = head + FLUSH_HEADER_BYTES, *end = head + header.head_bytes;
    for (uint32_t i = 0; i < header.share_count; i++) /* all of them or none */
        if (!read_share(&at, end, &header, &share) || big_endian(share.start + 68, 4) != 0)
            return 0;
    at = head + FLUSH_HEADER_BYTES;
    for (uint32_t i = 0; i < header.share_count; i++)
        if (!read_share(&at, end, &header, &share) || add_share(found, &share, position + header.head_bytes) < 0)
            return -1;
    return 1;
}

static PyObject *heads_by_partition(PyObject *module, PyObject *arguments)
{
    PyObject *heads, *found = PyDict_New();
    Py_ssize_t first, stop;
    int taken = 1;
    (void)module;
    if (found == NULL || !PyArg_ParseTuple(arguments, "O!nn", &PyList_Type, &heads, &first, &stop)) {
        Py_XDECREF(found);
        return NULL;
    }
    if (stop > PyList_Size(heads))
        stop = PyList_Size(heads);
    while (first < stop) {
        unsigned long long position;
        const char *head;
        Py_ssize_t size;
        PyObject *pair = PyList_GetItem(heads, first);
        if (pair == NULL || !PyArg_ParseTuple(pair, "Ky#", &position, &head, &size))
            taken = -1;
        else
            taken = add_flush(found, (const uint8_t *)head, (uint64_t)size, position);
        if (taken <= 0)
            break;
        first++;
    }
    if (taken < 0) {
        Py_DECREF(found);
        return NULL;
    }
    return Py_BuildValue("(nN)", first, found);
}

static PyMethodDef methods[] = {
    {"chained", heads_chained, METH_VARARGS,
     "chained(data, position, base, session_id, sequence, crc, packed): see heads_pure.chained"},
    {"by_partition", heads_by_partition, METH_VARARGS, "by_partition(heads, first, stop): see heads_pure.by_partition"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_heads", "Native reading of the heads of flushes.", 0, methods, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__heads(void)
{
    fill_crc_table();
    return PyModuleDef_Init(&definition);
}
