from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest

from bytemq.node.queried_topics import QueriedTopics
from bytemq.protocol.error_codes import ErrorCode
from bytemq.protocol.records.builder import Record, build_batch
from bytemq.query.cuts import Overtaken
from bytemq.storage.manifests.manifest import SegmentInfo
from bytemq.types import TopicId

TOPIC_ID = TopicId(UUID(int=1))


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


def topics_with(partition: object) -> QueriedTopics:
    whole: Any = SimpleNamespace(partition=lambda name, index: partition)
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
