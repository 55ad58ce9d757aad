"""Seeded runs of consumers of KIP-848 that join, lag, lose answers, fall silent and come back, while writes fail,
coordinators die and topics change. No partition ever has two readers; a failing seed replays exactly.
"""

from __future__ import annotations

from random import Random

import pytest

from bytemq.broker.coordinator.group.consumer.group import ConsumerGroup, ConsumerGroupState
from bytemq.broker.coordinator.group.environment import ConsumerGroupSettings, GroupSettings
from bytemq.broker.coordinator.group.memory import GROUP_BYTES
from bytemq.broker.coordinator.group.shard import GroupShard
from bytemq.broker.coordinator.timers import TimerQueue
from tests.unit.coordinator.consumer_world import Consumer, ConsumerWorld

SEEDS = 40
STEPS = 150
TOPICS = ("t", "u", "v")


class Simulation:
    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        interval_ms = self.random.choice((0, 1_000))
        consumer = ConsumerGroupSettings(max_size=6, assignment_interval_ms=interval_ms)
        self.world = ConsumerWorld(GroupSettings(consumer=consumer), t=6, u=3, v=2)
        self.consumers = [Consumer(self.world, f"c{n}", instance=f"i{n}" if n % 3 == 0 else None) for n in range(6)]
        self.processes = len(self.consumers)
        for each in self.consumers:
            each.topics = ["t"] if self.random.random() < 0.5 else self.random.sample(TOPICS, 2)
            each.assignor = self.random.choice((None, "uniform", "range"))
            each.rebalance_ms = self.random.choice((1_000, 60_000))

    def run(self, steps: int) -> None:
        verbs = ("heartbeat", "lost_answer", "lag", "subscribe", "leave", "replace", "advance")
        troubles = ("hold", "release", "fail", "restart", "change_topics")
        for _ in range(steps):
            verb = self.random.choices((*verbs, *troubles), (50, 6, 8, 4, 3, 3, 20, 4, 8, 2, 1, 2))[0]
            getattr(self, verb)(self.random.choice(self.consumers))
            self.check()
        self.settle()

    # -- what may happen

    def heartbeat(self, consumer: Consumer) -> None:
        if consumer.slow and self.random.random() < 0.5:
            consumer.slow = False
            consumer.give_up()
        consumer.heartbeat(full=self.random.random() < 0.2)

    def lost_answer(self, consumer: Consumer) -> None:
        """The coordinator has done it, and the consumer does not know."""
        self.world.heartbeat(consumer.request(), consumer.name)

    def lag(self, consumer: Consumer) -> None:
        consumer.slow = True

    def subscribe(self, consumer: Consumer) -> None:
        consumer.topics = self.random.sample(TOPICS, self.random.randint(1, 3))
        consumer.regex = self.random.choice((None, None, "[tu]", ".*", "nothing"))
        if consumer.regex is None:
            consumer.epoch = consumer.epoch or 0
        consumer.heartbeat(full=True)

    def leave(self, consumer: Consumer) -> None:
        consumer.leave(-2 if consumer.instance is not None and self.random.random() < 0.5 else -1)

    def replace(self, consumer: Consumer) -> None:
        """The process died without a word, and another one starts."""
        self.processes += 1
        consumer.lose_everything()
        consumer.member_id = f"{consumer.name}-{self.processes}"

    def advance(self, consumer: Consumer) -> None:
        self.world.advance(self.random.choice((1, 300, 1_100, 5_000, 20_000, 50_000)))

    def hold(self, consumer: Consumer) -> None:
        self.world.hold = True

    def release(self, consumer: Consumer) -> None:
        self.world.hold = False
        self.world.release()

    def fail(self, consumer: Consumer) -> None:
        self.world.hold = False
        self.world.fail()

    def restart(self, consumer: Consumer) -> None:
        self.world.restart()

    def change_topics(self, consumer: Consumer) -> None:
        name = self.random.choice(TOPICS)
        present = self.world.topics.by_name(name)
        if present is None:
            self.world.topics.create(name, self.random.randint(1, 4))
        elif self.random.random() < 0.5:
            self.world.topics.create(name, present.partition_count + 1)
        else:
            self.world.topics.delete(name)
        self.world.topics_changed()

    # -- what must hold

    def check(self) -> None:
        groups = self.world.shard.environment.consumer_groups
        memory = self.world.shard.environment.memory
        assert memory.used_bytes == sum(group.size_bytes for group in groups.values())
        group = groups.get("g")
        if group is None:
            return
        check_group(group)
        self.check_owners(group)
        if not self.world.held and self.random.random() < 0.2:
            self.check_replay(group)

    def check_owners(self, group: ConsumerGroup) -> None:
        readers: dict[tuple[bytes, int], str] = {}
        for consumer in self.consumers:
            if consumer.member_id not in group.members or not consumer.epoch:
                continue  # its session ended: what it reads in vain until it hears of it is fenced at commit
            for partition in consumer.owned:
                holder = group.owners.get(partition[0], {}).get(partition[1])
                if holder != consumer.member_id:
                    # Fenced already, or about to be: its epoch must be one that the coordinator does not believe.
                    assert self.refused(consumer), f"{consumer.name} reads {partition}, which {holder} has"
                    continue
                assert readers.setdefault(partition, consumer.name) == consumer.name, "two readers"

    def refused(self, consumer: Consumer) -> bool:
        current = self.world.group.current_of(consumer.member_id)
        return consumer.epoch not in (current.epoch, current.previous_epoch)

    def check_replay(self, group: ConsumerGroup) -> None:
        loaded = GroupShard(self.world.settings, TimerQueue(lambda: 0), lambda: 0, str)
        loaded.replay(self.world.log)
        assert facts(loaded.environment.consumer_groups["g"]) == facts(group)

    def settle(self) -> None:
        """In the end everybody who goes on has its share, and all partitions are read."""
        self.world.hold = False
        self.world.release()
        for consumer in self.consumers:
            consumer.slow = False
            consumer.give_up()
            consumer.rebalance_ms = 60_000
        for _ in range(30):  # dead members must expire first, and who joins late makes others give up again
            self.world.advance(12_000)
            for consumer in self.consumers:
                consumer.heartbeat(full=True)
            self.check()
        group = self.world.group
        assert group.state is ConsumerGroupState.STABLE
        read = [partition for consumer in self.consumers for partition in consumer.named()]
        wanted = []
        for name in group.subscribed_topics():
            topic = self.world.topics.by_name(name)
            wanted += [(name, index) for index in range(topic.partition_count)] if topic is not None else []
        assert sorted(read) == sorted(wanted)


