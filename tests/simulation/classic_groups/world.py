"""Clients that join, fall silent, come back and misbehave, while writes fail and coordinators die. One seed decides it.

What must hold after every step, as clients see it and as the machine says of itself:

    of one generation there is one assignment; who is of an older generation than one that was assigned commits nothing
    an acknowledged offset is never lost, and one that was given never goes back
    no request stays unanswered, and in the end, when everybody is silent, nobody is in the group
    a coordinator that reads the log knows what this one knows
"""

from __future__ import annotations

from collections import Counter
from random import Random

from bytemq.broker.coordinator.group.classic_group import ClassicGroup
from bytemq.broker.coordinator.group.environment import GroupSettings
from bytemq.broker.coordinator.group.memory import GROUP_BYTES, PENDING_MEMBER_BYTES
from bytemq.broker.coordinator.group.states import GroupState
from bytemq.protocol.error_codes import ErrorCode
from bytemq.protocol.messages.heartbeat import HeartbeatRequest
from bytemq.protocol.messages.join_group import JoinGroupResponse
from bytemq.protocol.messages.leave_group import LeaveGroupRequest, MemberIdentity
from bytemq.protocol.messages.offset_commit import OffsetCommitResponse
from bytemq.protocol.messages.sync_group import SyncGroupResponse
from tests.simulation.second_coordinator import SecondCoordinator
from tests.simulation.transcript import failure_of
from tests.unit.coordinator.group_world import GroupWorld, subscription

STEPS = (*[120] * 15, 400)
"""Many short schedules and some long ones find most."""
PROTOCOLS = ("range", "sticky", "cooperative")
VERBS = {
    "go_on": 60,
    "join": 2,
    "sync": 3,
    "heartbeat": 3,
    "commit": 15,
    "change": 4,
    "leave": 1,
    "advance": 20,
    "fall_silent": 0.5,
    "hold": 6,
    "release": 8,
    "fail": 3,
    "restart": 1,
}
"""What may happen next, and how often."""


class SimulatedClient:
    """Knows what a consumer knows. Mostly it does what a consumer would do next; the dice make it do other things."""

    def __init__(self, name: str, instance: str | None, protocols: list[str]) -> None:
        self.name = name
        self.instance = instance
        self.protocols = protocols
        self.member_id = ""
        self.generation = -1
        self.members: list[str] = []
        self.attempt = 0
        """Whatever is answered to an earlier one is not heard any more."""
        self.waiting = False
        """For the answer to a JoinGroup or SyncGroup."""
        self.must_join = True
        self.must_sync = False

    def heed(self, code: int) -> None:
        """A refusal: in all cases it joins again."""
        self.waiting = False
        self.must_join, self.must_sync = True, False
        if code in (ErrorCode.UNKNOWN_MEMBER_ID, ErrorCode.FENCED_INSTANCE_ID):
            self.member_id, self.generation = "", -1


