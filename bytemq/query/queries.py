"""The broker's side of SQL: a process for each query, what it may ask, and its limits.

Owns: the processes: how many, how long, that they are killed when the client leaves or their time is over, and one
that is kept ready, so that a query need not wait for imports. Must not: look at SQL or at rows.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from bytemq.errors import BytemqError, Invalid, Unavailable
from bytemq.query.cuts import Overtaken, TopicCut
from bytemq.query.messages import LENGTHS, Message, decode, encode, lengths
from bytemq.runtime.child_process import ChildProcess
from bytemq.runtime.logging import get_logger
from bytemq.storage.tables.table_columns import ROOTS, Formats, Seen, TableColumns, columns_as_json
from bytemq.types import TopicId

log = get_logger("query")

QUERY_PROCESS = "bytemq.query.process"
_INHERITED = ("PATH", "HOME", "TMPDIR", "LANG", "LC_", "TZ", "PYTHON", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "SSL_CERT_")
_CERTIFICATES = "AWS_CA_BUNDLE"
READ_BYTES = 4 * 1024 * 1024
MAX_TOPICS = 64
BROKEN_OFF_KEPT = 64


class SqlLimits(NamedTuple):
    memory_bytes: int
    timeout_s: float
    max_rows: int
    concurrent: int
    scratch_bytes: int
    threads: int


class Topics(Protocol):
    """What queries are about."""

    async def cut(self, names: Sequence[str]) -> dict[str, TopicCut]:
        """Of those names that are topics, all at one moment, with all that was committed before this was called.
        Raises BytemqError where one cannot be read here.
        """

    async def urls(self, files: Sequence[str]) -> Sequence[str]:
        """By which anybody can GET these Parquet files while a query runs, where the storage is no folder. Raises
        BytemqError.
        """

    async def columns(self, name: str, topic_id: TopicId, seen: Mapping[str, Seen]) -> tuple[TableColumns, Formats]:
        """The typed columns of a topic's table, with those for what was seen, and what records are read as. Raises
        NotFound where the topic of the cut is gone, whatever has its name now; BytemqError."""

    async def read(
        self, name: str, topic_id: TopicId, partition: int, offset: int, end: int
    ) -> tuple[Sequence[bytes | memoryview], int]:
        """Committed batches from `offset` on, perhaps beyond `end`, that of the cut, and the offset after them.
        Raises Overtaken, NotFound as `columns`, BytemqError.
        """


class Query(NamedTuple):
    sql: str
    format: str
    explain: bool = False
    name: str = ""
    """By which somebody may ask why it broke off."""


class Result:
    """Of a query that began well: what kind of bytes, then the bytes."""

    def __init__(self, content_type: str, parts: AsyncIterator[bytes]) -> None:
        self.content_type = content_type
        self.parts = parts


class Queries:
    def __init__(self, topics: Topics, root: str, scratch: Path, limits: SqlLimits) -> None:
        """`root`: folder that the names of Parquet files are relative to; "" where they are in none."""
        shutil.rmtree(scratch, ignore_errors=True)
        self._topics = topics
        self._root = root
        self._scratch = scratch
        self.limits = limits
        self._running = 0
        self._made = 0
        self._spare: _Process | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._broken_off: OrderedDict[str, BytemqError] = OrderedDict()

    @contextlib.asynccontextmanager
    async def run(self, query: Query) -> AsyncIterator[Result]:
        """The process is gone when the block ends, however. Raises Invalid with a sentence about the query,
        Unavailable."""
        try:
            async with self._run(query) as result:
                yield result
        except BytemqError as error:
            self._broken_off[query.name] = type(error)(*error.args)  # alone: its traceback holds rows and the request
            if len(self._broken_off) > BROKEN_OFF_KEPT:
                self._broken_off.popitem(last=False)
            raise

    def why_broken_off(self, name: str) -> BytemqError | None:
        """Of one of the last queries; None: it is not known that it was."""
        return self._broken_off.get(name)

    @contextlib.asynccontextmanager
    async def _run(self, query: Query) -> AsyncIterator[Result]:
        if self._running >= self.limits.concurrent:
            raise Unavailable(f"{self._running} queries are running, which is the limit; try again")
        self._running += 1
        self._made += 1
        scratch = self._scratch / str(self._made)
        process: _Process | None = None
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.limits.timeout_s
        killing: asyncio.TimerHandle | None = None
        try:
            async with asyncio.timeout_at(deadline) as time:
                process, self._spare = self._spare, None
                if process is not None and process.has_ended:
                    await process.kill()  # our end of its socket is closed
                    process = None
                if process is None:
                    process = await _Process.start()
                await process.send(Message(self._request(query, scratch)))
                conversation = _Conversation(process, self._topics)
                first = await conversation.next()
            if "failed" in first.content:
                raise _failure(first)
            # The rows may be taken by another task, or by nobody: a time-out of this task would reach neither.
            killing = loop.call_at(deadline, process.end)
            yield Result(str(first.content.get("content_type", "text/plain")), conversation.parts())
        except (TimeoutError, Unavailable) as error:
            if not time.expired() and loop.time() < deadline:
                raise
            raise Invalid(f"the query took longer than {self.limits.timeout_s:g} s (bytemq.sql.timeout.ms)") from error
        finally:
            if killing is not None:
                killing.cancel()
            self._running -= 1
            if process is not None:
                await process.kill()
                if scratch.exists():  # it was killed before it took its files away
                    await asyncio.to_thread(shutil.rmtree, scratch, ignore_errors=True)
            self._keep_one_ready()

    async def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._spare is not None:
            await self._spare.kill()

    def _request(self, query: Query, scratch: Path) -> dict[str, Any]:
        limits = self.limits
        return {
            "sql": query.sql,
            "format": query.format,
            "explain": query.explain,
            "root": self._root,
            "scratch": str(scratch),
            "memory_bytes": limits.memory_bytes,
            "scratch_bytes": limits.scratch_bytes,
            "threads": limits.threads,
            "max_rows": limits.max_rows,
        }

    def _keep_one_ready(self) -> None:
        if self._spare is None and not self._tasks:
            task = asyncio.get_running_loop().create_task(self._start_spare())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _start_spare(self) -> None:
        try:
            self._spare = await _Process.start()
        except Unavailable as error:
            log.warning("no process is kept ready", reason=str(error))


class _Conversation:
    """With the process of one query, which may ask for what its cuts have named and for nothing else."""

    def __init__(self, process: _Process, topics: Topics) -> None:
        self._process = process
        self._topics = topics
        self._named: dict[str, TopicId] = {}
        """Topics, as they were cut."""
        self._files: set[str] = set()

    async def parts(self) -> AsyncIterator[bytes]:
        while True:
            message = await self.next()
            if "done" in message.content:
                return
            if "failed" in message.content:
                raise _failure(message)
            yield bytes(message.payload)

    async def next(self) -> Message:
        """The next message that is no question. Questions are answered."""
        while True:
            message = await self._process.receive()
            if "ask" not in message.content:
                return message
            try:
                answer = await self._answer(message.content)
            except (BytemqError, AttributeError, KeyError, TypeError, ValueError) as error:
                later, overtaken = isinstance(error, Unavailable), isinstance(error, Overtaken)
                answer = Message({"failed": str(error), "later": later, "overtaken": overtaken})
            await self._process.send(answer)

    async def _answer(self, question: dict[str, Any]) -> Message:
        if question["ask"] == "cut":
            names = [str(name) for name in question["topics"]][:MAX_TOPICS]
            cuts = await self._topics.cut(names)
            self._named.update((name, topic.topic_id) for name, topic in cuts.items())
            self._files.update(file.name for topic in cuts.values() for cut in topic.partitions for file in cut.files)
            found = {name: [cut.as_json() for cut in topic.partitions] for name, topic in cuts.items()}
            return Message({"cuts": found})
        if question["ask"] == "urls":
            files = [str(name) for name in question["files"]]
            if not self._files.issuperset(files):
                raise Invalid("these are not files of the topics in the query")
            return Message({"urls": list(await self._topics.urls(files))})
        name = str(question["topic"])
        topic_id = self._named.get(name)
        if topic_id is None:
            raise Invalid(f"{name} is no topic of the query")
        if question["ask"] == "columns":
            seen = {root: Seen.from_json(question["seen"][root]) for root in ROOTS if root in question["seen"]}
            columns, formats = await self._topics.columns(name, topic_id, seen)
            return Message({"columns": columns_as_json(columns), "formats": formats._asdict()})
        offset, end = int(question["offset"]), int(question["end"])
        buffers, next_offset = await self._topics.read(name, topic_id, int(question["partition"]), offset, end)
        return Message({"next_offset": next_offset}, b"".join(buffers))


class _Process:
    def __init__(self, child: ChildProcess) -> None:
        self._child = child

    @classmethod
    async def start(cls) -> _Process:
        return cls(await ChildProcess.start(QUERY_PROCESS, inherits=_is_harmless))

    @property
    def has_ended(self) -> bool:
        return self._child.has_ended

    async def send(self, message: Message) -> None:
        """Raises Unavailable when the process has ended."""
        self._child.writer.writelines(encode(message))
        try:
            await self._child.writer.drain()
        except OSError as error:
            raise _ended() from error

    async def receive(self) -> Message:
        """Raises Unavailable when the process has ended, or sends what is no message."""
        reader = self._child.reader
        try:
            content, payload = lengths(await reader.readexactly(LENGTHS.size))
            return decode(await reader.readexactly(content), await reader.readexactly(payload))
        except (asyncio.IncompleteReadError, OSError, ValueError) as error:
            raise _ended() from error

    def end(self) -> None:
        self._child.end()

    async def kill(self) -> None:
        await self._child.kill()


def _ended() -> Unavailable:
    return Unavailable("the query's process ended: it may have needed more memory than it may use")


def _failure(message: Message) -> BytemqError:
    return (Unavailable if message.content.get("later") else Invalid)(str(message.content["failed"]))


def _is_harmless(variable: str) -> bool:
    """Whether a query's process has it: none that may hold credentials."""
    return variable == _CERTIFICATES or variable.startswith(_INHERITED)