def facts(group: ConsumerGroup) -> tuple[object, ...]:
    return (
        group.epoch,
        group.target_epoch,
        group.members,
        group.current,
        {member_id: target for member_id, target in group.targets.items() if target},
        group.static_members,
        group.regexes,
        group.owners,
        group.subscribed_topics(),
    )


def check_group(group: ConsumerGroup) -> None:
    owners: dict[bytes, dict[int, str]] = {}
    for member_id, current in group.current.items():
        assert member_id in group.members
        for assigned in (current.assigned, current.revoking):
            for topic_id, epochs in assigned.items():
                for partition in epochs:
                    assert owners.setdefault(topic_id, {}).setdefault(partition, member_id) == member_id, "two owners"
    assert group.owners == owners
    assert group.assignment_epoch <= group.group_epoch
    static = {each.instance_id: member_id for member_id, each in group.members.items() if each.instance_id is not None}
    assert group.static_members == static
    assert group.size_bytes == GROUP_BYTES + sum(each.size_bytes for each in group.members.values())
    assert len(group.members) <= 6
    targets = [(topic, index) for target in group.targets.values() for topic in target for index in target[topic]]
    assert len(set(targets)) == len(targets), "a partition is meant for two members"


@pytest.mark.parametrize("seed", range(SEEDS))
def test_simulation__no_partition_has_two_readers(seed: int) -> None:
    Simulation(seed).run(STEPS)
