"""A transactional producer over raw frames, for the cases of transactions: quiet steps that lead to what a case looks
at.

Owns waiting: for the coordinator to load, and for the markers of a transaction to be written.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from kafka.protocol.admin import DescribeTransactionsRequest
from kafka.protocol.metadata import FindCoordinatorRequest
from kafka.protocol.producer import AddPartitionsToTxnRequest, EndTxnRequest, InitProducerIdRequest, ProduceRequest

from tests.interop.batches import batch
from tests.interop.differential import Subject

TRANSACTIONAL = 0x10
TIMEOUT_MS = 60_000
NOT_YET = (14, 15, 16, 51)
"""Loading, no coordinator, not the coordinator, another step is on its way."""
WAIT_S = 60.0
POLL_S = 0.02


@dataclass
class TransactionalProducer:
    """Who the producer is by its last InitProducerId or EndTxn."""

    subject: Subject
    transactional_id: str
    producer_id: int = -1
    epoch: int = -1
    sequence: int = 0
    timestamp_ms: int = field(default_factory=lambda: now_ms())

    @property
    def who(self) -> dict[str, Any]:
        return {
            "transactional_id": self.transactional_id,
            "producer_id": self.producer_id,
            "producer_epoch": self.epoch,
        }

    def batch(self, value: bytes = b"value", **fields: Any) -> bytes:
        given = {"producer_id": self.producer_id, "producer_epoch": self.epoch, "base_sequence": self.sequence}
        return batch([value], **{"attributes": TRANSACTIONAL, "base_timestamp": self.timestamp_ms, **given, **fields})

    def add(self, topic: str, *indexes: int) -> None:
        """Transaction version 1."""
        names = ("transactional_id", "producer_id", "producer_epoch")
        fields = {f"v3_and_below_{name}": self.who[name] for name in names}
        fields["v3_and_below_topics"] = [{"name": topic, "partitions": list(indexes)}]
        answer = self._settled(AddPartitionsToTxnRequest, 3, fields, _code_of_added)
        assert _code_of_added(answer) == 0, answer

    def send(self, topic: str, value: bytes = b"value", *, index: int = 0, version: int = 9) -> None:
        data = [{"name": topic, "partition_data": [{"index": index, "records": self.batch(value)}]}]
        fields = {"transactional_id": self.transactional_id, "acks": -1, "timeout_ms": 5_000, "topic_data": data}
        [answer] = self.subject.quiet(ProduceRequest, version, fields).responses
        assert answer.partition_responses[0].error_code == 0, answer
        self.sequence += 1

    def end(self, *, commit: bool, version: int = 4) -> None:
        """Returns when the markers are written. From version 5 on the producer goes on with a new epoch."""
        answer = self._settled(EndTxnRequest, version, {**self.who, "committed": commit})
        assert answer.error_code == 0, answer
        if version >= 5:
            self.producer_id, self.epoch, self.sequence = answer.producer_id, answer.producer_epoch, 0
        self.settle()

    def settle(self) -> None:
        """Until no transaction is between its decision and its markers."""
        for _ in _tries():
            [state] = self.subject.quiet(
                DescribeTransactionsRequest, 0, {"transactional_ids": [self.transactional_id]}
            ).transaction_states
            if not state.transaction_state.startswith("Prepare"):
                return
        raise AssertionError("the markers are not written")

    def initialise(self) -> TransactionalProducer:
        fields = {"transactional_id": self.transactional_id, "transaction_timeout_ms": TIMEOUT_MS}
        answer = self._settled(InitProducerIdRequest, 5, fields)
        assert answer.error_code == 0, answer
        self.producer_id, self.epoch, self.sequence = answer.producer_id, answer.producer_epoch, 0
        return self

    def _settled(self, request_class: Any, version: int, fields: dict[str, Any], code: Any = None) -> Any:
        answer = None
        for _ in _tries():
            answer = self.subject.quiet(request_class, version, fields)
            if (code(answer) if code else answer.error_code) not in NOT_YET:
                break
        return answer


def now_ms() -> int:
    """Of all records beside markers: Kafka rolls a segment whose first record is older by segment.ms."""
    return int(time.time() * 1000)


def begin(subject: Subject, transactional_id: str | None = None) -> TransactionalProducer:
    """A producer that has an id; of a new transactional id unless one is given."""
    name = transactional_id or subject.new_name("txn")
    subject.quiet(FindCoordinatorRequest, 1, {"key": name, "key_type": 1})  # which makes the internal topic
    return TransactionalProducer(subject, name).initialise()


def _code_of_added(answer: Any) -> int:
    return int(answer.results_by_topic_v3_and_below[0].results_by_partition[0].partition_error_code)


def _tries() -> Any:
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        yield
        time.sleep(POLL_S)
