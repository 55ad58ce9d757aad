"""What decides how a Parquet file is written."""

from __future__ import annotations

from typing import NamedTuple

from bytemq.protocol.records.compression import MOST_DECOMPRESSED_BYTES
from bytemq.storage.tables.table_file import CODEC_LEVEL, Codec


class ParquetSettings(NamedTuple):
    row_group_bytes: int = 32 * 1024 * 1024
    """Of columns before compression. A row group is restored at once, so this is what a consumer waits for and a
    worker holds."""
    codec: Codec = "zstd"
    codec_level: int = CODEC_LEVEL
    """Of zstd; other codecs have none."""
    page_bytes: int = 1024 * 1024
    max_decompressed_bytes: int = MOST_DECOMPRESSED_BYTES
    """Batches that are larger decompressed, or as columns, are kept as they are."""
    typed_bytes: int = 96 * 1024 * 1024
    """Of the typed columns of a row group: where documents are small and have few of many fields, those are fifty times
    the documents. Of others a row group is never as much."""
