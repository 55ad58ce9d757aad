"""One request and its answer, from the moment the frame is complete until the answer is handed to the socket.

Owns the frame's memory and the rule that an exchange is answered once. It knows how an answer is framed, not what is in
it, and nothing of the order among exchanges, which is the connection's.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from bytemq.broker.context import ClientInfo, RequestContext
from bytemq.broker.frame_reader import RequestMemory
from bytemq.metadata.standing import Standing
from bytemq.protocol.framing import response_prefix
from bytemq.protocol.plain_produce import Frame
from bytemq.protocol.primitives import Buffer as WireBuffer
from bytemq.runtime.budget import MemoryBudget
from bytemq.runtime.buffers import Buffer
from bytemq.runtime.metrics import Histogram


class Answered(Protocol):
    """What a connection has in work: an exchange, or several requests that are answered together."""

    @property
    def answer(self) -> Sequence[WireBuffer] | None: ...


class Owner(Protocol):
    """The connection, as an exchange sees it."""

    def answered(self, work: Answered) -> None: ...

    def hang_up(self, reason: str) -> None: ...


class Received(ABC):
    """What has come of a connection and is in work, in memory of its own, for `owner` until it is abandoned."""

    __slots__ = ()
    owner: Owner | None

    def hang_up(self, reason: str) -> None:
        """Closes the connection instead of answering; `reason` goes to the log."""
        owner = self.owner
        self.release_frame()
        if owner is not None:
            owner.hang_up(reason)

    @abstractmethod
    def release_frame(self) -> None:
        """Nobody will look at what was received again. Harmless when repeated."""


class Exchange(Received, RequestContext):
    """`body` is the request without its header, a writable view that stays valid until `release_frame`.

    `answer` is None until `respond` was called; empty when no answer is to be sent. With a `standing`, the answer is
    worth something only while that holds; otherwise the client is sent away, to ask again where it finds the owner.
    """

    __slots__ = (
        "_buffer",
        "_memory",
        "_size_bytes",
        "answer",
        "answer_bytes",
        "body",
        "on_abandon",
        "owner",
        "response_reserved_bytes",
        "standing",
        "timing",
    )

    def __init__(
        self,
        header: Frame,
        client: ClientInfo,
        owner: Owner,
        memory: RequestMemory,
        buffer: Buffer,
        size_bytes: int,
    ) -> None:
        self.api_key, self.api_version, self.correlation_id, self.client_id, self.body = header
        self.client = client
        self.owner: Owner | None = owner
        self._memory = memory
        self._buffer: Buffer | None = buffer
        self._size_bytes = size_bytes
        self.answer: Sequence[WireBuffer] | None = None
        self.answer_bytes = 0
        self.on_abandon: Callable[[], None] | None = None
        self.response_reserved_bytes = 0
        self.standing: Standing | None = None
        self.timing: tuple[Histogram, Callable[[], float], float] | None = None

    request_count: Final = 1

    @property
    def abandoned(self) -> bool:
        """The connection is gone: nobody waits for the answer."""
        return self.owner is None

    def respond(self, *parts: WireBuffer, keep_frame: bool = False) -> None:
        """Answers with a body in parts, none of which may change afterwards. A second answer is ignored.

        With `keep_frame` the request's memory stays until `release_frame`: somebody still works with it.
        """
        if self.answer is not None:
            return
        if self.standing is not None and not self.standing.holds():
            self.on_abandon = None
            self.hang_up("the session may have ended while the request was in work")
            return
        body_bytes = len(parts[0]) if len(parts) == 1 else sum(map(len, parts))
        head = response_prefix(self.api_key, self.api_version, self.correlation_id, body_bytes)
        self.answer_bytes = len(head) + body_bytes
        self._finish((head, *parts), keep_frame)

    def finish_without_answer(self) -> None:
        """A Produce request with acks=0 is done."""
        if self.answer is None:
            self._finish((), False)

    def abandon(self) -> None:
        """The connection is closed. Whoever works on this finds `abandoned`; what waits is called off."""
        self.owner = None
        callback, self.on_abandon = self.on_abandon, None
        if callback is not None:
            callback()

    def release_frame(self) -> None:
        """Nobody will look at the request's bytes again. Harmless when repeated."""
        buffer, self._buffer = self._buffer, None
        if buffer is not None:
            self.body = _NOTHING
            self._memory.release(buffer, self._size_bytes)

    def release_response(self, budget: MemoryBudget) -> None:
        """The answer's record batches are sent, or never will be."""
        reserved, self.response_reserved_bytes = self.response_reserved_bytes, 0
        if reserved:
            budget.release(reserved)

    def _finish(self, answer: Sequence[WireBuffer], keep_frame: bool) -> None:
        self.answer = answer
        if self.timing is not None:
            histogram, monotonic, started_at = self.timing
            histogram.observe(monotonic() - started_at)
        self.on_abandon = None
        if not keep_frame:
            self.release_frame()
        if self.owner is not None:
            self.owner.answered(self)


_NOTHING = memoryview(b"")
