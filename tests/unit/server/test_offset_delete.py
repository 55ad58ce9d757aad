"""OffsetDelete: what the group is not asked about, and how that is joined with what it answers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from bytemq.broker.handlers import offset_delete
from bytemq.protocol.messages.offset_delete import (
    OffsetDeleteRequest,
    OffsetDeleteRequestPartition,
    OffsetDeleteRequestTopic,
    OffsetDeleteResponse,
    OffsetDeleteResponsePartition,
    OffsetDeleteResponseTopic,
)


class Group:
    """Deletes everything that it is asked for."""

    async def awaited_shard_of(self, group_id: str) -> Group:
        return self

    async def write(self, change: Any) -> OffsetDeleteResponse:
        request = change(SimpleNamespace(offsets=SimpleNamespace(delete=lambda request: request)))
        return OffsetDeleteResponse(
            topics=[
                OffsetDeleteResponseTopic(
                    topic.name, [OffsetDeleteResponsePartition(one.partition_index, 0) for one in topic.partitions]
                )
                for topic in request.topics
            ]
        )


async def delete(*topics: tuple[str, list[int]]) -> list[tuple[str, list[tuple[int, int]]]]:
    """Of a topic "t" with two partitions."""
    image = SimpleNamespace(topics={"t": SimpleNamespace(partitions=[None, None])})
    broker: Any = SimpleNamespace(image=image, groups=Group())
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
