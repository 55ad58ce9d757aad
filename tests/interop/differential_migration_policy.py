"""Cases of `group.consumer.migration.policy`: who may come to whom, and what the group is when the others have gone.

Each value of it needs a server of its own; what is asked is the same.
"""

from __future__ import annotations

from kafka.protocol.admin import DescribeGroupsRequest
from kafka.protocol.consumer import JoinGroupRequest

from tests.interop.differential import OWN, Case, Subject, case
from tests.interop.differential_consumer_groups import LEAVE, Member, beat, consumer_group, settle, subscription
from tests.interop.differential_groups import commit, leave
from tests.interop.differential_migration import (
    MEMBER_ID_REQUIRED,
    ClassicMember,
    classic_group,
    describe_both,
    settle_both,
)
from tests.interop.newer_messages import ConsumerGroupDescribeRequest

POLICIES = ("disabled", "upgrade", "downgrade", "bidirectional")


def _under(policy: str) -> Case:
    def migrate(subject: Subject) -> None:
        topic = subject.topic(2)
        _a_consumer_comes(subject, topic)
        _a_classic_member_comes(subject, topic)
        _nobody_is_there(subject, topic)

    migrate.__name__ = f"migration_policy_{policy}"
    return case(migrate)


BY_POLICY = {f"migration_policy_{policy}": policy for policy in POLICIES}
"""The server's setting by the name of the case."""

for each in POLICIES:
    _under(each)


def _a_consumer_comes(subject: Subject, topic: str) -> None:
    classic = classic_group(subject, topic)
    consumer = Member(subject, classic.group, f"{OWN}up", **subscription(topic))
    code = consumer.beat()
    subject.note("a consumer comes to a classic member", code)
    if code == 0:
        settle_both(subject, classic, consumer, 1)
    subject.note("the classic member beats", classic.beat())
    commit(subject, "it commits", classic.group, topic, 5, member=classic.id, generation=classic.generation)
    describe_both(subject, "when a consumer came", classic.group)
    if code == 0:
        beat(subject, "that consumer leaves", classic.group, consumer.id, LEAVE)
        _note_type(subject, "when that consumer has left", classic)


def _a_classic_member_comes(subject: Subject, topic: str) -> None:
    consumer = consumer_group(subject, topic, 2, f"{OWN}down")
    classic = ClassicMember(subject, consumer.group, topic)
    code = subject.quiet(JoinGroupRequest, 9, classic.joining()).error_code
    subject.note("a classic member comes to a consumer", code)
    if code == MEMBER_ID_REQUIRED:
        classic.join()
        settle_both(subject, classic, consumer, 1)
    subject.note("the consumer beats", [consumer.beat(), consumer.count])
    describe_both(subject, "when a classic member came", consumer.group)
    if code == MEMBER_ID_REQUIRED:
        beat(subject, "the last consumer leaves", consumer.group, consumer.id, LEAVE)
        _note_type(subject, "when the last consumer has left", classic)


def _nobody_is_there(subject: Subject, topic: str) -> None:
    classic = classic_group(subject, topic)
    leave(subject, "the only classic member leaves", classic.group, classic.id)
    consumer = Member(subject, classic.group, f"{OWN}next", **subscription(topic))
    settle(consumer, shares=(2,))
    describe_both(subject, "a consumer where nobody was", classic.group)
    beat(subject, "the only consumer leaves", classic.group, consumer.id, LEAVE)
    again = ClassicMember(subject, classic.group, topic)
    again.join()
    again.settle()
    describe_both(subject, "a classic member where nobody was", classic.group)


def _note_type(subject: Subject, label: str, classic: ClassicMember) -> None:
    """Which API knows the group, and that its classic member goes on in it. Who assigns, and when, is not compared."""
    old = subject.quiet(DescribeGroupsRequest, 6, {"groups": [classic.group]}).groups[0].error_code
    asked = {"group_ids": [classic.group], "include_authorized_operations": False}
    new = subject.quiet(ConsumerGroupDescribeRequest, 1, asked).groups[0].error_code
    subject.note(label, {"DescribeGroups": old, "ConsumerGroupDescribe": new})
    classic.settle()
