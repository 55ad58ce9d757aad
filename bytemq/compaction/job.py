"""Jobs: what a worker process can be asked to do, as data.

Owns: the form of a job and what it is given to work with. Must not: import what is heavy. This module is loaded in the
broker's process as well.

To add a kind of job:

1. In a module that is light to import, a frozen dataclass that says everything: names of objects in the store, numbers,
   settings. Names of objects that it may create come from whoever asks, and are used by nobody else.

       @dataclass(frozen=True)
       class Convert(Job[Converted]):
           runs = "bytemq.compaction.converting:convert"
           segments: tuple[SegmentInfo, ...]
           output_prefix: str

2. In the module that `runs` names, which only the worker process imports, and which may import anything:

       async def convert(job: Convert, space: Workspace) -> Converted: ...

3. `result = await worker.run(Convert(...), created)`, see `worker.Worker`.

Job and result travel as pickles between two processes of the same program, so both are plain data: dataclasses, named
tuples, numbers, bytes. A job that raises a BytemqError raises the same where it was asked for. A job may be killed at
any moment, and whoever asked for it may be gone when it ends: it creates objects under new names, publishes nothing and
deletes nothing. It may keep the processor busy as long as it likes; its memory is limited (`Workspace.memory_bytes`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar

from bytemq.storage.stores.interface import Buffer, ObjectStore

Result_co = TypeVar("Result_co", covariant=True)


class Job(Generic[Result_co]):
    """Something to do, and the type of what comes back."""

    runs: ClassVar[str]
    """`module:function`, imported in the worker process only: `async def function(job, space) -> result`."""


@dataclass(frozen=True, slots=True)
class Workspace:
    """What a job works with."""

    store: ObjectStore
    memory_bytes: int
    """What this process may use, all in all. Beyond it a MemoryError ends the job."""
    announce: Callable[[str], None]

    async def create(self, name: str, data: Sequence[Buffer]) -> None:
        """Creates an object. Whoever asked for the job learns of it first, and deletes it if the job fails."""
        self.announce(name)
        await self.store.create(name, data)
