"""The settings that Kafka does not have: where data is, what an acknowledgement means, sizes of the storage.

The one place where they are named, typed, bounded and explained; docs and DescribeConfigs read it. They are set
like Kafka's: in the config file, by `--set`, or in the environment (BYTEMQ_WAL_FILE_BYTES for wal.file.bytes,
BYTEMQ_DATA_DIR for bytemq.data.dir).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from bytemq.config.values import ConfigType
from bytemq.types import Role

_KIB = 1024
_MIB = 1024 * _KIB

DEFAULTS_HERE = {
    # Without authentication a node listens to its own machine only, until someone says otherwise.
    "listeners": "PLAINTEXT://127.0.0.1:9092",
    # Fail-over is a change of metadata, not a copy of data: there is no reason to wait longer.
    "broker.session.timeout.ms": "3000",
}
"""Kafka's configs with another default here."""


@dataclass(frozen=True, slots=True)
class OwnSetting:
    name: str
    config_type: ConfigType
    default: str
    documentation: str
    validator: Mapping[str, Any] | None = None
    synonyms: tuple[tuple[str, int], ...] = ()


class OwnSettings:
    """bytemq's own settings as attributes: dots become underscores."""

    bytemq_capacity: int
    bytemq_data_dir: str
    bytemq_drained: bool
    bytemq_durability: str
    bytemq_http_hosts: tuple[str, ...]
    bytemq_http_listen: str
    bytemq_iceberg_access_key_id: str
    bytemq_iceberg_secret_access_key: str
    bytemq_log_format: str
    bytemq_log_level: str
    bytemq_decompression_memory_bytes: int
    bytemq_metadata: str
    bytemq_node_id_auto: bool
    bytemq_request_memory_bytes: int
    bytemq_response_memory_bytes: int
    bytemq_roles: tuple[str, ...]
    bytemq_scratch_dir: str
    bytemq_zone_networks: tuple[str, ...]
    bytemq_storage: str
    bytemq_sql_concurrent: int
    bytemq_sql_max_rows: int
    bytemq_sql_memory_bytes: int
    bytemq_sql_scratch_bytes: int
    bytemq_sql_timeout_ms: int
    bytemq_table_after_ms: int
    bytemq_table_cache_bytes: int
    bytemq_table_codec: str
    bytemq_table_codec_level: int
    bytemq_table_enable: bool
    bytemq_table_grace_ms: int
    bytemq_table_key_format: str
    bytemq_table_min_bytes: int
    bytemq_table_row_group_bytes: int
    bytemq_table_target_file_bytes: int
    bytemq_table_value_format: str
    bytemq_validate_records: bool
    storage_cache_bytes: int
    storage_chunk_bytes: int
    storage_garbage_grace_ms: int
    storage_open_files: int
    storage_pool_late_ms: int
    storage_reserve_bytes: int
    storage_retry_delay_ms: int
    storage_scratch_bytes: int
    storage_segment_bytes: int
    storage_snapshot_inline_bytes: int
    storage_upkeep_interval_ms: int
    wal_file_bytes: int
    wal_flush_bytes: int
    wal_flush_in_flight: int
    wal_flush_interval_ms: int
    wal_inline_bytes: int
    wal_memory_bytes: int
    wal_retained_bytes: int
    wal_retained_flushes: int
    wal_sync_interval_ms: int


class OwnTopicSettings:
    """bytemq's own topic settings."""

    bytemq_table_after_ms: int
    bytemq_table_codec: str
    bytemq_table_codec_level: int
    bytemq_table_enable: bool
    bytemq_table_key_format: str
    bytemq_table_min_bytes: int
    bytemq_table_row_group_bytes: int
    bytemq_table_target_file_bytes: int
    bytemq_table_value_format: str
    bytemq_skip_damage: bool
    bytemq_validate_records: bool
    bytemq_zones: tuple[str, ...]


def _one_of(*values: str) -> Mapping[str, Any]:
    return {"kind": "one_of", "values": list(values)}


def _at_least(least: int) -> Mapping[str, Any]:
    return {"kind": "range", "min": least, "max": None}


def _size(name: str, default: int, least: int, documentation: str) -> OwnSetting:
    return OwnSetting(name, ConfigType.LONG, str(default), documentation, _at_least(least))


