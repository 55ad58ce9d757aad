"""Topic ids in their text form."""

from __future__ import annotations

import pytest

from bytemq.types import ZERO_TOPIC_ID, PartitionId, TopicId, format_topic_id, parse_topic_id


def test_topic_id__has_kafkas_text_form() -> None:
    assert format_topic_id(ZERO_TOPIC_ID) == "AAAAAAAAAAAAAAAAAAAAAA"
    assert format_topic_id(b"\xff" * 16) == "_____________________w"
    for last in range(256):
        topic_id = TopicId(bytes(15) + bytes([last]))
        assert parse_topic_id(format_topic_id(topic_id)) == topic_id


@pytest.mark.parametrize("text", ["", "abc", "A" * 24, "A" * 21 + "!", "é" * 22])
def test_topic_id__that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a topic id"):
        parse_topic_id(text)


def test_partition_id__is_a_key() -> None:
    assert {PartitionId(ZERO_TOPIC_ID, 1): "x"}[PartitionId(ZERO_TOPIC_ID, 1)] == "x"
    assert PartitionId(ZERO_TOPIC_ID, 1).index == 1


def test_partition_id__is_readable_in_a_log() -> None:
    assert str(PartitionId(ZERO_TOPIC_ID, 7)) == "AAAAAAAAAAAAAAAAAAAAAA/7"
