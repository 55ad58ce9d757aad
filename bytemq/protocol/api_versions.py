"""Which versions of which APIs a broker of Apache Kafka 4.4.0 serves, as data; the source of the ApiVersions response.

Owns the ranges only. Which of these APIs are served here is the dispatcher's to say.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from bytemq.protocol.api_keys import ApiKey


class ApiVersions(NamedTuple):
    """The stable versions of an API: `lowest` to `highest`, of which those at or above `flexible_from` are flexible."""

    lowest: int
    highest: int
    flexible_from: int | None

    def includes(self, version: int) -> bool:
        return self.lowest <= version <= self.highest

    def is_flexible(self, version: int) -> bool:
        return self.flexible_from is not None and version >= self.flexible_from


class AdvertisedApi(NamedTuple):
    """One line of an ApiVersions response."""

    api_key: ApiKey
    min_version: int
    max_version: int


API_VERSIONS: dict[int, ApiVersions] = {
    ApiKey.PRODUCE: ApiVersions(3, 13, 9),
    ApiKey.FETCH: ApiVersions(4, 18, 12),
    ApiKey.LIST_OFFSETS: ApiVersions(1, 11, 6),
    ApiKey.METADATA: ApiVersions(0, 13, 9),
    ApiKey.OFFSET_COMMIT: ApiVersions(2, 10, 8),
    ApiKey.OFFSET_FETCH: ApiVersions(1, 10, 6),
    ApiKey.FIND_COORDINATOR: ApiVersions(0, 6, 3),
    ApiKey.JOIN_GROUP: ApiVersions(0, 9, 6),
    ApiKey.HEARTBEAT: ApiVersions(0, 4, 4),
    ApiKey.LEAVE_GROUP: ApiVersions(0, 5, 4),
    ApiKey.SYNC_GROUP: ApiVersions(0, 5, 4),
    ApiKey.DESCRIBE_GROUPS: ApiVersions(0, 6, 5),
    ApiKey.LIST_GROUPS: ApiVersions(0, 5, 3),
    ApiKey.SASL_HANDSHAKE: ApiVersions(0, 1, None),
    ApiKey.API_VERSIONS: ApiVersions(0, 5, 3),
    ApiKey.CREATE_TOPICS: ApiVersions(2, 7, 5),
    ApiKey.DELETE_TOPICS: ApiVersions(1, 6, 4),
    ApiKey.DELETE_RECORDS: ApiVersions(0, 2, 2),
    ApiKey.INIT_PRODUCER_ID: ApiVersions(0, 5, 2),
    ApiKey.OFFSET_FOR_LEADER_EPOCH: ApiVersions(2, 4, 4),
    ApiKey.ADD_PARTITIONS_TO_TXN: ApiVersions(0, 5, 3),
    ApiKey.ADD_OFFSETS_TO_TXN: ApiVersions(0, 4, 3),
    ApiKey.END_TXN: ApiVersions(0, 5, 3),
    ApiKey.WRITE_TXN_MARKERS: ApiVersions(1, 2, 1),
    ApiKey.TXN_OFFSET_COMMIT: ApiVersions(0, 6, 3),
    ApiKey.DESCRIBE_ACLS: ApiVersions(1, 3, 2),
    ApiKey.CREATE_ACLS: ApiVersions(1, 3, 2),
    ApiKey.DELETE_ACLS: ApiVersions(1, 3, 2),
    ApiKey.DESCRIBE_CONFIGS: ApiVersions(1, 4, 4),
    ApiKey.ALTER_CONFIGS: ApiVersions(0, 2, 2),
    ApiKey.ALTER_REPLICA_LOG_DIRS: ApiVersions(1, 2, 2),
    ApiKey.DESCRIBE_LOG_DIRS: ApiVersions(1, 5, 2),
    ApiKey.SASL_AUTHENTICATE: ApiVersions(0, 2, 2),
    ApiKey.CREATE_PARTITIONS: ApiVersions(0, 3, 2),
    ApiKey.CREATE_DELEGATION_TOKEN: ApiVersions(1, 3, 2),
    ApiKey.RENEW_DELEGATION_TOKEN: ApiVersions(1, 2, 2),
    ApiKey.EXPIRE_DELEGATION_TOKEN: ApiVersions(1, 2, 2),
    ApiKey.DESCRIBE_DELEGATION_TOKEN: ApiVersions(1, 3, 2),
    ApiKey.DELETE_GROUPS: ApiVersions(0, 3, 2),
    ApiKey.ELECT_LEADERS: ApiVersions(0, 2, 2),
    ApiKey.INCREMENTAL_ALTER_CONFIGS: ApiVersions(0, 1, 1),
    ApiKey.ALTER_PARTITION_REASSIGNMENTS: ApiVersions(0, 1, 0),
    ApiKey.LIST_PARTITION_REASSIGNMENTS: ApiVersions(0, 0, 0),
    ApiKey.OFFSET_DELETE: ApiVersions(0, 0, None),
    ApiKey.DESCRIBE_CLIENT_QUOTAS: ApiVersions(0, 1, 1),
    ApiKey.ALTER_CLIENT_QUOTAS: ApiVersions(0, 1, 1),
    ApiKey.DESCRIBE_USER_SCRAM_CREDENTIALS: ApiVersions(0, 0, 0),
    ApiKey.ALTER_USER_SCRAM_CREDENTIALS: ApiVersions(0, 0, 0),
    ApiKey.DESCRIBE_QUORUM: ApiVersions(0, 2, 0),
    ApiKey.UPDATE_FEATURES: ApiVersions(0, 2, 0),
    ApiKey.DESCRIBE_CLUSTER: ApiVersions(0, 2, 0),
    ApiKey.DESCRIBE_PRODUCERS: ApiVersions(0, 0, 0),
    ApiKey.UNREGISTER_BROKER: ApiVersions(0, 0, 0),
    ApiKey.DESCRIBE_TRANSACTIONS: ApiVersions(0, 0, 0),
    ApiKey.LIST_TRANSACTIONS: ApiVersions(0, 2, 0),
    ApiKey.CONSUMER_GROUP_HEARTBEAT: ApiVersions(0, 1, 0),
    ApiKey.CONSUMER_GROUP_DESCRIBE: ApiVersions(0, 1, 0),
    ApiKey.GET_TELEMETRY_SUBSCRIPTIONS: ApiVersions(0, 0, 0),
    ApiKey.PUSH_TELEMETRY: ApiVersions(0, 0, 0),
    ApiKey.LIST_CONFIG_RESOURCES: ApiVersions(0, 1, 0),
    ApiKey.DESCRIBE_TOPIC_PARTITIONS: ApiVersions(0, 0, 0),
    ApiKey.SHARE_GROUP_HEARTBEAT: ApiVersions(1, 1, 0),
    ApiKey.SHARE_GROUP_DESCRIBE: ApiVersions(1, 1, 0),
    ApiKey.SHARE_FETCH: ApiVersions(1, 2, 0),
    ApiKey.SHARE_ACKNOWLEDGE: ApiVersions(1, 2, 0),
    ApiKey.ADD_RAFT_VOTER: ApiVersions(0, 1, 0),
    ApiKey.REMOVE_RAFT_VOTER: ApiVersions(0, 0, 0),
    ApiKey.INITIALIZE_SHARE_GROUP_STATE: ApiVersions(0, 0, 0),
    ApiKey.READ_SHARE_GROUP_STATE: ApiVersions(0, 0, 0),
    ApiKey.WRITE_SHARE_GROUP_STATE: ApiVersions(0, 1, 0),
    ApiKey.DELETE_SHARE_GROUP_STATE: ApiVersions(0, 0, 0),
    ApiKey.READ_SHARE_GROUP_STATE_SUMMARY: ApiVersions(0, 1, 0),
    ApiKey.STREAMS_GROUP_HEARTBEAT: ApiVersions(0, 1, 0),
    ApiKey.STREAMS_GROUP_DESCRIBE: ApiVersions(0, 1, 0),
    ApiKey.DESCRIBE_SHARE_GROUP_OFFSETS: ApiVersions(0, 1, 0),
    ApiKey.ALTER_SHARE_GROUP_OFFSETS: ApiVersions(0, 0, 0),
    ApiKey.DELETE_SHARE_GROUP_OFFSETS: ApiVersions(0, 0, 0),
    ApiKey.STREAMS_GROUP_TOPOLOGY_DESCRIPTION_UPDATE: ApiVersions(0, 0, 0),
    ApiKey.UNREGISTER_CONTROLLER: ApiVersions(0, 0, 0),
}


_NOT_ADVERTISED = (ApiKey.GET_TELEMETRY_SUBSCRIPTIONS, ApiKey.PUSH_TELEMETRY)
"""Kafka tells of these only when it has a receiver for metrics; it answers them anyway."""


def advertised(served: Collection[ApiKey]) -> list[AdvertisedApi]:
    """The lines of an ApiVersions response for a broker that serves these APIs, in the order of their keys.

    Produce is advertised from version 0, although the versions below 3 are gone: older librdkafka take the absence of
    versions 0 and 1 for the absence of compression (KAFKA-18659).
    """
    return [
        AdvertisedApi(ApiKey(key), 0 if key == ApiKey.PRODUCE else versions.lowest, versions.highest)
        for key, versions in API_VERSIONS.items()
        if key in served and key not in _NOT_ADVERTISED
    ]
