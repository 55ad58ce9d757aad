/*
 * Reading one record of a v2 batch: what _walk.c and _columns.c share.
 *
 * Nothing here allocates, and no length that the input claims is believed before it was compared with the bytes that are left.
 * The codes are those of walk_codes.py.
 */

#include <stdint.h>

enum {
    OK = 0,
    BAD_VARINT = 1,
    BAD_RECORD_LENGTH = 2,
    BAD_RECORD_BODY = 3,
    BAD_HEADER_COUNT = 4,
    BAD_HEADER_KEY = 5,
    MISSING_KEY = 6,
    TRAILING_BYTES = 7,
    BAD_OFFSET_DELTA = 8,
};

typedef struct {
    const uint8_t *at;
    const uint8_t *end;
} Cursor;

typedef struct {
    const uint8_t *bytes;
    int64_t length; /* negative: null */
} Slice;

typedef struct {
    int64_t length; /* of the record, without the number that says so */
    int64_t timestamp_delta;
    int64_t offset_delta;
    Slice key;
    Slice value;
    int64_t header_count;
    Cursor headers;
} RecordView;

static inline int read_unsigned(Cursor *cursor, int max_bytes, uint64_t *value)
{
    uint64_t result = 0;
    for (int i = 0; i < max_bytes; i++) {
        if (cursor->at == cursor->end)
            return BAD_VARINT;
        uint8_t byte = *cursor->at++;
        result |= (uint64_t)(byte & 0x7F) << (7 * i);
        if (!(byte & 0x80)) {
            *value = result;
            return OK;
        }
    }
    return BAD_VARINT;
}

static inline int read_varint(Cursor *cursor, int64_t *value)
{
    uint64_t raw;
    int code = read_unsigned(cursor, 5, &raw);
    uint32_t bits = (uint32_t)raw;
    if (code == OK)
        *value = (int32_t)((bits >> 1) ^ (0u - (bits & 1)));
    return code;
}

static inline int read_varlong(Cursor *cursor, int64_t *value)
{
    uint64_t raw;
    int code = read_unsigned(cursor, 10, &raw);
    if (code == OK)
        *value = (int64_t)((raw >> 1) ^ (0u - (raw & 1)));
    return code;
}

static inline int read_slice(Cursor *cursor, Slice *slice)
{
    int code = read_varint(cursor, &slice->length);
    if (code != OK)
        return code;
    if (slice->length > cursor->end - cursor->at)
        return BAD_RECORD_BODY;
    slice->bytes = cursor->at;
    if (slice->length > 0)
        cursor->at += slice->length;
    return OK;
}

static inline int read_header(Cursor *cursor, Slice *key, Slice *value)
{
    int code = read_slice(cursor, key);
    if (code != OK)
        return code;
    if (key->length < 0)
        return BAD_HEADER_KEY;
    return read_slice(cursor, value);
}

/* All but the headers, which begin at view->headers and end with the record. */
static inline int read_record(Cursor *cursor, RecordView *view)
{
    int64_t length;
    int code = read_varint(cursor, &length);
    if (code != OK)
        return code;
    if (length < 0 || length > cursor->end - cursor->at)
        return BAD_RECORD_LENGTH;
    view->length = length;
    Cursor body = {cursor->at, cursor->at + length};
    if (body.at == body.end)
        return BAD_RECORD_BODY;
    body.at++; /* attributes: unused in v2 */
    if ((code = read_varlong(&body, &view->timestamp_delta)) != OK || (code = read_varint(&body, &view->offset_delta)) != OK ||
        (code = read_slice(&body, &view->key)) != OK || (code = read_slice(&body, &view->value)) != OK ||
        (code = read_varint(&body, &view->header_count)) != OK)
        return code;
    if (view->header_count < 0 || view->header_count > body.end - body.at)
        return BAD_HEADER_COUNT;
    view->headers = body;
    cursor->at = body.end;
    return OK;
}
