"""One request and its one answer."""

from struct import pack

from bytemq.broker.context import ClientInfo
from bytemq.broker.exchange import Answered, Exchange
from bytemq.broker.frame_reader import RequestMemory
from bytemq.protocol.framing import parse_request_header


class Owner:
    def __init__(self) -> None:
        self.answers: list[bytes] = []
        self.reasons: list[str] = []

    def answered(self, work: Answered) -> None:
        self.answers.append(b"".join(bytes(part) for part in work.answer or ()))

    def hang_up(self, reason: str) -> None:
        self.reasons.append(reason)


def exchange(api_version: int = 9) -> tuple[Exchange, Owner, RequestMemory]:
    memory, owner = RequestMemory(1024, 1024), Owner()
    frame = bytearray(pack(">hhih", 3, api_version, 42, -1) + b"\0" + b"body")
    memory.budget.reserve_anyway(len(frame))
    header = parse_request_header(memoryview(frame))
    return Exchange(header, ClientInfo("", "PLAINTEXT", "", 0), owner, memory, frame, len(frame)), owner, memory


def test_exchange__frames_its_answer_as_the_version_says() -> None:
    flexible, owner, _ = exchange(9)
    flexible.respond(b"ab", b"c")
    old, old_owner, _ = exchange(8)
    old.respond(b"abc")
    assert owner.answers == [pack(">iib", 8, 42, 0) + b"abc"]
    assert old_owner.answers == [pack(">ii", 7, 42) + b"\0abc"[1:]]


def test_exchange__is_answered_once() -> None:
    asked, owner, memory = exchange()
    asked.respond(b"first")
    asked.respond(b"second")
    asked.finish_without_answer()
    assert len(owner.answers) == 1
    assert memory.budget.used_bytes == 0


def test_exchange__keeps_the_frame_for_who_still_works_with_it() -> None:
    asked, _, memory = exchange()
    asked.respond(b"timed out", keep_frame=True)
    assert bytes(asked.body).endswith(b"body")
    assert memory.budget.used_bytes > 0
    asked.release_frame()
    asked.release_frame()
    assert memory.budget.used_bytes == 0


def test_exchange__tells_nobody_once_it_is_abandoned() -> None:
    asked, owner, memory = exchange()
    called: list[str] = []
    asked.on_abandon = lambda: called.append("called off")
    asked.abandon()
    asked.abandon()
    asked.respond(b"too late")
    asked.hang_up("too late")
    assert (called, owner.answers, owner.reasons) == (["called off"], [], [])
    assert memory.budget.used_bytes == 0
