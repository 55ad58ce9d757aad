"""Links do what they say, and the checker sees what it says it sees: chaos is only as good as both."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.chaos.history import ChaosHistory
from tests.chaos.links import ANSWERS, REQUESTS, Link, Links, running_links
from tests.chaos.troubles import KINDS, plan
from tests.simulation.broker.history import Attempt, Sent
from tests.simulation.transcript import Violation

PATIENCE_S = 60.0
SHORT_S = 0.2


class Echo:
    """A server that answers what it is told, and keeps it."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listening.getsockname()[1]}"
        self.heard: list[bytes] = []
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with closing(connection):
            try:
                while data := connection.recv(65536):
                    self.heard.append(data)
                    connection.sendall(data)
            except OSError:
                return

    def close(self) -> None:
        self._listening.close()

    def await_heard(self, *said: bytes) -> None:
        give_up_at = time.monotonic() + PATIENCE_S
        while b"".join(self.heard) != b"".join(said):
            assert time.monotonic() < give_up_at, self.heard
            time.sleep(0.01)


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    yield server
    server.close()


@pytest.fixture
def links() -> Iterator[Links]:
    with running_links() as made:
        yield made


def connect(link: Link) -> socket.socket:
    return socket.create_connection(("127.0.0.1", link.port), PATIENCE_S)


def say(client: socket.socket, said: bytes) -> bytes:
    client.sendall(said)
    return client.recv(1000)


def test_link__passes_everything_while_it_is_well(links: Links, echo: Echo) -> None:
    with connect(links.to(echo.address, delivers_late=True)) as client:
        assert say(client, b"one") == b"one"
        assert say(client, b"two") == b"two"


def test_cut__ends_connections_and_lets_none_in_until_it_heals(links: Links, echo: Echo) -> None:
    link = links.to(echo.address, delivers_late=True)
    with connect(link) as client:
        assert say(client, b"one") == b"one"
        link.cut()
        with pytest.raises(ConnectionError):
            assert client.recv(1000) != b""
    with pytest.raises(ConnectionError), connect(link) as client:
        assert say(client, b"two") != b""
        raise ConnectionResetError
    link.heal()
    with connect(link) as client:
        assert say(client, b"three") == b"three"
    assert echo.heard == [b"one", b"three"]


@pytest.mark.parametrize("delivers_late", [True, False])
def test_hold__requests_come_late_or_never(links: Links, echo: Echo, delivers_late: bool) -> None:
    link = links.to(echo.address, delivers_late=delivers_late)
    with connect(link) as client:
        assert say(client, b"one") == b"one"
        link.hold(REQUESTS)
        client.sendall(b"late")
        client.settimeout(SHORT_S)
        with pytest.raises(TimeoutError):
            client.recv(1000)
    link.heal()
    with connect(link) as client:
        assert say(client, b"two") == b"two"
    if delivers_late:
        give_up_at = time.monotonic() + PATIENCE_S
        while b"late" not in echo.heard:
            assert time.monotonic() < give_up_at
            time.sleep(0.01)
    else:
        assert echo.heard == [b"one", b"two"]


def test_hold__of_answers_lets_requests_pass(links: Links, echo: Echo) -> None:
    link = links.to(echo.address, delivers_late=True)
    with connect(link) as client:
        link.hold(ANSWERS)
        client.sendall(b"one")
        echo.await_heard(b"one")
        client.settimeout(SHORT_S)
        with pytest.raises(TimeoutError):
            client.recv(1000)
        client.settimeout(PATIENCE_S)
        link.heal()
        assert client.recv(1000) == b"one"


def test_lost_answer__is_one_to_a_request_that_was_carried_out(links: Links, echo: Echo) -> None:
    link = links.to(echo.address, delivers_late=True)
    with connect(link) as client:
        assert say(client, b"one") == b"one"
        link.lose_answers()
        with pytest.raises(ConnectionError):
            assert say(client, b"two") != b""
            raise ConnectionResetError
    echo.await_heard(b"one", b"two")


def test_unavailable__every_request_is_answered_503(links: Links, echo: Echo) -> None:
    link = links.to(echo.address, delivers_late=True)
    link.be_unavailable(1.0)
    with connect(link) as client:
        for _ in range(2):
            assert say(client, b"PUT /a HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc").startswith(b"HTTP/1.1 503 ")
        assert say(client, b"PUT /a HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n").startswith(
            b"HTTP/1.1 503 "
        )
        assert client.recv(1000) == b""
    assert echo.heard == []


