"""Where the typed columns of tables are kept: one value in the metadata store for each topic.

Owns: reading it, and its growth. Must not: know how columns grow (`table_columns` does), or publish files: whoever does
lets the columns that a file needs change in the same transaction.

The value is there for as long as the topic's logs are. Columns are only ever added, so whoever reads the value after it
has learnt of a file knows all columns of the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from bytemq.errors import NotFound, Unavailable
from bytemq.metadata import keys
from bytemq.metadata.store import Compare, MetadataStore, Put
from bytemq.metadata.values import decode_topic
from bytemq.storage.tables.table_columns import Seen, TableColumns, decode_columns, encode_columns, grown
from bytemq.types import TopicId

ATTEMPTS = 10


class ColumnsChanged(Unavailable):
    """Somebody else gave the table columns meanwhile, so those of a file may not be the table's: make it again."""


class PublishedColumns(NamedTuple):
    columns: TableColumns
    revision: int
    """Of the value; 0: there is none yet."""


class ColumnChange(NamedTuple):
    """The columns that a file needs, as part of the transaction that publishes it."""

    compare: Compare
    put: Put


class ColumnStore:
    def __init__(self, metadata: MetadataStore) -> None:
        self._metadata = metadata

    async def get(self, topic_id: TopicId) -> PublishedColumns:
        """Raises Unavailable, Corrupt."""
        entry = await self._metadata.get(keys.table_columns(topic_id))
        if entry is None:
            return PublishedColumns(TableColumns(), 0)
        return PublishedColumns(decode_columns(entry.value), entry.revision)

    async def grow(self, topic: str, topic_id: TopicId, seen: Mapping[str, Seen]) -> TableColumns:
        """With columns for what was seen. Raises Unavailable, NotFound for a topic that is gone."""
        for _ in range(ATTEMPTS):
            known = await self.get(topic_id)
            columns = grown(known.columns, seen)
            if columns == known.columns:
                return columns
            owner = await self._metadata.get(keys.topic(topic))
            if owner is None or decode_topic(owner.value).topic_id != topic_id:
                raise NotFound(f"{topic} was deleted")
            compare, put = change_of(topic_id, known, columns)
            # The topic is compared, so that nothing is left of a table whose topic is deleted meanwhile.
            outcome = await self._metadata.txn([compare, Compare(owner.key, owner.revision)], [put])
            if outcome.succeeded:
                return columns
        raise Unavailable(f"the columns of {topic} change all the time")


def change_of(topic_id: TopicId, known: PublishedColumns, columns: TableColumns) -> ColumnChange:
    """From what is known to `columns`."""
    key = keys.table_columns(topic_id)
    return ColumnChange(Compare(key, known.revision), Put(key, encode_columns(columns)))
