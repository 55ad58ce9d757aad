"""What the log's tests share: a partition over a storage that settles when the test says so."""

from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from typing import Any

from bytemq.broker.log.appender import Appender, Done
from bytemq.broker.log.opening import open_partition
from bytemq.broker.log.partition import Partition
from bytemq.broker.log.producer_state import Producer
from bytemq.broker.log.results import AppendResult, Origin
from bytemq.broker.log.services import LogServices
from bytemq.broker.log.state import PendingAppend
from bytemq.config import BrokerConfig, TopicConfig
from bytemq.protocol.error_codes import ErrorCode
from bytemq.protocol.records.batch import RecordBatch
from bytemq.protocol.records.builder import Record, build_batch
from bytemq.types import PartitionId, TopicId
from tests.support.fake_log_storage import FakeLogStorage
from tests.support.virtual_time import START_WALL_MS, VirtualClock

BROKER = BrokerConfig()
NOW_MS = START_WALL_MS
PID = PartitionId(TopicId(b"t" * 16), 0)


class HeldExecutor(Executor):
    """Runs what it was given when the test says so, in any order."""

    def __init__(self) -> None:
        self.held: list[tuple[Future[Any], Callable[..., Any], tuple[Any, ...]]] = []
        self.holding = False

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.held.append((future, function, args))
        if not self.holding:
            self.run(0)
        return future

    def run(self, index: int) -> None:
        future, function, args = self.held.pop(index)
        try:
            future.set_result(function(*args))
        except Exception as error:
            future.set_exception(error)


class LetIn:
    """A guard that lets every transaction in, and counts."""

    def __init__(self) -> None:
        self.asked = 0

    def check(self, topic: str, index: int, batch: RecordBatch, producer: Producer | None) -> ErrorCode:
        self.asked += 1
        return ErrorCode.NONE


class Log:
    """A partition, and the shorthand to append to it."""

    def __init__(self, **configs: str) -> None:
        self.storage = FakeLogStorage()
        self.clock = VirtualClock()
        self.executor = HeldExecutor()
        self.services = LogServices(self.storage, self.clock, self.executor)  # type: ignore[arg-type]
        self.config = topic_config(**configs)
        self.partition: Partition
        self.epoch = 0

    async def open(self) -> "Log":
        self.partition = await open_partition(PID, "events", self.epoch, self.config, self.services)
        return self

    async def reopen(self) -> None:
        """As after a crash: what was in flight is gone."""
        self.storage = FakeLogStorage(self.storage.disk)
        self.services.storage = self.storage  # type: ignore[assignment]
        self.epoch += 1
        await self.open()

    @property
    def files(self) -> Any:
        return self.partition._files

    def send(self, payload: bytes | bytearray, **options: Any) -> "Answer":
        answer = Answer()
        self.partition.append(memoryview(bytearray(payload)), answer, **options)
        return answer

    def append(self, payload: bytes | bytearray, **options: Any) -> AppendResult:
        """Send, settle, and return the answer."""
        answer = self.send(payload, **options)
        self.storage.settle()
        return answer.result


class Answer:
    """A `done` that remembers; being called twice is an error."""

    def __init__(self) -> None:
        self._results: list[AppendResult] = []

    def __call__(self, result: AppendResult) -> None:
        assert not self._results, "answered twice"
        self._results.append(result)

    @property
    def given(self) -> bool:
        return bool(self._results)

    @property
    def result(self) -> AppendResult:
        assert self._results, "not answered"
        return self._results[0]


class Together:
    """The `Group` of one append on the short way, each batch of which is answered as any other by its `done`."""

    def __init__(self, batches: Sequence[RecordBatch], answers: Sequence[Done]) -> None:
        self.batches = batches
        self.answers = answers
        self.missing = 1

    def complete(self) -> None:
        for batch, done in zip(self.batches, self.answers, strict=True):
            done(AppendResult(ErrorCode.NONE, batch.base_offset))

    def failed(self, append: PendingAppend[Any], error: ErrorCode, log_start_offset: int) -> None:
        for done in self.answers:
            done(AppendResult(error, log_start_offset=log_start_offset))


def append_plain(appender: Appender, batches: Sequence[RecordBatch], now_ms: int, answers: Sequence[Done]) -> bool:
    """Whether the short way takes them."""
    append = appender.prepare_plain(batches, now_ms, Together(batches, answers))
    if append is not None:
        appender._services.storage.append(*appender.handed_over(batches, append))
    return append is not None


def topic_config(**configs: str) -> TopicConfig:
    """A topic's config out of Kafka's names with underscores."""
    return BROKER.topic_config({name.replace("_", "."): value for name, value in configs.items()})


def batch(count: int = 1, *, value: bytes = b"v", timestamp_ms: int = NOW_MS, **options: Any) -> bytearray:
    key = options.pop("key", b"k")
    return build_batch([Record(key, value + b"%d" % n) for n in range(count)], timestamp_ms=timestamp_ms, **options)


def sequenced(
    sequence: int, count: int = 1, *, producer_id: int = 7, epoch: int = 0, value: bytes = b"v", **options: Any
) -> bytearray:
    return batch(count, value=value, producer_id=producer_id, producer_epoch=epoch, base_sequence=sequence, **options)


CLIENT, COORDINATOR = Origin.CLIENT, Origin.COORDINATOR


async def open_log(**configs: str) -> Log:
    """A new, empty partition; configs by Kafka's names with underscores."""
    return await Log(**configs).open()
