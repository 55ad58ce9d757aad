"""OffsetFetch: its answers in every version, and that a large one is of one moment and made in turns of the loop."""

from __future__ import annotations

import asyncio
import itertools
from types import SimpleNamespace
from typing import Any

import pytest

from bytemq.broker.coordinator.group.environment import GroupSettings
from bytemq.broker.coordinator.group.records import CommittedOffset, OffsetCommitRecord
from bytemq.broker.coordinator.group.shard import GroupShard
from bytemq.broker.coordinator.timers import TimerQueue
from bytemq.broker.handlers import offset_fetch
from bytemq.metadata.image import NO_CONFIGS, ClusterImage, TopicImage
from bytemq.protocol.codec import decode, encode
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.protocol.messages.offset_fetch import (
    OffsetFetchRequest,
    OffsetFetchRequestGroup,
    OffsetFetchRequestTopic,
    OffsetFetchRequestTopics,
    OffsetFetchResponse,
    OffsetFetchResponseGroup,
    OffsetFetchResponsePartition,
    OffsetFetchResponsePartitions,
    OffsetFetchResponseTopic,
    OffsetFetchResponseTopics,
)
from bytemq.runtime.turns import Turns
from bytemq.types import TopicId

T_ID, NO_ID, UNKNOWN_ID = bytes([1] * 16), bytes(16), bytes([9] * 16)


class World:
    """One shard, with offsets 5 and 6 of topic t, and 7 of one that was deleted since."""

    def __init__(self) -> None:
        uuids = itertools.count()
        self.machine = GroupShard(GroupSettings(), TimerQueue(lambda: 0), lambda: 0, lambda: str(next(uuids)))
        self.refusal: ErrorCode | None = None
        image = ClusterImage()
        image.topics["t"] = image.topics_by_id[TopicId(T_ID)] = TopicImage("t", TopicId(T_ID), (), NO_CONFIGS, 1, False)
        self.broker: Any = SimpleNamespace(turns=Turns(), image=image, groups=self)
        for topic, partition, offset in (("t", 0, 5), ("t", 1, 6), ("gone", 0, 7)):
            self.commit(topic, partition, offset, T_ID if topic == "t" else NO_ID)

    def commit(self, topic: str, partition: int, offset: int, topic_id: bytes = NO_ID) -> None:
        value = CommittedOffset(offset, 3, "m", topic_id=topic_id).encode()
        self.machine.store.apply(OffsetCommitRecord("g", topic, partition, value))

    async def awaited_shard_of(self, group_id: str) -> World:
        return self

    def serving_machine(self) -> GroupShard:
        if self.refusal is not None:
            raise KafkaError(self.refusal)
        return self.machine

    async def fetched(self, version: int, request: OffsetFetchRequest) -> bytes:
        context: Any = SimpleNamespace(api_version=version)
        return await offset_fetch.handle(self.broker, context, request)


ASKED = [2, 0]


found = OffsetFetchResponsePartitions


def request_for(version: int, *, everything: bool) -> OffsetFetchRequest:
    if version < 8:
        topics = [OffsetFetchRequestTopic("t", ASKED), OffsetFetchRequestTopic("other", [4])]
        return OffsetFetchRequest(group_id="g", topics=None if everything else topics)
    of_groups = [OffsetFetchRequestTopics("t", T_ID, ASKED), OffsetFetchRequestTopics("other", UNKNOWN_ID, [4])]
    groups = [OffsetFetchRequestGroup("g", topics=None if everything else of_groups), OffsetFetchRequestGroup("none")]
    return OffsetFetchRequest(groups=groups)


def expected(version: int, *, everything: bool) -> OffsetFetchResponse:
    if everything:
        topics = [OffsetFetchResponseTopics("t", T_ID, [found(0, 5, 3, "m"), found(1, 6, 3, "m")])]
        if version < 10:
            topics.append(OffsetFetchResponseTopics("gone", NO_ID, [found(0, 7, 3, "m")]))
    else:
        error = ErrorCode.UNKNOWN_TOPIC_ID if version >= 10 else ErrorCode.NONE
        topics = [
            OffsetFetchResponseTopics("t", T_ID, [found(2, -1, -1, ""), found(0, 5, 3, "m")]),
            OffsetFetchResponseTopics("other", UNKNOWN_ID, [found(4, -1, -1, "", error)]),
        ]
    if version >= 8:
        return OffsetFetchResponse(groups=[OffsetFetchResponseGroup("g", topics), OffsetFetchResponseGroup("none")])
    return OffsetFetchResponse(topics=[in_old_form(topic) for topic in topics])


def in_old_form(topic: OffsetFetchResponseTopics) -> OffsetFetchResponseTopic:
    return OffsetFetchResponseTopic(
        topic.name,
        [
            OffsetFetchResponsePartition(
                each.partition_index, each.committed_offset, each.committed_leader_epoch, each.metadata, each.error_code
            )
            for each in topic.partitions
        ],
    )


@pytest.mark.parametrize("everything", [False, True])
@pytest.mark.parametrize("version", range(1, 11))
async def test_offset_fetch__put_together_in_turns_is_what_the_codec_writes(version: int, everything: bool) -> None:
    answer = await World().fetched(version, request_for(version, everything=everything))
    assert answer == encode(expected(version, everything=everything), version)


@pytest.mark.parametrize("version", range(1, 11))
async def test_offset_fetch__an_error_is_in_the_place_where_the_version_has_it(version: int) -> None:
    world = World()
    world.refusal = code = ErrorCode.COORDINATOR_LOAD_IN_PROGRESS
    answer = decode(OffsetFetchResponse, version, await world.fetched(version, request_for(version, everything=False)))
    if version >= 8:
        assert [(each.group_id, each.error_code, each.topics) for each in answer.groups] == [
            ("g", code, []),
            ("none", code, []),
        ]
    elif version >= 2:
        assert answer.error_code == code and not answer.topics
    else:
        refused = [(t.name, p.partition_index, p.error_code) for t in answer.topics for p in t.partitions]
        assert refused == [("t", 2, code), ("t", 0, code), ("other", 4, code)]


async def turns_of_the_loop(counted: list[int]) -> None:
    while True:
        counted[0] += 1
        await asyncio.sleep(0)


@pytest.mark.parametrize("version", [7, 9])
@pytest.mark.parametrize("topics", [1, 20_000])
async def test_offset_fetch__of_very_many_serves_others_meanwhile_and_is_of_one_moment(
    version: int, topics: int
) -> None:
    world, count = World(), 20_000
    for number in range(count):
        world.commit(f"x{number % topics}", number // topics, 1)
    counted = [0]
    others = asyncio.create_task(turns_of_the_loop(counted))
    fetching = asyncio.create_task(world.fetched(version, request_for(version, everything=True)))
    for _ in range(3):
        await asyncio.sleep(0)
    for number in range(count):
        world.commit(f"x{number % topics}", number // topics, 2)
    response = decode(OffsetFetchResponse, version, await fetching, max_elements=3 * count)
    others.cancel()
    told = response.groups[0].topics if version >= 8 else response.topics
    offsets = [each.committed_offset for topic in told for each in topic.partitions if topic.name.startswith("x")]
    assert offsets == [1] * count
    assert counted[0] > count * 20 / 32_768
