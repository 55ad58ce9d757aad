"""The short way of plain Produce requests: one batch to one partition, nothing unusual, nothing wrong.

Owns what the short way gives and that it may be missing. It is native (`_produced.c`) where the package could be
compiled; elsewhere it knows no request, and the codecs that ask it first do as they do with any other request. Each
function returns None for what is not plain, the damaged included, else exactly what the code that asks would have made.

    header   a frame                       -> API key, version, correlation id, client id, body
    decode   version and body              -> the fields of a ProduceRequest
    batch    payload, largest size, zstd?  -> the fields of the batch's header; only its CRC is still to be checked
"""

from __future__ import annotations

Frame = tuple[int, int, int, str | None, memoryview]
Body = tuple[None, int, int, list[tuple[str | None, bytes | None, list[tuple[int, memoryview | None]]]]]
Header = tuple[int, int, int, int, int, int, int, int, int, int, int, int, int]

try:
    from bytemq.protocol._produced import batch, decode, header

    IS_NATIVE = True
except ImportError:  # no compiler when the package was installed: everything goes the long way
    IS_NATIVE = False

    def header(frame: memoryview) -> Frame | None:
        return None

    def decode(version: int, body: memoryview) -> Body | None:
        return None

    def batch(payload: memoryview, max_message_bytes: int, zstd_allowed: bool) -> Header | None:
        return None


__all__ = ["IS_NATIVE", "Body", "Frame", "Header", "batch", "decode", "header"]
