"""The codec against Kafka's own bytes, against itself, and against those who mean harm."""

from __future__ import annotations

import time
from contextlib import suppress
from random import Random

import pytest

from bytemq.protocol import codec
from bytemq.protocol import schema as wire
from bytemq.protocol.codec import UnsupportedVersion, decode, decode_record, encode, encode_record, record_type
from bytemq.protocol.messages.api_versions import ApiVersionsRequest, ApiVersionsResponse
from bytemq.protocol.messages.consumer_protocol import (
    ConsumerProtocolSubscription,
    ConsumerProtocolSubscriptionTopicPartition,
)
from bytemq.protocol.messages.create_topics import CreateTopicsRequest
from bytemq.protocol.messages.describe_topic_partitions import Cursor, DescribeTopicPartitionsRequest
from bytemq.protocol.messages.fetch import FetchRequest
from bytemq.protocol.messages.metadata import MetadataRequest, MetadataRequestTopic, MetadataResponse
from bytemq.protocol.messages.offset_commit_record import OffsetCommitKey, OffsetCommitValue
from bytemq.protocol.primitives import MalformedMessage
from tests.unit.protocol import golden_file, samples

GOLDEN = golden_file.load()


def test_golden_file__has_every_message_at_every_version_twice() -> None:
    expected = {(cls.__name__, version, kind) for cls, version in samples.cases() for kind in ("full", "bare")}

    assert set(GOLDEN) == expected


def test_encode__writes_what_kafka_writes() -> None:
    for cls, version in samples.cases():
        assert encode(samples.full(cls, version), version) == GOLDEN[cls.__name__, version, "full"], (cls, version)
        assert encode(samples.bare(cls, version), version) == GOLDEN[cls.__name__, version, "bare"], (cls, version)


def test_decode__reads_what_kafka_writes() -> None:
    for cls, version in samples.cases():
        assert decode(cls, version, GOLDEN[cls.__name__, version, "full"]) == samples.full(cls, version)
        assert decode(cls, version, GOLDEN[cls.__name__, version, "bare"]) == samples.bare(cls, version)


def test_encode_and_decode__are_inverse() -> None:
    random = Random(20)
    for cls, version in samples.cases():
        for _ in range(3):
            message = samples.random_message(cls, version, random)
            assert decode(cls, version, encode(message, version)) == message


# Versions


def test_decode__refuses_a_version_that_the_message_lacks() -> None:
    with pytest.raises(UnsupportedVersion, match="MetadataRequest has no version 14"):
        decode(MetadataRequest, 14, b"")


def test_encode__refuses_to_drop_what_is_not_ignorable() -> None:
    with pytest.raises(UnsupportedVersion, match=r"MetadataRequest.allow_auto_topic_creation is set, but version 3"):
        encode(MetadataRequest(allow_auto_topic_creation=False), 3)


def test_encode__drops_what_is_ignorable() -> None:
    response = MetadataResponse(throttle_time_ms=7, cluster_id="c")

    assert decode(MetadataResponse, 1, encode(response, 1)) == MetadataResponse()


def test_encode__refuses_null_where_the_version_has_none() -> None:
    assert decode(MetadataRequest, 1, encode(MetadataRequest(topics=None), 1)).topics is None
    with pytest.raises(UnsupportedVersion):
        encode(MetadataRequest(topics=None), 0)


# Lenience, as Kafka's


def test_decode__ignores_trailing_bytes() -> None:
    assert decode(MetadataRequest, 1, b"\0\0\0\0rest") == MetadataRequest(topics=[])


@pytest.mark.parametrize("length", [b"\xff\xff\xff\xff", b"\xff\xff\xff\xfe"])
def test_decode__takes_any_negative_length_of_a_nullable_array_for_null(length: bytes) -> None:
    assert decode(MetadataRequest, 1, length).topics is None


@pytest.mark.parametrize("length", [b"\x00", b"\xff\xff\xff\xff\x0f"])
def test_decode__takes_any_negative_compact_length_for_null(length: bytes) -> None:
    assert decode(MetadataRequest, 9, length + b"\1\0\0\0").topics is None


def test_decode__refuses_null_where_the_field_is_not_nullable() -> None:
    with pytest.raises(MalformedMessage):
        decode(MetadataRequest, 0, b"\xff\xff\xff\xff")


def test_decode__takes_any_boolean_but_zero_for_true() -> None:
    assert decode(MetadataRequest, 4, b"\0\0\0\0\7").allow_auto_topic_creation is True


def test_decode__passes_over_unknown_tags_repeated_and_out_of_order() -> None:
    body = b"\3me" + b"\2\x31" + b"\3" + b"\x09\1x" + b"\x05\0" + b"\x09\2yz"

    assert decode(ApiVersionsRequest, 3, body) == ApiVersionsRequest(
        client_software_name="me", client_software_version="1"
    )


def test_decode__replaces_what_is_not_utf8() -> None:
    assert decode(ApiVersionsRequest, 3, b"\3a\xff\1\0").client_software_name == "a\ufffd"


# Hostile input


def test_decode__finds_every_truncation() -> None:
    for (name, version, _), data in GOLDEN.items():
        cls = CLASSES[name]
        view = memoryview(data)
        for length in range(len(data)):
            with pytest.raises(MalformedMessage):
                decode(cls, version, view[:length])


def test_decode__fails_with_malformed_message_only() -> None:
    random = Random(4)
    for (name, version, kind), data in GOLDEN.items():
        if kind == "full":
            for _ in range(20):
                mutated = bytearray(data)
                for _ in range(random.choice((1, 1, 4)) if mutated else 0):
                    mutated[random.randrange(len(mutated))] = random.choice((0, 1, 0x7F, 0x80, 0xFF, 0xFE))
                with suppress(MalformedMessage):
                    decode(CLASSES[name], version, mutated)


