"""Kafka's configs that are accepted and checked here but change nothing, each with the reason.

Owns this list: DescribeConfigs adds the reason to a config's documentation, and a test holds the list against what the
program reads. What belongs to a part that bytemq does not have yet leaves the list when that part comes.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from functools import cache

_REASONS: tuple[tuple[str, str], ...] = (
    (
        "the copies of the data are the storage's business; brokers hold no replicas",
        "replica.* num.replica.* *replication.quota.* *replication.throttled.* auto.leader.rebalance.enable "
        "leader.imbalance.* unclean.leader.election.* cordoned.log.dirs log.dir.failure.timeout.ms "
        "controlled.shutdown.enable",
    ),
    (
        "there is no KRaft quorum; the metadata store decides who owns what",
        "controller.performance.* controller.quorum.* controller.socket.* metadata.* internal.metadata.* process.roles "
        "broker.heartbeat.interval.ms initial.broker.registration.timeout.ms "
        "early.start.listeners security.inter.broker.protocol server.max.startup.time.ms "
        "unstable.* request.timeout.ms socket.connection.setup.*",
    ),
    (
        "it names a Java class or a service of the Java process",
        "alter.config.policy.class.name create.topic.policy.class.name authorizer.class.name config.providers "
        "client.quota.callback.class kafka.metrics.* metric.reporters metrics.* principal.builder.class "
        "security.providers",
    ),
    (
        "a broker is one process with one event loop; it has no such threads, queues or buffers",
        "background.threads num.io.threads num.network.threads num.recovery.threads.per.data.dir queued.max.requests "
        "*.purgatory.purge.interval.requests group.coordinator.threads group.coordinator.background.threads "
        "group.consumer.assignor.offload.enable group.coordinator.append.linger.ms "
        "group.coordinator.cached.buffer.max.bytes *.load.buffer.size",
    ),
    (
        "the storage writes and indexes its files its own way (wal.*, storage.*)",
        "log.flush.* flush.ms flush.messages log.index.* index.interval.bytes segment.index.bytes log.preallocate "
        "preallocate log.segment.delete.delay.ms file.delete.delay.ms log.initial.task.delay.ms "
        "internal.segment.bytes offsets.topic.compression.codec log.roll.jitter.hours segment.jitter.ms "
        "producer.id.expiration.check.interval.ms",
    ),
    (
        "listeners with encryption, authentication and quotas are not served",
        "ssl.* sasl.* delegation.token.* connection.failed.authentication.delay.ms connections.max.reauth.ms "
        "quota.window.* controller.quota.window.* max.connection.creation.rate",
    ),
    (
        "there is no remote tier beside the storage",
        "remote.copy.* remote.fetch.* remote.list.* remote.log.* log.remote.* "
        "local.retention.* log.local.retention.* follower.fetch.last.tiered.offset.enable",
    ),
    ("share groups are not served", "group.share.* share.* errors.deadletterqueue.*"),
    ("streams groups are not served", "group.streams.*"),
    (
        "every transaction has a timer of its own, and is aborted when it is due",
        "transaction.abort.*",
    ),
    (
        "the cleaner is one process of low priority that reads by the megabyte",
        "log.cleaner.io.buffer.size log.cleaner.io.max.bytes.per.second",
    ),
)


@cache
def why_no_effect(name: str) -> str | None:
    """Why a broker or topic config changes nothing here; None for one that does something."""
    for reason, patterns in _REASONS:
        if any(fnmatchcase(name, pattern) for pattern in patterns.split()):
            return reason
    return None
