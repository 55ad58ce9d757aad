from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest

from bytemq.errors import Unavailable
from bytemq.node.queried_topics import QueriedTopics
from bytemq.protocol.error_codes import ErrorCode
from bytemq.protocol.records.builder import Record, build_batch
from bytemq.query.cuts import Overtaken
from bytemq.storage.manifests.manifest import FileKind, SegmentInfo
from bytemq.types import TopicId

TOPIC_ID = TopicId(UUID(int=1).bytes)


class Expired:
    """A partition of which retention took what a cut had named."""

    last_stable_offset = 10

    async def read(self, offset: int, max_bytes: int, *, isolation: int) -> SimpleNamespace:
        return SimpleNamespace(error=ErrorCode.OFFSET_OUT_OF_RANGE, log_start_offset=offset + 5, buffers=[])


class Compacted:
    """A partition that the cleaner has gone through, up to `end`, since a cut."""

    last_stable_offset = 30

    def __init__(self, end: int) -> None:
        cleaned = SegmentInfo(0, end - 1, 100, 0, 0, "a", sealed=True, is_cleaned=True)
        self.files = SimpleNamespace(manifest=SimpleNamespace(segments=[cleaned]))

    async def read(self, offset: int, max_bytes: int, *, isolation: int) -> SimpleNamespace:
        batch = build_batch([Record(b"key", b"value")], base_offset=9)
        return SimpleNamespace(error=ErrorCode.NONE, log_start_offset=0, buffers=[batch])


class Followed:
    """A partition of another broker, which has a table up to offset 20; batches of that are cut by tens."""

    def __init__(self, last_stable_offset: int) -> None:
        self.last_stable_offset = last_stable_offset
        table = SegmentInfo(0, 19, 100, 0, 0, "a", kind=FileKind.PARQUET, sealed=True)
        self.files = SimpleNamespace(manifest=SimpleNamespace(segments=[table]))

    async def read(self, offset: int, max_bytes: int, *, isolation: int) -> SimpleNamespace:
        first = offset - offset % 10
        is_known = first + 10 <= self.last_stable_offset
        batch = build_batch([Record(b"key", b"value")] * 10, base_offset=first)
        return SimpleNamespace(error=ErrorCode.NONE, log_start_offset=0, buffers=[batch] if is_known else [])

    async def at_hand(self, names: list[str]) -> None:
        self.last_stable_offset = 20


async def nothing_new(names: list[str]) -> None:
    pass


def topics_with(partition: Any) -> QueriedTopics:
    at_hand = getattr(partition, "at_hand", nothing_new)
    whole: Any = SimpleNamespace(partition=lambda name, index: partition, at_hand=at_hand)
    image: Any = SimpleNamespace(topics={"t": SimpleNamespace(topic_id=TOPIC_ID)})
    unused: Any = None
    return QueriedTopics(whole, lambda: image, unused, unused, None)


async def test_read__of_what_has_expired_since_the_cut_asks_for_another_one() -> None:
    with pytest.raises(Overtaken, match="records of t expire faster"):
        await topics_with(Expired()).read("t", TOPIC_ID, 0, 0, 10)


async def test_read__of_what_later_records_have_superseded_asks_for_another_cut() -> None:
    """It would show what was there before them, and not what they have superseded."""
    with pytest.raises(Overtaken, match="records of t are compacted faster"):
        await topics_with(Compacted(end=11)).read("t", TOPIC_ID, 0, 0, 10)


async def test_read__of_what_records_of_the_cut_have_superseded_shows_those() -> None:
    _, next_offset = await topics_with(Compacted(end=10)).read("t", TOPIC_ID, 0, 0, 10)
    assert next_offset == 10


async def test_read__of_what_became_a_table_that_is_further_than_is_known_here_finds_out_more() -> None:
    """It took the batch that was not read for a gap that the cleaner had left, and showed nothing of it."""
    batches, next_offset = await topics_with(Followed(last_stable_offset=15)).read("t", TOPIC_ID, 0, 12, 15)
    assert len(batches) == 1 and next_offset == 20


async def test_read__of_what_cannot_be_found_out_says_so() -> None:
    behind = Followed(last_stable_offset=15)
    behind.at_hand = nothing_new  # type: ignore[method-assign]
    with pytest.raises(Unavailable, match="its table is further than is known here"):
        await topics_with(behind).read("t", TOPIC_ID, 0, 12, 15)


async def test_read__of_what_the_cleaner_left_nothing_of_ends() -> None:
    partition = Compacted(end=10)
    partition.read = Followed(last_stable_offset=0).read  # type: ignore[method-assign]
    assert await topics_with(partition).read("t", TOPIC_ID, 0, 0, 10) == ((), 10)
