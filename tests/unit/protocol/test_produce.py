"""The hand-written Produce codec against the generated one, which Kafka's own bytes have proved."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bytemq.protocol import codec, produce
from bytemq.protocol.leader_hints import LeaderIdAndEpoch, NodeEndpoint
from bytemq.protocol.messages import produce as generated
from bytemq.protocol.primitives import MalformedMessage
from bytemq.protocol.produce import ProduceResult, decode_produce, encode_produce_response
from tests.unit.protocol import golden_file, samples

VERSIONS = range(3, 14)
GOLDEN = golden_file.load()


def as_generated(version: int, request: produce.ProduceRequest) -> generated.ProduceRequest:
    topics = [
        generated.TopicProduceData(
            name=name or "",
            topic_id=topic_id or bytes(16),
            partition_data=[generated.PartitionProduceData(index=index, records=data) for index, data in partitions],
        )
        for name, topic_id, partitions in request.topics
    ]
    return generated.ProduceRequest(
        transactional_id=request.transactional_id, acks=request.acks, timeout_ms=request.timeout_ms, topic_data=topics
    )


def test_produce_request__of_kafka_is_understood() -> None:
    for version in VERSIONS:
        for kind, sample in (("full", samples.full), ("bare", samples.bare)):
            body = memoryview(GOLDEN["ProduceRequest", version, kind])

            assert as_generated(version, decode_produce(version, body)) == sample(generated.ProduceRequest, version)


@given(st.sampled_from(VERSIONS), st.integers(0, 2**32))
def test_produce_request__agrees_with_the_generated_codec(version: int, seed: int) -> None:
    message = samples.random_message(generated.ProduceRequest, version, Random(seed))

    decoded = decode_produce(version, memoryview(codec.encode(message, version)))

    assert as_generated(version, decoded) == message


def test_produce_request__names_topics_up_to_v12_and_has_their_ids_from_v13_on() -> None:
    for version in VERSIONS:
        ((name, topic_id, _), _) = decode_produce(version, memoryview(GOLDEN["ProduceRequest", version, "full"])).topics

        assert (name is None, topic_id is None) == (version >= 13, version < 13)


def test_produce_request__leaves_the_records_where_they_are() -> None:
    message = generated.ProduceRequest(
        topic_data=[
            generated.TopicProduceData(partition_data=[generated.PartitionProduceData(index=1, records=b"records")])
        ]
    )
    body = codec.encode(message, 9)
    ((_, _, ((_, records),)),) = decode_produce(9, memoryview(body)).topics
    body[body.index(b"records")] = ord("R")

    assert records == b"Records"


def test_produce_request__passes_over_tagged_fields_and_trailing_bytes() -> None:
    body = b"\0" + b"\xff\xff\0\0\0\1" + b"\2" + b"\2t" + b"\2" + b"\0\0\0\7" + b"\3ab" + b"\1\5\1x" + b"\0" + b"\1\1\0"

    assert decode_produce(9, memoryview(body + b"more")) == (None, -1, 1, [("t", None, [(7, b"ab")])])


def test_produce_request__finds_every_truncation() -> None:
    for version in VERSIONS:
        body = memoryview(GOLDEN["ProduceRequest", version, "full"])
        for length in range(len(body)):
            with pytest.raises(MalformedMessage):
                decode_produce(version, body[:length])


def response_as_generated(
    version: int, topics: list[produce.TopicResults], throttle_time_ms: int, endpoints: list[NodeEndpoint]
) -> generated.ProduceResponse:
    def partition(result: ProduceResult) -> generated.PartitionProduceResponse:
        response = generated.PartitionProduceResponse(
            index=result.index,
            error_code=result.error_code,
            base_offset=result.base_offset,
            log_append_time_ms=result.log_append_time_ms,
            log_start_offset=result.log_start_offset,
            error_message=result.error_message,
            record_errors=[
                generated.BatchIndexAndErrorMessage(batch_index=index, batch_index_error_message=message)
                for index, message in result.record_errors
            ],
        )
        if result.current_leader is not None and version >= 10:
            leader_id, leader_epoch = result.current_leader
            response.current_leader = generated.LeaderIdAndEpoch(leader_id=leader_id, leader_epoch=leader_epoch)
        return response

    return generated.ProduceResponse(
        responses=[
            generated.TopicProduceResponse(
                name=name or "", topic_id=topic_id or bytes(16), partition_responses=[partition(r) for r in results]
            )
            for name, topic_id, results in topics
        ],
        throttle_time_ms=throttle_time_ms,
        node_endpoints=[
            generated.NodeEndpoint(node_id=node_id, host=host, port=port, rack=rack)
            for node_id, host, port, rack in (endpoints if version >= 10 else [])
        ],
    )


int32s = st.integers(-(2**31), 2**31 - 1)
int64s = st.integers(-(2**63), 2**63 - 1)
messages = st.none() | st.text(max_size=200)
leaders = st.none() | st.builds(LeaderIdAndEpoch, st.integers(0, 2**31 - 1), int32s)
results = st.builds(
    ProduceResult,
    int32s,
    st.integers(-1, 133),
    int64s,
    int64s,
    int64s,
    messages,
    st.lists(st.tuples(int32s, messages), max_size=2),
    leaders,
)
topics = st.tuples(st.text(max_size=20), st.binary(min_size=16, max_size=16), st.lists(results, max_size=3))
endpoints = st.builds(NodeEndpoint, int32s, st.text(max_size=130), int32s, messages)


@given(st.sampled_from(VERSIONS), st.lists(topics, max_size=3), int32s, st.lists(endpoints, max_size=2))
def test_produce_response__agrees_with_the_generated_codec(
    version: int, topics: list[produce.TopicResults], throttle_time_ms: int, endpoints: list[NodeEndpoint]
) -> None:
    expected = codec.encode(response_as_generated(version, topics, throttle_time_ms, endpoints), version)

    assert (
        encode_produce_response(version, topics, throttle_time_ms=throttle_time_ms, node_endpoints=endpoints)
        == expected
    )


def test_produce_response__of_the_common_case_has_these_bytes() -> None:
    result = ProduceResult(3, 0, base_offset=258, log_append_time_ms=-1, log_start_offset=1)
    head = b"\0\0\0\3" + b"\0\0" + b"\0\0\0\0\0\0\1\2" + b"\xff" * 8
    log_start = b"\0\0\0\0\0\0\0\1"
    old = b"\0\0\0\1" + b"\0\1t" + b"\0\0\0\1"
    expected = {
        3: old + head + b"\0\0\0\0",
        4: old + head + b"\0\0\0\0",
        **dict.fromkeys((5, 6, 7), old + head + log_start + b"\x00\x00\x00\x00"),
        8: old + head + log_start + b"\0\0\0\0" + b"\xff\xff" + b"\0\0\0\0",
        **dict.fromkeys((9, 10, 11, 12), b"\2" + b"\2t" + b"\2" + head + log_start + b"\1\0\0" + b"\0" + b"\0\0\0\0\0"),
        13: b"\2" + b"i" * 16 + b"\2" + head + log_start + b"\1\0\0" + b"\0" + b"\0\0\0\0\0",
    }
    for version in VERSIONS:
        assert encode_produce_response(version, [("t", b"i" * 16, [result])]) == expected[version], version


@given(
    st.sampled_from(range(9, 14)),
    st.text(max_size=200),
    st.binary(min_size=16, max_size=16),
    st.binary(max_size=20_000),
)
def test_produce_request__of_one_batch_is_as_any_other(version: int, name: str, topic_id: bytes, data: bytes) -> None:
    row = generated.PartitionProduceData(index=7, records=data)
    topic = generated.TopicProduceData(name=name, topic_id=topic_id, partition_data=[row])
    message = generated.ProduceRequest(transactional_id=None, acks=-1, timeout_ms=5, topic_data=[topic])
    body = codec.encode(message, version)

    [(found_name, found_id, [(index, records)])] = decode_produce(version, memoryview(body)).topics

    assert (found_name, found_id) == ((name, None) if version < 13 else (None, topic_id))
    assert (index, bytes(records or b"")) == (7, data)
    for end in range(len(body) - min(len(data), 10) - 5, len(body)):
        with pytest.raises(MalformedMessage):
            decode_produce(version, memoryview(body)[:end])


@given(st.sampled_from(range(9, 14)), st.text(max_size=200), st.integers(-1, 2**63 - 1), st.sampled_from([0, 3, 87]))
def test_produce_response__of_one_result_is_as_any_other(version: int, name: str, offset: int, error: int) -> None:
    result = ProduceResult(4, error, offset, -1, 0)

    encoded = encode_produce_response(version, [(name, bytes(range(16)), [result])])
    in_detail = encode_produce_response(version, [(name, bytes(range(16)), [result])], throttle_time_ms=1)

    assert codec.decode(generated.ProduceResponse, version, memoryview(encoded)).responses == (
        codec.decode(generated.ProduceResponse, version, memoryview(in_detail)).responses
    )
    assert len(encoded) == len(in_detail)
