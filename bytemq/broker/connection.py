"""One client's connection: bytes in, requests in order to the dispatcher, answers in order out.

Owns order and back-pressure. What has come is worked on at the end of the loop's turn (`receive_turn`); what is
received straight into the buffer of a large frame, at once. Consecutive Produce requests are worked on together, and so
are some that only look; any other request starts when all before it are answered. Reading stops while a request has to
wait, while the client does not take its answers, while memory is short, and for a moment after TURN_BYTES or TURN_S, so
that one busy socket cannot starve the others.

A write is a system call, so answers are gathered: they leave when no more are in work, at the latest in the next turn.
"""

import asyncio
from collections import deque
from typing import TYPE_CHECKING, cast

from bytemq.broker.context import ClientInfo
from bytemq.broker.exchange import Answered, Exchange
from bytemq.broker.frame_reader import READ_BYTES, Arena, BadFrame, FrameReader
from bytemq.broker.limits import MAX_PIPELINED_REQUESTS, REQUEST_TURN_BYTES, TURN_BYTES, TURN_S, WRITE_BUFFER_BYTES
from bytemq.broker.produce_run import ProduceShare
from bytemq.protocol.api_keys import ApiKey
from bytemq.protocol.framing import split_request
from bytemq.protocol.primitives import Buffer as WireBuffer
from bytemq.protocol.primitives import MalformedMessage
from bytemq.runtime.buffers import Buffer

if TYPE_CHECKING:
    from bytemq.broker.server import Server

_PRODUCE = int(ApiKey.PRODUCE)
_TOGETHER = frozenset({_PRODUCE, int(ApiKey.OFFSET_FOR_LEADER_EPOCH), int(ApiKey.LIST_OFFSETS)})
"""Consecutive ones of a kind need not wait for each other: librdkafka sends one for each partition, and each may have
to wait until that is open.
"""
_WAITING_FOR_OTHERS = frozenset({int(ApiKey.JOIN_GROUP), int(ApiKey.SYNC_GROUP)})
"""Whoever sent these waits for the other members of a group, and asks again elsewhere."""

MUCH_BYTES = READ_BYTES
"""For one read: the transport reads on at once, and the connection should know by then what it is."""

JOIN_BELOW_BYTES = 16 * 1024
"""Small answers are copied into one buffer: that is cheaper than a vector of many."""


