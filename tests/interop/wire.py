"""Raw Kafka frames over one TCP connection, built and read by kafka-python's codecs, which we did not write.

Owns framing and correlation only: what is sent is exactly what the caller gave, malformed or not.
"""

from __future__ import annotations

import socket
import struct
from typing import Any

from kafka.protocol.api_header import ResponseClassRegistry
from kafka.protocol.metadata import MetadataRequest

CLIENT_ID = "differential"
API_VERSIONS_KEY = 18


class Wire:
    """A connection that sends frames and returns what came back, byte for byte."""

    def __init__(self, address: tuple[str, int], timeout_s: float = 15.0) -> None:
        self._socket = socket.create_connection(address, timeout=timeout_s)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._correlation_id = 0

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def send_bytes(self, data: bytes) -> None:
        self._socket.sendall(data)

    def send_frame(self, payload: bytes) -> None:
        self._socket.sendall(struct.pack(">i", len(payload)) + payload)

    def receive_frame(self) -> bytes:
        """The next response frame without its length. EOFError: the server closed. TimeoutError: it said nothing."""
        size = struct.unpack(">i", self._receive_exactly(4))[0]
        return self._receive_exactly(size)

    def _receive_exactly(self, size_bytes: int) -> bytes:
        received = bytearray()
        while len(received) < size_bytes:
            try:
                chunk = self._socket.recv(size_bytes - len(received))
            except ConnectionResetError:
                raise EOFError("connection reset") from None
            if not chunk:
                raise EOFError("connection closed")
            received += chunk
        return bytes(received)

    def send(self, request: Any) -> int:
        """Sends a kafka-python request; returns its correlation id."""
        self._correlation_id += 1
        request.with_header(correlation_id=self._correlation_id, client_id=CLIENT_ID)
        self.send_frame(bytes(request.encode(header=True)))
        return self._correlation_id

    def call(self, request: Any) -> Any:
        """The decoded response to one request."""
        correlation_id = self.send(request)
        frame = self.receive_frame()
        assert struct.unpack_from(">i", frame)[0] == correlation_id, "answers came out of order"
        return decode_response(request.API_KEY, request.API_VERSION, frame)


def decode_response(api_key: int, version: int, frame: bytes) -> Any:
    """Decodes a response frame (header included) with the class kafka-python registered for the key."""
    return ResponseClassRegistry._response_class_registry[api_key][version].decode(frame, header=True)


def request_header(api_key: int, version: int, correlation_id: int, *, flexible: bool, client_id: str | None) -> bytes:
    """A request header by hand, for frames that no client would send."""
    fixed = struct.pack(">hhi", api_key, version, correlation_id)
    name = struct.pack(">h", -1) if client_id is None else struct.pack(">h", len(client_id)) + client_id.encode()
    return fixed + name + (b"\x00" if flexible else b"")


def metadata_broker_count(address: tuple[str, int]) -> int:
    with Wire(address, timeout_s=5.0) as wire:
        return len(wire.call(MetadataRequest[1](topics=[])).brokers)