@pytest.mark.parametrize("byte", [0x00, 0x01, 0x80, 0xFF])
def test_decode__wastes_no_time_on_two_megabytes_of_one_byte(byte: int) -> None:
    rubbish = bytes([byte]) * 2_000_000
    start = time.perf_counter()
    for cls, version in samples.cases():
        with suppress(MalformedMessage):
            decode(cls, version, rubbish)
    assert time.perf_counter() - start < 2.0  # for all messages together, which takes some 15 ms


def test_decode__counts_elements_against_bytes_before_it_allocates() -> None:
    with pytest.raises(MalformedMessage, match="elements in 4 bytes"):
        decode(MetadataRequest, 0, b"\x7f\xff\xff\xff" + bytes(4))


def test_decode__bounds_the_elements_of_all_arrays_together() -> None:
    topics = [MetadataRequestTopic(name="t")] * 100
    body = encode(MetadataRequest(topics=topics), 0)

    assert len(decode(MetadataRequest, 0, body, max_elements=100).topics or ()) == 100
    with pytest.raises(MalformedMessage, match="too many elements"):
        decode(MetadataRequest, 0, body, max_elements=99)


def test_decode__charges_elements_of_nested_arrays() -> None:
    partitions = encode(samples.full(FetchRequest, 12), 12)

    with pytest.raises(MalformedMessage, match="too many elements"):
        decode(FetchRequest, 12, partitions, max_elements=3)


def test_decode__bounds_the_number_of_tagged_fields() -> None:
    body = b"\3me\2\x31" + b"\x64" + b"\x09\0" * 100

    assert decode(ApiVersionsRequest, 3, body, max_elements=100).client_software_name == "me"
    with pytest.raises(MalformedMessage, match="too many elements"):
        decode(ApiVersionsRequest, 3, body, max_elements=99)


# Nullable structs


def test_nullable_struct__is_marked_by_a_byte_in_front() -> None:
    without = DescribeTopicPartitionsRequest(cursor=None)
    with_cursor = DescribeTopicPartitionsRequest(cursor=Cursor(topic_name="t", partition_index=2))

    assert encode(without, 0)[-2] == 0xFF
    assert decode(DescribeTopicPartitionsRequest, 0, encode(without, 0)) == without
    assert decode(DescribeTopicPartitionsRequest, 0, encode(with_cursor, 0)) == with_cursor


# Records


def test_record_key__begins_with_the_type_of_the_record() -> None:
    key = OffsetCommitKey(group="g", topic="t", partition=3)
    data = encode_record(key)

    assert bytes(data) == b"\0\1" + b"\0\1g" + b"\0\1t" + b"\0\0\0\3"
    assert record_type(data) == 1 == OffsetCommitKey.RECORD_TYPE
    assert decode_record(OffsetCommitKey, data) == key


def test_record_key__of_another_type_is_malformed() -> None:
    with pytest.raises(MalformedMessage, match="2 in front is no OffsetCommitKey"):
        decode_record(OffsetCommitKey, b"\0\2\0\1g\0\1t\0\0\0\3")


def test_record_value__begins_with_its_version() -> None:
    value = OffsetCommitValue(offset=5, leader_epoch=2, metadata="m", commit_timestamp=9)
    data = encode_record(value, 3)

    assert data[:2] == b"\0\3"
    assert decode_record(OffsetCommitValue, data) == value


def test_record_value__of_an_unknown_version_is_malformed() -> None:
    with pytest.raises(MalformedMessage, match="5 in front is no OffsetCommitValue"):
        decode_record(OffsetCommitValue, b"\0\5" + bytes(30))


def test_consumer_protocol__of_a_newer_version_is_read_as_the_highest_known() -> None:
    subscription = ConsumerProtocolSubscription(
        topics=["a"],
        owned_partitions=[ConsumerProtocolSubscriptionTopicPartition(topic="a", partitions=[0])],
        generation_id=4,
        rack_id="r",
    )
    data = encode_record(subscription, 3)
    data[1] = 9

    assert decode_record(ConsumerProtocolSubscription, bytes(data) + b"more", accept_newer=True) == subscription


def test_plans__are_made_once() -> None:
    make = codec._struct_reader

    assert make(CreateTopicsRequest, 7, True) is make(CreateTopicsRequest, 7, True)
    assert make(CreateTopicsRequest, 7, True) is not make(CreateTopicsRequest, 6, True)


def test_struct__is_readable_and_compares_by_value() -> None:
    assert repr(MetadataRequestTopic(name="t")) == f"MetadataRequestTopic(topic_id={bytes(16)!r}, name='t')"
    assert MetadataRequestTopic(name="t") == MetadataRequestTopic(name="t") != MetadataRequestTopic(name="u")
    assert MetadataRequest() != ApiVersionsRequest()


def test_struct__does_not_share_its_default_lists() -> None:
    MetadataResponse().brokers.append(1)  # type: ignore[arg-type]

    assert MetadataResponse().brokers == []
    assert ApiVersionsResponse.FIELDS["api_keys"].versions == "0+"


def test_versions__are_ranges() -> None:
    assert [wire.parse_versions(text) for text in ("3", "1-3", "2+", "none")] == [(3, 3), (1, 3), (2, 0x7FFF), (0, -1)]


CLASSES = {cls.__name__: cls for cls in samples.messages()}
