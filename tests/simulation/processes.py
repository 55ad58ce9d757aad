"""Tasks in processes of their own, forked from this one: each begins with what is here, and leaves nothing behind.

Owns: how many run at once, and that one which dies is told. What a simulation leaves behind is not collected but ends
with its process, which is a fifth of the time.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, TypeVar

_FORK = get_context("fork")
T = TypeVar("T")
R = TypeVar("R")


class Died(Exception):
    """A process has ended without a result."""


def each_in_its_own(work: Callable[[T], R], tasks: Iterable[T], jobs: int) -> Iterator[R]:
    """The results in the order of the tasks, `jobs` of which run at once. Whoever stops iterating ends what still runs.
    Raises Died.
    """
    gc.freeze()  # what is here now is shared with all of them
    left = enumerate(tasks)
    running: dict[Any, tuple[int, _Running[R]]] = {}
    results: dict[int, R] = {}
    told = 0
    try:
        while True:
            while len(running) < jobs and (task := next(left, None)) is not None:
                started = _Running(work, task[1])
                running[started.answer] = (task[0], started)
            if not running:
                return
            for answer in wait(list(running)):
                number, ended = running.pop(answer)
                results[number] = ended.result()
            while told in results:
                yield results.pop(told)
                told += 1
    finally:
        for _, still in running.values():
            still.process.kill()


class _Running(Generic[R]):
    """One of them."""

    def __init__(self, work: Callable[[T], R], task: T) -> None:
        self.answer, theirs = _FORK.Pipe(duplex=False)
        self.process = _FORK.Process(target=_run, args=(work, task, theirs), daemon=True)
        self.process.start()
        theirs.close()

    def result(self) -> R:
        try:
            result: R = self.answer.recv()
        except EOFError:
            self.process.join()
            raise Died(f"a process has ended with {self.process.exitcode}") from None
        self.process.join()
        return result


def _run(work: Callable[[T], R], task: T, answer: Connection) -> None:
    gc.disable()
    answer.send(work(task))
