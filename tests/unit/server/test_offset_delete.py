"""OffsetDelete: what the group is not asked about, and how that is joined with what it answers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from bytemq.broker.handlers import offset_delete
from bytemq.broker.offset_slices import SLICE_PARTITIONS
from bytemq.protocol.messages.offset_delete import (
    OffsetDeleteRequest,
    OffsetDeleteRequestPartition,
    OffsetDeleteRequestTopic,
    OffsetDeleteResponse,
    OffsetDeleteResponsePartition,
    OffsetDeleteResponseTopic,
)
from bytemq.runtime.turns import Turns


class Group:
    """Deletes everything that it is asked for."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        """How many partitions were asked for at a time."""

    async def awaited_shard_of(self, group_id: str) -> Group:
        return self

    async def write(self, change: Any) -> OffsetDeleteResponse:
        request = change(SimpleNamespace(offsets=SimpleNamespace(delete=lambda request: request)))
        self.sizes.append(sum(len(topic.partitions) for topic in request.topics))
        return OffsetDeleteResponse(
            topics=[
                OffsetDeleteResponseTopic(
                    topic.name, [OffsetDeleteResponsePartition(one.partition_index, 0) for one in topic.partitions]
                )
                for topic in request.topics
            ]
        )


async def delete(
    *topics: tuple[str, list[int]], group: Group | None = None, partitions: int = 2
) -> list[tuple[str, list[tuple[int, int]]]]:
    """Of a topic "t"."""
    image = SimpleNamespace(topics={"t": SimpleNamespace(partitions=[None] * partitions)})
    broker: Any = SimpleNamespace(image=image, groups=group or Group(), turns=Turns())
    asked = [
        OffsetDeleteRequestTopic(name, [OffsetDeleteRequestPartition(index) for index in indexes])
        for name, indexes in topics
    ]
    context: Any = SimpleNamespace(api_version=0)
    response = await offset_delete.handle(broker, context, OffsetDeleteRequest(group_id="g", topics=asked))
    return [
        (topic.name, [(one.partition_index, one.error_code) for one in topic.partitions]) for topic in response.topics
    ]


async def test_delete__answers_each_partition_that_there_is_not_however_often_its_topic_is_named() -> None:
    assert await delete(("t", [7]), ("t", [8])) == [("t", [(7, 3), (8, 3)])]
    assert await delete(("u", [0]), ("u", [1, 2])) == [("u", [(0, 3), (1, 3), (2, 3)])]


async def test_delete__joins_what_there_is_not_with_the_answer_of_the_group() -> None:
    assert await delete(("t", [7, 0]), ("u", [0]), ("t", [8])) == [("t", [(0, 0), (7, 3), (8, 3)]), ("u", [(0, 3)])]


async def test_delete__of_very_many_is_made_in_slices_and_answered_as_one() -> None:
    group, most = Group(), SLICE_PARTITIONS
    asked = [("t", [*range(most + 1)]), ("t", [*range(most)])]
    answer = await delete(*asked, group=group, partitions=2 * most)
    assert answer == [(name, [(index, 0) for index in indexes]) for name, indexes in asked]
    assert group.sizes == [most, most, 1]


async def test_delete__of_nothing_asks_the_group_all_the_same() -> None:
    group = Group()
    assert await delete(group=group) == []
    assert group.sizes == [0]
