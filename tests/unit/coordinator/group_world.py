"""A group shard in virtual time, with a log in memory: what the runtime does, without the loop.

Writes are committed at once unless `hold` is set; then they wait for `release` or `fail`. `restart` is a crash: a new
shard replays the log, and nothing else survives.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import lru_cache
from typing import Any, cast

from bytemq.broker.coordinator.group.consumer.records import CONSUMER_GROUP_RECORDS
from bytemq.broker.coordinator.group.environment import GroupSettings, RequestOrigin
from bytemq.broker.coordinator.group.join import check_request, refusal
from bytemq.broker.coordinator.group.shard import GroupShard
from bytemq.broker.coordinator.outcome import Outcome
from bytemq.broker.coordinator.timers import TimerQueue
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.protocol.messages.heartbeat import HeartbeatRequest
from bytemq.protocol.messages.join_group import JoinGroupRequest, JoinGroupRequestProtocol, JoinGroupResponse
from bytemq.protocol.messages.offset_commit import (
    OffsetCommitRequest,
    OffsetCommitRequestPartition,
    OffsetCommitRequestTopic,
    OffsetCommitResponse,
)
from bytemq.protocol.messages.offset_fetch import OffsetFetchRequestGroup, OffsetFetchRequestTopics
from bytemq.protocol.messages.sync_group import SyncGroupRequest, SyncGroupRequestAssignment, SyncGroupResponse
from bytemq.protocol.records.builder import Record, build_batch

START_MS = 1_700_000_000_000
LogRecord = tuple[bytes, bytes | None]


def subscription(*topics: str) -> bytes:
    """A ConsumerProtocolSubscription, version 0."""
    body = b"\x00\x00" + len(topics).to_bytes(4, "big")
    for topic in topics:
        body += len(topic).to_bytes(2, "big") + topic.encode()
    return body + b"\xff\xff\xff\xff"


@lru_cache(maxsize=4096)
def _member_key(kind: Callable[..., Any], *names: str) -> bytes:
    key: bytes = kind(*names, None).encode_key()
    return key


def _key_of(record: Any) -> bytes:
    """Those of consumer groups are names alone, and the same ones again and again."""
    if isinstance(record, CONSUMER_GROUP_RECORDS):
        return _member_key(cast(Callable[..., Any], type(record)), *record[:-1])
    key: bytes = record.encode_key()
    return key


def replay(shard: GroupShard, log: list[LogRecord]) -> None:
    """The log as it is stored: plain batches, of ten records here."""
    starts = range(0, len(log), 10)
    data = b"".join(build_batch([Record(*record) for record in log[start : start + 10]]) for start in starts)
    assert shard.replay_plain(data, 0)[::2] == (len(data), len(log))


class HeldWrite:
    def __init__(self, sequence: int, outcome: Outcome[Any], done: Callable[[ErrorCode], None] | None) -> None:
        self.sequence = sequence
        self.outcome = outcome
        self.done = done
        self.followers: list[Callable[[ErrorCode], object]] = []
        """Answers without records of their own, given behind this write."""


class GroupWorld:
    """One shard, its time and its log."""

    def __init__(self, settings: GroupSettings | None = None) -> None:
        self.settings = settings or GroupSettings()
        self.now_ms = 0
        self.log: list[LogRecord] = []
        self.hold = False
        self.held: list[HeldWrite] = []
        self._sequence = itertools.count(1)
        self._uuids = itertools.count(1)
        self.gone: set[str] = set()
        self._start()
        self.shard.loaded()

    def _start(self) -> None:
        self.timers = TimerQueue(lambda: self.now_ms)
        self.shard = GroupShard(
            self.settings,
            self.timers,
            lambda: START_MS + self.now_ms,
            lambda: str(next(self._uuids)),
            is_gone=lambda topic, _: topic in self.gone,
        )

    # -- the runtime's part

    def submit(self, outcome: Outcome[Any], done: Callable[[ErrorCode], None] | None = None) -> None:
        if not outcome.records:
            if done is not None:
                done(ErrorCode.NONE)
            return
        write = HeldWrite(next(self._sequence), outcome, done)
        for record in outcome.records:
            self.shard.stage(write.sequence, record)
        self.held.append(write)
        if not self.hold:
            self.release()

    def run(self, outcome: Outcome[None]) -> None:
        """An operation that answers by itself; without records, behind what is in flight."""
        if outcome.records or outcome.on_appended is None:
            self.submit(outcome)
        elif self.held:
            self.held[-1].followers.append(outcome.on_appended)
        else:
            outcome.on_appended(ErrorCode.NONE)

    def release(self, count: int | None = None) -> None:
        """Commits the oldest held writes."""
        for _ in range(len(self.held) if count is None else count):
            write = self.held.pop(0)
            for record in write.outcome.records:
                self.log.append((_key_of(record), record.encode_value()))
                self.shard.commit(write.sequence, record)
            self._end(write, ErrorCode.NONE)

    def fail(self, code: ErrorCode = ErrorCode.KAFKA_STORAGE_ERROR) -> None:
        """None of the held writes will ever be committed; newest first, as the runtime does it."""
        failed, self.held = self.held[::-1], []
        for write in failed:
            for record in reversed(write.outcome.records):
                self.shard.roll_back(write.sequence, record)
        for write in failed:
            self._end(write, code)

    def _end(self, write: HeldWrite, code: ErrorCode) -> None:
        followed = write.outcome.on_appended(code) if write.outcome.on_appended else None
        if write.done is not None:
            write.done(code)
        for follower in write.followers:
            follower(code)
        if followed is not None:
            self.submit(followed)

    def advance(self, milliseconds: int) -> None:
        end = self.now_ms + milliseconds
        while True:
            while (action := self.timers.pop_due()) is not None:
                self.submit(action())
            deadline = self.timers.next_deadline_ms()
            if deadline is None or deadline > end:
                break
            self.now_ms = max(self.now_ms, deadline)
        self.now_ms = end

    def restart(self) -> None:
        self.held.clear()
        self._start()
        replay(self.shard, self.log)
        for outcome in self.shard.loaded():
            self.submit(outcome)

    # -- requests

    def join(
        self,
        group_id: str = "g",
        member_id: str = "",
        *,
        client: str = "c",
        version: int = 9,
        instance: str | None = None,
        protocols: dict[str, bytes] | None = None,
        protocol_type: str = "consumer",
        session_ms: int = 10_000,
        rebalance_ms: int = 60_000,
        reply: Callable[[JoinGroupResponse], None] | None = None,
    ) -> list[JoinGroupResponse]:
        """The answers so far: none while it is parked."""
        answers: list[JoinGroupResponse] = []
        offered = {"range": subscription("t")} if protocols is None else protocols
        request = JoinGroupRequest(
            group_id=group_id,
            session_timeout_ms=session_ms,
            rebalance_timeout_ms=rebalance_ms,
            member_id=member_id,
            group_instance_id=instance,
            protocol_type=protocol_type,
            protocols=[JoinGroupRequestProtocol(name, memoryview(data)) for name, data in offered.items()],
        )
        origin = RequestOrigin(client, "/127.0.0.1", version)
        answer = reply or answers.append
        try:
            check_request(request, self.shard.environment.settings)
        except KafkaError as error:
            answer(refusal(request, error.code))
        else:
            self.run(self.shard.joining.join(request, origin, answer))
        return answers

    def sync(
        self,
        group_id: str,
        member_id: str,
        generation: int,
        assignment: dict[str, bytes] | None = None,
        *,
        instance: str | None = None,
        protocol: str | None = None,
        reply: Callable[[SyncGroupResponse], None] | None = None,
    ) -> list[SyncGroupResponse]:
        answers: list[SyncGroupResponse] = []
        request = SyncGroupRequest(
            group_id=group_id,
            generation_id=generation,
            member_id=member_id,
            group_instance_id=instance,
            protocol_name=protocol,
            assignments=[SyncGroupRequestAssignment(member, data) for member, data in (assignment or {}).items()],
        )
        self.run(self.shard.syncing.sync(request, reply or answers.append))
        return answers

    def classic_heartbeat(
        self, group_id: str, member_id: str, generation: int, *, instance: str | None = None
    ) -> ErrorCode:
        request = HeartbeatRequest(
            group_id=group_id, generation_id=generation, member_id=member_id, group_instance_id=instance
        )
        return self.shard.syncing.heartbeat(request)

    def commit(
        self,
        group_id: str,
        offsets: dict[tuple[str, int], int],
        *,
        member_id: str = "",
        generation: int = -1,
        version: int = 9,
        metadata: str | None = "",
        retention_ms: int = -1,
        instance: str | None = None,
        topic_ids: dict[str, bytes] | None = None,
    ) -> list[OffsetCommitResponse | ErrorCode]:
        """The answer, or the error of the whole request; none while the write is held."""
        topics: dict[str, list[OffsetCommitRequestPartition]] = {}
        for (topic, partition), offset in offsets.items():
            topics.setdefault(topic, []).append(OffsetCommitRequestPartition(partition, offset, 7, metadata))
        ids = topic_ids or {}
        request = OffsetCommitRequest(
            group_id=group_id,
            generation_id_or_member_epoch=generation,
            member_id=member_id,
            group_instance_id=instance,
            retention_time_ms=retention_ms,
            topics=[
                OffsetCommitRequestTopic(topic, ids.get(topic, bytes(16)), partitions)
                for topic, partitions in topics.items()
            ],
        )
        answers: list[OffsetCommitResponse | ErrorCode] = []
        try:
            outcome = self.shard.offsets.commit(request, RequestOrigin("c", "/127.0.0.1", version))
        except KafkaError as error:
            return [error.code]
        self.submit(outcome, lambda code: answers.append(code or outcome.response))
        return answers

    def fetch(self, group_id: str, topics: dict[str, list[int]] | None = None) -> dict[tuple[str, int], int]:
        """Committed offsets by topic and partition."""
        asked = None
        if topics is not None:
            asked = [OffsetFetchRequestTopics(topic, bytes(16), indexes) for topic, indexes in topics.items()]
        fetched = self.shard.offsets.fetch(OffsetFetchRequestGroup(group_id=group_id, topics=asked))
        return {
            (topic.name, partition.partition_index): partition.committed_offset
            for topic in fetched
            for partition in topic.partitions
        }