_VALIDATE_RECORDS = (
    "Check every record of a produced batch (lengths, offset deltas, headers, count), also inside compressed batches, "
    "and not just the batch's header and CRC-32C. Keys of compacted topics are checked in any case."
)

_TABLE_SETTINGS = (
    OwnSetting(
        "bytemq.table.enable",
        ConfigType.BOOLEAN,
        "true",
        "Turn what is old into Parquet files under tables/TOPIC/, the only copy then, which consumers go on reading. "
        "Never for internal topics.",
    ),
    _size(
        "bytemq.table.after.ms",
        3_600_000,
        1000,
        "When a record is part of the table at the latest; it stays in a segment for a quarter of that at least. An "
        "hour: consumers that are a bit late read segments, which costs least; one partition makes some 40 files a "
        "day, 1,000 partitions one file in two seconds, a matter of milliseconds each. 60000 has data in the table "
        "within a minute.",
    ),
    _size(
        "bytemq.table.min.bytes",
        0,
        0,
        "Less than this in segments waits for more. 0: age alone decides. A topic of 1,000 quiet partitions may want "
        "16777216, so that no small files are made to be merged later.",
    ),
    _size(
        "bytemq.table.target.file.bytes",
        128 * _MIB,
        _MIB,
        "Size up to which Parquet files are merged: what engines like to read, and what one merge rewrites at most.",
    ),
    OwnSetting(
        "bytemq.table.row.group.bytes",
        ConfigType.LONG,
        str(32 * _MIB),
        "Bytes of records in a row group, before compression. A consumer that reads history waits for one to be "
        "restored (about 0.2 s at this size), a worker holds a few in memory; larger ones prune less well.",
        {"kind": "range", "min": 64 * _KIB, "max": 128 * _MIB},
    ),
    OwnSetting(
        "bytemq.table.codec",
        ConfigType.STRING,
        "zstd",
        "Compression of the Parquet files.",
        _one_of("zstd", "snappy", "lz4", "none"),
    ),
    OwnSetting(
        "bytemq.table.codec.level",
        ConfigType.INT,
        "8",
        "Of zstd. Files of less than a thirty-second of the target size, which are merged soon, and what is late in "
        "its table have 3 at most. 3 for all makes conversion three times as fast, and files of JSON a sixth larger; "
        "see decision 100.",
        {"kind": "range", "min": 1, "max": 22},
    ),
    OwnSetting(
        "bytemq.table.value.format",
        ConfigType.STRING,
        "raw",
        "What values are, beside bytes: string adds a column of text, json columns for what is in the documents. It "
        "holds for what becomes part of the table from now on, and for SQL over what is not yet.",
        _one_of("raw", "string", "json"),
    ),
    OwnSetting(
        "bytemq.table.key.format",
        ConfigType.STRING,
        "raw",
        "As bytemq.table.value.format, of keys; their columns begin with key_.",
        _one_of("raw", "string", "json"),
    ),
)

