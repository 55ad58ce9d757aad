"""GroupWorld with topics, and clients that follow the protocol of KIP-848 as the Java client does."""

from __future__ import annotations

from bytemq.broker.coordinator.group.consumer.group import ConsumerGroup
from bytemq.broker.coordinator.group.consumer.topics import TopicInfo
from bytemq.broker.coordinator.group.environment import GroupSettings, RequestOrigin
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.protocol.messages.consumer_group_heartbeat import (
    ConsumerGroupHeartbeatRequest,
    ConsumerGroupHeartbeatResponse,
    TopicPartitions,
)
from tests.unit.coordinator.group_world import GroupWorld

TopicPartition = tuple[str, int]
ASSIGNMENT_LOST = (ErrorCode.FENCED_MEMBER_EPOCH, ErrorCode.UNKNOWN_MEMBER_ID, ErrorCode.GROUP_ID_NOT_FOUND)


class FakeTopics:
    """Topics that a test creates, grows and deletes."""

    def __init__(self, **partitions: int) -> None:
        self.version = 1
        self._created = 0
        self.rack_names: tuple[str, ...] = ()
        self._topics: dict[str, TopicInfo] = {}
        for name, count in partitions.items():
            self.create(name, count)

    def create(self, name: str, partitions: int) -> None:
        """A new topic, or more partitions for one that there is."""
        self._created += 1
        self.version += 1
        present = self._topics.get(name)
        topic_id = present.topic_id if present is not None else self._created.to_bytes(16, "big")
        self._topics[name] = TopicInfo(name, topic_id, partitions)

    def delete(self, name: str) -> None:
        self.version += 1
        del self._topics[name]

    def by_name(self, name: str) -> TopicInfo | None:
        return self._topics.get(name)

    def by_id(self, topic_id: bytes) -> TopicInfo | None:
        return next((topic for topic in self._topics.values() if topic.topic_id == topic_id), None)

    def names(self) -> list[str]:
        return list(self._topics)

    def racks(self, topic_id: bytes) -> list[frozenset[str]]:
        """As created: partitions take turns in them."""
        topic = self.by_id(topic_id)
        if topic is None or not self.rack_names:
            return []
        return [frozenset({self.rack_names[at % len(self.rack_names)]}) for at in range(topic.partition_count)]


class ConsumerWorld(GroupWorld):
    def __init__(self, settings: GroupSettings | None = None, **partitions: int) -> None:
        self.topics = FakeTopics(**partitions)
        super().__init__(settings)

    def _start(self) -> None:
        super()._start()
        self.shard.environment.topics = self.topics

    @property
    def group(self) -> ConsumerGroup:
        return self.shard.environment.consumer_groups["g"]

    def topics_changed(self) -> None:
        self.shard.consumers.topics_changed()

    def heartbeat(
        self, request: ConsumerGroupHeartbeatRequest, client: str = "c", version: int = 1, connection: str = "1"
    ) -> list[ConsumerGroupHeartbeatResponse | KafkaError]:
        """The answer, or the refusal; none while its records are held."""
        answers: list[ConsumerGroupHeartbeatResponse | KafkaError] = []
        origin = RequestOrigin(client, "/127.0.0.1", version, connection)
        try:
            outcome = self.shard.consumers.heartbeats.heartbeat(request, origin)
        except KafkaError as error:
            return [error]
        self.submit(outcome, lambda code: answers.append(KafkaError(code) if code else outcome.response))
        if not outcome.records and self.held:
            # The runtime answers behind what is in flight.
            answers.clear()
            self.held[-1].followers.append(lambda code: answers.append(KafkaError(code) if code else outcome.response))
        return answers


class Consumer:
    """What a consumer remembers. `owned` is what it reads; it gives up at once unless it is `slow`."""

    def __init__(self, world: ConsumerWorld, name: str, *, instance: str | None = None) -> None:
        self.world = world
        self.name = name
        self.instance = instance
        self.member_id = name
        self.epoch = 0
        self.topics: list[str] = ["t"]
        self.regex: str | None = None
        self.assignor: str | None = None
        self.rack: str | None = None
        self.owned: set[tuple[bytes, int]] = set()
        self.assigned: set[tuple[bytes, int]] = set()
        self.slow = False
        self.rebalance_ms = 60_000
        self.connection = 1

    def request(self, *, full: bool = False) -> ConsumerGroupHeartbeatRequest:
        full = full or self.epoch == 0
        return ConsumerGroupHeartbeatRequest(
            group_id="g",
            member_id=self.member_id,
            member_epoch=self.epoch,
            instance_id=self.instance,
            rack_id=self.rack if full else None,
            rebalance_timeout_ms=self.rebalance_ms if full else -1,
            subscribed_topic_names=list(self.topics) if full and self.regex is None else None,
            subscribed_topic_regex=self.regex if full else None,
            server_assignor=self.assignor if full else None,
            topic_partitions=_by_topic(self.owned),
        )

    def heartbeat(self, *, full: bool = False) -> ConsumerGroupHeartbeatResponse | KafkaError | None:
        """One heartbeat whose answer arrives, if there is one yet: it is not waited for."""
        answers = self.send(self.request(full=full))
        if not answers:
            self.reconnect()
            return None
        self.receive(answers[0])
        return answers[0]

    def send(self, request: ConsumerGroupHeartbeatRequest) -> list[ConsumerGroupHeartbeatResponse | KafkaError]:
        """What the coordinator answers; the consumer has not heard it."""
        return self.world.heartbeat(request, self.name, connection=str(self.connection))

    def reconnect(self) -> None:
        """An answer did not come: clients give up its connection with it."""
        self.connection += 1

    def leave(self, epoch: int = -1) -> ConsumerGroupHeartbeatResponse | KafkaError | None:
        request = ConsumerGroupHeartbeatRequest(
            group_id="g", member_id=self.member_id, member_epoch=epoch, instance_id=self.instance
        )
        answers = self.world.heartbeat(request, self.name)
        self.lose_everything()
        return answers[0] if answers else None

    def receive(self, answer: ConsumerGroupHeartbeatResponse | KafkaError) -> None:
        if isinstance(answer, KafkaError):
            if answer.code in ASSIGNMENT_LOST:
                self.lose_everything()
            return
        self.epoch = answer.member_epoch
        if answer.assignment is not None:
            self.assigned = {
                (topic.topic_id, index) for topic in answer.assignment.topic_partitions for index in topic.partitions
            }
        if not self.slow:
            self.give_up()

    def give_up(self) -> None:
        """Revokes first; what is new is read from then on."""
        self.owned = set(self.assigned)

    def lose_everything(self) -> None:
        self.epoch = 0
        self.owned, self.assigned = set(), set()

    def named(self) -> list[TopicPartition]:
        found = [(self.world.topics.by_id(topic_id), index) for topic_id, index in self.owned]
        return sorted((topic.name, index) for topic, index in found if topic is not None)


def _by_topic(partitions: set[tuple[bytes, int]]) -> list[TopicPartitions]:
    topics: dict[bytes, list[int]] = {}
    for topic_id, index in sorted(partitions):
        topics.setdefault(topic_id, []).append(index)
    return [TopicPartitions(topic_id, indexes) for topic_id, indexes in topics.items()]
