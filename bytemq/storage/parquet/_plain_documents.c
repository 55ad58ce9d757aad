/*
 * JSON documents straight into columns, as far as nothing about them is a surprise: the short way beside typed_columns.py.
 *
 * A document is plain if it is an object whose every value is null or fits the first column of its place exactly. Any other one is
 * reported and left alone: what it means, and whether it is JSON at all, is for the long way to say. So nothing may pass here for
 * plain that orjson refuses, or for which the long way would fill other columns; to report what is plain costs time only.
 * Columns are laid out as Apache Arrow lays them out. Uses the stable ABI of Python 3.11 only.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <float.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "../../protocol/records/_utf8.h"

enum { BOOLEAN, LONG, DOUBLE, STRING, STRUCT, LIST, TEXT, KINDS };
enum { PLAIN, ODD, NO_MEMORY };

#define EXACT (1ULL << 53) /* every integer up to here is a double */
#define MANTISSA_DIGITS 19 /* that fit into 64 bits, whatever they are */
#define NUMBER_BYTES 64

typedef struct {
    uint8_t *bytes;
    size_t size, room;
} Buffer;

typedef struct Column Column;
struct Column {
    int kind;
    const char *name;
    Py_ssize_t name_bytes;
    Column *first, *last, *next; /* its fields, or its element; and the field after it */
    int64_t rows;                /* of a field: those of its struct, or fewer: the rest is null */
    Buffer validity, values, text;
    int64_t kept_rows; /* when the document began */
    size_t kept_text;
};

typedef struct {
    const uint8_t *at, *end;
    Buffer name; /* of a field that is written with escapes */
} Reader;

static int has_room(Buffer *buffer, size_t more)
{
    if (buffer->room - buffer->size >= more)
        return 1;
    size_t room = (buffer->size + more) * 2 + 64;
    uint8_t *bytes = PyMem_Realloc(buffer->bytes, room);
    if (bytes == NULL)
        return 0;
    buffer->bytes = bytes;
    buffer->room = room;
    return 1;
}

static int append(Buffer *buffer, const void *bytes, size_t size)
{
    if (!has_room(buffer, size))
        return NO_MEMORY;
    if (size)
        memcpy(buffer->bytes + buffer->size, bytes, size);
    buffer->size += size;
    return PLAIN;
}

static int append_bit(Buffer *buffer, int64_t row, int bit)
{
    size_t place = (size_t)row >> 3;
    buffer->size = place;
    if (!has_room(buffer, 1))
        return NO_MEMORY;
    uint8_t mask = (uint8_t)(1u << (row & 7)), before = row & 7 ? buffer->bytes[place] & (uint8_t)(mask - 1) : 0;
    buffer->bytes[place] = bit ? before | mask : before;
    buffer->size = place + 1;
    return PLAIN;
}

static int append_end(Column *column, int64_t end)
{
    if (end > INT32_MAX)
        return ODD;
    int32_t narrow = (int32_t)end;
    return append(&column->values, &narrow, sizeof narrow);
}

/* What a row of a column is beside its fields, element or text. */
static int append_row(Column *column, int is_valid, const void *number)
{
    int code = append_bit(&column->validity, column->rows, is_valid);
    if (code == PLAIN && column->kind == BOOLEAN)
        code = append_bit(&column->values, column->rows, number != NULL && *(const int *)number);
    else if (code == PLAIN && (column->kind == LONG || column->kind == DOUBLE))
        code = append(&column->values, number, 8);
    else if (code == PLAIN && (column->kind == STRING || column->kind == TEXT))
        code = append_end(column, (int64_t)column->text.size);
    else if (code == PLAIN && column->kind == LIST)
        code = append_end(column, column->first->rows);
    column->rows += code == PLAIN;
    return code;
}

static int append_null(Column *column)
{
    static const int64_t nothing = 0;
    return append_row(column, 0, column->kind == BOOLEAN ? NULL : &nothing);
}

static int append_nulls(Column *column, int64_t rows)
{
    int code = PLAIN;
    while (code == PLAIN && column->rows < rows)
        code = append_null(column);
    return code;
}

static int skip_space(Reader *reader)
{
    while (reader->at < reader->end && (*reader->at == ' ' || *reader->at == '\n' || *reader->at == '\t' || *reader->at == '\r'))
        reader->at++;
    return reader->at < reader->end;
}

static int skip_byte(Reader *reader, uint8_t byte)
{
    if (reader->at == reader->end || *reader->at != byte)
        return 0;
    reader->at++;
    return 1;
}