def test_plan__is_the_seeds_and_has_every_trouble_in_some_seed() -> None:
    assert plan(7, 40.0, 3.0) == plan(7, 40.0, 3.0) != plan(8, 40.0, 3.0)
    assert {trouble.name for seed in range(60) for trouble in plan(seed, 40.0, 3.0)} == set(KINDS)


LOG = ("t", 0)


@pytest.fixture
def history() -> ChaosHistory:
    return ChaosHistory(lambda: 0.0)


def sent(history: ChaosHistory, value: bytes, at: int = -1, **more: object) -> Sent:
    batch = Sent("producer", LOG, [value], **more)  # type: ignore[arg-type]
    history.sending(batch)
    if at >= 0:
        history.acknowledged(batch, at)
    return batch


def test_checker__sees_a_lost_record_a_duplicate_and_an_order(history: ChaosHistory) -> None:
    sent(history, b"a", 0)
    sent(history, b"b", 1)
    history.check_log(LOG, {0: b"a", 1: b"b", 2: b""}, 3)
    for wrong in ({0: b"a"}, {0: b"a", 1: b"b", 2: b"b"}, {0: b"b", 1: b"a"}, {0: b"a", 2: b"b"}):
        with pytest.raises(Violation):
            history.check_log(LOG, wrong, max(wrong) + 1)


def test_checker__lets_a_plain_producer_repeat_itself_but_lose_nothing(history: ChaosHistory) -> None:
    sent(history, b"a", 1, once=False)
    history.check_log(LOG, {0: b"a", 1: b"a"}, 2)
    with pytest.raises(Violation, match="acknowledged at 1"):
        history.check_log(LOG, {0: b"a"}, 1)


def test_checker__sees_two_records_at_one_offset(history: ChaosHistory) -> None:
    history.consumed("one", LOG, 0, b"a", committed_only=False)
    with pytest.raises(Violation, match="offset 0 held"):
        history.consumed("two", LOG, 0, b"b", committed_only=False)


def test_checker__sees_a_poll_that_goes_back_and_one_that_passes_over_a_record(history: ChaosHistory) -> None:
    history.consumed("reader", LOG, 0, b"a", committed_only=False)
    history.consumed("reader", LOG, 2, b"c", committed_only=False)
    history.check_reader("reader", LOG, {0, 2, 3})
    with pytest.raises(Violation, match=r"was not given \[1\]"):
        history.check_reader("reader", LOG, {0, 1, 2, 3})
    with pytest.raises(Violation, match="went back"):
        history.consumed("reader", LOG, 1, b"b", committed_only=False)
    history.began("reader", LOG)
    history.consumed("reader", LOG, 1, b"b", committed_only=False)


def test_checker__sees_an_aborted_read(history: ChaosHistory) -> None:
    attempt = Attempt("tx")
    history.begin(attempt)
    sent(history, b"a", transaction=attempt)
    history.consumed("uncommitted", LOG, 0, b"a", committed_only=False)
    with pytest.raises(Violation, match="nobody asked to commit"):
        history.consumed("committed", LOG, 0, b"a", committed_only=True)


def test_checker__sees_a_watermark_that_goes_back(history: ChaosHistory) -> None:
    history.high_watermark_told(LOG, 5, 0)
    history.stable_offset_told(LOG, 3, 0)
    with pytest.raises(Violation, match="high watermark went back"):
        history.high_watermark_told(LOG, 4, 5)
    with pytest.raises(Violation, match="last stable offset went back"):
        history.stable_offset_told(LOG, 2, 3)


def test_checker__sees_a_lost_committed_offset_and_a_record_that_a_group_missed(history: ChaosHistory) -> None:
    history.group_processed("g", LOG, [0, 1])
    history.committing("g", 0, 3)
    history.offset_committed("g", 0, 3)
    with pytest.raises(Violation, match="offset 3 of partition 0 was committed, and -1 given"):
        history.fetched_offset("g", 0, -1, 3)
    history.check_group("g", LOG, {0, 1, 3})
    with pytest.raises(Violation, match=r"missed \[2\]"):
        history.check_group("g", LOG, {0, 1, 2, 3})