class Connection(asyncio.BufferedProtocol):
    """Made by the server for each accepted socket; `server` gives it memory, the dispatcher and a coarse clock."""

    __slots__ = (
        "_flush_scheduled",
        "_held",
        "_in_turn",
        "_in_work",
        "_last_moved_bytes",
        "_loop",
        "_next_turn",
        "_outgoing",
        "_outgoing_bytes",
        "_processing",
        "_reader",
        "_reading",
        "_request_count",
        "_server",
        "_stopping",
        "_transport",
        "_turn_left",
        "_unsent",
        "_write_paused",
        "_written_bytes",
        "active_at",
        "client",
        "stalled_since",
    )

    def __init__(self, server: "Server", loop: asyncio.AbstractEventLoop, client: ClientInfo) -> None:
        self._server = server
        self._loop = loop
        self.client = client
        self._transport: asyncio.Transport | None = None
        self._reader = FrameReader(server.request_memory, self)
        self._in_work: deque[Exchange | ProduceShare] = (
            deque()
        )  # started, in the order of the requests, answered or not
        self._request_count = 0  # in work
        self._held: Exchange | None = None  # read, but not to be started yet
        self._processing = False
        self._reading = True
        self._write_paused = False
        self._outgoing: list[WireBuffer] = []  # answers to be written
        self._outgoing_bytes = 0
        self._flush_scheduled = False
        self._unsent: list[Exchange | ProduceShare] = []  # answered; their record batches may still be in the transport
        self._stopping = False
        self._in_turn = 0  # so often something has come that was not worked on yet
        self._turn_left = TURN_BYTES
        self._next_turn = False  # the turn is used up, the next one is scheduled
        self._written_bytes = 0
        self._last_moved_bytes = 0
        self.active_at = server.now
        self.stalled_since = 0.0

    # What the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name
        self._transport = transport
        # low=0: `resume_writing` then says that everything has left, and memory can be given back.
        transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES, low=0)
        self._server.connected(self, transport)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._reader.close()
        if self._held is not None:
            self._held.release_frame()
            self._held = None
        for exchange in (*self._in_work, *self._unsent):
            exchange.abandon()
            exchange.release_response(self._server.response_memory)
        self._in_work.clear()
        self._request_count = 0
        self._unsent.clear()
        self._server.disconnected(self)

    def get_buffer(self, size_hint: int) -> memoryview:
        """In the middle of a read: nothing may be worked on here, and least of all may reading be paused."""
        return self._server.request_memory.room() if self._in_turn else self._reader.get_buffer()

    def buffer_updated(self, count: int) -> None:
        self._turn_left -= count
        server = self._server
        if self._reader.receives_in_place:
            self._work(None, 0, count)
            server.runs.begin()
            return
        self._in_turn += 1
        server.turn.add(self, *server.request_memory.filled(count))
        if count >= MUCH_BYTES:  # maybe the beginning of a frame, whose rest is received in place then
            server.turn.work()

    def work_on(self, arena: Arena, position: int, end: int) -> None:
        """See `Receiving`."""
        self._in_turn -= 1
        if self._transport is not None:
            self._work(arena, position, end)

    def _work(self, arena: Arena | None, position: int, end: int) -> None:
        """On what lies there; None: so many bytes of the frame under way."""
        self._processing = True
        try:
            if arena is None:
                self._reader.received_in_place(end)
            else:
                self._reader.received(arena, position, end)
        except Exception as error:
            self._fail(error)
        finally:
            self._processing = False
        if self._outgoing:
            self._flush()
        self._update_reading()

    def eof_received(self) -> bool:
        if self._in_turn:  # what was sent before it counts
            self._server.turn.work()
        return False  # as Kafka: whoever closes its half wants no more answers

    def pause_writing(self) -> None:
        self._write_paused = True

    def resume_writing(self) -> None:
        self._write_paused = False
        if not self._outgoing:
            self._release_sent()
        self._go_on()

    # What exchanges call

    def answered(self, work: Answered) -> None:
        """Sends the answer, unless one before it is missing, and whatever it has kept back."""
        in_work = self._in_work
        if not in_work or work is not in_work[0]:
            return
        while in_work and in_work[0].answer is not None:
            self._send(in_work.popleft())
        if self._processing:
            return  # whoever processes goes on, and flushes
        if not in_work:
            self._flush()
        elif self._outgoing and not self._flush_scheduled:
            self._flush_scheduled = True
            self._loop.call_soon(self._flush_later)
        if self._held is not None or not self._reading:
            self._go_on()

    def hang_up(self, reason: str) -> None:
        """Closes the connection because of what the client did: one line in the log, no answer."""
        if self._transport is not None and not self._transport.is_closing():
            self._server.log_hang_up(self.client, reason)
            self.close()

    # What the server calls

    def close(self) -> None:
        """Closes at once; what is in work is abandoned."""
        if self._transport is not None:
            self._transport.abort()

    def stop_reading(self) -> None:
        """The server stops: no new requests; those in work are still answered."""
        self._stopping = True
        self._update_reading()

    @property
    def busy(self) -> bool:
        """Requests are being worked on, other than those that wait for something to happen, or answers are not sent
        yet.
        """
        return bool(self._unsent or self._outgoing) or any(
            exchange.on_abandon is None and exchange.api_key not in _WAITING_FOR_OTHERS for exchange in self._in_work
        )

    @property
    def holds_memory(self) -> bool:
        """The client owes us progress: a frame is incomplete and not held up by us, or answers wait to be read."""
        return self._write_paused or (self._reader.mid_frame and not self._reader.waits_for_memory)

    def moved_bytes(self) -> int:
        """Bytes received and sent since the last call."""
        unsent = self._transport.get_write_buffer_size() if self._transport is not None else 0
        total = self._reader.received_bytes + self._written_bytes - unsent
        moved, self._last_moved_bytes = total - self._last_moved_bytes, total
        return moved

    # Requests

    def take_plain(self, arena: Arena, position: int, end: int, *, is_whole: bool = False) -> tuple[int, int]:
        """See `Receiver`. What may not start now goes the general way, which knows how to wait."""
        in_work, room = self._in_work, MAX_PIPELINED_REQUESTS - self._request_count
        if self._write_paused or room <= 0 or (in_work and in_work[-1].api_key != _PRODUCE):
            return position, position
        server = self._server
        most = 0 if is_whole else room
        share, taken_until, looked_until = server.runs.take(arena, position, end, most, self.client, self)
        if share is not None:
            self.active_at = server.now
            in_work.append(share)
            self._request_count += share.request_count
            self._turn_left -= share.request_count * REQUEST_TURN_BYTES
        return taken_until, looked_until

    @property
    def wants_more(self) -> bool:
        """See `Receiver`."""
        return not self._must_wait()

    def memory_granted(self) -> None:
        """See `Receiver`."""
        self._go_on()

    def deliver(self, buffer: Buffer, size_bytes: int) -> bool:
        """See `Receiver`."""
        server = self._server
        self.active_at = server.now
        memory = server.request_memory
        try:
            header = split_request(memoryview(buffer)[:size_bytes])
        except MalformedMessage as error:
            memory.release(buffer, size_bytes)
            self.hang_up(f"malformed request header: {error}")
            return False
        self._turn_left -= REQUEST_TURN_BYTES
        exchange = Exchange(header, self.client, self, memory, buffer, size_bytes)
        if self._may_start(exchange):
            self._start(exchange)
            return not self._must_wait()
        self._held = exchange
        return False

    def _may_start(self, exchange: Exchange) -> bool:
        if self._write_paused:
            return False
        in_work = self._in_work
        if not in_work:
            return True
        return (
            exchange.api_key == in_work[-1].api_key
            and exchange.api_key in _TOGETHER
            and self._request_count < MAX_PIPELINED_REQUESTS
        )

    def _start(self, exchange: Exchange) -> None:
        self._in_work.append(exchange)
        self._request_count += 1
        server = self._server
        started_at = server.monotonic()
        server.dispatcher.dispatch(exchange)
        if server.monotonic() - started_at > TURN_S:
            self._turn_left = 0

    def _must_wait(self) -> bool:
        """Nothing more is taken from the reader just now."""
        if self._turn_left <= 0 and not self._next_turn:
            self._next_turn = True
            self._loop.call_soon(self._begin_turn)
        return (
            self._next_turn
            or self._stopping
            or self._write_paused
            or self._held is not None
            or self._transport is None
            or self._transport.is_closing()
            or self._request_count >= MAX_PIPELINED_REQUESTS
        )

    def _begin_turn(self) -> None:
        self._turn_left = TURN_BYTES
        self._next_turn = False
        self._go_on()

    def _go_on(self) -> None:
        """Something that requests waited for has happened: starts those that may start, and reads again."""
        if self._processing or self._transport is None:
            return
        self._processing = True
        try:
            while not self._transport.is_closing():
                held = self._held
                if held is not None:
                    if self._next_turn or self._stopping or not self._may_start(held):
                        break
                    self._held = None
                    self._start(held)
                elif self._reader.has_backlog and not self._must_wait():
                    self._reader.proceed()
                else:
                    break
        except Exception as error:
            self._fail(error)
        finally:
            self._processing = False
        self._server.runs.begin()
        self._flush()
        self._update_reading()

    def _fail(self, error: Exception) -> None:
        """What was received cannot be worked on. If that is our fault, those who share the turn or a run get on all the
        same.
        """
        if isinstance(error, BadFrame):
            self.hang_up(str(error))
        else:
            self._server.dispatcher.log_crash("connection", error)
            self.close()

    def _update_reading(self) -> None:
        wanted = not self._must_wait() and self._reader.takes_more
        transport = self._transport
        if wanted is not self._reading and transport is not None and not transport.is_closing():
            self._reading = wanted
            if wanted:
                transport.resume_reading()
            else:
                transport.pause_reading()

    # Answers

    def _send(self, work: Exchange | ProduceShare) -> None:
        """Puts an answer into the next write."""
        self._request_count -= work.request_count
        answer = work.answer
        if not answer or self._transport is None:
            work.release_response(self._server.response_memory)
            return
        size_bytes = work.answer_bytes
        self._outgoing += answer
        self._outgoing_bytes += size_bytes
        self._written_bytes += size_bytes
        self._turn_left -= size_bytes
        if work.response_reserved_bytes:
            self._unsent.append(work)

    def _flush(self) -> None:
        """One write for all answers gathered."""
        outgoing = self._outgoing
        transport = self._transport
        if not outgoing or transport is None or transport.is_closing():
            return
        if self._outgoing_bytes < JOIN_BELOW_BYTES:
            transport.write(b"".join(outgoing))
        else:
            transport.writelines(outgoing)
        self._outgoing = []
        self._outgoing_bytes = 0
        if self._unsent and not self._write_paused:
            self._release_sent()

    def _flush_later(self) -> None:
        self._flush_scheduled = False
        self._flush()

    def _release_sent(self) -> None:
        """Everything has left: the memory of what was read for it is free."""
        for exchange in self._unsent:
            exchange.release_response(self._server.response_memory)
        self._unsent.clear()