class Simulation:
    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.transcript: list[str] = []
        self.steps = self.random.choice(STEPS)
        settings = GroupSettings(max_size=5, initial_rebalance_delay_ms=self.random.choice((0, 3_000)))
        self.world = GroupWorld(settings)
        self.second = SecondCoordinator(settings)
        count = self.random.randint(2, 7)
        self.clients = [
            SimulatedClient(f"c{n}", f"i{n // 2 % 2}" if n % 2 else None, self._some_protocols()) for n in range(count)
        ]
        self.open_requests: Counter[str] = Counter()
        self.assigned: dict[int, str] = {}
        """By generation, what its one leader's assignment is marked with."""
        self.newest_assigned = -1
        """The newest generation whose assignment was given to somebody: it is in the log."""
        self.offsets: dict[int, int] = {}
        """By partition, what was acknowledged or given: what is below has gone back."""
        self.failed_at: int | None = None
        self.known = (-1, -1)
        """How many records there were, written and held, when it was looked at whether they say the truth."""
        self.is_doubtful = False
        """Something was taken back, or made anew from the log."""
        self.offset = 0
        self.nonce = 0
        self.late_commits: list[tuple[str, int, str | None]] = []
        """Who sent a commit that is still on its way."""
        self.pending_commits: list[tuple[list[OffsetCommitResponse | ErrorCode], int, int]] = []

    def run(self) -> None:
        for _ in range(self.steps):
            self.step()
            self.check()
        self.world.hold = False
        self.world.release()
        for _ in range(40):
            self.world.advance(60_000)
        assert not +self.open_requests, "requests that were never answered"
        self.check()
        assert not any(group.members for group in self.world.shard.groups.values()), "the silent are still members"

    def step(self) -> None:
        verb = self.random.choices(tuple(VERBS), tuple(VERBS.values()))[0]
        client = self.random.choice(self.clients)
        self.transcript.append(f"{self.world.now_ms:9} ms  {verb} {client.name} {client.member_id}")
        getattr(self, verb)(client)

    def _some_protocols(self) -> list[str]:
        """With one that all have, as a rule."""
        chosen = self.random.sample(PROTOCOLS, self.random.randint(1, 3))
        return chosen if PROTOCOLS[0] in chosen or self.random.random() < 0.1 else [*chosen, PROTOCOLS[0]]

    # -- what may happen

    def go_on(self, client: SimulatedClient) -> None:
        """What a consumer would do next."""
        if client.waiting:
            return
        if client.must_join:
            self.join(client)
        elif client.must_sync:
            self.sync(client)
        else:
            self.heartbeat(client)

    def change(self, client: SimulatedClient) -> None:
        """Another assignor, or another process under the same name."""
        client.protocols = self._some_protocols()
        if self.random.random() < 0.5:
            client.member_id = ""
        self.join(client)

    def join(self, client: SimulatedClient) -> None:
        request = f"join {self.nonce}"
        self.nonce += 1
        client.attempt += 1
        attempt = client.attempt

        def reply(response: JoinGroupResponse) -> None:
            self.open_requests[request] -= 1
            if attempt != client.attempt:
                return  # it has asked again since
            code = response.error_code
            if code and code != ErrorCode.MEMBER_ID_REQUIRED:
                client.heed(code)
                return
            client.waiting = False
            client.member_id = response.member_id
            if not code:
                client.generation = response.generation_id
                client.members = [member.member_id for member in response.members]
                client.must_join, client.must_sync = False, True

        self.open_requests[request] += 1
        client.waiting = client.must_join = True
        self.world.join(
            "g",
            client.member_id,
            client=client.name,
            version=self.random.choice((0, 3, 5, 8, 9)),
            instance=client.instance,
            protocols={name: subscription("tuv"[len(client.protocols) - 1]) for name in client.protocols},
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
        client.attempt += 1
        attempt = client.attempt

        def reply(response: SyncGroupResponse) -> None:
            self.open_requests[request] -= 1
            if attempt == client.attempt:
                if response.error_code:
                    client.heed(response.error_code)
                else:
                    client.waiting = client.must_sync = False
            share = bytes(response.assignment).decode()
            if not response.error_code and share:
                assert self.assigned.setdefault(generation, share) == share, "two leaders assigned one generation"
                self.newest_assigned = max(self.newest_assigned, generation)

        self.open_requests[request] += 1
        client.waiting = True
        assignment = {member: mark.encode() for member in client.members}
        self.world.sync("g", client.member_id, generation, assignment, instance=client.instance, reply=reply)

    def heartbeat(self, client: SimulatedClient) -> None:
        request = HeartbeatRequest("g", client.generation, client.member_id, client.instance)
        code = self.world.shard.syncing.heartbeat(request)
        if code and not client.waiting:
            client.heed(code)

    def commit(self, client: SimulatedClient) -> None:
        self.offset += 1
        offset, partition = self.offset, self.random.randrange(3)
        generation = client.generation if self.random.random() < 0.9 else -1
        sender = client.member_id, generation, client.instance
        if self.late_commits and self.random.random() < 0.3:
            sender = self.late_commits.pop(self.random.randrange(len(self.late_commits)))
        elif self.random.random() < 0.2:
            self.late_commits.append(sender)
        member_id, generation, instance = sender
        answers = self.world.commit(
            "g", {("t", partition): offset}, member_id=member_id, generation=generation, instance=instance
        )
        if 0 <= generation < self.newest_assigned:
            assert isinstance(answers and answers[0], ErrorCode), "a commit of an older generation was taken"
        self.pending_commits.append((answers, partition, offset))

    def leave(self, client: SimulatedClient) -> None:
        request = LeaveGroupRequest(group_id="g", members=[MemberIdentity(client.member_id, client.instance)])
        self.world.submit(self.world.shard.leaving.leave(request))
        client.attempt += 1
        client.heed(ErrorCode.UNKNOWN_MEMBER_ID)

    def advance(self, client: SimulatedClient) -> None:
        """Meanwhile everybody who is well goes on."""
        for each in self.clients:
            if self.random.random() < 0.8:
                self.go_on(each)
        self.world.advance(self.random.choice((1, 300, 1_000, 3_000, 5_500)))

    def fall_silent(self, client: SimulatedClient) -> None:
        """Everybody, for so long that sessions end."""
        self.world.advance(25_000)

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
        self.is_doubtful = True

    def restart(self, client: SimulatedClient) -> None:
        if self.random.random() < 0.5 and self.world.held:
            self.world.release(self.random.randint(1, len(self.world.held)))  # written, maybe answered, and then dead
        self.world.restart()
        self.is_doubtful = True
        self.open_requests.clear()  # connections died, too
        for each in self.clients:
            each.attempt += 1
            each.waiting = False

    # -- what must hold

    def check(self) -> None:
        known, self.known = self.known, (len(self.world.log), len(self.world.held))
        if known != self.known or self.is_doubtful:
            self.check_offsets()
            if not self.world.held:
                self.check_replay()
                self.is_doubtful = False
        groups = self.world.shard.groups
        for group in groups.values():
            check_group(group)
        memory = self.world.shard.environment.memory
        assert memory.used_bytes == sum(group.size_bytes for group in groups.values()), "memory is not what groups take"

    def check_offsets(self) -> None:
        undecided = []
        for answers, partition, offset in self.pending_commits:
            if not answers:
                undecided.append((answers, partition, offset))
            elif isinstance(answers[0], OffsetCommitResponse):
                self.offsets[partition] = max(offset, self.offsets.get(partition, -1))
        self.pending_commits = undecided
        found = self.world.fetch("g")
        for partition, offset in self.offsets.items():
            assert found.get(("t", partition), -1) >= offset, "an offset was lost or went back"
        self.offsets = {partition: offset for (_, partition), offset in found.items()}

    def check_replay(self) -> None:
        """A coordinator that loads the log now knows what this one knows, but for rebalances that are in progress."""
        self.second.read(self.world.log)
        loaded = self.second.shard
        groups, store = self.world.shard.groups, self.world.shard.store
        same = (loaded.store._groups, loaded.store.count) == (store._groups, store.count)
        assert same, "the log knows other offsets"
        # A new or an empty group may not have been written: harmless, until a generation is.
        unwritten = self.failed_at is not None and all(
            key[:2] != b"\x00\x02" for key, _ in self.world.log[self.failed_at :]
        )
        if not unwritten:
            self.failed_at = None
            assert loaded.groups.keys() == groups.keys(), "the log knows other groups"
        for group_id, group in groups.items():
            if group.state is GroupState.STABLE or (group.state is GroupState.EMPTY and not unwritten):
                other = loaded.groups.get(group_id)
                same = other is not None and persistent(other) == persistent(group)
                assert same, "the log knows another generation"


def persistent(group: ClassicGroup) -> tuple[object, ...]:
    members = sorted(
        (each.member_id, each.group_instance_id, each.assignment, each.session_timeout_ms, each.rebalance_timeout_ms)
        for each in group.members.values()
    )
    return group.state, group.generation_id, group.protocol_name, group.leader_id, group.static_members, members


def check_group(group: ClassicGroup) -> None:
    members = group.members
    waiting = sum(each.awaiting_join is not None for each in members.values())
    assert group.awaiting_join_count == waiting, "who waits is miscounted"
    of_members = PENDING_MEMBER_BYTES * len(group.pending_join) + sum(each.size_bytes for each in members.values())
    assert group.size_bytes == GROUP_BYTES + of_members, "a group is not the sum of its members"
    static = {each.group_instance_id: each.member_id for each in members.values() if each.group_instance_id is not None}
    assert group.static_members == static, "static members are not those who are there"
    assert group.pending_sync <= members.keys() and not group.pending_join & members.keys(), "members that are none"
    assert (group.leader_id in members) if members else group.leader_id is None, "the leader is no member"
    assert len({each.protocol_type for each in members.values()}) <= 1, "members of several types of protocol"
    if members:
        common = set.intersection(*({name for name, _ in each.protocols} for each in members.values()))
        assert common, "members without a common protocol"
    if group.state is GroupState.EMPTY:
        assert not members, "an empty group has members"
    if group.state in (GroupState.STABLE, GroupState.COMPLETING_REBALANCE):
        # Kafka counts those who wait, so that static members that are away do not count.
        assert members and sum(not each.is_static for each in members.values()) <= 5, "more members than there may be"
        understood = all(group.protocol_name in dict(each.protocols) for each in members.values())
        assert understood, "a member does not know the group's protocol"


def simulate(seed: int) -> tuple[list[str], BaseException | None]:
    """The transcript of this seed's run, and what went wrong in it."""
    simulation = Simulation(seed)
    failure = failure_of(simulation.run)
    return simulation.transcript, failure
