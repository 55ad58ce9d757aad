"""Members of a consumer group, classic and of KIP-848, as the Java client has them: they join, heartbeat, give up and
take partitions. A member is asked to `poll`; between two polls its assignment stands.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from bytemq.metadata.topic_names import OFFSETS_TOPIC
from bytemq.protocol.codec import encode_record
from bytemq.protocol.error_codes import ErrorCode
from bytemq.protocol.messages.consumer_group_heartbeat import (
    ConsumerGroupHeartbeatRequest,
    ConsumerGroupHeartbeatResponse,
    TopicPartitions,
)
from bytemq.protocol.messages.consumer_protocol import ConsumerProtocolSubscription
from bytemq.protocol.messages.heartbeat import HeartbeatRequest, HeartbeatResponse
from bytemq.protocol.messages.join_group import JoinGroupRequest, JoinGroupRequestProtocol, JoinGroupResponse
from bytemq.protocol.messages.sync_group import SyncGroupRequest, SyncGroupRequestAssignment, SyncGroupResponse
from tests.simulation.broker.client import Client
from tests.simulation.broker.network import Disconnected
from tests.simulation.broker.producers import GroupMember

if TYPE_CHECKING:
    from tests.simulation.broker.world import World

SESSION_TIMEOUT_MS = 600
REBALANCE_TIMEOUT_MS = 400
_JOIN_TIMEOUT_S = 2.0
_HEARTBEATS_S = (0.0, 0.05, 0.2)
"""How long an answer stands before the coordinator is asked again."""
_PROTOCOL = "by hand"


class Member(Protocol):
    """One consumer of one topic in one group."""

    async def poll(self) -> set[int]:
        """Does what the group asks of it; the partitions that it reads from now on."""

    @property
    def identity(self) -> GroupMember: ...


class _Heartbeats(Client):
    """A client that asks its group's coordinator now and then."""

    def __init__(self, world: World, name: str, group: str, topic: str) -> None:
        super().__init__(world, name)
        self.group = group
        self.topic = topic
        self._coordinator = world.place_of(OFFSETS_TOPIC, group)
        self._next_at = 0.0

    def _is_due(self) -> bool:
        """Whether to ask now."""
        now = self.world.clock.monotonic()
        if now < self._next_at:
            return False
        self._next_at = now + self.random.choice(_HEARTBEATS_S)
        return True


class ClassicMember(_Heartbeats):
    """Eager: gives up everything before it joins again. The leader deals the partitions out."""

    def __init__(self, world: World, name: str, group: str, topic: str) -> None:
        super().__init__(world, name, group, topic)
        self.member_id = ""
        self.generation = -1
        self.assignment: set[int] = set()

    @property
    def identity(self) -> GroupMember:
        return GroupMember(self.group, self.member_id, self.generation)

    async def poll(self) -> set[int]:
        try:
            if self.generation < 0 or (self._is_due() and await self._must_join()):
                await self._join()
        except Disconnected:
            await self.pause()
        return self.assignment

    async def _must_join(self) -> bool:
        request = HeartbeatRequest(self.group, self.generation, self.member_id)
        answer = await self.ask(request, 4, HeartbeatResponse, at=self._coordinator)
        return self._is_shut_out(ErrorCode(answer.error_code))

    async def _join(self) -> None:
        self.assignment = set()
        self.generation = -1
        subscription = bytes(encode_record(ConsumerProtocolSubscription(topics=[self.topic]), 0))
        protocols = [JoinGroupRequestProtocol(_PROTOCOL, subscription)]
        request = JoinGroupRequest(
            self.group, SESSION_TIMEOUT_MS, REBALANCE_TIMEOUT_MS, self.member_id, None, "consumer", protocols
        )
        joined = await self.ask(request, 7, JoinGroupResponse, at=self._coordinator, timeout_s=_JOIN_TIMEOUT_S)
        code = ErrorCode(joined.error_code)
        if code is ErrorCode.MEMBER_ID_REQUIRED:
            self.member_id = joined.member_id
            return
        if code is not ErrorCode.NONE:
            self._is_shut_out(code)
            await self.pause()
            return
        self.member_id = joined.member_id
        assignments = []
        if joined.leader == joined.member_id:
            members = sorted(member.member_id for member in joined.members)
            count = self.world.partition_counts[self.topic]
            for number, member in enumerate(members):
                dealt = ",".join(str(index) for index in range(count) if index % len(members) == number)
                assignments.append(SyncGroupRequestAssignment(member, dealt.encode()))
        sync = SyncGroupRequest(
            self.group, joined.generation_id, self.member_id, None, "consumer", _PROTOCOL, assignments
        )
        synced = await self.ask(sync, 5, SyncGroupResponse, at=self._coordinator, timeout_s=_JOIN_TIMEOUT_S)
        if synced.error_code != ErrorCode.NONE:
            self._is_shut_out(ErrorCode(synced.error_code))
            await self.pause()
            return
        self.generation = joined.generation_id
        self.assignment = {int(index) for index in bytes(synced.assignment).decode().split(",") if index}
        self.history.note(f"{self.name} reads {sorted(self.assignment)} in generation {self.generation}")
        partitions = {(self.topic, index) for index in self.assignment}
        self.history.assigned(self.group, self.generation, self.member_id, partitions)

    def _is_shut_out(self, code: ErrorCode) -> bool:
        """Whether it has to join (again)."""
        if code is ErrorCode.UNKNOWN_MEMBER_ID:
            self.member_id = ""
        return code in (
            ErrorCode.UNKNOWN_MEMBER_ID,
            ErrorCode.ILLEGAL_GENERATION,
            ErrorCode.REBALANCE_IN_PROGRESS,
        )


