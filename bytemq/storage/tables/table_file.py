"""Files of kind PARQUET as a manifest tells of them. Pure.

Owns: their names, and what `SegmentInfo.details` says of them. Must not: read them (workers do), or know companions'
bytes.

    tables/TOPIC/TOPIC_ID/PARTITION/BASE-SESSION-NUMBER.parquet
        under the topic's name, so that people find it, and its id, so that another topic of that name has another
        folder
    topics/TOPIC_ID/PARTITION/BASE-SESSION-NUMBER.companion
        with the other files of the partition
"""

from __future__ import annotations

import struct
from typing import Literal, NamedTuple

from bytemq.errors import Corrupt
from bytemq.storage.manifests.manifest import FileKind, SegmentInfo
from bytemq.storage.tables.companion import SUFFIX as COMPANION_SUFFIX
from bytemq.types import PartitionId, format_topic_id

TABLES = "tables/"
SUFFIX = ".parquet"

Codec = Literal["zstd", "snappy", "lz4", "none"]
_DETAILS = struct.Struct("<BQQI")
_VERSION = 1


class TableFile(NamedTuple):
    """What is to be known of a Parquet file beside `SegmentInfo`, whose `size_bytes` are those of both objects."""

    companion: str
    records: int
    """Rows: the committed records that it holds."""
    parquet_bytes: int
    kept_raw: int
    """Batches that are in the companion because their records cannot be columns."""


class NewNames(NamedTuple):
    parquet: str
    companion: str


def new_names(topic: str, partition: PartitionId, base_offset: int, session_id: int, number: int) -> NewNames:
    """Names that nobody else uses: a session numbers what it makes."""
    topic_id = format_topic_id(partition.topic_id)
    stem = f"{base_offset:020d}-{session_id:x}-t{number:x}"
    return NewNames(
        f"{TABLES}{topic}/{topic_id}/{partition.index}/{stem}{SUFFIX}",
        f"topics/{topic_id}/{partition.index}/{stem}{COMPANION_SUFFIX}",
    )


def folder_of(topic: str, topic_id: bytes) -> str:
    """Where all Parquet files of a topic are, with a "/" at the end."""
    return f"{TABLES}{topic}/{format_topic_id(topic_id)}/"


def partition_folder_of(name: str) -> str:
    """The folder under topics/ of the partition that an object belongs to; Parquet files themselves are elsewhere."""
    if not name.startswith(TABLES):
        return name[: name.rfind("/") + 1]
    parts = name.split("/")
    return f"topics/{'/'.join(parts[2:4])}/"


def encode_details(table: TableFile) -> bytes:
    return _DETAILS.pack(_VERSION, table.records, table.parquet_bytes, table.kept_raw) + table.companion.encode()


def table_file(info: SegmentInfo) -> TableFile:
    """Raises Corrupt."""
    try:
        version, records, parquet_bytes, kept_raw = _DETAILS.unpack_from(info.details)
        companion = info.details[_DETAILS.size :].decode()
    except (struct.error, UnicodeDecodeError) as error:
        raise Corrupt(f"what the manifest says of {info.name} makes no sense: {error}") from error
    if version != _VERSION:
        raise Corrupt(f"{info.name} is described in version {version}; this program reads version {_VERSION}")
    return TableFile(companion, records, parquet_bytes, kept_raw)


def objects_of(info: SegmentInfo) -> list[str]:
    """Every object that this file of a log consists of."""
    if info.kind is not FileKind.PARQUET:
        return [info.name]
    return [info.name, table_file(info).companion]
