"""What a topic's config asks of a batch before it may be appended. Pure.

Kafka's LogValidator and the checks of UnifiedLog.append, as far as a batch header shows them; whether a batch must
also be opened (keys of a compacted topic, age of every record, another compression type) is decided here and done in
`conversion`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Final, NamedTuple

from bytemq.config import TopicConfig
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.protocol.records.batch import CODEC_MASK, NO_TIMESTAMP, RecordBatch
from bytemq.protocol.records.compression import MOST_DECOMPRESSED_BYTES, Compression

KEEP_COMPRESSION: Final = -1
"""compression.type=producer: batches stay as they were sent."""

NOT_PLAIN: Final = -1
"""For `plain_bytes`: more is asked of any batch."""

_GZIP_DEFAULT_LEVEL: Final = -1
_ANY_AGE_MS: Final = (1 << 63) - 1
"""message.timestamp.before.max.ms by default."""
_ANY_RECORD_BYTES: Final = MOST_DECOMPRESSED_BYTES
"""No batch that is opened holds a record that is larger."""

_LEVELS: Final[dict[int, Callable[[TopicConfig], int | None]]] = {
    Compression.GZIP: lambda config: (
        None if config.compression_gzip_level == _GZIP_DEFAULT_LEVEL else config.compression_gzip_level
    ),
    Compression.LZ4: lambda config: config.compression_lz4_level,
    Compression.ZSTD: lambda config: config.compression_zstd_level,
}


class AppendRules(NamedTuple):
    """The part of a topic's config that every append consults. Sizes in bytes, times in ms."""

    max_message_bytes: int
    segment_bytes: int
    log_append_time: bool
    timestamp_before_max_ms: int
    timestamp_after_max_ms: int
    compression: int
    compression_level: int | None
    requires_keys: bool
    max_decompressed_record_bytes: int
    """Of each record of a compressed batch."""
    walks_records: bool
    limits_records: bool
    plain_bytes: int
    """Up to this size a batch is appended as it is once its header, checksum and newest timestamp were looked at."""

    @classmethod
    def of(cls, config: TopicConfig) -> AppendRules:
        target = config.target_compression
        compression = KEEP_COMPRESSION if target is None else target
        level_of = _LEVELS.get(compression)
        # A header has the first timestamp and the largest: the smallest may be that of any record.
        limits_age = not config.uses_log_append_time and config.message_timestamp_before_max_ms < _ANY_AGE_MS
        walks_records = config.bytemq_validate_records or config.is_compacted or limits_age
        limits_records = config.max_decompressed_message_bytes < _ANY_RECORD_BYTES
        is_plain = not (walks_records or limits_records or config.uses_log_append_time or target is not None)
        return cls(
            max_message_bytes=config.max_message_bytes,
            segment_bytes=config.segment_bytes,
            log_append_time=config.uses_log_append_time,
            timestamp_before_max_ms=config.message_timestamp_before_max_ms,
            timestamp_after_max_ms=config.message_timestamp_after_max_ms,
            compression=compression,
            compression_level=None if level_of is None else level_of(config),
            requires_keys=config.is_compacted,
            max_decompressed_record_bytes=config.max_decompressed_message_bytes,
            walks_records=walks_records,
            limits_records=limits_records,
            plain_bytes=min(config.max_message_bytes, config.segment_bytes) if is_plain else NOT_PLAIN,
        )

    def for_internal_topics(self) -> AppendRules:
        """Of what coordinators write, each batch is looked at more closely."""
        return self._replace(plain_bytes=NOT_PLAIN)

    def shared(self) -> AppendRules:
        """One object for all that are equal: ten thousand partitions of a topic have the same."""
        return _shared(self)

    def check_size(self, batch: RecordBatch) -> None:
        """Raise KafkaError 18 for a batch that does not fit a segment."""
        if batch.size_bytes > self.segment_bytes:
            raise KafkaError(
                ErrorCode.RECORD_LIST_TOO_LARGE,
                f"Message batch size is {batch.size_bytes} bytes, which exceeds the maximum configured segment size of "
                f"{self.segment_bytes}.",
            )

    def timestamp_range(self, now_ms: int) -> tuple[int, int]:
        """The oldest and the newest timestamp that are taken."""
        if self.log_append_time:
            return -_ANY_AGE_MS, _ANY_AGE_MS
        return now_ms - self.timestamp_before_max_ms, now_ms + self.timestamp_after_max_ms

    def admits_timestamps(self, oldest_ms: int, newest_ms: int, now_ms: int) -> bool:
        """Whether records between these are neither from too long ago nor too far ahead."""
        if self.log_append_time:
            return True
        is_too_old = oldest_ms < now_ms - self.timestamp_before_max_ms and oldest_ms != NO_TIMESTAMP
        return not is_too_old and newest_ms <= now_ms + self.timestamp_after_max_ms

    def converts(self, batch: RecordBatch) -> bool:
        """Whether it is compressed in another way than the topic wants it."""
        return self.compression not in (KEEP_COMPRESSION, batch.compression)

    def must_open(self, batch: RecordBatch, now_ms: int) -> bool:
        """Whether the records must be read: to check them, to compress them otherwise, to say which are at fault."""
        return (
            self.walks_records
            or (self.compression != KEEP_COMPRESSION and self.compression != batch.attributes & CODEC_MASK)
            or (self.limits_records and batch.attributes & CODEC_MASK != 0)
            or not self.admits_timestamps(batch.base_timestamp, batch.max_timestamp, now_ms)
        )


@lru_cache(256)
def _shared(rules: AppendRules) -> AppendRules:
    return rules
