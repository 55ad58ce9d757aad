"""Several logs in one flush that fails: whoever is told of the first may append to the next before that is told."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from bytemq.broker.log.append_rules import AppendRules
from bytemq.broker.log.appender import Appender
from bytemq.broker.log.producer_budget import ProducerBudget
from bytemq.broker.log.results import AppendResult, Origin
from bytemq.broker.log.services import LogServices
from bytemq.broker.log.state import LogState
from bytemq.errors import Unavailable
from bytemq.protocol.error_codes import ErrorCode
from bytemq.protocol.records.batch import produced_batch
from bytemq.storage.settings import StorageConfig
from bytemq.storage.wal.staging import Staging
from tests.support.virtual_time import VirtualClock
from tests.unit.log.harness import NOW_MS, PID, Answer, batch, topic_config


class Logs:
    """Two logs over what the write-ahead log stages, without the log."""

    def __init__(self) -> None:
        self.staging = Staging(StorageConfig())
        storage = SimpleNamespace(append=self.staging.add)
        services = LogServices(storage, VirtualClock(), None)  # type: ignore[arg-type]
        self.files: list[Any] = [SimpleNamespace(staged_end=0, end_offset=0, deleted=False) for _ in range(2)]
        rules = AppendRules.of(topic_config())
        self.logs = [
            Appender(PID, "events", 0, rules, files, LogState(0, 0, ProducerBudget()), services, lambda: None)
            for files in self.files
        ]

    def send(self, log: int, done: Any) -> None:
        self.logs[log].append(memoryview(batch()), done, Origin.CLIENT, True)

    def send_plain(self, log: int, done: Any) -> bool:
        payload = memoryview(batch())
        one = produced_batch(payload)
        header = (0, one.size_bytes - 12, -1, 2, one.crc, 0, 0, NOW_MS, NOW_MS, -1, -1, -1, 1)
        return self.logs[log].append_plain(payload, header, NOW_MS, done)

    def fail(self) -> None:
        self.staging.fail(self.staging.take_all(), Unavailable("no room"))


async def test_append__to_a_log_that_has_not_been_told_of_its_failure_is_refused_as_it_was() -> None:
    logs = Logs()
    first, second, again, later = Answer(), Answer(), Answer(), Answer()
    plain: list[bool] = []

    def told(result: AppendResult) -> None:
        first(result)
        plain.append(logs.send_plain(1, later))
        logs.send(1, again)

    logs.send(0, told)
    logs.send(1, second)
    logs.fail()
    assert plain == [False] and not later.given
    assert [one.result.error for one in (first, second, again)] == [ErrorCode.KAFKA_STORAGE_ERROR] * 3
    assert logs.send_plain(1, later)
    assert logs.files[1].staged_end == 1
