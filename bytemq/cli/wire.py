"""One request and its answer over a plain connection: for what confluent-kafka's admin client cannot ask."""

from __future__ import annotations

import argparse
import socket
import struct
from typing import TypeVar

from bytemq.cli.client import TIMEOUT_S, host_and_port
from bytemq.cli.options import Failed
from bytemq.protocol.api_keys import ApiKey
from bytemq.protocol.codec import decode, encode
from bytemq.protocol.schema import Message

_Response = TypeVar("_Response", bound=Message)
_CLIENT_ID = b"bytemq-cli"
_FLEXIBLE_HEADER_END = b"\x00"
_MAX_ANSWER_BYTES = 16 * 1024 * 1024


def ask(
    options: argparse.Namespace, api_key: ApiKey, version: int, request: Message, response_class: type[_Response]
) -> _Response:
    """Send one request of a flexible version to the bootstrap server. Raises Failed when no answer comes."""
    host, port = host_and_port(options.bootstrap_server.split(",")[0])
    header = struct.pack(">hhih", api_key, version, 1, len(_CLIENT_ID)) + _CLIENT_ID + _FLEXIBLE_HEADER_END
    body = header + bytes(encode(request, version))
    try:
        with socket.create_connection((host, port), timeout=TIMEOUT_S) as connection:
            connection.sendall(struct.pack(">i", len(body)) + body)
            (size_bytes,) = struct.unpack(">i", _receive(connection, 4))
            if not 5 <= size_bytes <= _MAX_ANSWER_BYTES:
                raise Failed(f"{options.bootstrap_server} is no Kafka server")
            answer = _receive(connection, size_bytes)
    except OSError as error:
        raise Failed(
            f"no server answers at {options.bootstrap_server}: {error.strerror or error}. "
            "Start one with `bytemq start`, or say where it is with --bootstrap-server HOST:PORT."
        ) from None
    return decode(response_class, version, memoryview(answer)[5:])


def _receive(connection: socket.socket, size_bytes: int) -> bytes:
    received = bytearray()
    while len(received) < size_bytes:
        chunk = connection.recv(min(size_bytes - len(received), 65536))
        if not chunk:
            raise Failed("the server closed the connection instead of answering")
        received += chunk
    return bytes(received)
