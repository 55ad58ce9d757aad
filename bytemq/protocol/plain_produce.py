"""The short way of plain Produce requests: one batch to one partition, nothing unusual, nothing wrong.

Owns what the short way gives and that it may be missing. It is native (`_produced.c`) where the package could be
compiled; elsewhere it knows no request, and the code that asks it first does as it does with any other request. Each
function returns None for what is not plain, the damaged included, else exactly what the code that asks would have made.

    header   a frame                       -> API key, version, correlation id, client id, body
    decode   version and body              -> the fields of a ProduceRequest
    batch    payload, largest size, zstd?  -> the fields of the batch's header; only its CRC is still to be checked

The steps of a request by itself; and those of all that come in a row (`broker/produce_run.py`):

    run      data, from where to where, largest frame, most requests
                                           -> what they have in common, and them, in memory of their own
    whole    memory, size of the frame     -> the same of one, which stays where it is
    answers  version, requests, results    -> the frames that answer them; None where something went wrong with one
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmap import mmap

Frame = tuple[int, int, int, str | None, memoryview]
Body = tuple[None, int, int, list[tuple[str | None, bytes | None, list[tuple[int, memoryview | None]]]]]
Header = tuple[int, int, int, int, int, int, int, int, int, int, int, int, int]
Request = tuple[int, str | None, bytes | None, int, memoryview, Header, int]
"""Correlation id, name and id of the topic, index of the partition, records, their header; where the frame ends."""
Run = tuple[int, int, int, "bytearray | mmap", list[Request]]
"""Version, acks and timeout_ms, the same for all requests; the memory that their records are in; the requests."""
Result = tuple[int, int, int, int, *tuple[object, ...]]
"""Error code, base offset, log append time, log start offset, and what a plain answer has no place for."""

try:
    from bytemq.protocol._produced import answers, batch, decode, header, run, whole

    IS_NATIVE = True
except ImportError:  # no compiler when the package was installed: everything goes the long way
    IS_NATIVE = False

    def header(frame: memoryview) -> Frame | None:
        return None

    def decode(version: int, body: memoryview) -> Body | None:
        return None

    def batch(payload: memoryview, max_message_bytes: int, zstd_allowed: bool) -> Header | None:
        return None

    def run(data: memoryview, position: int, end: int, most_bytes: int, most: int) -> Run | None:
        return None

    def whole(memory: bytearray | mmap, size_bytes: int) -> Run | None:
        return None

    def answers(version: int, requests: list[Request], results: Sequence[Result]) -> bytearray | None:
        return None


__all__ = [
    "IS_NATIVE",
    "Body",
    "Frame",
    "Header",
    "Request",
    "Result",
    "Run",
    "answers",
    "batch",
    "decode",
    "header",
    "run",
    "whole",
]
