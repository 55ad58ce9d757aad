"""A classic group: its members, generation and state, and what must always hold among them.

Owns the bookkeeping. What a request does to a group is in join.py, rebalance.py, sync.py and leave.py.
"""

from __future__ import annotations

from collections import Counter

from bytemq.broker.coordinator.group.member import JoinReply, Member, Protocols
from bytemq.broker.coordinator.group.memory import GROUP_BYTES, PENDING_MEMBER_BYTES, MembershipMemory
from bytemq.broker.coordinator.group.states import PREVIOUS_STATES, GroupState
from bytemq.broker.coordinator.group.subscription import CONSUMER_PROTOCOL_TYPE, all_subscribed_topics
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.protocol.messages.join_group import JoinGroupResponse
from bytemq.protocol.messages.sync_group import SyncGroupResponse

NO_TIMESTAMP = -1


class ClassicGroup:
    """One group. `pending_join` are ids given out that have not joined yet (KIP-394), `pending_sync` members of this
    generation that have not asked for their assignment.
    """

    __slots__ = (
        "_memory",
        "_supported",
        "awaiting_join_count",
        "generation_id",
        "group_id",
        "is_storing_assignment",
        "leader_id",
        "members",
        "new_member_added",
        "pending_join",
        "pending_sync",
        "previous_state",
        "protocol_name",
        "protocol_type",
        "size_bytes",
        "state",
        "state_timestamp_ms",
        "static_members",
        "subscribed_topics",
    )

    def __init__(self, group_id: str, now_ms: int, memory: MembershipMemory) -> None:
        self.group_id = group_id
        self.state = GroupState.EMPTY
        self.previous_state = GroupState.DEAD
        self.state_timestamp_ms = now_ms
        self.generation_id = 0
        self.protocol_type: str | None = None
        self.protocol_name: str | None = None
        self.leader_id: str | None = None
        self.members: dict[str, Member] = {}
        self.static_members: dict[str, str] = {}
        self.pending_join: set[str] = set()
        self.pending_sync: set[str] = set()
        self.awaiting_join_count = 0
        self.new_member_added = False
        self.is_storing_assignment = False
        self.subscribed_topics: frozenset[str] | None = None
        self.size_bytes = 0
        self._supported: Counter[str] = Counter()
        self._memory = memory
        self._resize(GROUP_BYTES)

    # -- members

    def add(self, member: Member, awaiting_join: JoinReply | None = None) -> None:
        """A member that the group supports (`supports`) and whose ids are free; the first one leads."""
        if not self.members:
            self.protocol_type = member.protocol_type
        if self.leader_id is None:
            self.leader_id = member.member_id
        if member.group_instance_id is not None:
            self.static_members[member.group_instance_id] = member.member_id
        self.members[member.member_id] = member
        self._resize(member.size_bytes)
        self._count_protocols(member, 1)
        self._park_join(member, awaiting_join)
        self.remove_pending(member.member_id)

    def add_pending(self, member_id: str) -> None:
        """An id was given out; somebody may join with it."""
        self.pending_join.add(member_id)
        self._resize(PENDING_MEMBER_BYTES)

    def remove_pending(self, member_id: str) -> None:
        if member_id in self.pending_join:
            self.pending_join.discard(member_id)
            self._resize(-PENDING_MEMBER_BYTES)

    def remove(self, member_id: str) -> None:
        """A member or a pending one; a leader that goes is replaced by any other member. Unknown ids are fine."""
        member = self.members.pop(member_id, None)
        if member is not None:
            self._count_protocols(member, -1)
            self._resize(-member.size_bytes)
            self._park_join(member, None)
            if member.group_instance_id is not None:
                self.static_members.pop(member.group_instance_id, None)
        if self.leader_id == member_id:
            self.leader_id = next(iter(self.members), None)
        self.remove_pending(member_id)
        self.pending_sync.discard(member_id)

    def update(
        self,
        member: Member,
        protocols: Protocols,
        rebalance_timeout_ms: int,
        session_timeout_ms: int,
        awaiting_join: JoinReply | None,
    ) -> None:
        """A member joins again, maybe with other protocols."""
        self._count_protocols(member, -1)
        size_bytes = member.size_bytes
        member.protocols = protocols
        self._resize(member.size_bytes - size_bytes)
        self._count_protocols(member, 1)
        member.rebalance_timeout_ms = rebalance_timeout_ms
        member.session_timeout_ms = session_timeout_ms
        self._park_join(member, awaiting_join)

    def replace_static(self, group_instance_id: str, new_member_id: str) -> Member:
        """A restarted static member takes its old self's place under a new id (KIP-345).

        Requests parked by the old self are fenced.
        """
        old_member_id = self.static_members[group_instance_id]
        old = self.members[old_member_id]
        fenced = ErrorCode.FENCED_INSTANCE_ID
        self.answer_join(old, JoinGroupResponse(error_code=fenced, member_id=old_member_id, protocol_name=None))
        old.answer_sync(SyncGroupResponse(error_code=fenced))
        new = Member(
            member_id=new_member_id,
            group_instance_id=group_instance_id,
            client_id=old.client_id,
            client_host=old.client_host,
            rebalance_timeout_ms=old.rebalance_timeout_ms,
            session_timeout_ms=old.session_timeout_ms,
            protocol_type=old.protocol_type,
            protocols=old.protocols,
            assignment=old.assignment,
        )
        del self.members[old_member_id]
        self.members[new_member_id] = new
        self.static_members[group_instance_id] = new_member_id
        if old_member_id in self.pending_sync:
            self.pending_sync.remove(old_member_id)
            self.pending_sync.add(new_member_id)
        if self.leader_id == old_member_id:
            self.leader_id = new_member_id
        return new

    def set_assignment(self, member: Member, assignment: bytes) -> None:
        self._resize(len(assignment) - len(member.assignment))
        member.assignment = assignment

    def validate_member(self, member_id: str, group_instance_id: str | None) -> None:
        """Raises KafkaError: UNKNOWN_MEMBER_ID, or FENCED_INSTANCE_ID when another member holds the instance id."""
        if group_instance_id is not None:
            holder = self.static_members.get(group_instance_id)
            if holder is None:
                raise KafkaError(ErrorCode.UNKNOWN_MEMBER_ID)
            if holder != member_id:
                raise KafkaError(ErrorCode.FENCED_INSTANCE_ID)
        if member_id not in self.members:
            raise KafkaError(ErrorCode.UNKNOWN_MEMBER_ID)

    # -- parked requests

    def answer_join(self, member: Member, response: JoinGroupResponse) -> None:
        """Answers the parked JoinGroup, if there is one."""
        reply = member.awaiting_join
        if reply is not None:
            self._park_join(member, None)
            reply(response)

    # -- generation

    def has_all_members_joined(self) -> bool:
        return len(self.members) == self.awaiting_join_count and not self.pending_join

    def rebalance_timeout_ms(self) -> int:
        """The longest of the members'; the group waits that long for all of them."""
        return max((member.rebalance_timeout_ms for member in self.members.values()), default=0)

    def elect_joined_leader(self) -> bool:
        """Keeps a leader that has rejoined, else lets any that has lead. False: nobody has joined."""
        if self.leader_id is None:
            return False
        if self.members[self.leader_id].awaiting_join is not None:
            return True
        joined = next((member for member in self.members.values() if member.awaiting_join is not None), None)
        if joined is None:
            return False
        self.leader_id = joined.member_id
        return True

    def start_generation(self, now_ms: int) -> None:
        """The next generation, with the members that there are now; Empty if there are none."""
        self.generation_id = self.generation_id + 1 if self.generation_id < 0x7FFF_FFFF else 1
        self.protocol_name = self.select_protocol() if self.members else None
        self.subscribed_topics = self._subscribed_topics()
        self.transition_to(GroupState.COMPLETING_REBALANCE if self.members else GroupState.EMPTY, now_ms)
        self.pending_sync.clear()
        self.is_storing_assignment = False

    def restore_generation(self, generation_id: int, protocol_name: str | None, leader_id: str | None) -> None:
        """The generation as a record has it, after its members were added: the group is Stable, or Empty without
        members.
        """
        self.generation_id = generation_id
        self.protocol_name = protocol_name
        self.leader_id = leader_id if leader_id in self.members else next(iter(self.members), None)
        self.state = GroupState.STABLE if self.members else GroupState.EMPTY
        self.subscribed_topics = self._subscribed_topics()

    def transition_to(self, state: GroupState, now_ms: int) -> None:
        if self.state not in PREVIOUS_STATES[state]:
            raise AssertionError(f"group {self.group_id} cannot go from {self.state.value} to {state.value}")
        self.previous_state = self.state
        self.state = state
        self.state_timestamp_ms = now_ms

    # -- protocols

    def supports(self, protocol_type: str, protocol_names: set[str]) -> bool:
        """Whether a member with these could join: one protocol, at least, that every member has."""
        if self.state is GroupState.EMPTY:
            return bool(protocol_type) and bool(protocol_names)
        everyone = len(self.members)
        return self.protocol_type == protocol_type and any(self._supported[name] == everyone for name in protocol_names)

    def select_protocol(self) -> str:
        """Each member votes for its favourite among what all support; most votes win, the first voter's on a tie."""
        everyone = len(self.members)
        candidates = {name for name, count in self._supported.items() if count == everyone}
        votes = Counter(member.vote(candidates) for member in self.members.values())
        return votes.most_common(1)[0][0]

    def is_subscribed_to(self, topic: str) -> bool:
        """Whether a member consumes the topic; assumed of a consumer group whose subscriptions cannot be read."""
        if self.subscribed_topics is None:
            return self.protocol_type == CONSUMER_PROTOCOL_TYPE
        return topic in self.subscribed_topics

    def _subscribed_topics(self) -> frozenset[str] | None:
        if self.protocol_type != CONSUMER_PROTOCOL_TYPE:
            return None
        if not self.members:
            return frozenset()
        name = self.protocol_name
        if name is None:
            return None
        return all_subscribed_topics(member.metadata_of(name) for member in self.members.values())

    def _count_protocols(self, member: Member, by: int) -> None:
        for name, _ in member.protocols:
            self._supported[name] += by
            if not self._supported[name]:
                del self._supported[name]

    def _resize(self, by_bytes: int) -> None:
        self.size_bytes += by_bytes
        self._memory.used_bytes += by_bytes

    def _park_join(self, member: Member, reply: JoinReply | None) -> None:
        """Parks `reply`. An earlier one that it displaces has lost its caller, and is told to try again: no request
        stays unanswered.
        """
        earlier = member.awaiting_join
        self.awaiting_join_count += (reply is not None) - (earlier is not None)
        member.awaiting_join = reply
        if reply is not None and earlier is not None:
            earlier(JoinGroupResponse(error_code=ErrorCode.REBALANCE_IN_PROGRESS, member_id=member.member_id))
