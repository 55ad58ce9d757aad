"""Which broker of a cluster a raw request must go to, as a client would find it out: the leader of the first partition
that it names, or the coordinator of the first group or transactional id.

With one broker everything goes there, and nothing is asked.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from kafka.protocol import admin, consumer, producer
from kafka.protocol.metadata import FindCoordinatorRequest, MetadataRequest

from tests.interop import newer_messages
from tests.interop.wire import Wire

Address = tuple[str, int]
Fields = Mapping[str, Any]
GROUP, TRANSACTION = 0, 1
NO_ID = uuid.UUID(int=0)
COORDINATOR_NOT_AVAILABLE = 15
FOUND_WITHIN_S = 30.0
TRANSACTION_STATE = "__transaction_state"


class Routes:
    def __init__(self, address: Address) -> None:
        self._first = address
        with Wire(address) as wire:
            self._are_several = len(wire.call(MetadataRequest[9](topics=[])).brokers) > 1
        self._last: dict[int, Address] = {}

    def to(self, request: Any, fields: Fields) -> Address:
        """What names nothing goes where the last one of its kind went, as a session does, or to the first broker."""
        if not self._are_several or request.API_KEY not in _NAMED_BY:
            return self._first
        found = _NAMED_BY[request.API_KEY](self, fields) or self._last.get(request.API_KEY, self._first)
        self._last[request.API_KEY] = found
        return found

    def shares(self, transactional_ids: Iterable[str]) -> list[list[str]]:
        """What one coordinator has to tell of, for each of them: as many requests as an admin client sends."""
        if not self._are_several:
            return [list(transactional_ids)]
        shares: dict[Address | None, list[str]] = {}
        for name in transactional_ids:
            shares.setdefault(self.coordinator(name, TRANSACTION) if name else None, []).append(name)
        return list(shares.values()) or [[]]

    def as_never_moved(self, coordinator_epoch: int) -> int:
        """0 in place of an epoch that a transaction coordinator of the cluster has come to by moving."""
        if not self._are_several or coordinator_epoch <= 0:
            return coordinator_epoch
        with Wire(self._first) as wire:
            named = [MetadataRequest.MetadataRequestTopic(name=TRANSACTION_STATE)]
            [topic] = wire.call(MetadataRequest[9](topics=named)).topics
        latest = max(row.leader_epoch for row in topic.partitions)
        return 0 if coordinator_epoch <= latest else coordinator_epoch

    def leader(self, topic: str | uuid.UUID, index: int) -> Address | None:
        named = {"topic_id": topic, "name": None} if isinstance(topic, uuid.UUID) else {"name": topic}
        request = MetadataRequest[12](topics=[MetadataRequest.MetadataRequestTopic(**named)])
        request.allow_auto_topic_creation = False
        with Wire(self._first) as wire:
            answer = wire.call(request)
        brokers = {broker.node_id: (broker.host, broker.port) for broker in answer.brokers}
        rows = [row for found in answer.topics for row in found.partitions if row.partition_index == index]
        return brokers.get(rows[0].leader_id) if rows else None

    def coordinator(self, name: str, kind: int) -> Address | None:
        deadline = time.monotonic() + FOUND_WITHIN_S
        with Wire(self._first) as wire:
            while time.monotonic() < deadline:
                found = wire.call(FindCoordinatorRequest[3](key=name, key_type=kind))
                if found.error_code != COORDINATOR_NOT_AVAILABLE:
                    return (found.host, found.port) if found.error_code == 0 else None
                time.sleep(0.05)
        return None


def _partition(routes: Routes, fields: Fields) -> Address | None:
    """Of all shapes in which requests name a partition."""
    for topic in fields.get("topics") or fields.get("topic_data") or ():
        name = topic.get("name") or topic.get("topic") or topic.get("topic_id")
        if not name or name == NO_ID:
            return None
        rows = topic.get("partitions") or topic.get("partition_data") or topic.get("partition_indexes") or ()
        for row in rows:
            index = row if isinstance(row, int) else row.get("index", row.get("partition", row.get("partition_index")))
            return routes.leader(name, index)
    return None


def _markers(routes: Routes, fields: Fields) -> Address | None:
    return _partition(routes, fields["markers"][0]) if fields["markers"] else None


def _named(kind: int, *fields_with_names: str) -> Callable[[Routes, Fields], Address | None]:
    def find(routes: Routes, fields: Fields) -> Address | None:
        for field in fields_with_names:
            given = fields.get(field)
            first = given[0] if isinstance(given, list) and given else given
            name = first.get("group_id", first.get("transactional_id")) if isinstance(first, dict) else first
            if name:
                return routes.coordinator(name, kind)
        return None

    return find


_BY_PARTITION = (
    producer.ProduceRequest,
    consumer.FetchRequest,
    consumer.ListOffsetsRequest,
    consumer.OffsetForLeaderEpochRequest,
    admin.DeleteRecordsRequest,
    admin.DescribeProducersRequest,
)
_BY_GROUP = (
    consumer.OffsetCommitRequest,
    consumer.OffsetFetchRequest,
    consumer.OffsetDeleteRequest,
    consumer.JoinGroupRequest,
    consumer.HeartbeatRequest,
    consumer.LeaveGroupRequest,
    consumer.SyncGroupRequest,
    producer.TxnOffsetCommitRequest,
    admin.DescribeGroupsRequest,
    admin.DeleteGroupsRequest,
    newer_messages.ConsumerGroupHeartbeatRequest,
    newer_messages.ConsumerGroupDescribeRequest,
)
_BY_TRANSACTION = (
    producer.InitProducerIdRequest,
    producer.AddPartitionsToTxnRequest,
    producer.AddOffsetsToTxnRequest,
    producer.EndTxnRequest,
    admin.DescribeTransactionsRequest,
)
_groups = _named(GROUP, "group_id", "groups", "groups_names", "group_ids")
_transactions = _named(
    TRANSACTION, "transactional_id", "v3_and_below_transactional_id", "transactions", "transactional_ids"
)
_NAMED_BY: Mapping[int, Callable[[Routes, Fields], Address | None]] = {
    **{request.API_KEY: _partition for request in _BY_PARTITION},
    **{request.API_KEY: _groups for request in _BY_GROUP},
    **{request.API_KEY: _transactions for request in _BY_TRANSACTION},
    producer.WriteTxnMarkersRequest.API_KEY: _markers,
}
