"""What can be wrong with a record, as numbers that the native and the Python walk share. _records.h repeats them."""

from __future__ import annotations

OK = 0
BAD_VARINT = 1
BAD_RECORD_LENGTH = 2
BAD_RECORD_BODY = 3
BAD_HEADER_COUNT = 4
BAD_HEADER_KEY = 5
MISSING_KEY = 6
TRAILING_BYTES = 7
BAD_OFFSET_DELTA = 8

MESSAGES = {
    BAD_VARINT: "a variable-length number is cut or too long",
    BAD_RECORD_LENGTH: "its length goes beyond the batch",
    BAD_RECORD_BODY: "its fields do not add up to its length",
    BAD_HEADER_COUNT: "it has an invalid number of headers",
    BAD_HEADER_KEY: "a header has no key",
    MISSING_KEY: "it has no key",
    TRAILING_BYTES: "there are bytes after the last record",
    BAD_OFFSET_DELTA: "its offset is not above that of the record before it, or beyond the batch",
}
