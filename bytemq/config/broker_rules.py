"""The rules that a broker's configs meet together (Kafka's KafkaConfig.validateValues), as far as they mean
something here.
"""

from __future__ import annotations

from bytemq.config.broker import BrokerConfig
from bytemq.config.values import InvalidConfig
from bytemq.types import ALL_ROLES

_MIB = 1024 * 1024


def check_broker_config(config: BrokerConfig) -> None:
    """Raises InvalidConfig with Kafka's message."""
    if "node.id" in config.effective and config.broker_id not in (-1, config.node_id):
        raise InvalidConfig(
            "`node.id` and `broker.id` must be set to the same value. "
            "`broker.id` is deprecated, please use `node.id` instead."
        )
    _require(config.log_roll_ms is None or config.log_roll_ms >= 1, "log.roll.ms must be greater than or equal to 1")
    _require(
        config.log_roll_jitter_ms is None or config.log_roll_jitter_ms >= 0,
        "log.roll.jitter.ms must be greater than or equal to 0",
    )
    _require(
        config.topic_defaults["retention.ms"] != 0,
        "log.retention.ms must be unlimited (-1) or, greater than or equal to 1",
    )
    _require(
        config.log_cleaner_dedupe_buffer_size // config.log_cleaner_threads > _MIB
        if config.log_cleaner_threads
        else True,
        "log.cleaner.dedupe.buffer.size must be at least 1MB per cleaner thread.",
    )
    _require(
        config.queued_max_request_bytes <= 0 or config.queued_max_request_bytes >= config.socket_request_max_bytes,
        "queued.max.request.bytes must be larger or equal to socket.request.max.bytes",
    )
    if config.bytemq_metadata and not config.bytemq_storage:
        raise InvalidConfig(
            "brokers that share their metadata share their records, too: "
            "name the store by --storage (s3://BUCKET/PREFIX, or file:///FOLDER on a shared mount)"
        )
    if not config.bytemq_metadata and set(config.bytemq_roles) != ALL_ROLES:
        raise InvalidConfig(
            "a node that shares its metadata with nobody has all roles: leave out --roles, or name the cluster's "
            "metadata (--metadata etcd://HOST:PORT/PREFIX)"
        )
    _ = config.endpoints, config.advertised_endpoints


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise InvalidConfig(f"requirement failed: {message}")
