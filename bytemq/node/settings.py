"""From a broker's configs to the settings of its parts. Pure.

Owns: which config means what to storage, to the listeners and to the addresses that clients are told.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import cast

from bytemq.broker.limits import ServerLimits
from bytemq.broker.server import Listener
from bytemq.broker.zone_networks import ZoneNetworks
from bytemq.compaction.cleaner import CleanerSettings
from bytemq.compaction.table_planner import TableSettings
from bytemq.config import BrokerConfig, InvalidConfig, TopicConfig
from bytemq.config.listeners import parse_endpoint
from bytemq.protocol.records.compression import MOST_DECOMPRESSED_BYTES
from bytemq.query.queries import SqlLimits
from bytemq.storage.settings import MIB, Durability, StorageConfig
from bytemq.storage.tables.table_columns import Formats
from bytemq.storage.tables.table_file import Codec
from bytemq.types import Role

ARROW_BYTES = 128 * MIB
"""What pyarrow takes before it has read anything."""
MOST_SQL_THREADS = 4
"""Of one query, which is there beside the broker, not in place of it."""
FLUSH_INTERVAL_OF_FILES_MS = 5
"""In a folder a flush costs a file and no request that anybody pays for (docs/adr/0085)."""


def storage_config(config: BrokerConfig) -> StorageConfig:
    """Every setting of the storage whose name is a config with the prefix "storage." or "wal.".

    The default interval of flushes is that of object stores, unless records are in a folder.
    """
    found: dict[str, int] = {}
    for field in fields(StorageConfig):
        for attribute in (field.name, f"storage_{field.name}"):
            if attribute in config.__dict__ and attribute.startswith(("wal_", "storage_")):
                found[field.name] = config.__dict__[attribute]
    if config.bytemq_storage.startswith("file:") and "wal.flush.interval.ms" not in config.effective:
        found["wal_flush_interval_ms"] = FLUSH_INTERVAL_OF_FILES_MS
    found["restored_bytes"] = config.bytemq_table_cache_bytes
    found["table_grace_ms"] = config.bytemq_table_grace_ms
    return StorageConfig(**found)


def roles(config: BrokerConfig) -> frozenset[Role]:
    return frozenset(map(Role, config.bytemq_roles))


def store_url(config: BrokerConfig) -> str:
    """Where another process finds the records, as for `by_url.open_store`."""
    return config.bytemq_storage or node_folder(config).resolve().as_uri()


def cleaner_settings(config: BrokerConfig) -> CleanerSettings:
    storage = storage_config(config)
    return CleanerSettings(
        is_enabled=config.log_cleaner_enable and config.log_cleaner_threads > 0,
        backoff_ms=max(config.log_cleaner_backoff_ms, 1),
        map_bytes=max(config.log_cleaner_dedupe_buffer_size, MIB),
        load_factor=min(max(config.log_cleaner_io_buffer_load_factor, 0.1), 0.95),
        segment_bytes=storage.segment_bytes,
        chunk_bytes=storage.chunk_bytes,
    )


def worker_memory_bytes(config: BrokerConfig) -> int:
    """What the worker process may allocate: its table of keys, a segment in memory, and room to work; where there are
    tables, pyarrow.
    """
    settings = cleaner_settings(config)
    return settings.map_bytes + 2 * settings.segment_bytes + 2 * MOST_DECOMPRESSED_BYTES + ARROW_BYTES


def node_folder(config: BrokerConfig) -> Path:
    """The folder that is this node's own: of its data, or, where those are elsewhere, of what may be lost."""
    keeps_nothing = config.bytemq_metadata and config.bytemq_storage
    return Path(config.bytemq_scratch_dir if keeps_nothing and config.bytemq_scratch_dir else config.data_dir)


def table_settings(config: TopicConfig, *, is_internal: bool) -> TableSettings:
    """What of a topic's configs concerns its table."""
    return TableSettings(
        config.bytemq_table_enable and not is_internal,
        config.bytemq_table_after_ms,
        config.bytemq_table_min_bytes,
        config.bytemq_table_target_file_bytes,
        config.bytemq_table_row_group_bytes,
        cast(Codec, config.bytemq_table_codec),
        Formats(config.bytemq_table_value_format, config.bytemq_table_key_format),
        config.bytemq_table_codec_level,
    )


def durability(config: BrokerConfig) -> Durability:
    return "page-cache" if config.bytemq_durability == "page-cache" else "fsync"


