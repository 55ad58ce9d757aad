"""Where bytemq answers otherwise than Apache Kafka 4.4.0 on purpose: exactly these places, exactly so, with the reason.

Keyed by case and label; the lines are `path: what Kafka said -> what we say`, as `differential.differences` writes
them. A line that no longer holds fails the test as much as one that is not listed.
"""

from __future__ import annotations

from typing import NamedTuple


class Difference(NamedTuple):
    why: str
    lines: list[str]


REPLICAS = "Any replication factor is accepted: the replicas are the store's, and tools ask for 3."
NOT_UNKNOWN = "Where Kafka fails with UNKNOWN_SERVER_ERROR (-1), which clients take as fatal, we say what is wrong."
CHECKSUM = "A repeated sequence with another checksum is no duplicate: Kafka 4.4.0 was seen to lose a record by this."
ANSWERED = "Kafka never answers a request without any transaction; we refuse it."
ID_CHECKED = "We ask the coordinator every time; Kafka believes any id of a producer whose transaction is open there."
SETTLED = "What pends is settled once something later in the log has won over it, and not only when its marker comes."
NO_PRODUCER = "A transactional batch without a producer id could never be ended or told from another."
ABORTED_HERE = "Only aborted transactions that returned records can belong to are listed; Kafka lists some beyond them."
PUT_OUT = "Kafka believes a classic member that reads what another one has, and takes its commits (decision 15)."
HEADER_ONLY = "A batch is checked by header and CRC; records are walked only where bytemq.validate.records asks for it."
ONCE = "What a request names twice is answered once: to say a few bytes more often costs a client nothing, us a lot."
BY_ID_ALONE = (
    "A session keeps ids, and one that is gone is unknown; Kafka keeps the name beside it and compares their ids."
)

