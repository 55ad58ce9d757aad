"""Seeded runs of clients that join, fall silent, come back and misbehave, while writes fail and coordinators die.

After every step the invariants of a group coordinator must hold; a failing seed replays exactly.
"""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from bytemq.broker.coordinator.group.classic_group import ClassicGroup
from bytemq.broker.coordinator.group.environment import GroupSettings
from bytemq.broker.coordinator.group.memory import GROUP_BYTES, PENDING_MEMBER_BYTES
from bytemq.broker.coordinator.group.shard import GroupShard
from bytemq.broker.coordinator.group.states import GroupState
from bytemq.broker.coordinator.timers import TimerQueue
from bytemq.protocol.error_codes import ErrorCode
from bytemq.protocol.messages.heartbeat import HeartbeatRequest
from bytemq.protocol.messages.join_group import JoinGroupResponse
from bytemq.protocol.messages.leave_group import LeaveGroupRequest, MemberIdentity
from bytemq.protocol.messages.offset_commit import OffsetCommitResponse
from bytemq.protocol.messages.sync_group import SyncGroupResponse
from tests.unit.coordinator.group_world import GroupWorld, replay, subscription

SEEDS = 80
STEPS = 150
PROTOCOLS = ("range", "sticky", "cooperative")


class SimulatedClient:
    """Knows what a consumer knows; what it does next is up to the dice."""

    def __init__(self, name: str, instance: str | None) -> None:
        self.name = name
        self.instance = instance
        self.member_id = ""
        self.generation = -1
        self.members: list[str] = []
        self.waiting = 0


class Simulation:
    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.transcript: list[str] = []
        self.world = GroupWorld(GroupSettings(max_size=5, initial_rebalance_delay_ms=self.random.choice((0, 3_000))))
        self.clients = [SimulatedClient(f"c{n}", f"i{n % 3}" if n % 2 else None) for n in range(7)]
        self.open_requests: Counter[str] = Counter()
        self.assigned: dict[int, str] = {}
        """By generation, what its one leader's assignment is marked with."""
        self.acknowledged: dict[int, int] = {}
        self.failed_at: int | None = None
        self.offset = 0
        self.nonce = 0
        self.pending_commits: list[tuple[list[OffsetCommitResponse | ErrorCode], int, int]] = []

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self.step()
            self.check()
        self.world.hold = False
        self.world.release()
        for _ in range(40):
            self.world.advance(60_000)
        assert not +self.open_requests, "requests that were never answered"
        self.check()

    def step(self) -> None:
        verb = self.random.choices(
            ("join", "sync", "heartbeat", "commit", "leave", "advance", "hold", "release", "fail", "restart"),
            (30, 25, 10, 15, 4, 20, 4, 8, 2, 1),
        )[0]
        client = self.random.choice(self.clients)
        self.transcript.append(f"{self.world.now_ms:9} ms  {verb} {client.name} {client.member_id}")
        getattr(self, verb)(client)

    # -- what may happen

    def join(self, client: SimulatedClient) -> None:
        request = f"join {self.nonce}"
        self.nonce += 1
        protocols = self.random.sample(PROTOCOLS, self.random.randint(1, 3))
        if self.random.random() < 0.15:
            client.member_id = ""  # a new process

        def reply(response: JoinGroupResponse) -> None:
            self.open_requests[request] -= 1
            if response.error_code == ErrorCode.MEMBER_ID_REQUIRED or not response.error_code:
                client.member_id = response.member_id
            if not response.error_code:
                client.generation = response.generation_id
                client.members = [member.member_id for member in response.members]
            elif response.error_code == ErrorCode.UNKNOWN_MEMBER_ID:
                client.member_id = ""

        self.open_requests[request] += 1
        self.world.join(
            "g",
            client.member_id,
            client=client.name,
            version=self.random.choice((0, 3, 5, 8, 9)),
            instance=client.instance,
            protocols={name: subscription(self.random.choice("tuv")) for name in protocols},
            session_ms=self.random.choice((6_000, 30_000)),
            rebalance_ms=self.random.choice((-1, 1_000, 20_000)),
            reply=reply,
        )
        assert self.open_requests[request] in (0, 1)

    def sync(self, client: SimulatedClient) -> None:
        request = f"sync {self.nonce}"
        mark = f"{client.name}:{self.nonce}"
        self.nonce += 1
        generation = client.generation

        def reply(response: SyncGroupResponse) -> None:
            self.open_requests[request] -= 1
            share = bytes(response.assignment).decode()
            if not response.error_code and share:
                assert self.assigned.setdefault(generation, share) == share, "two leaders assigned one generation"

        self.open_requests[request] += 1
        assignment = {member: mark.encode() for member in client.members}
        self.world.sync("g", client.member_id, generation, assignment, instance=client.instance, reply=reply)

    def heartbeat(self, client: SimulatedClient) -> None:
        request = HeartbeatRequest("g", client.generation, client.member_id, client.instance)
        self.world.shard.syncing.heartbeat(request)

    def commit(self, client: SimulatedClient) -> None:
        self.offset += 1
        offset, partition = self.offset, self.random.randrange(3)
        answers = self.world.commit(
            "g",
            {("t", partition): offset},
            member_id=client.member_id,
            generation=client.generation if self.random.random() < 0.8 else -1,
            instance=client.instance,
        )
        self.pending_commits = [*self.pending_commits, (answers, partition, offset)]

    def leave(self, client: SimulatedClient) -> None:
        request = LeaveGroupRequest(group_id="g", members=[MemberIdentity(client.member_id, client.instance)])
        self.world.submit(self.world.shard.leaving.leave(request))

    def advance(self, client: SimulatedClient) -> None:
        self.world.advance(self.random.choice((1, 500, 3_000, 7_000, 25_000)))

    def hold(self, client: SimulatedClient) -> None:
        self.world.hold = True

    def release(self, client: SimulatedClient) -> None:
        if self.world.held and self.random.random() < 0.5:
            self.world.release(self.random.randint(1, len(self.world.held)))
            return
        self.world.hold = False
        self.world.release()

    def fail(self, client: SimulatedClient) -> None:
        self.world.fail()
        self.failed_at = len(self.world.log)

    def restart(self, client: SimulatedClient) -> None:
        if self.random.random() < 0.5 and self.world.held:
            self.world.release(self.random.randint(1, len(self.world.held)))  # written, maybe answered, and then dead
        self.world.restart()
        self.open_requests.clear()  # connections died, too

    # -- what must hold

    def check(self) -> None:
        self.check_offsets()
        groups = self.world.shard.groups
        for group in groups.values():
            check_group(group)
        memory = self.world.shard.environment.memory
        assert memory.used_bytes == sum(group.size_bytes for group in groups.values())
        if not self.world.held:
            self.check_replay()

    def check_offsets(self) -> None:
        undecided = []
        for answers, partition, offset in self.pending_commits:
            if not answers:
                undecided.append((answers, partition, offset))
            elif isinstance(answers[0], OffsetCommitResponse):
                self.acknowledged[partition] = max(offset, self.acknowledged.get(partition, -1))
        self.pending_commits = undecided
        found = self.world.fetch("g")
        for partition, offset in self.acknowledged.items():
            assert found[("t", partition)] >= offset, "an acknowledged offset was lost or went back"

    def check_replay(self) -> None:
        """A coordinator that loads the log now knows what this one knows, but for rebalances that are in progress."""
        loaded = GroupShard(self.world.settings, TimerQueue(lambda: 0), lambda: 0, str)
        replay(loaded, self.world.log)
        groups, store = self.world.shard.groups, self.world.shard.store
        assert (loaded.store._groups, loaded.store.count) == (store._groups, store.count)
        if self.failed_at is not None:
            # A new or an empty group may not have been written: harmless, until a generation is.
            if all(key[:2] != b"\x00\x02" for key, _ in self.world.log[self.failed_at :]):
                return
            self.failed_at = None
        assert loaded.groups.keys() == groups.keys()
        for group_id, group in groups.items():
            if group.state in (GroupState.STABLE, GroupState.EMPTY):
                other = loaded.groups[group_id]
                assert persistent(other) == persistent(group)


