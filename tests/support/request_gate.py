"""A gate between clients and a broker: lets every byte through until a chosen request comes, and holds that one back.

For faults between two steps of a protocol, e.g. after a client has prepared a commit and before the broker hears of it.
The broker must advertise the gate's address, so that clients come back through it. Owns its sockets and threads.
"""

from __future__ import annotations

import contextlib
import socket
import threading

from tests.support.node_process import free_port

_SIZE_BYTES = 4
_CHUNK_BYTES = 64 * 1024


class RequestGate:
    """`hold(api_key)` closes the gate for the next request of that kind, and for all that follows it on any connection;
    `wait_held` returns once one has come; `open` lets through what clients send from then on and drops what was held.
    """

    def __init__(self) -> None:
        self.port = free_port()
        self.broker: tuple[str, int] | None = None
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._lock = threading.Lock()
        self._awaited: int | None = None
        self._is_closed = False
        self._held = threading.Event()
        self._sockets: set[socket.socket] = set()
        self._serving: list[threading.Thread] = []
        self._accepting = threading.Thread(target=self._accept)
        self._accepting.start()

    def __enter__(self) -> RequestGate:
        return self

    def __exit__(self, *_: object) -> None:
        _shut(self._listener)
        self._accepting.join()
        self._listener.close()
        self._disconnect()
        for thread in self._serving:
            thread.join()

    @property
    def bootstrap(self) -> str:
        return f"127.0.0.1:{self.port}"

    def hold(self, api_key: int) -> None:
        with self._lock:
            self._awaited = api_key
            self._held.clear()

    def wait_held(self, timeout_s: float) -> None:
        assert self._held.wait(timeout_s), "the request did not come"

    def open(self) -> None:
        """Clients that were held lose their connections: what they sent meanwhile was never received."""
        self._disconnect()
        with self._lock:
            self._awaited, self._is_closed = None, False

    def _disconnect(self) -> None:
        with self._lock:
            for each in self._sockets:
                _shut(each)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                assert self.broker is not None
                server = socket.create_connection(self.broker)
            except OSError:  # the broker is away: so is the gate
                client.close()
                continue
            thread = threading.Thread(target=self._serve, args=(client, server))
            self._serving.append(thread)
            thread.start()

    def _serve(self, client: socket.socket, server: socket.socket) -> None:
        with client, server:
            with self._lock:
                self._sockets |= {client, server}
            answering = threading.Thread(target=self._forward_responses, args=(server, client))
            answering.start()
            self._forward_requests(client, server)
            answering.join()
            with self._lock:
                self._sockets -= {client, server}

    def _forward_requests(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while head := _receive(client, _SIZE_BYTES):
                body = _receive(client, int.from_bytes(head, "big"))
                if not body:
                    break
                if not self._passes(int.from_bytes(body[:2], "big")):
                    return  # held: the connection stays, silent, until the gate opens
                server.sendall(head + body)
        _shut(client)
        _shut(server)

    def _passes(self, api_key: int) -> bool:
        with self._lock:
            if api_key == self._awaited:
                self._is_closed = True
                self._held.set()
            return not self._is_closed

    @staticmethod
    def _forward_responses(server: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(_CHUNK_BYTES):
                client.sendall(data)
        _shut(server)
        _shut(client)


def _receive(source: socket.socket, count: int) -> bytes:
    """Exactly `count` bytes, or none at the end of the stream."""
    parts: list[bytes] = []
    while count:
        part = source.recv(min(count, _CHUNK_BYTES))
        if not part:
            return b""
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def _shut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