OWN_BROKER_SETTINGS = (
    OwnSetting(
        "bytemq.data.dir",
        ConfigType.STRING,
        "data",
        "Folder of the node's files. Kafka's log.dirs (its first entry) and log.dir are taken where this is not set.",
        {"kind": "non_empty"},
    ),
    _size(
        "bytemq.capacity",
        100,
        1,
        "How much of the cluster's load this broker is to carry, relative to others: with 200 twice as much as one "
        "with 100.",
    ),
    OwnSetting(
        "bytemq.drained",
        ConfigType.BOOLEAN,
        "false",
        "Whether the controller moves everything off this broker, and nothing onto it: set for maintenance by "
        "`bytemq cluster drain`.",
    ),
    OwnSetting(
        "bytemq.zone.networks",
        ConfigType.LIST,
        "",
        "Which networks are in which zone, as ZONE=NETWORK (a=10.0.0.0/20,b=10.0.16.0/20): producers are told apart by "
        "it, and a partition whose records mostly come from one zone goes to a broker there if the load allows.",
    ),
    OwnSetting(
        "bytemq.durability",
        ConfigType.STRING,
        "fsync",
        "What an acknowledgement means: fsync, the record is on the device; page-cache, it is in the kernel, which is "
        "what Kafka promises of one replica.",
        _one_of("fsync", "page-cache"),
    ),
    OwnSetting(
        "bytemq.http.hosts",
        ConfigType.LIST,
        "",
        "Names by which HTTP clients may call this node in their Host header, besides addresses, localhost, the name "
        "of the machine and the hosts of bytemq.http.listen and of advertised listeners; * for any. It keeps out web "
        "pages that point a name of theirs here.",
    ),
    OwnSetting(
        "bytemq.http.listen",
        ConfigType.STRING,
        "127.0.0.1:9464",
        "HOST:PORT of metrics, health, SQL and the Iceberg catalog over HTTP, which knows no users; empty for none.",
    ),
    OwnSetting(
        "bytemq.iceberg.access.key.id",
        ConfigType.STRING,
        "",
        "S3 access key that the Iceberg catalog gives to everybody who reaches it, so that engines read tables by its "
        "URL alone; it should be good for reading PREFIX/tables and PREFIX/iceberg and nothing else. Empty: engines "
        "bring their own.",
    ),
    OwnSetting(
        "bytemq.iceberg.secret.access.key", ConfigType.PASSWORD, "", "The secret of bytemq.iceberg.access.key.id."
    ),
    OwnSetting(
        "bytemq.log.format",
        ConfigType.STRING,
        "logfmt",
        "How the node writes its own log: logfmt or json, one line an event.",
        _one_of("logfmt", "json"),
    ),
    OwnSetting(
        "bytemq.log.level",
        ConfigType.STRING,
        "info",
        "Level of the node's own log; changed at run time by `bytemq log-level` or as a broker logger.",
        _one_of("debug", "info", "warn", "warning", "error"),
    ),
    OwnSetting(
        "bytemq.metadata",
        ConfigType.STRING,
        "",
        "Where the cluster's metadata are: etcd://HOST:PORT[,HOST:PORT]/PREFIX, or etcds:// over TLS; empty for a "
        "cluster of one node, whose metadata are in its data folder. ETCDCTL_USER, _PASSWORD, _CACERT, _CERT and _KEY "
        "say what the address does not.",
    ),
    OwnSetting(
        "bytemq.node.id.auto",
        ConfigType.BOOLEAN,
        "false",
        "Claim the lowest broker id that no live broker has, whatever node.id says.",
    ),
    _size(
        "bytemq.request.memory.bytes", 256 * _MIB, _MIB, "Most memory of requests being received and not yet answered."
    ),
    _size(
        "bytemq.decompression.memory.bytes",
        256 * _MIB,
        _MIB,
        "Most memory of batches being opened: to check their records, to compress them otherwise, to find a timestamp.",
    ),
    _size("bytemq.response.memory.bytes", 256 * _MIB, _MIB, "Most memory of responses that clients have not read yet."),
    OwnSetting(
        "bytemq.roles",
        ConfigType.LIST,
        ",".join(Role),
        "What this broker of a cluster does: write (it owns partitions), read (it serves consumers from partitions "
        "that others own), coordinate (it owns what coordinates groups and transactions), control (it may be the "
        "controller).",
        {"kind": "list", "values": list(Role), "empty": False, "null": False},
    ),
    OwnSetting(
        "bytemq.scratch.dir",
        ConfigType.STRING,
        "",
        "Folder for what may be lost at any time; empty: bytemq.data.dir.",
    ),
    OwnSetting(
        "bytemq.storage",
        ConfigType.STRING,
        "",
        "Where records are kept: s3://BUCKET/PREFIX (endpoint, region and credentials by the usual AWS variables), "
        "file:///FOLDER on a mount that all brokers share, or any URL that fsspec knows; empty for bytemq.data.dir.",
    ),
    _size("bytemq.sql.concurrent", 4, 1, "Most SQL queries at the same time; each has a process of its own."),
    _size("bytemq.sql.max.rows", 10_000_000, 1, "Most rows of one query's result."),
    _size(
        "bytemq.sql.memory.bytes", 512 * _MIB, 64 * _MIB, "Most memory of one query; what needs more goes to scratch."
    ),
    _size("bytemq.sql.scratch.bytes", 4096 * _MIB, _MIB, "Most space in scratch that one query may take."),
    _size("bytemq.sql.timeout.ms", 60_000, 100, "A query that has not ended by then is killed."),
    _size(
        "bytemq.table.cache.bytes",
        256 * _MIB,
        _MIB,
        "Scratch space for parts of Parquet files that consumers are reading, as segments again.",
    ),
    _size(
        "bytemq.table.grace.ms",
        300_000,
        0,
        "How long a Parquet file that was merged or has expired stays for those who still read it.",
    ),
    *_TABLE_SETTINGS,
    OwnSetting("bytemq.validate.records", ConfigType.BOOLEAN, "false", _VALIDATE_RECORDS),
    _size("storage.cache.bytes", 256 * _MIB, 8 * _MIB, "With bytemq.storage: memory for what was read from it."),
    _size("storage.chunk.bytes", 64 * _KIB, 4 * _KIB, "Distance of the entries in a segment's sparse index."),
    _size(
        "storage.garbage.grace.ms",
        600_000,
        0,
        "With bytemq.storage: how long objects that are part of nothing any more are kept for readers.",
    ),
    _size("storage.open.files", 1024, 16, "Most segment files kept open."),
    _size(
        "storage.pool.late.ms",
        1000,
        50,
        "With pools: a write that takes longer, and 250 ms longer for each MiB of it, tells against its store; after "
        "twice that without an answer, what is new goes to another one.",
    ),
    _size(
        "storage.reserve.bytes",
        16 * _MIB,
        0,
        "Space held back so that a full disk still lets the node write behind and delete.",
    ),
    _size("storage.retry.delay.ms", 200, 1, "How long the storage refuses appends after a failed write."),
    _size(
        "storage.scratch.bytes",
        2048 * _MIB,
        0,
        "With bytemq.storage: disk space for what storage.cache.bytes has no room for; it may be lost at any time. "
        "0: none.",
    ),
    _size(
        "storage.segment.bytes",
        64 * _MIB,
        64 * _KIB,
        "Size at which segments are sealed, if segment.bytes is not less.",
    ),
    _size("storage.snapshot.inline.bytes", 8 * _KIB, 0, "Producer snapshots above this are objects of their own."),
    _size(
        "storage.upkeep.interval.ms",
        5_000,
        100,
        "With bytemq.storage: how often logs that were taken over are written behind, and garbage is looked for.",
    ),
    _size("wal.file.bytes", 64 * _MIB, _MIB, "Size of one preallocated file of the write-ahead log."),
    _size("wal.flush.bytes", 8 * _MIB, 4 * _KIB, "Most bytes of batches in one flush."),
    OwnSetting(
        "wal.flush.in.flight",
        ConfigType.LONG,
        "8",
        "With bytemq.storage: most flushes on their way at the same time. At most 16.",
        {"kind": "range", "min": 1, "max": 16},
    ),
    _size(
        "wal.flush.interval.ms",
        100,
        0,
        "With bytemq.storage: a flush of clients' records that is not full starts no sooner than this after the one "
        "before it. Where nothing is set and the storage is a folder (file://): 5.",
    ),
    _size(
        "wal.inline.bytes",
        1 * _MIB,
        0,
        "With page-cache durability, flushes up to this are written on the event loop, as long as that is quick.",
    ),
    _size(
        "wal.memory.bytes",
        512 * _MIB,
        8 * _MIB,
        "With bytemq.storage: how much of the newest part of the write-ahead log is kept in memory for consumers.",
    ),
    _size("wal.retained.bytes", 1024 * _MIB, _MIB, "Write-behind to segments keeps the write-ahead log below this."),
    _size(
        "wal.retained.flushes",
        4096,
        64,
        "With bytemq.storage: write-behind also keeps the number of objects of the write-ahead log below this.",
    ),
    _size("wal.sync.interval.ms", 1000, 1, "With page-cache durability: how often files are synced in the background."),
)

OWN_TOPIC_SETTINGS = (
    *(replace(setting, synonyms=((setting.name, 1),)) for setting in _TABLE_SETTINGS),
    OwnSetting(
        "bytemq.zones",
        ConfigType.LIST,
        "",
        "Zones whose brokers may own the topic's partitions, for as long as any of them lives; empty: all.",
    ),
    OwnSetting(
        "bytemq.skip.damage",
        ConfigType.BOOLEAN,
        "false",
        "Of __consumer_offsets and __transaction_state: whether coordinators go on without records whose stored bytes "
        "are damaged. false: a partition with damage refuses its groups or transactional ids until it is mended.",
    ),
    OwnSetting(
        "bytemq.validate.records",
        ConfigType.BOOLEAN,
        "false",
        _VALIDATE_RECORDS,
        synonyms=(("bytemq.validate.records", 1),),
    ),
)