class ConsumerMember(_Heartbeats):
    """Of KIP-848: the coordinator says what to read, and hears what was given up."""

    def __init__(self, world: World, name: str, group: str, topic: str) -> None:
        super().__init__(world, name, group, topic)
        self.member_id = name
        self.epoch = 0
        self.assignment: set[int] = set()
        self._must_tell_all = True
        """Until an answer without an error comes: an error may have been told in place of the assignment when the
        coordinator moved. Of an answer that was lost with its connection it says nothing, as librdkafka does not: who
        comes by another connection is told again.
        """

    @property
    def identity(self) -> GroupMember:
        return GroupMember(self.group, self.member_id, self.epoch)

    async def poll(self) -> set[int]:
        topic_id = self.world.topic_ids[self.topic]
        full = self._must_tell_all
        if not (full or self._is_due()):
            return self.assignment
        sent_at = self.world.clock.monotonic()
        request = ConsumerGroupHeartbeatRequest(
            self.group,
            self.member_id,
            self.epoch,
            rebalance_timeout_ms=60_000 if full else -1,
            subscribed_topic_names=[self.topic] if full else None,
            topic_partitions=[TopicPartitions(topic_id, sorted(self.assignment))] if self.assignment else [],
        )
        self._must_tell_all = True
        try:
            answer = await self.ask(request, 1, ConsumerGroupHeartbeatResponse, at=self._coordinator)
        except Disconnected:
            self._must_tell_all = full
            await self.pause()
            return self.assignment
        self._receive(answer, sent_at)
        return self.assignment

    def _receive(self, answer: ConsumerGroupHeartbeatResponse, sent_at: float) -> None:
        code = ErrorCode(answer.error_code)
        if code in (ErrorCode.FENCED_MEMBER_EPOCH, ErrorCode.UNKNOWN_MEMBER_ID, ErrorCode.GROUP_ID_NOT_FOUND):
            self.history.note(f"{self.name}: heartbeat answered {code.name}")
            self._hold(set(), sent_at)
            self.epoch = 0
        if code is not ErrorCode.NONE:
            return
        self._must_tell_all = False
        self.epoch = answer.member_epoch
        assigned = self.assignment
        if answer.assignment is not None:
            assigned = {index for topic in answer.assignment.topic_partitions for index in topic.partitions}
        if assigned != self.assignment:
            self._next_at = 0.0  # the coordinator waits to hear what was given up
            self.history.note(f"{self.name} reads {sorted(assigned)} at epoch {self.epoch}")
        self._hold(assigned, sent_at)

    def _hold(self, assigned: set[int], sent_at: float) -> None:
        for index in self.assignment - assigned:
            self.history.gave_up(self.group, self.member_id, (self.topic, index))
        for index in sorted(assigned):
            until = sent_at + SESSION_TIMEOUT_MS / 1000
            self.history.took(self.group, self.member_id, (self.topic, index), self.world.clock.monotonic(), until)
        self.assignment = assigned
