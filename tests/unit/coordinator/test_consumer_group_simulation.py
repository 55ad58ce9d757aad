"""Seeded runs of consumers of KIP-848 that join, lag, lose answers, fall silent and come back, while writes fail,
coordinators die and topics change. In half of the seeds there are members of the classic protocol as well, and the
group changes between the protocols. No partition ever has two readers; a failing seed replays exactly.
"""

from __future__ import annotations

from random import Random

import pytest

from bytemq.broker.coordinator.group.classic_group import ClassicGroup
from bytemq.broker.coordinator.group.consumer.group import ConsumerGroup, ConsumerGroupState
from bytemq.broker.coordinator.group.environment import ConsumerGroupSettings, GroupSettings
from bytemq.broker.coordinator.group.memory import GROUP_BYTES
from bytemq.broker.coordinator.group.shard import GroupShard
from bytemq.broker.coordinator.group.states import GroupState
from bytemq.broker.coordinator.timers import TimerQueue
from bytemq.protocol.messages.leave_group import LeaveGroupRequest, MemberIdentity
from tests.unit.coordinator.classic_consumer import ClassicConsumer
from tests.unit.coordinator.consumer_world import Consumer, ConsumerWorld

SEEDS = 60
STEPS = 150
REPLAYED = 0.01
"""Share of the steps after which the whole log is replayed, which costs as much as a hundred of them."""
TOPICS = ("t", "u", "v")