static int skip_word(Reader *reader, const char *word)
{
    size_t size = strlen(word);
    if ((size_t)(reader->end - reader->at) < size || memcmp(reader->at, word, size) != 0)
        return 0;
    reader->at += size;
    return 1;
}

/* Where a string ends, or something else begins that is not a character of it as it is written. */
static const uint8_t *plain_end(const uint8_t *at, const uint8_t *end, int *is_ascii)
{
    const uint64_t ones = 0x0101010101010101u, tops = 0x8080808080808080u;
    uint64_t seen = 0;
    while (end - at >= 8) {
        uint64_t word, quote, backslash;
        memcpy(&word, at, 8);
        quote = word ^ (ones * '"');
        backslash = word ^ (ones * '\\');
        if ((((quote - ones) & ~quote) | ((backslash - ones) & ~backslash) | ((word - ones * 0x20) & ~word)) & tops)
            break;
        seen |= word;
        at += 8;
    }
    while (at < end && *at != '"' && *at != '\\' && *at >= 0x20)
        seen |= *at++;
    *is_ascii = !(seen & tops);
    return at;
}

static int read_hex(Reader *reader, uint32_t *value)
{
    if (reader->end - reader->at < 4)
        return ODD;
    *value = 0;
    for (int i = 0; i < 4; i++) {
        uint8_t digit = *reader->at++;
        if (digit >= '0' && digit <= '9')
            *value = *value << 4 | (uint32_t)(digit - '0');
        else if ((digit | 0x20) >= 'a' && (digit | 0x20) <= 'f')
            *value = *value << 4 | (uint32_t)((digit | 0x20) - 'a' + 10);
        else
            return ODD;
    }
    return PLAIN;
}

/* After its \u. */
static int read_code_point(Reader *reader, Buffer *text)
{
    uint32_t point, low;
    uint8_t bytes[4];
    if (read_hex(reader, &point) != PLAIN)
        return ODD;
    if (point >= 0xD800 && point <= 0xDFFF) {
        if (point > 0xDBFF || !skip_word(reader, "\\u") || read_hex(reader, &low) != PLAIN || low < 0xDC00 || low > 0xDFFF)
            return ODD;
        point = 0x10000 + ((point - 0xD800) << 10) + (low - 0xDC00);
    }
    if (point < 0x80) {
        bytes[0] = (uint8_t)point;
        return append(text, bytes, 1);
    }
    int more = point < 0x800 ? 1 : point < 0x10000 ? 2 : 3;
    for (int i = more; i > 0; i--, point >>= 6)
        bytes[i] = (uint8_t)(0x80 | (point & 0x3F));
    bytes[0] = (uint8_t)(0xF0 << (3 - more) | point);
    return append(text, bytes, (size_t)more + 1);
}

/* After its first quote. */
static int read_string(Reader *reader, Buffer *text)
{
    static const char written[] = "\"\\/bfnrt", meant[] = "\"\\/\b\f\n\r\t";
    for (;;) {
        int is_ascii, code;
        const uint8_t *from = reader->at, *to = plain_end(from, reader->end, &is_ascii);
        reader->at = to;
        if (!is_ascii && !is_utf8(from, to - from))
            return ODD;
        if ((code = append(text, from, (size_t)(to - from))) != PLAIN)
            return code;
        if (skip_byte(reader, '"'))
            return PLAIN;
        if (!skip_byte(reader, '\\') || reader->at == reader->end)
            return ODD;
        uint8_t escape = *reader->at++;
        const char *found = escape ? strchr(written, escape) : NULL;
        if (found != NULL)
            code = append(text, meant + (found - written), 1);
        else
            code = escape == 'u' ? read_code_point(reader, text) : ODD;
        if (code != PLAIN)
            return code;
    }
}

static int is_digit(const Reader *reader)
{
    return reader->at < reader->end && *reader->at >= '0' && *reader->at <= '9';
}

/* How many there are; they are added to the mantissa as long as that can be exact. */
static int64_t read_digits(Reader *reader, uint64_t *mantissa, int *digits)
{
    const uint8_t *from = reader->at;
    for (; is_digit(reader); reader->at++) {
        if (*digits < MANTISSA_DIGITS)
            *mantissa = *mantissa * 10 + (uint64_t)(*reader->at - '0');
        *digits += *digits > 0 || *reader->at != '0';
    }
    return reader->at - from;
}

