"""Topics as queries see them: cut at one moment, whoever owns their partitions, and read as they were cut.

Owns: what is visible to SQL, and where it can be read. Must not: know SQL, or open files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from bytemq.broker.log.reading import READ_COMMITTED
from bytemq.broker.whole_topics import Readable, WholeTopics
from bytemq.errors import Invalid, NotFound, Unavailable
from bytemq.metadata.image import ClusterImage
from bytemq.metadata.topic_names import INTERNAL_TOPICS
from bytemq.protocol.error_codes import ErrorCode
from bytemq.query.cuts import Overtaken, PartitionCut, TopicCut, cut_of
from bytemq.query.queries import READ_BYTES
from bytemq.query.signed_urls import SignedUrls
from bytemq.storage.manifests.manifest import cleaned_end, tables_end
from bytemq.storage.segments.batch_walk import walk
from bytemq.storage.tables.published_columns import ColumnStore
from bytemq.storage.tables.table_columns import Formats, Seen, TableColumns
from bytemq.types import TopicId

READ_ATTEMPTS = 3


class QueriedTopics:
    """Implements `query.queries.Topics`."""

    def __init__(
        self,
        whole: WholeTopics,
        image: Callable[[], ClusterImage],
        formats: Callable[[str], Formats],
        columns: ColumnStore,
        signed: SignedUrls | None,
    ) -> None:
        """`formats`: what the records of a topic are declared to be. `signed`: None where Parquet files are in a folder
        of this machine, or no URLs can be had.
        """
        self._whole = whole
        self._image = image
        self._formats = formats
        self._column_store = columns
        self._signed = signed

    async def cut(self, names: Sequence[str]) -> dict[str, TopicCut]:
        topics = await self._whole.at_hand([name for name in names if name not in INTERNAL_TOPICS])
        return {name: TopicCut(_topic_id(found[0]), list(map(_cut, found))) for name, found in topics.items()}

    async def urls(self, files: Sequence[str]) -> Sequence[str]:
        if self._signed is None:
            raise Invalid("SQL cannot read Parquet files from this storage")
        return await self._signed.of(files)

    async def columns(self, name: str, topic_id: TopicId, seen: Mapping[str, Seen]) -> tuple[TableColumns, Formats]:
        self._check_still_there(name, topic_id)
        formats = self._formats(name)
        wanted = {root: what for root, what in seen.items() if getattr(formats, root) != "raw"}
        return await self._column_store.grow(name, topic_id, wanted), formats

    async def read(
        self, name: str, topic_id: TopicId, partition: int, offset: int, end: int
    ) -> tuple[Sequence[bytes | memoryview], int]:
        problem = "it is between two brokers"
        for _ in range(READ_ATTEMPTS):
            self._check_still_there(name, topic_id)
            found = self._whole.partition(name, partition)
            if found is not None and found.last_stable_offset >= end:
                part = await _part(found, name, offset, end)
                if not isinstance(part, str):
                    return part
                problem = part
            await self._whole.at_hand([name])  # it has moved since the cut, and has all of it where it is now
        raise Unavailable(f"partition {partition} of {name} cannot be read: {problem}")

    def _check_still_there(self, name: str, topic_id: TopicId) -> None:
        """Raises NotFound."""
        topic = self._image().topics.get(name)
        if topic is None or topic.topic_id != topic_id:
            raise NotFound(f"{name} was deleted while the query ran")


def _topic_id(partition: Readable) -> TopicId:
    return partition.files.partition.topic_id


async def _part(found: Readable, name: str, offset: int, end: int) -> tuple[Sequence[bytes | memoryview], int] | str:
    """As `QueriedTopics.read`, of what is at hand; or why it cannot be read as it is."""
    stable_offset = found.last_stable_offset
    fetched = await found.read(offset, READ_BYTES, isolation=READ_COMMITTED)
    if fetched.error is ErrorCode.OFFSET_OUT_OF_RANGE:
        raise Overtaken(f"records of {name} expire faster than the query reads them; try again")
    if fetched.error is not ErrorCode.NONE:
        return fetched.error.name
    segments = found.files.manifest.segments
    if cleaned_end(segments, 0) > end:  # what superseded records is not in the cut
        raise Overtaken(f"records of {name} are compacted faster than the query reads them; try again")
    if fetched.buffers:
        *_, last = walk(memoryview(fetched.buffers[-1]), verify=False)
        return fetched.buffers, last.last_offset + 1
    # Batches of a table are cut anew, and may reach beyond what is known here: such a one is not read.
    if tables_end(segments) > stable_offset:
        return "its table is further than is known here"
    return (), end  # compacted away


def _cut(partition: Readable) -> PartitionCut:
    files = partition.files
    start = max(partition.log_start_offset, files.log_start_offset)
    return cut_of(files, start, partition.last_stable_offset, partition.aborted_transactions)
