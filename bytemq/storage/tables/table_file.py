"""Files of kind PARQUET as a manifest tells of them. Pure.

Owns: their names, and what `SegmentInfo.details` says of them. Must not: read them (workers do), or know companions'
bytes.

    tables/TOPIC/TOPIC_ID/PARTITION/BASE-SESSION-NUMBER.parquet
        under the topic's name, so that people find it, and its id, so that another topic of that name has another
        folder
    topics/TOPIC_ID/PARTITION/BASE-SESSION-NUMBER.companion
        with the other files of the partition
    iceberg/TOPIC/TOPIC_ID/NUMBER-SESSION-...
        metadata of Iceberg: not under tables/, where whoever reads a whole folder as Parquet would find them
"""

from __future__ import annotations

import struct
from typing import Literal, NamedTuple

from bytemq.errors import Corrupt
from bytemq.storage.manifests.manifest import FileKind, SegmentInfo
from bytemq.storage.pools.names import plain_name
from bytemq.storage.tables.companion import SUFFIX as COMPANION_SUFFIX
from bytemq.types import PartitionId, TopicId, format_topic_id, parse_topic_id

TABLES = "tables/"
ICEBERG = "iceberg/"
PUBLIC = (TABLES, ICEBERG)
"""Folders of what programs read that we know nothing of."""
SUFFIX = ".parquet"

Codec = Literal["zstd", "snappy", "lz4", "none"]
CODEC_LEVEL = 8
"""Of zstd, unless a topic wants another one (decision 100)."""
_DETAILS_V1 = struct.Struct("<BQQI")
_DETAILS = struct.Struct("<BQQIQQQ")
_VERSION = 2
"""Version 1 knew no typed columns; it is still read."""


class TableFile(NamedTuple):
    """What is to be known of a Parquet file beside `SegmentInfo`, whose `size_bytes` are those of both objects."""

    companion: str
    records: int
    """Rows: the committed records that it holds."""
    parquet_bytes: int
    kept_raw: int
    """Batches that are in the companion because their records cannot be columns."""
    invalid: int = 0
    """Keys and values that are not of the declared format."""
    left_out: int = 0
    """Values within them that have no column."""
    retyped: int = 0
    """Values that are in a column of their own, because their field had another type before."""


class NewNames(NamedTuple):
    parquet: str
    companion: str


def new_names(topic: str, partition: PartitionId, base_offset: int, mark: str) -> NewNames:
    """`mark`: see `object_names`."""
    stem = f"{base_offset:020d}-{mark}"
    return NewNames(
        f"{partition_folder(topic, partition)}{stem}{SUFFIX}",
        f"topics/{format_topic_id(partition.topic_id)}/{partition.index}/{stem}{COMPANION_SUFFIX}",
    )


def partition_folder(topic: str, partition: PartitionId) -> str:
    """Where the Parquet files of a partition are, with a "/" at the end."""
    return f"{folder_of(topic, partition.topic_id)}{partition.index}/"


def folder_of(topic: str, topic_id: bytes) -> str:
    """Where all Parquet files of a topic are, with a "/" at the end."""
    return f"{TABLES}{topic}/{format_topic_id(topic_id)}/"


def iceberg_folder_of(topic: str, topic_id: bytes) -> str:
    """Where the metadata of the topic as an Iceberg table are, with a "/" at the end."""
    return f"{ICEBERG}{topic}/{format_topic_id(topic_id)}/"


class IcebergObject(NamedTuple):
    folder: str
    topic_id: TopicId
    number: int
    """Its session numbers what it makes: the metadata of one snapshot have one number."""


def iceberg_stem(number: int, session_id: int) -> str:
    """What the names of one snapshot's metadata begin with, in the folder of the table."""
    return f"{number:08d}-{session_id:x}-i"


def iceberg_metadata_of(name: str) -> IcebergObject | None:
    """None of an object that is something else."""
    folder, _, stem = plain_name(name).rpartition("/")
    if not folder.startswith(ICEBERG):
        return None
    try:
        return IcebergObject(folder, parse_topic_id(folder.rpartition("/")[2]), int(stem.partition("-")[0]))
    except ValueError:
        return None


def partition_folder_of(name: str) -> str:
    """The folder under topics/ of the partition that an object belongs to; Parquet files themselves are elsewhere."""
    plain = plain_name(name)
    if not plain.startswith(TABLES):
        return plain[: plain.rfind("/") + 1]
    parts = plain.split("/")
    return f"topics/{'/'.join(parts[2:4])}/"


def encode_details(table: TableFile) -> bytes:
    return _DETAILS.pack(_VERSION, *table[1:]) + table.companion.encode()


def table_file(info: SegmentInfo) -> TableFile:
    """Raises Corrupt."""
    form = _DETAILS_V1 if info.details[:1] == b"\x01" else _DETAILS
    try:
        version, *numbers = form.unpack_from(info.details)
        companion = info.details[form.size :].decode()
    except (struct.error, UnicodeDecodeError) as error:
        raise Corrupt(f"what the manifest says of {info.name} makes no sense: {error}") from error
    if not 1 <= version <= _VERSION:
        raise Corrupt(f"{info.name} is described in version {version}; this program reads versions 1 to {_VERSION}")
    return TableFile(companion, *numbers)


def objects_of(info: SegmentInfo) -> list[str]:
    """Every object that this file of a log consists of."""
    if info.kind is not FileKind.PARQUET:
        return [info.name]
    return [info.name, table_file(info).companion]
