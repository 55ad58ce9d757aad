"""What surrounds every message: the size of the frame, the header of a request, the header of a response.

Owns which version of the headers goes with which API version. On the wire a frame is an int32, the number of bytes that
follow, then the header, then the message.
"""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple

from bytemq.protocol import plain_produce
from bytemq.protocol.api_keys import ApiKey
from bytemq.protocol.api_versions import API_VERSIONS
from bytemq.protocol.primitives import MalformedMessage, Reader

SIZE_BYTES = 4
"""Of the number in front of a frame."""

_SIZE = Struct(">i")
_REQUEST = Struct(">hhih")  # API key, API version, correlation id, length of the client id
_CORRELATION_ID = Struct(">i")
_RESPONSE_V0 = Struct(">ii")  # size, correlation id
_RESPONSE_V1 = Struct(">iib")  # the same and the number of tagged fields


class RequestHeader(NamedTuple):
    """A request's header (v1, v2) and the bytes of the message behind it."""

    api_key: int
    api_version: int
    correlation_id: int
    client_id: str | None
    body: memoryview


def parse_frame_size(prefix: memoryview | bytes | bytearray, max_bytes: int) -> int:
    """The number of bytes that follow the first four. Raises MalformedMessage when nobody should wait for them."""
    (size_bytes,) = _SIZE.unpack_from(prefix)
    if not 0 <= size_bytes <= max_bytes:
        raise MalformedMessage(f"frame of {size_bytes} bytes; the limit is {max_bytes}")
    return int(size_bytes)


def split_request(frame: memoryview) -> plain_produce.Frame:
    """As `parse_request_header`, a plain tuple."""
    return plain_produce.header(frame) or parse_request_header(frame)


def parse_request_header(frame: memoryview) -> RequestHeader:
    """Takes a request (without its size) apart. Raises MalformedMessage.

    The API may be one that we do not serve and its version one that does not exist: an ApiVersions request of the
    future must be answered (KIP-511), so its header has to be understood. An unknown API is taken for an old one.
    """
    reader = Reader(frame)
    api_key, api_version, correlation_id, client_id_bytes = reader.read_fixed(_REQUEST)
    client_id = None if client_id_bytes < 0 else reader.read_text(client_id_bytes)
    versions = API_VERSIONS.get(api_key)
    if versions is not None and versions.is_flexible(api_version):
        reader.skip_tagged_fields()
    return RequestHeader(api_key, api_version, correlation_id, client_id, frame[reader.position :])


def request_prefix(api_key: int, api_version: int, correlation_id: int, client_id: str, body_bytes: int) -> bytes:
    """What goes in front of a request of `body_bytes`: the size of the frame and the header."""
    name = client_id.encode()
    tagged = b"\0" if API_VERSIONS[api_key].is_flexible(api_version) else b""
    size_bytes = _REQUEST.size + len(name) + len(tagged) + body_bytes
    return b"".join(
        (_SIZE.pack(size_bytes), _REQUEST.pack(api_key, api_version, correlation_id, len(name)), name, tagged)
    )


def parse_correlation_id(frame: memoryview | bytes) -> int:
    """Of a response (without its size): which request it answers. Raises MalformedMessage."""
    return int(Reader(memoryview(frame)).read_fixed(_CORRELATION_ID)[0])


def response_body(api_key: int, api_version: int, frame: memoryview) -> memoryview:
    """The message of a response (without its size). Raises MalformedMessage."""
    reader = Reader(frame)
    reader.read_fixed(_CORRELATION_ID)
    if API_VERSIONS[api_key].is_flexible(api_version):
        reader.skip_tagged_fields()
    return frame[reader.position :]


def response_prefix(api_key: int, api_version: int, correlation_id: int, body_bytes: int) -> bytes:
    """What goes in front of a response of `body_bytes`: the size of the frame and the header.

    ApiVersions keeps the first header in every version, for the client does not yet know what we understand (KIP-511).
    """
    if api_key != ApiKey.API_VERSIONS and API_VERSIONS[api_key].is_flexible(api_version):
        return _RESPONSE_V1.pack(_RESPONSE_V1.size - SIZE_BYTES + body_bytes, correlation_id, 0)
    return _RESPONSE_V0.pack(_RESPONSE_V0.size - SIZE_BYTES + body_bytes, correlation_id)
