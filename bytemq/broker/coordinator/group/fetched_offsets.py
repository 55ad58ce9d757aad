"""What OffsetFetch finds: taken at one moment, and put into words later, of a hundred thousand offsets some at a time.
Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from bytemq.broker.coordinator.group.records import CommittedOffset
from bytemq.protocol.error_codes import ErrorCode
from bytemq.protocol.messages.offset_fetch import OffsetFetchResponsePartitions
from bytemq.protocol.primitives import MalformedMessage
from bytemq.types import ZERO_TOPIC_ID

_NONE_COMMITTED = CommittedOffset(-1)


class FetchedTopic:
    """The offsets of one topic as they are stored; None where there is none. Those of `unstable` partitions are
    UNSTABLE_OFFSET_COMMIT. With `asked_id` offsets of another topic of the same name are as good as none.
    """

    __slots__ = ("_asked_id", "_found", "_unstable", "name")

    def __init__(
        self,
        name: str,
        found: Sequence[tuple[int, bytes | None]],
        unstable: Collection[int],
        asked_id: bytes | None = None,
    ) -> None:
        self.name = name
        self._found = found
        self._unstable = unstable
        self._asked_id = asked_id

    @property
    def topic_id(self) -> bytes:
        """As it was asked for, else as it was committed."""
        if self._asked_id is not None:
            return self._asked_id
        ids = (_decoded(encoded).topic_id for _, encoded in self._found)
        return next((each for each in ids if each != ZERO_TOPIC_ID), bytes(ZERO_TOPIC_ID))

    @property
    def partitions(self) -> Iterator[OffsetFetchResponsePartitions]:
        for index, encoded in self._found:
            if index in self._unstable:
                yield OffsetFetchResponsePartitions(index, -1, -1, "", ErrorCode.UNSTABLE_OFFSET_COMMIT)
                continue
            committed = _decoded(encoded)
            if self._asked_id is not None and self._is_of_another(committed.topic_id):
                committed = _NONE_COMMITTED
            yield OffsetFetchResponsePartitions(index, committed.offset, committed.leader_epoch, committed.metadata)

    def _is_of_another(self, topic_id: bytes) -> bool:
        return self._asked_id != ZERO_TOPIC_ID and topic_id not in (ZERO_TOPIC_ID, self._asked_id)


def _decoded(encoded: bytes | None) -> CommittedOffset:
    if encoded is None:
        return _NONE_COMMITTED
    try:
        return CommittedOffset.decode(encoded)
    except MalformedMessage:
        return _NONE_COMMITTED  # a damaged record is no offset; loading counted it