DIFFERENCES: dict[tuple[str, str], Difference] = {
    ("migration_there_and_back", "the first member says what it reads"): Difference(
        PUT_OUT,
        [
            "error_code: 0 -> 25",
            "generation_id: 3 -> -1",
            "protocol_type: 'consumer' -> None",
            "protocol_name: 'range' -> None",
            "member_id: '<member_id 1>' -> ''",
        ],
    ),
    ("migration_there_and_back", "and commits what the other one has"): Difference(
        PUT_OUT,
        [
            "topics[0].partitions[0].error_code: 0 -> 25",
        ],
    ),
    ("create_topics_shapes", "replication factor 3"): Difference(
        REPLICAS,
        [
            "topics[0].error_code: 38 -> 0",
        ],
    ),
    ("consumer_group_offsets", "fetched, an epoch alone"): Difference(
        NOT_UNKNOWN,
        [
            "groups[0].error_code: -1 -> 25",
        ],
    ),
    ("consumer_group_described", "described, v0 several"): Difference(
        ONCE,
        [
            "groups: {'error_code': 0, 'group_id': 'd-consume... -> <absent>",
        ],
    ),
    ("consumer_group_described", "described, v1 several"): Difference(
        ONCE,
        [
            "groups: {'error_code': 0, 'group_id': 'd-consume... -> <absent>",
        ],
    ),
    ("fetch_sessions_that_forget", "by id: deleted, and created again"): Difference(
        BY_ID_ALONE,
        [
            "responses[0].partitions[0].error_code: 103 -> 100",
            "responses[0].partitions[0].aborted_transactions: None -> []",
        ],
    ),
    ("fetch_sessions_that_forget", "by id: and once more"): Difference(
        BY_ID_ALONE,
        [
            "responses[0].partitions[0].error_code: 103 -> 100",
            "responses[0].partitions[0].aborted_transactions: None -> []",
        ],
    ),
    ("shapes_of_described_configs", "the same twice"): Difference(
        ONCE,
        [
            "results: {'error_code': 0, 'resource_type': 2, 'r... -> <absent>",
        ],
    ),
    ("shapes_of_log_requests", "producers of one twice"): Difference(
        ONCE,
        [
            "topics[0].partitions: {'partition_index': 0, 'error_code': 0, ... -> <absent>",
        ],
    ),
    ("shapes_of_metadata", "v12 neither name nor id"): Difference(
        NOT_UNKNOWN,
        [
            "brokers: <absent> -> {'node_id': 0, 'rack': None}",
            "controller_id: -1 -> 0",
            "topics[0].error_code: -1 -> 100",
            "topics[0].name: '' -> None",
        ],
    ),
    ("shapes_of_metadata", "v13 neither name nor id"): Difference(
        NOT_UNKNOWN,
        [
            "brokers: <absent> -> {'node_id': 0, 'rack': None}",
            "controller_id: -1 -> 0",
            "topics[0].error_code: -1 -> 100",
            "topics[0].name: '' -> None",
            "error_code: -1 -> 0",
        ],
    ),
    ("shapes_of_offsets", "delete a partition twice"): Difference(
        ONCE,
        [
            "topics[0].partitions: {'partition_index': 1, 'error_code': 0} -> <absent>",
        ],
    ),
    ("shapes_of_offsets", "described v0"): Difference(
        ONCE,
        [
            "groups: {'error_code': 0, 'group_id': 'd-shapes-... -> <absent>",
        ],
    ),
    ("shapes_of_offsets", "described v5"): Difference(
        ONCE,
        [
            "groups: {'error_code': 0, 'group_id': 'd-shapes-... -> <absent>",
        ],
    ),
    ("shapes_of_offsets", "described v6"): Difference(
        ONCE,
        [
            "groups: {'error_code': 0, 'group_id': 'd-shapes-... -> <absent>",
        ],
    ),
    ("shapes_of_topic_partitions", "an empty name"): Difference(
        NOT_UNKNOWN,
        [
            "topics[0].error_code: -1 -> 0",
            "topics[0].name: '' -> 'd-shapes-of-topic-partitions-topic1'",
            "topics[0].topic_id: None -> '<topic_id 1>'",
            "topics[0].partitions: <absent> -> {'error_code': 0, 'partition_index': 0, ...",
            "topics[0].partitions: <absent> -> {'error_code': 0, 'partition_index': 1, ...",
            "topics[0].partitions: <absent> -> {'error_code': 0, 'partition_index': 2, ...",
            "topics[0].topic_authorized_operations: -2147483648 -> 3576",
            "topics[1].error_code: -1 -> 17",
            "topics[1].name: 'd-shapes-of-topic-partitions-topic1' -> ''",
            "topics[1].topic_authorized_operations: -2147483648 -> 3576",
        ],
    ),
    ("transactional_offsets_by_topic_id", "unknown transactional id"): Difference(
        ID_CHECKED,
        [
            "topics[0].partitions[0].error_code: 0 -> 49",
        ],
    ),
    ("fetch_offsets", "isolation level 2"): Difference(
        NOT_UNKNOWN,
        [
            "error_code: -1 -> 42",
            "responses: {'topic': 'd-fetch-offsets-topic1', 'par... -> <absent>",
        ],
    ),
    ("incremental_alter_configs", "operation 9"): Difference(
        NOT_UNKNOWN,
        [
            "responses[0].error_code: -1 -> 42",
        ],
    ),
    ("list_offsets_by_time", "isolation level 7"): Difference(
        NOT_UNKNOWN,
        [
            "topics[0].partitions[0].error_code: -1 -> 42",
        ],
    ),
    ("produce_same_sequence_other_content", "same sequence, other content"): Difference(
        CHECKSUM,
        [
            "responses[0].partition_responses[0].error_code: 0 -> 45",
            "responses[0].partition_responses[0].base_offset: 0 -> -1",
            "responses[0].partition_responses[0].log_append_time_ms: 1700000000000 -> -1",
            "responses[0].partition_responses[0].log_start_offset: 0 -> '<absent>'",
        ],
    ),
    ("produce_strange_batches", "max timestamp too small: what is in the log"): Difference(
        HEADER_ONLY,
        [
            "responses[0].partitions[0].records[0].max_timestamp: 1700000000000 -> 5",
        ],
    ),
    ("produce_strange_batches", "max timestamp too large: what is in the log"): Difference(
        HEADER_ONLY,
        [
            "responses[0].partitions[0].records[0].max_timestamp: 1700000000000 -> 1700000999999",
        ],
    ),
    ("produce_strange_batches", "max timestamp -1: what is in the log"): Difference(
        HEADER_ONLY,
        [
            "responses[0].partitions[0].records[0].max_timestamp: 1700000000000 -> -1",
        ],
    ),
    ("produce_strange_batches", "timestamp -2: what is in the log"): Difference(
        HEADER_ONLY,
        [
            "responses[0].partitions[0].records[0].max_timestamp: -1 -> -2",
        ],
    ),
    ("produce_strange_batches", "codec 5"): Difference(
        NOT_UNKNOWN,
        [
            "responses[0].partition_responses[0].error_code: -1 -> 87",
        ],
    ),
    ("produce_strange_batches", "codec 7"): Difference(
        NOT_UNKNOWN,
        [
            "responses[0].partition_responses[0].error_code: -1 -> 87",
        ],
    ),
    ("produce_strange_batches", "gzip rubbish"): Difference(
        HEADER_ONLY,
        [
            "responses[0].partition_responses[0].error_code: -1 -> 0",
            "responses[0].partition_responses[0].base_offset: -1 -> 0",
            "responses[0].partition_responses[0].log_start_offset: '<absent>' -> 0",
        ],
    ),
    ("produce_strange_batches", "gzip rubbish: what is in the log"): Difference(
        HEADER_ONLY,
        [
            "responses[0].partitions[0].high_watermark: 0 -> 1",
            "responses[0].partitions[0].last_stable_offset: 0 -> 1",
            "responses[0].partitions[0].records: <absent> -> {'base_offset': 0, 'leader_epoch': 0, 'm...",
        ],
    ),
    ("produce_strange_batches", "snappy rubbish"): Difference(
        HEADER_ONLY,
        [
            "responses[0].partition_responses[0].error_code: -1 -> 0",
            "responses[0].partition_responses[0].base_offset: -1 -> 0",
            "responses[0].partition_responses[0].log_start_offset: '<absent>' -> 0",
        ],
    ),
    ("produce_strange_batches", "snappy rubbish: what is in the log"): Difference(
        HEADER_ONLY,
        [
            "responses[0].partitions[0].high_watermark: 0 -> 1",
            "responses[0].partitions[0].last_stable_offset: 0 -> 1",
            "responses[0].partitions[0].records: <absent> -> {'base_offset': 0, 'leader_epoch': 0, 'm...",
        ],
    ),
    ("produce_strange_batches", "lz4 rubbish"): Difference(
        HEADER_ONLY,
        [
            "responses[0].partition_responses[0].error_code: -1 -> 0",
            "responses[0].partition_responses[0].base_offset: -1 -> 0",
            "responses[0].partition_responses[0].log_start_offset: '<absent>' -> 0",
        ],
    ),
    ("produce_strange_batches", "lz4 rubbish: what is in the log"): Difference(
        HEADER_ONLY,
        [
            "responses[0].partitions[0].high_watermark: 0 -> 1",
            "responses[0].partitions[0].last_stable_offset: 0 -> 1",
            "responses[0].partitions[0].records: <absent> -> {'base_offset': 0, 'leader_epoch': 0, 'm...",
        ],
    ),
    ("produce_strange_batches", "zstd rubbish"): Difference(
        HEADER_ONLY,
        [
            "responses[0].partition_responses[0].error_code: -1 -> 0",
            "responses[0].partition_responses[0].base_offset: -1 -> 0",
            "responses[0].partition_responses[0].log_start_offset: '<absent>' -> 0",
        ],
    ),
    ("produce_strange_batches", "zstd rubbish: what is in the log"): Difference(
        HEADER_ONLY,
        [
            "responses[0].partitions[0].high_watermark: 0 -> 1",
            "responses[0].partitions[0].last_stable_offset: 0 -> 1",
            "responses[0].partitions[0].records: <absent> -> {'base_offset': 0, 'leader_epoch': 0, 'm...",
        ],
    ),
    ("produce_strange_batches", "trailing bytes in the batch"): Difference(
        HEADER_ONLY,
        [
            "responses[0].partition_responses[0].error_code: 87 -> 0",
            "responses[0].partition_responses[0].base_offset: -1 -> 0",
            "responses[0].partition_responses[0].log_start_offset: '<absent>' -> 0",
        ],
    ),
    ("produce_strange_batches", "trailing bytes in the batch: what is in the log"): Difference(
        HEADER_ONLY,
        [
            "responses[0].partitions[0].high_watermark: 0 -> 1",
            "responses[0].partitions[0].last_stable_offset: 0 -> 1",
            "responses[0].partitions[0].records: <absent> -> {'base_offset': 0, 'leader_epoch': 0, 'm...",
        ],
    ),
    ("produce_strange_batches", "record length too large"): Difference(
        HEADER_ONLY,
        [
            "responses[0].partition_responses[0].error_code: 87 -> 0",
            "responses[0].partition_responses[0].base_offset: -1 -> 0",
            "responses[0].partition_responses[0].log_start_offset: '<absent>' -> 0",
        ],
    ),
    ("produce_strange_batches", "record length too large: what is in the log"): Difference(
        HEADER_ONLY,
        [
            "responses[0].partitions[0].high_watermark: 0 -> 1",
            "responses[0].partitions[0].last_stable_offset: 0 -> 1",
            "responses[0].partitions[0].records: <absent> -> {'base_offset': 0, 'leader_epoch': 0, 'm...",
        ],
    ),
    ("produce_strange_batches", "record cut"): Difference(
        HEADER_ONLY,
        [
            "responses[0].partition_responses[0].error_code: 87 -> 0",
            "responses[0].partition_responses[0].base_offset: -1 -> 0",
            "responses[0].partition_responses[0].log_start_offset: '<absent>' -> 0",
        ],
    ),
    ("produce_strange_batches", "record cut: what is in the log"): Difference(
        HEADER_ONLY,
        [
            "responses[0].partitions[0].high_watermark: 0 -> 1",
            "responses[0].partitions[0].last_stable_offset: 0 -> 1",
            "responses[0].partitions[0].records: <absent> -> {'base_offset': 0, 'leader_epoch': 0, 'm...",
        ],
    ),
    ("transaction_add_partitions_from_brokers", "no transactions"): Difference(
        ANSWERED,
        [
            ": 'no answer' -> {'error_code': 42, 'results_by_transacti...",
        ],
    ),
    ("transaction_markers", "negative producer epoch"): Difference(
        NOT_UNKNOWN,
        [
            "markers[0].topics[0].partitions[0].error_code: -1 -> 42",
        ],
    ),
    ("transaction_markers", "negative producer id"): Difference(
        NOT_UNKNOWN,
        [
            "markers[0].topics[0].partitions[0].error_code: -1 -> 42",
        ],
    ),
    ("transaction_markers", "version -1"): Difference(
        NOT_UNKNOWN,
        [
            "markers[0].topics[0].partitions[0].error_code: -1 -> 42",
        ],
    ),
    ("transaction_markers", "version -1 again"): Difference(
        NOT_UNKNOWN,
        [
            "markers[0].topics[0].partitions[0].error_code: -1 -> 42",
        ],
    ),
    ("transaction_markers", "version -1, next epoch"): Difference(
        NOT_UNKNOWN,
        [
            "markers[0].topics[0].partitions[0].error_code: -1 -> 42",
        ],
    ),
    ("transactional_offsets_meanwhile", "plain commit meanwhile: stable"): Difference(
        SETTLED,
        [
            "topics[0].partitions[0].committed_offset: -1 -> 3",
            "topics[0].partitions[0].error_code: 88 -> 0",
        ],
    ),
    ("transactional_offsets_meanwhile", "plain commit meanwhile: stable, all"): Difference(
        SETTLED,
        [
            "groups[0].topics[0].partitions[0].committed_offset: -1 -> 3",
            "groups[0].topics[0].partitions[0].error_code: 88 -> 0",
        ],
    ),
    ("transactional_offsets_meanwhile", "the other committed: stable"): Difference(
        SETTLED,
        [
            "topics[0].partitions[0].committed_offset: -1 -> 30",
            "topics[0].partitions[0].error_code: 88 -> 0",
        ],
    ),
    ("transactional_offsets_meanwhile", "the other committed: stable, all"): Difference(
        SETTLED,
        [
            "groups[0].topics[0].partitions[0].committed_offset: -1 -> 30",
            "groups[0].topics[0].partitions[0].error_code: 88 -> 0",
        ],
    ),
    ("transactional_reads", "second aborted: committed"): Difference(
        ABORTED_HERE,
        [
            "responses[0].partitions[0].aborted_transactions: {'producer_id': '<producer_id 3>', 'firs... -> <absent>",
        ],
    ),
    **{
        ("transactional_offsets_every_version", f"v{version} {word} transactional id"): Difference(
            ID_CHECKED,
            [
                f"topics[0].partitions[0].error_code: 0 -> {code}",
            ],
        )
        for version in range(6)
        for word, code in (("unknown", 49), ("empty", 42))
    },
    **{
        ("transactional_produce_strange", f"v{version} transactional without producer id"): Difference(
            NO_PRODUCER,
            [
                "responses[0].partition_responses[0].error_code: 0 -> 49",
                "responses[0].partition_responses[0].base_offset: 0 -> -1",
                "responses[0].partition_responses[0].log_start_offset: 0 -> '<absent>'",
            ],
        )
        for version in (7, 9, 11, 12)
    },
    **{
        ("message_timestamp_limits", f"the second too new, which the header hides, codec {codec}, any age"): Difference(
            HEADER_ONLY,
            [
                "responses[0].partition_responses[0].error_code: 32 -> 0",
                "responses[0].partition_responses[0].base_offset: -1 -> 0",
                "responses[0].partition_responses[0].record_errors: {'batch_index': 1} -> <absent>",
                "responses[0].partition_responses[0].log_start_offset: '<absent>' -> 0",
            ],
        )
        for codec in (0, 1)
    },
}

PRINTED: dict[tuple[str, str], Difference] = {}
"""The same of what Kafka's tools print, by session and by what is typed."""