def sql_limits(config: BrokerConfig) -> SqlLimits:
    return SqlLimits(
        memory_bytes=config.bytemq_sql_memory_bytes,
        timeout_s=config.bytemq_sql_timeout_ms / 1000,
        max_rows=config.bytemq_sql_max_rows,
        concurrent=config.bytemq_sql_concurrent,
        scratch_bytes=config.bytemq_sql_scratch_bytes,
        threads=min(os.cpu_count() or 1, MOST_SQL_THREADS),
    )


def catalog_credentials(config: BrokerConfig) -> dict[str, str]:
    """What the Iceberg catalog tells everybody, by the names that Iceberg has for it. Raises InvalidConfig."""
    key, secret = config.bytemq_iceberg_access_key_id, config.bytemq_iceberg_secret_access_key
    if bool(key) != bool(secret):
        raise InvalidConfig("bytemq.iceberg.access.key.id and bytemq.iceberg.secret.access.key belong together")
    return {"s3.access-key-id": key, "s3.secret-access-key": secret} if key else {}


def scratch_folder(config: BrokerConfig) -> Path:
    """For what may be lost at any time."""
    return Path(config.bytemq_scratch_dir or config.data_dir)


def server_limits(config: BrokerConfig) -> ServerLimits:
    """Kafka's socket defaults are for its network threads: where nothing is set, ours hold."""
    unset = ServerLimits()
    given = config.effective
    send = "socket.send.buffer.bytes" in given
    receive = "socket.receive.buffer.bytes" in given
    backlog = "socket.listen.backlog.size" in given
    return ServerLimits(
        request_max_bytes=config.socket_request_max_bytes,
        request_memory_bytes=config.bytemq_request_memory_bytes,
        max_connections=config.max_connections,
        max_connections_per_ip=config.max_connections_per_ip,
        max_connections_per_ip_overrides=_overrides(config.max_connections_per_ip_overrides),
        connections_max_idle_s=config.connections_max_idle_ms / 1000,
        zone_networks=ZoneNetworks(config.bytemq_zone_networks),
        listen_backlog=config.socket_listen_backlog_size if backlog else unset.listen_backlog,
        socket_send_buffer_bytes=config.socket_send_buffer_bytes if send else unset.socket_send_buffer_bytes,
        socket_receive_buffer_bytes=(
            config.socket_receive_buffer_bytes if receive else unset.socket_receive_buffer_bytes
        ),
    )


def listeners(config: BrokerConfig) -> list[Listener]:
    """Where to listen. Raises InvalidConfig."""
    return [Listener(endpoint.listener, endpoint.host, endpoint.port) for endpoint in config.endpoints]


def advertised(
    config: BrokerConfig, bound: Mapping[str, tuple[str, int]], host_name: str
) -> dict[str, tuple[str, int]]:
    """What clients are told of each listener. `bound`: the address of each socket, whose port fills a port 0.

    A listener on all interfaces that is not advertised otherwise is told by the name of this machine, as in Kafka.
    """
    addresses: dict[str, tuple[str, int]] = {}
    for endpoint in config.advertised_endpoints:
        host = host_name if endpoint.is_any_address else endpoint.host
        addresses[endpoint.listener] = (host, endpoint.port or bound[endpoint.listener][1])
    return addresses


def inter_broker_listener(config: BrokerConfig) -> str:
    """The listener whose addresses brokers use among themselves. Raises InvalidConfig."""
    names = [endpoint.listener for endpoint in config.endpoints]
    wanted = (config.inter_broker_listener_name or names[0]).upper()
    if wanted not in names:
        raise InvalidConfig(
            f"inter.broker.listener.name must be a listener name; {wanted} is none of {','.join(names)}"
        )
    return wanted


def http_address(config: BrokerConfig) -> tuple[str, int] | None:
    """Host and port of metrics and health; None where they are not wanted. Raises InvalidConfig."""
    if not config.bytemq_http_listen:
        return None
    endpoint = parse_endpoint(config.bytemq_http_listen, setting="bytemq.http.listen")
    return endpoint.host, endpoint.port


def http_names(config: BrokerConfig, host_name: str) -> frozenset[str]:
    """Names that HTTP clients may call this node by: those that its operator gave it, and the machine's own."""
    endpoints = [parse_endpoint(config.bytemq_http_listen, setting="bytemq.http.listen"), *config.advertised_endpoints]
    names = {host_name, *config.bytemq_http_hosts, *(endpoint.host for endpoint in endpoints)}
    return frozenset(name.lower().removesuffix(".") for name in names)


def _overrides(text: str) -> tuple[tuple[str, int], ...]:
    """Kafka's "host:count,host:count"."""
    pairs = [part.strip().rpartition(":") for part in text.split(",") if part.strip()]
    return tuple((host, int(count)) for host, _, count in pairs if count.isdecimal())
