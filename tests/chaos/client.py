"""What all clients share: a thread, unmodified librdkafka with shorter time-outs, and how they end.

Owns: configs, and telling the run about a broken promise. Must not: know what is done to the cluster.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from random import Random
from typing import TYPE_CHECKING, Any

from confluent_kafka import KafkaError, KafkaException

from tests.simulation.transcript import Violation

if TYPE_CHECKING:
    from tests.chaos.run import Run

PATIENCE_S = 90.0
"""So long after the last trouble, with brokers at rest, nobody gets on: whoever is not done is stuck."""
REQUEST_TIMEOUT_MS = 9_000
"""Longer than most pauses of a broker: what it answers then is believed."""
CONNECTION: dict[str, Any] = {
    "socket.timeout.ms": REQUEST_TIMEOUT_MS,
    "socket.connection.setup.timeout.ms": 2_000,
    "reconnect.backoff.ms": 50,
    "reconnect.backoff.max.ms": 500,
    "retry.backoff.ms": 50,
    "topic.metadata.refresh.interval.ms": 5_000,
    "metadata.recovery.strategy": "none",  # see tests/scenarios/test_transactions.py
    "log_level": 0,
    "logger": logging.getLogger("librdkafka"),  # of what is fatal to an instance it would tell on the screen
}


CONNECTION["logger"].addHandler(logging.NullHandler())
CONNECTION["logger"].propagate = False


class Client(threading.Thread):
    """`work` until the run's clients are asked to stop. A broken promise, or an error that nobody foresaw, ends the
    run."""

    def __init__(self, run: Run, name: str, listener: str) -> None:
        super().__init__(name=name, daemon=True)
        self.world = run
        self.history = run.history
        self.random = Random(f"{run.seed} {name}")
        self.errors: dict[str, int] = {}
        """How often which error was met, by name."""
        self.hung: list[str] = []
        """Calls of librdkafka that did not come back."""
        self.fatal: KafkaError | None = None
        """librdkafka has given up for good."""
        self._listener = listener

    @property
    def stopping(self) -> bool:
        return self.world.stopping.is_set()

    def config(self, **more: Any) -> dict[str, Any]:
        """Keyword arguments are librdkafka's, with _ for a dot."""
        bootstrap = self.world.cluster.way(self._listener).bootstrap
        named = {name.replace("_", "."): value for name, value in more.items()}
        return {"bootstrap.servers": bootstrap, "error_cb": self._met, **CONNECTION, **named}

    def run(self) -> None:
        try:
            self.work()
        except Violation as violation:
            self.world.broke(violation)
        except Exception as error:
            self.world.broke(self.history.broken(f"{self.name} ended with {type(error).__name__}: {error}"))

    def work(self) -> None:
        raise NotImplementedError

    def idle(self, seconds: float) -> None:
        """About so long, or less when it is time to stop."""
        self.world.stopping.wait(seconds * self.random.uniform(0.5, 1.5))

    def met(self, what: str, error: KafkaError) -> None:
        self._count(error)
        self.history.note(f"{self.name}: {what}: {error.name()}: {error.str()}")

    def _count(self, error: KafkaError) -> None:
        """Zombies are meant to be fenced."""
        if error.code() != KafkaError._FENCED:
            name = str(error.name() or error.code())
            self.errors[name] = self.errors.get(name, 0) + 1

    def _met(self, error: KafkaError) -> None:
        self._count(error)
        if error.fatal():
            self.history.note(f"{self.name}: fatal: {error}")
            self.fatal = error

    def patiently(self, what: str, call: Callable[[], Any]) -> Any:
        """The result; again while librdkafka says that it may be tried again. Raises KafkaException otherwise."""
        while True:
            try:
                return call()
            except KafkaException as exception:
                error = exception.args[0]
                self.met(what, error)
                if not error.retriable() or error.txn_requires_abort() or error.fatal():
                    raise
                if self.world.broken is not None:
                    raise
                if time.monotonic() > self.world.give_up_at():
                    raise self.history.broken(f"{self.name} does not get on: {what}: {error}") from None
                time.sleep(0.05)


def bury(grave: list[Any]) -> None:
    """Lets go of the producers and consumers in the list, which nobody else has, in a thread: librdkafka 2.16 may take
    for ever to end one that was not told of some broker for a while, and its user has something else to do."""
    threading.Thread(target=grave.clear, name="grave", daemon=True).start()


def bounded(call: Callable[[], Any], seconds: float) -> Any:
    """The result, for calls of librdkafka that do not keep their time-out. Raises TimeoutError when there is none by
    then; the call goes on in a thread of its own, and keeps what it uses."""
    outcome = Future[Any]()

    def run() -> None:
        try:
            outcome.set_result(call())
        except Exception as error:
            outcome.set_exception(error)

    threading.Thread(target=run, name="bounded", daemon=True).start()
    return outcome.result(seconds)
