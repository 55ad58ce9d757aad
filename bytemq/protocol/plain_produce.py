"""The short way of plain Produce requests: one batch to each partition, nothing unusual, nothing wrong.

Owns what the short way gives and that it may be missing. It is native (`_produced.c`) where the package could be
compiled; elsewhere it knows no request, and the code that asks it first does as it does with any other request. Each
function returns None for what is not plain, the damaged included, else exactly what the code that asks would have made.

    header   a frame                       -> API key, version, correlation id, client id, body
    decode   version and body              -> the fields of a ProduceRequest
    batch    payload, largest size, zstd?  -> the fields of the batch's header; only its CRC is still to be checked

The steps of a request by itself; and those of all that come in a row (`broker/produce_run.py`), whose batches stay
where they are in memory:

    take     memory, from where to where, largest frame, most requests, dictionaries that know partitions, class
                                           -> `Requests`: what they have in common, and of each of their batches a
                                              RecordBatch and what was found for its partition
    whole    memory, size of the frame, the rest as above
                                           -> the same of one request without its size in front

A `Requests` also writes the answers, as long as nothing went wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

Frame = tuple[int, int, int, str | None, memoryview]
Body = tuple[None, int, int, list[tuple[str | None, bytes | None, list[tuple[int, memoryview | None]]]]]
Header = tuple[int, int, int, int, int, int, int, int, int, int, int, int, int]
ByName = Mapping[str, Mapping[int, Any]]
ById = Mapping[bytes, Mapping[int, Any]]

try:
    from bytemq.protocol._produced import Fields, Requests, batch, decode, header, take, whole

    IS_NATIVE = True
except ImportError:  # no compiler when the package was installed: everything goes the long way
    IS_NATIVE = False

    def header(frame: memoryview) -> Frame | None:
        return None

    def decode(version: int, body: memoryview) -> Body | None:
        return None

    def batch(payload: memoryview, max_message_bytes: int, zstd_allowed: bool) -> Header | None:
        return None

    def take(
        view: memoryview,
        position: int,
        end: int,
        most_bytes: int,
        most: int,
        by_name: ByName,
        by_id: ById,
        batch_class: type[Any],
    ) -> Requests | None:
        return None

    def whole(
        view: memoryview, size_bytes: int, by_name: ByName, by_id: ById, batch_class: type[Any]
    ) -> Requests | None:
        return None

    if not TYPE_CHECKING:
        from bytemq.protocol.records.fields_pure import Fields


__all__ = [
    "IS_NATIVE",
    "Body",
    "Fields",
    "Frame",
    "Header",
    "Requests",
    "batch",
    "decode",
    "header",
    "take",
    "whole",
]
