"""What happened in one run, line by line, and how a run says that a promise was broken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


class Violation(Exception):
    """A promise was broken."""


@dataclass
class Transcript:
    """`now` gives virtual seconds."""

    now: Callable[[], float]
    transcript: list[str] = field(default_factory=list)

    def note(self, event: str) -> None:
        self.transcript.append(f"{self.now() * 1000:9.1f} ms  {event}")

    def broken(self, promise: str) -> Violation:
        self.note(f"BROKEN: {promise}")
        return Violation(promise)


def failure_of(run: Callable[[], object]) -> Exception | None:
    """What went wrong in it, whatever it was: a broken promise, an assertion, an error that nobody expected."""
    try:
        run()
    except Exception as error:
        return error
    return None
