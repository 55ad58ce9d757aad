"""OffsetCommit: which topics the group is asked about, and what becomes of its answer."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from bytemq.broker.handlers import offset_commit
from bytemq.broker.offset_slices import SLICE_PARTITIONS
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.protocol.messages.offset_commit import (
    OffsetCommitRequest,
    OffsetCommitRequestPartition,
    OffsetCommitRequestTopic,
    OffsetCommitResponse,
    OffsetCommitResponsePartition,
    OffsetCommitResponseTopic,
)
from bytemq.runtime.turns import Turns

ID = bytes(16)


class Group:
    """Commits everything, and answers topic by topic as it was asked."""

    def __init__(self, refuses: int = -1) -> None:
        self.asked = 0
        self.sizes: list[int] = []
        """How many partitions were asked for at a time."""
        self._refuses = refuses

    async def awaited_shard_of(self, group_id: str) -> Group:
        return self

    async def write(self, change: Any) -> OffsetCommitResponse:
        if self.asked == self._refuses:
            self.asked += 1
            raise KafkaError(ErrorCode.ILLEGAL_GENERATION)
        self.asked += 1
        machine: Any = SimpleNamespace(offsets=SimpleNamespace(commit=lambda request, origin: request))
        request = change(machine)
        self.sizes.append(sum(len(topic.partitions) for topic in request.topics))
        return OffsetCommitResponse(
            topics=[
                OffsetCommitResponseTopic(
                    topic.name, ID, [OffsetCommitResponsePartition(one.partition_index, 0) for one in topic.partitions]
                )
                for topic in request.topics
            ]
        )


async def commit(
    group: Group, *topics: tuple[str, list[int]], partitions: int = 2
) -> list[tuple[str, list[tuple[int, int]]]]:
    known = SimpleNamespace(name="t", topic_id=ID, partitions=[None] * partitions)
    broker: Any = SimpleNamespace(
        image=SimpleNamespace(topics={"t": known}, topics_by_id={}), groups=group, turns=Turns()
    )
    context: Any = SimpleNamespace(api_version=9, client_id=None, peer="")
    rows = [
        OffsetCommitRequestTopic(name, ID, [OffsetCommitRequestPartition(index, 5, -1, "") for index in indexes])
        for name, indexes in topics
    ]
    response = await offset_commit.handle(broker, context, OffsetCommitRequest(group_id="g", topics=rows))
    return [
        (topic.name, [(one.partition_index, one.error_code) for one in topic.partitions]) for topic in response.topics
    ]


async def test_commit__of_no_partitions_asks_nobody_and_says_nothing() -> None:
    group = Group()
    assert await commit(group) == []
    assert await commit(group, ("t", [])) == []
    assert group.asked == 0


async def test_commit__answers_a_topic_as_often_as_it_is_named() -> None:
    assert await commit(Group(), ("t", [0]), ("t", [1])) == [("t", [(0, 0)]), ("t", [(1, 0)])]


async def test_commit__joins_what_is_refused_with_the_answer_of_the_group() -> None:
    assert await commit(Group(), ("t", [7, 0]), ("t", [1])) == [("t", [(7, 3), (0, 0), (1, 0)])]


async def test_commit__of_very_many_is_made_in_slices_and_answered_as_one() -> None:
    group, most = Group(), SLICE_PARTITIONS
    asked = [("t", [*range(most)]), ("t", [1]), ("t", [*range(2 * most)])]
    answer = await commit(group, *asked, partitions=2 * most)
    assert answer == [(name, [(index, 0) for index in indexes]) for name, indexes in asked]
    assert group.sizes == [most, most, most, 1]


async def test_commit__of_very_many_ends_with_what_is_refused_and_says_of_each_what_became_of_it() -> None:
    group, most = Group(refuses=1), SLICE_PARTITIONS
    code = ErrorCode.ILLEGAL_GENERATION
    [(_, answers)] = await commit(group, ("t", [*range(3 * most)]), partitions=3 * most)
    assert answers == [(index, 0 if index < most else code) for index in range(3 * most)]
    assert group.asked == 2
