"""Cases of frames and ApiVersions: what no client sends on purpose."""

from __future__ import annotations

import struct

from kafka.protocol.metadata import ApiVersionsRequest

from tests.interop.differential import Subject, case
from tests.interop.wire import API_VERSIONS_KEY, request_header

METADATA_KEY = 3


def frame(
    api_key: int, version: int, body: bytes = b"", *, flexible: bool = False, client_id: str | None = "x"
) -> bytes:
    return request_header(api_key, version, 7, flexible=flexible, client_id=client_id) + body


@case
def api_versions(subject: Subject) -> None:
    named = {"client_software_name": "interop", "client_software_version": "1.0"}
    for version in range(5):
        fields = named if version >= 3 else {}
        response = subject.quiet(ApiVersionsRequest, version, fields)
        keys = {row.api_key: (row.min_version, row.max_version) for row in response.api_keys}
        subject.answers[f"v{version} error"] = response.error_code
        subject.answers[f"v{version} own range"] = list(keys[API_VERSIONS_KEY])
    for version in (6, 99, 32767, -1):
        subject.raw(f"unknown version {version}", frame(API_VERSIONS_KEY, version), API_VERSIONS_KEY, 0)
        tagged = frame(API_VERSIONS_KEY, version, b"\x02a\x02b\x00", flexible=True)
        subject.raw(f"unknown version {version}, new header", tagged, API_VERSIONS_KEY, 0)
    bad = {"empty name": ("", "1"), "bad name": ("a b", "1"), "bad version": ("a", "1 2"), "dash first": ("-a", "1")}
    for label, (name, software) in bad.items():
        body = b"".join(bytes([len(text) + 1]) + text.encode() for text in (name, software)) + b"\x00"
        subject.raw(label, frame(API_VERSIONS_KEY, 3, body, flexible=True))


@case
def unknown_requests(subject: Subject) -> None:
    for key, version in ((999, 0), (-1, 0), (METADATA_KEY, 99), (METADATA_KEY, -1), (0, 2), (0, 0), (1, 3), (4, 0)):
        subject.raw(f"key {key} version {version}", frame(key, version))


@case
def strange_frames(subject: Subject) -> None:
    body = struct.pack(">i", 0)
    subject.raw("metadata v1, no topics", frame(METADATA_KEY, 1, body), METADATA_KEY, 1)
    subject.raw("trailing bytes", frame(METADATA_KEY, 1, body + b"\x00" * 9), METADATA_KEY, 1)
    subject.raw("client id null", frame(METADATA_KEY, 1, body, client_id=None), METADATA_KEY, 1)
    client_minus_two = struct.pack(">hhih", METADATA_KEY, 1, 7, -2) + body
    subject.raw("client id of length -2", client_minus_two, METADATA_KEY, 1)
    subject.raw("array of length -2", frame(METADATA_KEY, 1, struct.pack(">i", -2)))
    subject.raw("array too long", frame(METADATA_KEY, 1, struct.pack(">i", 1000)))
    subject.raw("array of 2^31-1", frame(METADATA_KEY, 1, struct.pack(">i", 2**31 - 1)))
    subject.raw("string too long", frame(METADATA_KEY, 1, struct.pack(">ih", 1, 500)))
    subject.raw("no body", frame(METADATA_KEY, 1))
    subject.raw("header cut", frame(METADATA_KEY, 1)[:5])
    subject.raw("empty frame", b"")
    for size in (-1, -(2**31), 104_857_601, 2**31 - 1):
        subject.raw_bytes(f"frame of {size} bytes", struct.pack(">i", size) + b"\x00" * 20)


@case
def strange_flexible_frames(subject: Subject) -> None:
    flags = b"\x00\x00"  # allow auto creation, authorized operations; v11 and later
    good = b"\x01" + flags + b"\x00"
    rows = {
        "no topics": good,
        "bool 7": b"\x01\x07\x00\x00",
        "an unknown tag": b"\x01" + flags + b"\x01\x05\x02ab",
        "unordered unknown tags": b"\x01" + flags + b"\x02\x09\x01a\x05\x01b",
        "a tag twice": b"\x01" + flags + b"\x02\x05\x01a\x05\x01b",
        "a tag beyond the frame": b"\x01" + flags + b"\x01\x05\x50ab",
        "overlong varint": b"\x81\x80\x80\x80\x80\x80\x00" + flags + b"\x00",
        "five byte varint of 1": b"\x81\x80\x80\x80\x00" + flags + b"\x00",
        "array beyond the frame": b"\x7f" + flags + b"\x00",
        "many tags": b"\x01" + flags + b"\xff\xff\xff\xff\x07",
        "cut": good[:2],
    }
    for label, body in rows.items():
        subject.raw(label, frame(METADATA_KEY, 12, body, flexible=True), METADATA_KEY, 12)
