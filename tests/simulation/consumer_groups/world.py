"""Consumers of KIP-848 that join, lag, lose answers, fall silent and come back, while writes fail, coordinators die and
topics change. In half of the seeds there are members of the classic protocol as well, and the group changes between the
protocols. One seed decides it all.

What must hold after every step: no partition has two owners, or two readers that the coordinator believes; what is
derived agrees with the facts; who is not believed commits nothing, and what was committed stays; a coordinator that
reads the log knows what this one knows. In the end everybody has its share, and all partitions are read.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from random import Random
from unittest.mock import patch

from bytemq.broker.coordinator.group import records
from bytemq.broker.coordinator.group.classic_group import ClassicGroup
from bytemq.broker.coordinator.group.consumer.group import ConsumerGroup, ConsumerGroupState
from bytemq.broker.coordinator.group.consumer.records import decode_consumer_record
from bytemq.broker.coordinator.group.environment import ConsumerGroupSettings, GroupSettings
from bytemq.broker.coordinator.group.memory import GROUP_BYTES
from bytemq.broker.coordinator.group.states import GroupState
from bytemq.protocol.error_codes import ErrorCode
from bytemq.protocol.messages.leave_group import LeaveGroupRequest, MemberIdentity
from bytemq.protocol.messages.offset_commit import OffsetCommitResponse
from tests.simulation.second_coordinator import SecondCoordinator
from tests.simulation.transcript import failure_of
from tests.unit.coordinator.classic_consumer import ClassicConsumer
from tests.unit.coordinator.consumer_world import Consumer, ConsumerWorld

STEPS = (*[40] * 15, 160)
"""Many short schedules and some long ones find most."""
TOPICS = ("t", "u", "v")
Sender = tuple[str, int, str | None, bytes, int]
"""Member, epoch, instance, topic id, partition."""
Answers = list[OffsetCommitResponse | ErrorCode]


class Simulation:
    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.transcript: list[str] = []
        self.steps = self.random.choice(STEPS)
        interval_ms = self.random.choice((0, 1_000))
        classic_count = self.random.choice((0, 0, 1, 2, 3))
        consumer_count = self.random.randint(2, 4) if classic_count else self.random.randint(2, 5)
        self.max_size = 6 if not classic_count else 20  # a classic member that died in a rebalance is a member, too
        consumer = ConsumerGroupSettings(max_size=self.max_size, assignment_interval_ms=interval_ms)
        settings = GroupSettings(consumer=consumer, initial_rebalance_delay_ms=interval_ms)
        self.world = ConsumerWorld(settings, t=4, u=2, v=1)
        self.second = SecondCoordinator(settings)
        self.offsets: dict[tuple[str, int], int] = {}
        """What was acknowledged or given: what is below has gone back."""
        self.offset = 0
        self.pending_commits: list[tuple[Answers, tuple[str, int], int]] = []
        self.late_commits: list[Sender] = []
        """Commits that are still on their way."""
        self.deaf: set[str] = set()
        """Consumers that hear no answers."""
        self.known = (-1, -1)
        """How many records there were, written and held, when the group was looked at."""
        self.is_doubtful = False
        """Something was taken back, or made anew from the log: it must be as the log has it."""
        self.consumers = [
            Consumer(self.world, f"c{n}", instance=f"i{n}" if n % 3 == 0 else None) for n in range(consumer_count)
        ]
        cooperates = self.random.random() < 0.6
        self.classics = [ClassicConsumer(self.world, f"k{n}", cooperative=cooperates) for n in range(classic_count)]
        for classic in self.classics:
            classic.topics = ["t"] if self.random.random() < 0.5 else self.random.sample(TOPICS, 2)
            classic.rebalance_ms = self.random.choice((5_000, 60_000))
            classic.session_ms = self.random.choice((20_000, 45_000))
        self.processes = len(self.consumers)
        for each in self.consumers:
            each.topics = ["t"] if self.random.random() < 0.5 else self.random.sample(TOPICS, 2)
            each.assignor = self.random.choice((None, "uniform", "range"))
            each.rebalance_ms = self.random.choice((1_000, 60_000))

    def run(self) -> None:
        consumer_verbs = {
            "heartbeat": 50,
            "lost_answer": 4,
            "overtaken": 6,
            "go_deaf": 4,
            "catch_up": 6,
            "commit": 8,
            "subscribe": 4,
            "leave": 3,
            "replace": 3,
            "advance": 20,
            "hold": 4,
            "release": 8,
            "fail": 2,
            "restart": 1,
            "change_topics": 4,
        }
        classic_verbs = {
            "classic_step": 60,
            "classic_lost_answer": 3,
            "classic_commit": 6,
            "classic_subscribe": 3,
            "classic_leave": 3,
            "classic_die": 2,
        }
        for _ in range(self.steps):
            if self.classics and self.random.random() < 0.4:
                self._do(self._one_of(classic_verbs), self.random.choice(self.classics))
            else:
                self._do(self._one_of(consumer_verbs), self.random.choice(self.consumers))
            self.check()
        self.settle()
        for group in self.world.shard.environment.consumer_groups.values():
            check_size(group)

    def _one_of(self, verbs: dict[str, int]) -> str:
        return self.random.choices(list(verbs), list(verbs.values()))[0]

    def _do(self, verb: str, client: Consumer | ClassicConsumer) -> None:
        self.transcript.append(f"{self.world.now_ms:9} ms  {verb} {client.name} {client.member_id}")
        getattr(self, verb)(client)

    # -- what may happen

    def heartbeat(self, consumer: Consumer) -> None:
        if consumer.name in self.deaf:
            self.lost_answer(consumer)
            return
        if not consumer.slow and self.random.random() < 0.2:
            self.lag(consumer)
        elif consumer.slow and self.random.random() < 0.5:
            self.catch_up(consumer)
        consumer.heartbeat(full=self.random.random() < 0.2)

    def lost_answer(self, consumer: Consumer) -> None:
        """The coordinator has done it, and the consumer does not know: next time it comes by another connection."""
        consumer.send(consumer.request())
        consumer.reconnect()

    def overtaken(self, consumer: Consumer) -> None:
        """Who has something more to take takes it while it is taken back: the answer that says so is lost. With what it
        hears next it takes its time.
        """
        has_more_to_take = [each for each in self.consumers if not each.assigned <= each.owned]
        if has_more_to_take:
            self.subscribe(consumer)
            consumer = self.random.choice(has_more_to_take)
        self.lost_answer(consumer)
        self.catch_up(consumer)
        self.lag(consumer)

    def go_deaf(self, consumer: Consumer) -> None:
        """For a while it hears no answer; then it does again."""
        self.deaf ^= {consumer.name}

    def lag(self, consumer: Consumer) -> None:
        consumer.slow = True

    def catch_up(self, consumer: Consumer) -> None:
        """It has given up and taken what it was told to, and will say so."""
        consumer.slow = False
        consumer.give_up()

    def commit(self, consumer: Consumer) -> None:
        self._commit(consumer, consumer.epoch)

    def _commit(self, client: Consumer | ClassicConsumer, epoch: int) -> None:
        """Of something that it reads; it may arrive later. Who has lost that to another one must not succeed."""
        if client.owned:
            topic_id, index = self.random.choice(sorted(client.owned))
            sender = client.member_id, epoch, client.instance, topic_id, index
            if self.random.random() < 0.5:
                self._commit_arrives(sender)
            else:
                self.late_commits.append(sender)
        if self.late_commits and self.random.random() < 0.5:
            self._commit_arrives(self.late_commits.pop(self.random.randrange(len(self.late_commits))))

    def _commit_arrives(self, sender: Sender) -> None:
        member_id, epoch, instance, topic_id, index = sender
        topic = self.world.topics.by_id(topic_id)
        if topic is None:
            return
        group = self.world.shard.environment.consumer_groups.get("g")
        holder = member_id if group is None else group.owners.get(topic_id, {}).get(index, member_id)
        self.offset += 1
        answers = self.world.commit(
            "g",
            {(topic.name, index): self.offset},
            member_id=member_id,
            generation=epoch,
            instance=instance,
            topic_ids={topic.name: topic_id},
        )
        is_refused = bool(answers) and isinstance(answers[0], ErrorCode)
        assert holder == member_id or is_refused, f"{member_id} has committed {topic.name}-{index}, which {holder} has"
        self.pending_commits.append((answers, (topic.name, index), self.offset))

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

    def classic_commit(self, classic: ClassicConsumer) -> None:
        self._commit(classic, classic.generation)

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
        self.is_doubtful = True

    def restart(self, consumer: Consumer) -> None:
        self.world.restart()
        self.is_doubtful = True

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
        counted: list[ConsumerGroup | ClassicGroup] = [*groups.values(), *classic_groups.values()]
        assert memory.used_bytes == sum(each.size_bytes for each in counted), "memory is not what groups take"
        assert len(counted) <= 1, "two groups of one name"
        group = groups.get("g")
        known, self.known = self.known, (len(self.world.log), len(self.world.held))
        is_doubtful = self.is_doubtful
        has_changed = is_doubtful or known != self.known
        if has_changed:
            self.check_offsets()
        if not self.world.held:
            self.check_replay(group)
        if group is None:
            self.late_commits.clear()  # a group that is founded anew has the epochs of the one before
            if "g" in classic_groups:
                self.check_classic(classic_groups["g"])
            return
        if has_changed:
            check_group(group, self.max_size)
        if is_doubtful:
            check_size(group)
        self.check_owners(group)

    def check_offsets(self) -> None:
        """What is acknowledged or was given is there."""
        undecided = []
        for answers, partition, offset in self.pending_commits:
            if not answers:
                undecided.append((answers, partition, offset))
            elif isinstance(answers[0], OffsetCommitResponse):
                self.offsets[partition] = max(offset, self.offsets.get(partition, -1))
        if not self.offsets and not undecided and not self.pending_commits:
            return
        self.pending_commits = undecided
        found = self.world.fetch("g")
        for partition, offset in self.offsets.items():
            assert found.get(partition, -1) >= offset, f"the offset {offset} of {partition} was lost or went back"
        self.offsets = found

    def check_owners(self, group: ConsumerGroup) -> None:
        readers: dict[tuple[bytes, int], str] = {}
        for consumer in self.consumers:
            if consumer.member_id not in group.members or not consumer.epoch:
                continue  # its session ended: what it reads in vain until it hears of it is fenced at commit
            for partition in consumer.owned:
                holder = group.owners.get(partition[0], {}).get(partition[1])
                if holder != consumer.member_id:
                    if self.world.topics.by_id(partition[0]) is None:
                        continue  # nobody can have it: it need not have heard
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

    def check_replay(self, group: ConsumerGroup | None) -> None:
        """What a restart would find is what there is."""
        if not self.second.read(self.world.log) and not self.is_doubtful:
            return
        self.is_doubtful = False
        found = self.second.shard.environment.consumer_groups.get("g")
        assert (found is None) == (group is None), "the log knows another kind of group"
        if group is not None and found is not None:
            assert "g" not in self.second.shard.groups
            assert facts(found) == facts(group), "the log knows another group"

    def settle(self) -> None:
        """In the end everybody who goes on has its share, and all partitions are read."""
        self.world.hold = False
        self.world.release()
        for consumer in self.consumers:
            if self.random.random() < 0.8:
                consumer.slow = False
                consumer.give_up()
            consumer.rebalance_ms = 60_000
        for classic in self.classics:
            classic.rebalance_ms = 60_000
        if self.classics and self.random.random() < 0.5:
            for consumer in self.consumers:
                consumer.leave()
            self.consumers.clear()
        calm = 0
        for _ in range(30):  # dead members must expire first, and who joins late makes others give up again
            for _ in range(4 if self.classics else 1):
                self.world.advance(5_000 if self.classics else 20_000)
                for classic in self.classics:
                    self.classic_step(classic)
                self.check()
            for consumer in self.consumers:
                consumer.heartbeat()
                if consumer.slow:  # gives nothing up before it is fenced for that
                    consumer.owned |= consumer.assigned
                    consumer.slow = consumer.epoch > 0
            self.check()
            calm = calm + 1 if self.is_settled() else 0
            if calm == 2:
                return
        raise AssertionError(f"no calm: {self.read()} are read of {self.wanted()}")

    @property
    def clients(self) -> Sequence[Consumer | ClassicConsumer]:
        return [*self.consumers, *self.classics]

    def is_settled(self) -> bool:
        """Nobody is in the group who should not, and who is has what there is."""
        group = (self.world.shard.environment.consumer_groups if self.consumers else self.world.shard.groups).get("g")
        if group is None or group.state not in (ConsumerGroupState.STABLE, GroupState.STABLE):
            return False
        alive = {each.member_id for each in self.clients}
        return group.members.keys() == alive and self.read() == self.wanted() and not self.are_idle()

    def are_idle(self) -> list[str]:
        """Who reads nothing although one of its topics has a partition for each member there is."""
        clients = self.clients
        present = [topic for name in TOPICS if (topic := self.world.topics.by_name(name)) is not None]
        large = {topic.name for topic in present if topic.partition_count >= len(clients)}
        return [each.name for each in clients if not each.named() and not large.isdisjoint(self.topics_of(each))]

    def topics_of(self, client: Consumer | ClassicConsumer) -> frozenset[str]:
        if isinstance(client, Consumer) and self.world.group.members[client.member_id].regex:
            return frozenset()  # others say whether it is treated justly
        return frozenset(client.topics)

    def read(self) -> list[tuple[str, int]]:
        return sorted(partition for each in self.clients for partition in each.named())

    def wanted(self) -> list[tuple[str, int]]:
        """All partitions of what anybody is subscribed to."""
        if self.consumers:
            subscribed = subscribed_topics(self.world.group)
        else:
            subscribed = frozenset().union(*(classic.topics for classic in self.classics))
        found = [self.world.topics.by_name(name) for name in subscribed]
        return sorted(
            (topic.name, index) for topic in found if topic is not None for index in range(topic.partition_count)
        )


def subscribed_topics(group: ConsumerGroup) -> frozenset[str]:
    return frozenset().union(*map(group.topics_of, group.subscriptions()))


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
        subscribed_topics(group),
    )


def check_size(group: ConsumerGroup) -> None:
    assert group.size_bytes == GROUP_BYTES + sum(each.size_bytes for each in group.members.values()), "miscounted"


def check_group(group: ConsumerGroup, max_size: int) -> None:
    owners: dict[bytes, dict[int, str]] = {}
    for member_id, current in group.current.items():
        assert member_id in group.members
        for assigned in (current.assigned, current.revoking):
            for topic_id, epochs in assigned.items():
                for partition in epochs:
                    assert owners.setdefault(topic_id, {}).setdefault(partition, member_id) == member_id, "two owners"
    assert group.owners == owners, "owners are not who has what"
    assert group.assignment_epoch <= group.group_epoch, "an assignment of an epoch to come"
    topics = subscribed_topics(group)
    assert all(group.is_subscribed_to(name) == (name in topics) for name in TOPICS), "not what members say"
    static = {each.instance_id: member_id for member_id, each in group.members.items() if each.instance_id is not None}
    assert group.static_members == static, "static members are not those who are there"
    assert len(group.members) <= max_size
    assert group.classic_count == sum(each.classic is not None for each in group.members.values())
    targets = [(topic, index) for target in group.targets.values() for topic in target for index in target[topic]]
    assert len(set(targets)) == len(targets), "a partition is meant for two members"


_decoded = lru_cache(maxsize=4096)(decode_consumer_record)
"""They are values, and most of those that are read have been read before: by a restart, in another step or seed."""


def simulate(seed: int) -> tuple[list[str], BaseException | None]:
    """The transcript of this seed's run, and what went wrong in it."""
    simulation = Simulation(seed)
    with patch.object(records, "decode_consumer_record", _decoded):
        failure = failure_of(simulation.run)
    return simulation.transcript, failure
