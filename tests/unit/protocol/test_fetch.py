"""The hand-written Fetch codec against the generated one, which Kafka's own bytes have proved."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bytemq.protocol import codec, fetch
from bytemq.protocol.fetch import PartitionData, decode_fetch, encode_fetch_response
from bytemq.protocol.leader_hints import LeaderIdAndEpoch, NodeEndpoint
from bytemq.protocol.messages import fetch as generated
from bytemq.protocol.primitives import MalformedMessage
from tests.unit.protocol import golden_file, samples

VERSIONS = range(4, 19)
GOLDEN = golden_file.load()


def as_generated(version: int, request: fetch.FetchRequest) -> generated.FetchRequest:
    topics = [
        generated.FetchTopic(
            topic=name or "",
            topic_id=topic_id or bytes(16),
            partitions=[generated.FetchPartition(**partition._asdict()) for partition in partitions],
        )
        for name, topic_id, partitions in request.topics
    ]
    message = generated.FetchRequest(
        cluster_id=request.cluster_id,
        max_wait_ms=request.max_wait_ms,
        min_bytes=request.min_bytes,
        max_bytes=request.max_bytes,
        isolation_level=request.isolation_level,
        session_id=request.session_id,
        session_epoch=request.session_epoch,
        topics=topics,
        forgotten_topics_data=[
            generated.ForgottenTopic(topic=name or "", topic_id=topic_id or bytes(16), partitions=indexes)
            for name, topic_id, indexes in request.forgotten_topics
        ],
        rack_id=request.rack_id,
    )
    if version >= 15:
        message.replica_state = generated.ReplicaState(
            replica_id=request.replica_id, replica_epoch=request.replica_epoch
        )
    else:
        message.replica_id = request.replica_id
    return message


def without_followers_fields(message: Any) -> generated.FetchRequest:
    """Less the two tagged fields that are passed over on purpose."""
    default = generated.FetchPartition()
    for topic in message.topics:
        for partition in topic.partitions:
            partition.replica_directory_id = default.replica_directory_id
            partition.high_watermark = default.high_watermark
    return message


def test_fetch_request__of_kafka_is_understood() -> None:
    for version in VERSIONS:
        for kind, sample in (("full", samples.full), ("bare", samples.bare)):
            decoded = decode_fetch(version, memoryview(GOLDEN["FetchRequest", version, kind]))
            expected = without_followers_fields(sample(generated.FetchRequest, version))

            assert as_generated(version, decoded) == expected, version


@given(st.sampled_from(VERSIONS), st.integers(0, 2**32))
def test_fetch_request__agrees_with_the_generated_codec(version: int, seed: int) -> None:
    message = samples.random_message(generated.FetchRequest, version, Random(seed))

    decoded = decode_fetch(version, memoryview(codec.encode(message, version)))

    assert as_generated(version, decoded) == without_followers_fields(message)


def test_fetch_request__passes_over_tagged_fields_and_trailing_bytes() -> None:
    message = generated.FetchRequest(max_wait_ms=500, min_bytes=1, rack_id="r")
    body = bytes(codec.encode(message, 12))

    decoded = decode_fetch(12, memoryview(body[:-1] + b"\2" + b"\x63\2xy" + b"\1\3abc" + b"more"))

    assert as_generated(12, decoded) == message


@pytest.mark.parametrize("tagged", [(), (0,), (2,), (4,), (0, 1, 2, 3, 4)])
def test_fetch_request__tagged_fields_of_some_partitions_do_not_shift_the_others(tagged: tuple[int, ...]) -> None:
    partitions = [generated.FetchPartition(partition=index, fetch_offset=7 * index) for index in range(5)]
    for index in tagged:
        partitions[index].high_watermark = 0
    topics = [generated.FetchTopic(topic_id=bytes([n]) * 16, partitions=partitions) for n in (1, 2)]
    decoded = decode_fetch(18, memoryview(codec.encode(generated.FetchRequest(topics=topics), 18)))
    assert [topic_id for _, topic_id, _ in decoded.topics] == [b"\1" * 16, b"\2" * 16]
    for _, _, found in decoded.topics:
        assert [(one.partition, one.fetch_offset) for one in found] == [(index, 7 * index) for index in range(5)]


def test_fetch_request__finds_every_truncation() -> None:
    for version in VERSIONS:
        body = memoryview(GOLDEN["FetchRequest", version, "full"])
        for length in range(len(body)):
            with pytest.raises(MalformedMessage):
                decode_fetch(version, body[:length])


def test_fetch_request__counts_partitions_before_it_allocates() -> None:
    body = b"\xff\xff\xff\xff" + bytes(13) + b"\x7f\xff\xff\xff" + bytes(50)

    with pytest.raises(MalformedMessage, match="2147483647 elements in 50 bytes"):
        decode_fetch(4, memoryview(body))


def partition_as_generated(version: int, data: PartitionData) -> generated.PartitionData:
    aborted = data.aborted_transactions
    message = generated.PartitionData(
        partition_index=data.partition_index,
        error_code=data.error_code,
        high_watermark=data.high_watermark,
        last_stable_offset=data.last_stable_offset,
        log_start_offset=data.log_start_offset,
        aborted_transactions=None
        if aborted is None
        else [
            generated.AbortedTransaction(producer_id=producer_id, first_offset=offset)
            for producer_id, offset in aborted
        ],
        preferred_read_replica=data.preferred_read_replica if version >= 11 else -1,
        records=b"".join(data.records),
    )
    if version >= 12 and data.diverging_epoch is not None:
        epoch, end_offset = data.diverging_epoch
        message.diverging_epoch = generated.EpochEndOffset(epoch=epoch, end_offset=end_offset)
    if version >= 12 and data.current_leader is not None:
        leader_id, leader_epoch = data.current_leader
        message.current_leader = generated.LeaderIdAndEpoch(leader_id=leader_id, leader_epoch=leader_epoch)
    return message


int16s = st.integers(-1, 133)
int32s = st.integers(-(2**31), 2**31 - 1)
int64s = st.integers(-(2**63), 2**63 - 1)
counts = st.integers(0, 2**31 - 1)
partitions = st.builds(
    PartitionData,
    int32s,
    int16s,
    int64s,
    int64s,
    int64s,
    st.lists(st.binary(max_size=300), max_size=3),
    st.none() | st.lists(st.tuples(int64s, int64s), max_size=2),
    int32s,
    st.none() | st.tuples(counts, int64s),
    st.none() | st.builds(LeaderIdAndEpoch, counts, int32s),
)
topics = st.tuples(st.text(max_size=20), st.binary(min_size=16, max_size=16), st.lists(partitions, max_size=3))
endpoints = st.builds(NodeEndpoint, int32s, st.text(max_size=20), int32s, st.none() | st.text(max_size=5))


@given(st.sampled_from(VERSIONS), st.lists(topics, max_size=3), int32s, int16s, int32s, st.lists(endpoints, max_size=2))
def test_fetch_response__agrees_with_the_generated_codec(
    version: int,
    topics: list[fetch.TopicData],
    throttle_time_ms: int,
    error_code: int,
    session_id: int,
    endpoints: list[NodeEndpoint],
) -> None:
    expected = generated.FetchResponse(
        throttle_time_ms=throttle_time_ms,
        error_code=error_code,
        session_id=session_id if version >= 7 else 0,
        responses=[
            generated.FetchableTopicResponse(
                topic=name or "",
                topic_id=topic_id or bytes(16),
                partitions=[partition_as_generated(version, partition) for partition in partitions],
            )
            for name, topic_id, partitions in topics
        ],
        node_endpoints=[
            generated.NodeEndpoint(node_id=node_id, host=host, port=port, rack=rack)
            for node_id, host, port, rack in (endpoints if version >= 16 else [])
        ],
    )

    buffers = encode_fetch_response(
        version,
        topics,
        throttle_time_ms=throttle_time_ms,
        error_code=error_code,
        session_id=session_id,
        node_endpoints=endpoints,
    )

    assert b"".join(buffers) == codec.encode(expected, version)


def test_fetch_response__hands_on_the_records_themselves() -> None:
    first, second = memoryview(b"batch one"), bytearray(b"batch two")
    topics: list[fetch.TopicData] = [("t", None, [PartitionData(0, 0, records=[first, second]), PartitionData(1, 0)])]

    for version in VERSIONS:
        buffers = encode_fetch_response(version, topics)

        assert len(buffers) == 4
        assert buffers[1] is first
        assert buffers[2] is second


def test_fetch_response__of_the_common_case_has_these_bytes() -> None:
    data = PartitionData(3, 0, high_watermark=9, last_stable_offset=8, log_start_offset=1, records=[b"RR"])
    offsets = b"\0\0\0\3" + b"\0\0" + b"\0\0\0\0\0\0\0\x09" + b"\0\0\0\0\0\0\0\x08"
    log_start = b"\0\0\0\0\0\0\0\1"
    topic = b"\0\0\0\1" + b"\0\1t" + b"\0\0\0\1"
    null, records, throttle, session = b"\xff" * 4, b"\0\0\0\2RR", b"\0\0\0\0", b"\0\0\0\0\0\5"
    flexible = b"\2" + offsets + log_start + b"\0" + b"\xff" * 4 + b"\3RR" + b"\0" + b"\0" + b"\0"
    expected = {
        4: throttle + topic + offsets + null + records,
        **dict.fromkeys((5, 6), throttle + topic + offsets + log_start + null + records),
        **dict.fromkeys((7, 8, 9, 10), throttle + session + topic + offsets + log_start + null + records),
        11: throttle + session + topic + offsets + log_start + null + b"\xff" * 4 + records,
        12: throttle + session + b"\2" + b"\2t" + flexible,
        **dict.fromkeys(range(13, 19), throttle + session + b"\2" + b"i" * 16 + flexible),
    }
    for version in VERSIONS:
        buffers = encode_fetch_response(version, [("t", b"i" * 16, [data])], session_id=5)

        assert b"".join(buffers) == expected[version], version
