"""Offsets that one request commits or deletes, some at a time: a hundred thousand would hold the event loop for a
second. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

from bytemq.protocol.messages.offset_commit import OffsetCommitRequestTopic
from bytemq.protocol.messages.offset_delete import OffsetDeleteRequestTopic
from bytemq.protocol.messages.txn_offset_commit import TxnOffsetCommitRequestTopic

SLICE_PARTITIONS = 10_000
"""About what goes into one batch of the log, and is durable at once."""

Topic = TypeVar("Topic", OffsetCommitRequestTopic, TxnOffsetCommitRequestTopic, OffsetDeleteRequestTopic)


def slices(topics: Sequence[Topic]) -> Iterator[tuple[bool, list[Topic]]]:
    """The topics, so many partitions of them at a time; with each slice whether its first topic goes on in it."""
    part: list[Topic] = []
    continues, left = False, SLICE_PARTITIONS
    for topic in topics:
        if not left:
            yield continues, part
            part, continues, left = [], False, SLICE_PARTITIONS
        start = 0
        while len(topic.partitions) - start > left:
            part.append(replace(topic, partitions=topic.partitions[start : start + left]))
            yield continues, part
            start += left
            part, continues, left = [], True, SLICE_PARTITIONS
        part.append(replace(topic, partitions=topic.partitions[start:]) if start else topic)
        left -= len(topic.partitions) - start
    yield continues, part
