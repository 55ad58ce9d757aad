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
from bytemq.broker.log.waiters import Waiters
from bytemq.errors import Unavailable
from bytemq.protocol.error_codes import ErrorCode
from bytemq.protocol.records.batch import produced_batch
from bytemq.storage.settings import StorageConfig
from bytemq.storage.wal.staging import Staging
from tests.support.virtual_time import VirtualClock
from tests.unit.log.harness import NOW_MS, PID, Answer, Together, append_plain, batch, sequenced, topic_config


class Files:
    """As much of a log's files as staging needs."""

    def __init__(self) -> None:
        self.staged_end = self.end_offset = 0
        self.deleted = self.is_urgent = False
        self.taken_back: Any = None


class Logs:
    """Two logs over what the write-ahead log stages, without the log."""

    def __init__(self) -> None:
        self.staging = Staging(StorageConfig())
        storage = SimpleNamespace(append=lambda *append: self.staging.add([append]))
        services = LogServices(storage, VirtualClock(), None)
        self.files: list[Any] = [Files() for _ in range(2)]
        rules = AppendRules.of(topic_config())
        self.logs = [
            Appender(
                PID, "events", 0, rules, files, LogState(0, 0, ProducerBudget()), services, lambda: None, Waiters()
            )
            for files in self.files
        ]

    def send(self, log: int, done: Any) -> None:
        self.logs[log].append(memoryview(batch()), done, Origin.CLIENT, True)

    def send_plain(self, log: int, done: Any) -> bool:
        return append_plain(self.logs[log], [produced_batch(memoryview(batch()))], NOW_MS, [done])

    def fail(self) -> None:
        self.staging.fail(self.staging.take_all(), Unavailable("no room"))

    def settle(self) -> None:
        self.staging.finish(self.staging.take_all(), None)


async def test_append__to_a_log_that_has_not_been_told_of_its_failure_goes_on_from_what_is_committed() -> None:
    logs = Logs()
    first, second, again, later = Answer(), Answer(), Answer(), Answer()
    taken: list[bool] = []

    def told(result: AppendResult) -> None:
        first(result)
        taken.append(logs.send_plain(1, later))
        logs.send(1, again)

    logs.send(0, told)
    logs.send(1, second)
    logs.fail()
    assert [one.result.error for one in (first, second)] == [ErrorCode.KAFKA_STORAGE_ERROR] * 2
    assert taken == [True] and not later.given and not again.given
    assert logs.files[1].staged_end == 2
    logs.settle()
    assert [(one.result.error, one.result.base_offset) for one in (later, again)] == [(0, 0), (0, 1)]


async def test_append__that_failed_is_answered_once_however_many_of_its_log_failed_with_it() -> None:
    logs = Logs()
    answers = [Answer() for _ in range(4)]
    for answer in answers[:2]:
        logs.send(0, answer)
    assert all(logs.send_plain(0, answer) for answer in answers[2:])
    logs.fail()
    assert [one.result.error for one in answers] == [ErrorCode.KAFKA_STORAGE_ERROR] * 4
    assert logs.files[0].staged_end == 0


async def test_append__that_was_prepared_and_is_not_handed_over_leaves_nothing_behind() -> None:
    logs = Logs()
    appender, state = logs.logs[0], logs.logs[0].state
    group = Together([], [])
    handed = produced_batch(memoryview(sequenced(0, 2)))
    append = appender.prepare_plain([handed], NOW_MS, group)
    assert append is not None
    logs.staging.add([appender.handed_over([handed], append)])
    for payload in (sequenced(2), sequenced(0, producer_id=8), batch()):
        known, sent = {id: state.producers.get(id) for id in (7, 8)}, bytes(payload)
        prepared = produced_batch(memoryview(payload))
        append = appender.prepare_plain([prepared], NOW_MS, group)
        assert append is not None and state.end_offset == 3
        appender.take_back([prepared], append)
        assert (state.end_offset, state.pending_count) == (2, 1)
        assert {id: state.producers.get(id) for id in (7, 8)} == known
        assert payload == sent
    assert logs.send_plain(0, Answer())
