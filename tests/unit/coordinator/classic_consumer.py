"""A consumer that speaks the classic protocol, as the Java client does, in a GroupWorld with topics.

It joins with its subscription, syncs, and gives up partitions as its protocol says: an eager one everything before it
joins, a cooperative one what its new assignment lacks, before it joins again. Where it leads, it assigns round robin,
and joins again when topics have changed.
"""

from __future__ import annotations

from collections.abc import Mapping

from bytemq.broker.coordinator.group.consumer.embedded_protocol import (
    read_assignment,
    read_subscription,
    write_assignment,
)
from bytemq.protocol.codec import encode_record
from bytemq.protocol.error_codes import ErrorCode
from bytemq.protocol.messages.consumer_protocol import (
    ConsumerProtocolSubscription,
    ConsumerProtocolSubscriptionTopicPartition,
)
from bytemq.protocol.messages.join_group import JoinGroupResponse
from bytemq.protocol.messages.sync_group import SyncGroupResponse
from tests.unit.coordinator.consumer_world import ConsumerWorld

_UNKNOWN = (ErrorCode.UNKNOWN_MEMBER_ID, ErrorCode.FENCED_INSTANCE_ID)
_LOST = (*_UNKNOWN, ErrorCode.ILLEGAL_GENERATION)


class ClassicConsumer:
    """`owned` is what it reads. `told` are the answers that have arrived, with their errors."""

    def __init__(
        self, world: ConsumerWorld, name: str, *, instance: str | None = None, cooperative: bool = False
    ) -> None:
        self.world = world
        self.name = name
        self.instance = instance
        self.cooperative = cooperative
        self.topics: list[str] = ["t"]
        self.protocols = ["cooperative-sticky"] if cooperative else ["range"]
        self.rebalance_ms = 60_000
        self.session_ms = 45_000
        self.member_id = ""
        self.generation = -1
        self.protocol: str | None = None
        self.leads = False
        self.owned: set[tuple[bytes, int]] = set()
        self.assigned: Mapping[bytes, frozenset[int]] = {}
        self.must_join = True
        self.must_sync = False
        self._was_given_id = False
        self._attempt = 0
        self.told: list[tuple[str, ErrorCode]] = []
        self._members: list[tuple[str, bytes]] = []
        self._seen_topics = -1

    def join(self, member_id: str | None = None, *, unheard: bool = False) -> None:
        """Twice, if the first one was for an id. A later join makes answers to an earlier one void; to one that is
        `unheard` no answer ever arrives.
        """
        if not self.cooperative:
            self.owned = set()
        if member_id is not None:
            self.member_id = member_id
        self.must_join, self.must_sync = True, False
        self._attempt += 1
        self._join(self._attempt + 1 if unheard else self._attempt)
        if self._was_given_id:
            self._was_given_id = False
            self._join(self._attempt)

    def _join(self, attempt: int) -> None:
        metadata = self._subscription()

        def answered(response: JoinGroupResponse) -> None:
            if attempt == self._attempt:
                self._joined(ErrorCode(response.error_code), response)

        self.world.join(
            "g",
            self.member_id,
            client=self.name,
            instance=self.instance,
            protocols=dict.fromkeys(self.protocols, metadata),
            session_ms=self.session_ms,
            rebalance_ms=self.rebalance_ms,
            reply=answered,
        )

    def sync(self, protocol: str | None = None) -> None:
        generation = self.generation

        def answered(response: SyncGroupResponse) -> None:
            if self.generation == generation and self.must_sync:
                self._synced(ErrorCode(response.error_code), response)

        self.world.sync(
            "g",
            self.member_id,
            generation,
            self._assign() if self.leads else None,
            instance=self.instance,
            protocol=protocol or self.protocol,
            reply=answered,
        )

    def heartbeat(self, generation: int | None = None) -> ErrorCode:
        """What it hears, it heeds."""
        told = self.generation if generation is None else generation
        code = self.world.classic_heartbeat("g", self.member_id, told, instance=self.instance)
        if code is not ErrorCode.NONE:
            self._heed(code)
        elif self.leads and self._seen_topics != self.world.topics.version:
            self.must_join = True
        return code

    def forget(self) -> None:
        """The process died; the next one knows nothing."""
        self._attempt += 1
        self._heed(ErrorCode.UNKNOWN_MEMBER_ID)

    def named(self) -> list[tuple[str, int]]:
        found = [(self.world.topics.by_id(topic_id), index) for topic_id, index in self.owned]
        return sorted((topic.name, index) for topic, index in found if topic is not None)

    # -- answers

    def _joined(self, code: ErrorCode, response: JoinGroupResponse) -> None:
        if code is ErrorCode.MEMBER_ID_REQUIRED:
            self.member_id, self._was_given_id = response.member_id, True
            return
        self.told.append(("join", code))
        if code is not ErrorCode.NONE:
            self._heed(code)
            return
        self.member_id, self.generation = response.member_id, response.generation_id
        self.protocol, self.leads = response.protocol_name, response.leader == response.member_id
        self._members = [(member.member_id, bytes(member.metadata)) for member in response.members]
        self.must_join, self.must_sync = False, True

    def _synced(self, code: ErrorCode, response: SyncGroupResponse) -> None:
        self.told.append(("sync", code))
        if code is not ErrorCode.NONE:
            self._heed(code)
            return
        self.must_sync = False
        self.assigned = read_assignment(bytes(response.assignment), self.world.topics)
        now = {(topic_id, index) for topic_id, indexes in self.assigned.items() for index in indexes}
        self.must_join = self.cooperative and not self.owned <= now
        self.owned = now

    def _heed(self, code: ErrorCode) -> None:
        self.must_join, self.must_sync, self.leads = True, False, False
        if code in _LOST:
            self.owned, self.generation = set(), -1
        if code in _UNKNOWN:
            self.member_id = ""

    # -- what it says

    def _subscription(self) -> bytes:
        owned: dict[str, list[int]] = {}
        for name, index in self.named():
            owned.setdefault(name, []).append(index)
        message = ConsumerProtocolSubscription(
            topics=sorted(self.topics),
            owned_partitions=[ConsumerProtocolSubscriptionTopicPartition(name, owned[name]) for name in owned],
            generation_id=self.generation,
        )
        return bytes(encode_record(message, 2 if self.cooperative else 0))

    def _assign(self) -> dict[str, bytes]:
        """Round robin; of what a cooperative member still has, nothing goes to another one yet."""
        topics = self.world.topics
        self._seen_topics = topics.version
        read = {member_id: read_subscription(metadata, topics) for member_id, metadata in self._members}
        holder = {
            (topic_id, index): member_id
            for member_id, each in read.items()
            for topic_id, indexes in each.owned.items()
            for index in indexes
        }
        given: dict[str, dict[bytes, list[int]]] = {member_id: {} for member_id in read}
        turn = 0
        for name in sorted(set().union(*(each.topics for each in read.values()))):
            topic = topics.by_name(name)
            takers = [member_id for member_id, each in read.items() if name in each.topics]
            for index in range(topic.partition_count if topic is not None else 0):
                assert topic is not None
                taker = takers[turn % len(takers)]
                turn += 1
                if holder.get((topic.topic_id, index), taker) == taker:
                    given[taker].setdefault(topic.topic_id, []).append(index)
        metadata = dict(self._members)
        return {member_id: write_assignment(given[member_id], topics, metadata[member_id]) for member_id in given}