/* The double that is nearest to what is written in [from, to). */
static int read_nearest(const uint8_t *from, const uint8_t *to, double *value)
{
    char number[NUMBER_BYTES];
    if (to - from >= NUMBER_BYTES)
        return ODD;
    memcpy(number, from, (size_t)(to - from));
    number[to - from] = 0;
    *value = PyOS_string_to_double(number, NULL, NULL);
    if (PyErr_Occurred()) {
        PyErr_Clear();
        return ODD;
    }
    return isfinite(*value) ? PLAIN : ODD;
}

static int read_number(Reader *reader, Column *column)
{
    static const double powers[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                                    1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
    const uint8_t *from = reader->at;
    uint64_t mantissa = 0;
    int digits = 0, is_negative = skip_byte(reader, '-');
    int64_t fraction = 0, exponent = 0;
    double value;
    if (!is_digit(reader) || (*reader->at == '0' ? (reader->at++, is_digit(reader)) : !read_digits(reader, &mantissa, &digits)))
        return ODD;
    uint8_t next = reader->at < reader->end ? *reader->at : 0;
    if (next != '.' && next != 'e' && next != 'E') {
        if (digits > MANTISSA_DIGITS || (is_negative && mantissa == 0))
            return ODD;
        if (column->kind == LONG) {
            if (mantissa > INT64_MAX)
                return ODD;
            int64_t whole = is_negative ? -(int64_t)mantissa : (int64_t)mantissa;
            return append_row(column, 1, &whole);
        }
        value = is_negative ? -(double)mantissa : (double)mantissa;
        return column->kind != DOUBLE || mantissa > EXACT ? ODD : append_row(column, 1, &value);
    }
    if (column->kind != DOUBLE || (skip_byte(reader, '.') && !(fraction = read_digits(reader, &mantissa, &digits))))
        return ODD;
    if (skip_byte(reader, 'e') || skip_byte(reader, 'E')) {
        uint64_t written = 0;
        int count = 0, is_small = skip_byte(reader, '-');
        if (!is_small)
            skip_byte(reader, '+');
        if (!read_digits(reader, &written, &count) || count > 4)
            return ODD;
        exponent = is_small ? -(int64_t)written : (int64_t)written;
    }
    exponent -= fraction;
    if (FLT_EVAL_METHOD == 0 && digits <= MANTISSA_DIGITS && mantissa <= EXACT && exponent >= -22 && exponent <= 22) {
        value = exponent < 0 ? (double)mantissa / powers[-exponent] : (double)mantissa * powers[exponent];
        value = is_negative ? -value : value;
    } else if (read_nearest(from, reader->at, &value) != PLAIN)
        return ODD;
    return append_row(column, 1, &value);
}

static int read_value(Reader *reader, Column *column);

/* After its bracket. */
static int read_list(Reader *reader, Column *column)
{
    int code = PLAIN;
    if (!skip_space(reader))
        return ODD;
    if (!skip_byte(reader, ']'))
        for (;;) {
            if (!skip_space(reader) || (code = read_value(reader, column->first)) != PLAIN || !skip_space(reader))
                return code == PLAIN ? ODD : code;
            if (skip_byte(reader, ']'))
                break;
            if (!skip_byte(reader, ','))
                return ODD;
        }
    return append_row(column, 1, NULL);
}

static Column *field_named(Column *column, Column *expected, const uint8_t *name, Py_ssize_t size)
{
    Column *field = expected;
    if (field == NULL && (field = column->first) == NULL)
        return NULL;
    do {
        if (field->name_bytes == size && memcmp(field->name, name, (size_t)size) == 0)
            return field;
        field = field->next != NULL ? field->next : column->first;
    } while (field != (expected != NULL ? expected : column->first));
    return NULL;
}

/* A value that no column is made of. */
static int skip_nothing(Reader *reader)
{
    if (skip_word(reader, "null"))
        return PLAIN;
    uint8_t closing = skip_byte(reader, '{') ? '}' : skip_byte(reader, '[') ? ']' : 0;
    return closing && skip_space(reader) && skip_byte(reader, closing) ? PLAIN : ODD;
}

static int read_field(Reader *reader, Column *column, Column **expected)
{
    int is_ascii, code;
    const uint8_t *name = reader->at, *end = plain_end(name, reader->end, &is_ascii);
    size_t size = (size_t)(end - name);
    if (end < reader->end && *end == '"' && is_ascii)
        reader->at = end + 1;
    else {
        reader->name.size = 0;
        if ((code = read_string(reader, &reader->name)) != PLAIN)
            return code;
        name = reader->name.bytes;
        size = reader->name.size;
    }
    Column *field = field_named(column, *expected, name, (Py_ssize_t)size);
    if (!skip_space(reader) || !skip_byte(reader, ':') || !skip_space(reader))
        return ODD;
    if (field == NULL)
        return skip_nothing(reader);
    *expected = field->next;
    if (field->rows > column->rows) /* it is there twice */
        return ODD;
    code = append_nulls(field, column->rows);
    return code == PLAIN ? read_value(reader, field) : code;
}

/* After its brace. */
static int read_object(Reader *reader, Column *column)
{
    Column *expected = column->first;
    if (!skip_space(reader))
        return ODD;
    if (!skip_byte(reader, '}'))
        for (;;) {
            if (!skip_space(reader) || !skip_byte(reader, '"'))
                return ODD;
            int code = read_field(reader, column, &expected);
            if (code != PLAIN)
                return code;
            if (!skip_space(reader))
                return ODD;
            if (skip_byte(reader, '}'))
                break;
            if (!skip_byte(reader, ','))
                return ODD;
        }
    return append_row(column, 1, NULL);
}

/* At its first byte. It becomes one row of the column. */
static int read_value(Reader *reader, Column *column)
{
    int code, bit;
    switch (*reader->at) {
    case 'n':
        return skip_word(reader, "null") ? append_null(column) : ODD;
    case '"':
        reader->at++;
        if (column->kind != STRING)
            return ODD;
        code = read_string(reader, &column->text);
        return code == PLAIN ? append_row(column, 1, NULL) : code;
    case '{':
        reader->at++;
        return column->kind == STRUCT ? read_object(reader, column) : ODD;
    case '[':
        reader->at++;
        return column->kind == LIST ? read_list(reader, column) : ODD;
    case 't':
    case 'f':
        bit = *reader->at == 't';
        return column->kind == BOOLEAN && skip_word(reader, bit ? "true" : "false") ? append_row(column, 1, &bit) : ODD;
    default:
        return column->kind == LONG || column->kind == DOUBLE ? read_number(reader, column) : ODD;
    }
}

static int read_document(Reader *reader, Column *root)
{
    int code = skip_space(reader) && skip_byte(reader, '{') ? read_object(reader, root) : ODD;
    return code == PLAIN && skip_space(reader) ? ODD : code;
}

static void keep(Column *columns, Py_ssize_t count)
{
    for (Py_ssize_t i = 0; i < count; i++) {
        columns[i].kept_rows = columns[i].rows;
        columns[i].kept_text = columns[i].text.size;
    }
}

/* As it was before the document. */
static void go_back(Column *columns, Py_ssize_t count)
{
    for (Py_ssize_t i = 0; i < count; i++) {
        Column *column = &columns[i];
        column->rows = column->kept_rows;
        column->text.size = column->kept_text;
        if (column->kind == LONG || column->kind == DOUBLE)
            column->values.size = (size_t)column->rows * 8;
        else if (column->kind == STRING || column->kind == TEXT || column->kind == LIST)
            column->values.size = ((size_t)column->rows + 1) * 4;
    }
}

typedef struct {
    Py_buffer validity, ends, data;
    Py_ssize_t first, rows;
} Values;

static int read_row(Reader *reader, const Values *values, Py_ssize_t row, Column *root)
{
    Py_ssize_t at = values->first + row;
    const uint8_t *validity = values->validity.buf, *data = values->data.buf;
    int32_t from, to;
    if (validity != NULL && !(validity[at >> 3] >> (at & 7) & 1))
        return append_null(root);
    memcpy(&from, (const uint8_t *)values->ends.buf + 4 * at, 4);
    memcpy(&to, (const uint8_t *)values->ends.buf + 4 * at + 4, 4);
    if (from < 0 || to < from || to > values->data.len)
        return ODD;
    reader->at = data + from;
    reader->end = data + to;
    return read_document(reader, root);
}

/* The numbers of the rows that are odd; those are null in the columns. */
static PyObject *read_rows(const Values *values, Column *columns, Py_ssize_t count)
{
    Reader reader = {0};
    int code = PLAIN;
    PyObject *odd = PyList_New(0);
    for (Py_ssize_t row = 0; odd != NULL && row < values->rows && code == PLAIN; row++) {
        keep(columns, count);
        code = read_row(&reader, values, row, columns);
        if (code != ODD)
            continue;
        go_back(columns, count);
        code = append_null(columns);
        PyObject *number = PyLong_FromSsize_t(row);
        if (number == NULL || PyList_Append(odd, number) < 0)
            Py_CLEAR(odd);
        Py_XDECREF(number);
    }
    for (Py_ssize_t i = 0; i < count && code == PLAIN; i++) /* a struct comes before its fields */
        for (Column *field = columns[i].kind == STRUCT ? columns[i].first : NULL; field != NULL && code == PLAIN; field = field->next)
            code = append_nulls(field, columns[i].rows);
    PyMem_Free(reader.name.bytes);
    if (code == PLAIN)
        return odd;
    Py_XDECREF(odd);
    return odd == NULL ? NULL : PyErr_NoMemory();
}

static PyObject *as_result(const Column *columns, Py_ssize_t count, PyObject *odd)
{
    PyObject *buffers = PyList_New(count);
    for (Py_ssize_t i = 0; buffers != NULL && i < count; i++) {
        const Column *column = &columns[i];
        PyObject *one = Py_BuildValue("(Ly#y#y#)", (long long)column->rows, column->validity.bytes, (Py_ssize_t)column->validity.size,
                                      column->values.bytes, (Py_ssize_t)column->values.size, column->text.bytes,
                                      (Py_ssize_t)column->text.size);
        if (one == NULL)
            Py_CLEAR(buffers);
        else
            PyList_SetItem(buffers, i, one);
    }
    if (buffers == NULL) {
        Py_DECREF(odd);
        return NULL;
    }
    return Py_BuildValue("(NN)", odd, buffers);
}

/* The columns as they are described: (kind, name, number of the column that it is in). False with an exception. */
static int are_made(PyObject *described, Column *columns, Py_ssize_t count)
{
    static const int32_t start = 0;
    for (Py_ssize_t i = 0; i < count; i++) {
        Column *column = &columns[i], *within;
        Py_ssize_t number;
        PyObject *one = PyTuple_GetItem(described, i);
        if (one == NULL || !PyArg_ParseTuple(one, "iy#n", &column->kind, &column->name, &column->name_bytes, &number))
            return 0;
        int is_within = i > 0 && number >= 0 && number < i && columns[number].kind >= STRUCT && columns[number].kind <= LIST;
        if (column->kind < 0 || column->kind >= KINDS || (i > 0 && !is_within) || (i == 0 && column->kind != STRUCT)) {
            PyErr_SetString(PyExc_ValueError, "no such columns");
            return 0;
        }
        if (i > 0) {
            within = &columns[number];
            if (within->first == NULL)
                within->first = column;
            else
                within->last->next = column;
            within->last = column;
        }
        if (column->kind >= STRING && column->kind != STRUCT && append(&column->values, &start, sizeof start) != PLAIN) {
            PyErr_NoMemory();
            return 0;
        }
    }
    for (Py_ssize_t i = 0; i < count; i++)
        if (columns[i].kind == LIST && columns[i].first == NULL) {
            PyErr_SetString(PyExc_ValueError, "a list of nothing");
            return 0;
        }
    return 1;
}

static PyObject *plain_documents_read(PyObject *module, PyObject *arguments)
{
    PyObject *described, *result = NULL;
    Values values = {0};
    (void)module;
    if (!PyArg_ParseTuple(arguments, "O!z*y*y*nn", &PyTuple_Type, &described, &values.validity, &values.ends, &values.data,
                          &values.first, &values.rows))
        return NULL;
    Py_ssize_t count = PyTuple_Size(described);
    Column *columns = PyMem_Calloc((size_t)count + 1, sizeof *columns);
    Py_ssize_t most = values.ends.len / 4 - 1, covered = values.validity.buf == NULL ? most : values.validity.len * 8;
    if (columns == NULL)
        PyErr_NoMemory();
    else if (count == 0 || values.first < 0 || values.rows < 0 || values.first > most - values.rows ||
             values.first > covered - values.rows)
        PyErr_SetString(PyExc_ValueError, "fewer values than rows");
    else if (are_made(described, columns, count)) {
        PyObject *odd = read_rows(&values, columns, count);
        if (odd != NULL)
            result = as_result(columns, count, odd);
    }
    for (Py_ssize_t i = 0; columns != NULL && i < count; i++) {
        PyMem_Free(columns[i].validity.bytes);
        PyMem_Free(columns[i].values.bytes);
        PyMem_Free(columns[i].text.bytes);
    }
    PyMem_Free(columns);
    PyBuffer_Release(&values.validity);
    PyBuffer_Release(&values.ends);
    PyBuffer_Release(&values.data);
    return result;
}

static PyMethodDef methods[] = {
    {"read", plain_documents_read, METH_VARARGS, "read(columns, validity, ends, data, first, rows): see plain_documents.py"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_plain_documents", "Native reading of plain JSON documents.", 0, methods, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__plain_documents(void)
{
    return PyModuleDef_Init(&definition);
}