def persistent(group: ClassicGroup) -> tuple[object, ...]:
    members = sorted(
        (each.member_id, each.group_instance_id, each.assignment, each.session_timeout_ms, each.rebalance_timeout_ms)
        for each in group.members.values()
    )
    return group.state, group.generation_id, group.protocol_name, group.leader_id, group.static_members, members


def check_group(group: ClassicGroup) -> None:
    members = group.members
    assert group.awaiting_join_count == sum(each.awaiting_join is not None for each in members.values())
    assert group.size_bytes == (
        GROUP_BYTES + PENDING_MEMBER_BYTES * len(group.pending_join) + sum(each.size_bytes for each in members.values())
    )
    static = {each.group_instance_id: each.member_id for each in members.values() if each.group_instance_id is not None}
    assert group.static_members == static
    assert group.pending_sync <= members.keys() and not group.pending_join & members.keys()
    assert (group.leader_id in members) if members else group.leader_id is None
    assert len({each.protocol_type for each in members.values()}) <= 1
    if members:
        assert set.intersection(*({name for name, _ in each.protocols} for each in members.values()))
    if group.state is GroupState.EMPTY:
        assert not members
    if group.state in (GroupState.STABLE, GroupState.COMPLETING_REBALANCE):
        # Kafka counts those who wait, so that static members that are away do not count.
        assert members and sum(not each.is_static for each in members.values()) <= 5
        assert all(group.protocol_name in dict(each.protocols) for each in members.values())


@pytest.mark.parametrize("seed", range(SEEDS))
def test_simulation__keeps_the_invariants(seed: int) -> None:
    Simulation(seed).run(STEPS)