class Simulation:
    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.transcript: list[str] = []
        interval_ms = self.random.choice((0, 1_000))
        classic_count = self.random.choice((0, 0, 2, 4))
        consumer_count = 6 - classic_count
        self.max_size = 6 if not classic_count else 20  # a classic member that died in a rebalance is a member, too
        consumer = ConsumerGroupSettings(max_size=self.max_size, assignment_interval_ms=interval_ms)
        settings = GroupSettings(consumer=consumer, initial_rebalance_delay_ms=interval_ms)
        self.world = ConsumerWorld(settings, t=6, u=3, v=2)
        self.consumers = [
            Consumer(self.world, f"c{n}", instance=f"i{n}" if n % 3 == 0 else None) for n in range(consumer_count)
        ]
        self.classics = [
            ClassicConsumer(
                self.world,
                f"k{n}",
                instance=f"i{n}" if n == 3 else None,
                cooperative=self.random.random() < 0.5,
            )
            for n in range(classic_count)
        ]
        cooperates = all(each.cooperative for each in self.classics)
        for classic in self.classics:
            classic.topics = ["t"] if self.random.random() < 0.5 else self.random.sample(TOPICS, 2)
            classic.cooperative, classic.protocols = cooperates, ["cooperative-sticky" if cooperates else "range"]
            classic.rebalance_ms = self.random.choice((5_000, 60_000))
        self.processes = len(self.consumers)
        for each in self.consumers:
            each.topics = ["t"] if self.random.random() < 0.5 else self.random.sample(TOPICS, 2)
            each.assignor = self.random.choice((None, "uniform", "range"))
            each.rebalance_ms = self.random.choice((1_000, 60_000))

    def run(self, steps: int) -> None:
        verbs = ("heartbeat", "lost_answer", "lag", "subscribe", "leave", "replace", "advance")
        troubles = ("hold", "release", "fail", "restart", "change_topics")
        for _ in range(steps):
            if self.classics and self.random.random() < 0.4:
                verb = self.random.choices(
                    ("classic_step", "classic_lost_answer", "classic_subscribe", "classic_leave", "classic_die"),
                    (60, 3, 2, 3, 2),
                )[0]
                self._do(verb, self.random.choice(self.classics))
            else:
                verb = self.random.choices((*verbs, *troubles), (50, 6, 8, 4, 3, 3, 20, 4, 8, 2, 1, 2))[0]
                self._do(verb, self.random.choice(self.consumers))
            self.check()
        self.settle()

    def _do(self, verb: str, client: Consumer | ClassicConsumer) -> None:
        self.transcript.append(f"{self.world.now_ms:9} ms  {verb} {client.name} {client.member_id}")
        getattr(self, verb)(client)

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
        """What it was given and has not taken yet it must not take any more: it says that it owns nothing of it, and
        where it has unsubscribed the coordinator may give that away in the same epoch. The answer tells it anew.
        """
        consumer.assigned &= consumer.owned
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

    def classic_step(self, classic: ClassicConsumer) -> None:
        """What it would do next."""
        if classic.must_join:
            classic.join()
        elif classic.must_sync:
            classic.sync()
        else:
            classic.heartbeat()

    def classic_lost_answer(self, classic: ClassicConsumer) -> None:
        """Its JoinGroup was heard, and it does not know."""
        if classic.must_join and classic.member_id:
            classic.join(unheard=True)

    def classic_subscribe(self, classic: ClassicConsumer) -> None:
        classic.topics = self.random.sample(TOPICS, self.random.randint(1, 3))
        classic.join()

    def classic_leave(self, classic: ClassicConsumer) -> None:
        members = [MemberIdentity(classic.member_id, classic.instance)]
        outcome = self.world.shard.leaving.leave(LeaveGroupRequest(group_id="g", members=members))
        classic.forget()
        self.world.submit(outcome)

    def classic_die(self, classic: ClassicConsumer) -> None:
        classic.forget()

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
        classic_groups = self.world.shard.groups
        counted = [*groups.values(), *classic_groups.values()]
        assert memory.used_bytes == sum(each.size_bytes for each in counted)
        assert len(counted) <= 1, "two groups of one name"
        group = groups.get("g")
        if group is None:
            if "g" in classic_groups:
                self.check_classic(classic_groups["g"])
            return
        check_group(group, self.max_size)
        self.check_owners(group)
        if not self.world.held and self.random.random() < REPLAYED:
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

        for classic in self.classics:
            if classic.member_id not in group.members or classic.generation < 0:
                continue
            is_refused = classic.generation != group.current_of(classic.member_id).epoch
            for topic_id, index in classic.owned:
                holder = group.owners.get(topic_id, {}).get(index)
                if holder != classic.member_id and self.world.topics.by_id(topic_id) is not None:
                    assert is_refused, f"{classic.name} reads {index}, which {holder} has"
                    continue
                assert readers.setdefault((topic_id, index), classic.name) == classic.name, "two readers"

    def check_classic(self, group: ClassicGroup) -> None:
        """Members whose generation is believed read different partitions."""
        readers: dict[tuple[bytes, int], str] = {}
        for classic in self.classics:
            if classic.member_id in group.members and classic.generation == group.generation_id:
                for partition in classic.owned:
                    assert readers.setdefault(partition, classic.name) == classic.name, "two readers"

    def refused(self, consumer: Consumer) -> bool:
        """It owns what it should not: then its former epoch is not believed either."""
        return consumer.epoch != self.world.group.current_of(consumer.member_id).epoch

    def check_replay(self, group: ConsumerGroup) -> None:
        loaded = GroupShard(self.world.settings, TimerQueue(lambda: 0), lambda: 0, str)
        loaded.replay(self.world.log)
        assert not loaded.groups
        assert facts(loaded.environment.consumer_groups["g"]) == facts(group)

    def settle(self) -> None:
        """In the end everybody who goes on has its share, and all partitions are read."""
        self.world.hold = False
        self.world.release()
        for consumer in self.consumers:
            consumer.slow = False
            consumer.give_up()
            consumer.rebalance_ms = 60_000
        for classic in self.classics:
            classic.rebalance_ms = 60_000
        if self.classics and self.random.random() < 0.5:
            for consumer in self.consumers:
                consumer.leave()
            self.consumers.clear()
        for _ in range(30):  # dead members must expire first, and who joins late makes others give up again
            for _ in range(4):
                self.world.advance(3_000)
                for classic in self.classics:
                    self.classic_step(classic)
                self.check()
            for consumer in self.consumers:
                consumer.heartbeat(full=True)
            self.check()
        if self.consumers:
            group = self.world.group
            assert group.state is ConsumerGroupState.STABLE
            subscribed = group.subscribed_topics()
        else:
            assert self.world.shard.groups["g"].state is GroupState.STABLE
            subscribed = frozenset().union(*(classic.topics for classic in self.classics))
        read = [partition for each in (*self.consumers, *self.classics) for partition in each.named()]
        wanted = []
        for name in subscribed:
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


def check_group(group: ConsumerGroup, max_size: int) -> None:
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
    assert len(group.members) <= max_size
    assert group.classic_count == sum(each.classic is not None for each in group.members.values())
    targets = [(topic, index) for target in group.targets.values() for topic in target for index in target[topic]]
    assert len(set(targets)) == len(targets), "a partition is meant for two members"


@pytest.mark.parametrize("seed", range(SEEDS))
def test_simulation__no_partition_has_two_readers(seed: int) -> None:
    Simulation(seed).run(STEPS)
