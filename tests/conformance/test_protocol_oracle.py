"""kafka-python as a judge that we did not write: it must read what we write and write back the same bytes.

It knows the messages that its clients need, of three APIs not the newest version; what it cannot judge is named below.
(The bytes of Kafka itself, for all messages at all versions, are in tests/unit/protocol/golden.)
"""

from __future__ import annotations

import pkgutil
import re
import uuid
from importlib import import_module
from random import Random
from typing import Any

import kafka.protocol
import pytest
from kafka.protocol.api_message import ApiMessage
from kafka.protocol.consumer import FetchRequest, FetchResponse
from kafka.protocol.producer import ProduceRequest, ProduceResponse

from bytemq.protocol import codec
from bytemq.protocol.fetch import PartitionData, decode_fetch, encode_fetch_response
from bytemq.protocol.leader_hints import LeaderIdAndEpoch, NodeEndpoint
from bytemq.protocol.messages.api_versions import ApiVersionsResponse
from bytemq.protocol.produce import ProduceResult, decode_produce, encode_produce_response
from bytemq.protocol.schema import Message, Struct, parse_versions
from bytemq.types import ZERO_TOPIC_ID
from tests.unit.protocol import samples


def oracle_classes() -> dict[str, type[ApiMessage]]:
    names = [module.name for module in pkgutil.walk_packages(kafka.protocol.__path__, "kafka.protocol.")]
    modules = [import_module(name) for name in names if ".old" not in name and "generate_stubs" not in name]
    return {
        name: value
        for module in modules
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, ApiMessage) and value.__name__ == name
    }


ORACLE = oracle_classes()


NEWER_THAN_THE_ORACLE = {
    "ApiVersionsRequest": 5,
    "ApiVersionsResponse": 5,
    "DeleteGroupsRequest": 3,
    "DeleteGroupsResponse": 3,
    "TxnOffsetCommitRequest": 6,
    "TxnOffsetCommitResponse": 6,
}
"""The versions of Kafka 4.4 that kafka-python 3.0 does not know of messages that it knows."""

RENAMED_SINCE = {"generation_id_or_member_epoch": "generation_id"}

UNJUDGED_APIS = re.compile(
    "DelegationToken|RaftVoter|Share|Streams|Telemetry|ConsumerGroup(Heartbeat|Describe)|Unregister"
)


def judged() -> list[tuple[type[Message], type[ApiMessage], int]]:
    return [
        (cls, ORACLE[cls.__name__], version)
        for cls, version in samples.cases()
        if cls.__name__ in ORACLE and version < NEWER_THAN_THE_ORACLE.get(cls.__name__, 0x7FFF)
    ]


def encoded_by_oracle(message: ApiMessage, version: int) -> bytes:
    message._header = None  # which a decoded message lacks, though encoding one needs it
    return bytes(message.encode(version=version))


def assert_same(ours: Any, theirs: Any, version: int) -> None:
    """Field by field, by Kafka's names; less the operations, which kafka-python turns into a set under another name."""
    if theirs is None:  # also what it gives for a tagged field that is not there
        assert ours in (None, ZERO_TOPIC_ID) or ours == type(ours)()
    elif isinstance(ours, Struct):
        for name, field in ours.FIELDS.items():
            if parse_versions(field.versions).includes(version) and not name.endswith("authorized_operations"):
                their_name = name if name in theirs.fields else RENAMED_SINCE[name]
                assert_same(getattr(ours, name), getattr(theirs, their_name), version)
    elif isinstance(ours, list):
        assert len(ours) == len(theirs)
        for our_element, their_element in zip(ours, theirs, strict=True):
            assert_same(our_element, their_element, version)
    elif isinstance(theirs, uuid.UUID):
        assert ours == theirs.bytes
    else:
        assert ours == theirs


def test_oracle__knows_every_api_but_these() -> None:
    unknown = {cls.__name__ for cls in samples.messages() if cls.API_KEY is not None and cls.__name__ not in ORACLE}

    assert unknown == {name for name in unknown if UNJUDGED_APIS.search(name)}
    assert len(judged()) > 450


def test_oracle__reads_and_writes_every_message_as_we_do() -> None:
    for cls, oracle, version in judged():
        for seed in range(3):
            message: Any = samples.random_message(cls, version, Random(seed))
            if cls is ApiVersionsResponse:
                message.error_code = 0  # with an error kafka-python reads version 0, whatever it asked for
            data = bytes(codec.encode(message, version))

            decoded = oracle.decode(data, version=version)

            assert_same(message, decoded, version)
            assert encoded_by_oracle(decoded, version) == data, (cls, version)


@pytest.mark.parametrize("version", range(3, 14))
def test_oracle__and_the_hand_written_produce_codec_understand_each_other(version: int) -> None:
    topic = {"name": "t"} if version < 13 else {"topic_id": uuid.UUID(int=7)}
    data = ProduceRequest.TopicProduceData.PartitionProduceData(index=3, records=b"records")
    request = ProduceRequest(
        transactional_id="tx",
        acks=-1,
        timeout_ms=9,
        topic_data=[ProduceRequest.TopicProduceData(partition_data=[data], **topic)],
    )
    name, topic_id = ("t", None) if version < 13 else (None, uuid.UUID(int=7).bytes)

    decoded = decode_produce(version, memoryview(encoded_by_oracle(request, version)))

    assert decoded == ("tx", -1, 9, [(name, topic_id, [(3, b"records")])])

    result = ProduceResult(3, 6, 5, 4, 2, "no", [(1, "bad")], LeaderIdAndEpoch(8, 9))
    endpoint = NodeEndpoint(8, "host", 9092, "rack")
    data = encode_produce_response(version, [(name, topic_id, [result])], node_endpoints=[endpoint])
    response = ProduceResponse.decode(bytes(data), version=version)

    partition = response.responses[0].partition_responses[0]
    assert (partition.index, partition.error_code, partition.base_offset, partition.log_append_time_ms) == (3, 6, 5, 4)
    assert version < 8 or (partition.error_message, partition.record_errors[0].batch_index) == ("no", 1)
    assert version < 10 or (partition.current_leader.leader_epoch, response.node_endpoints[0].host) == (9, "host")
    assert encoded_by_oracle(response, version) == data


@pytest.mark.parametrize("version", range(4, 19))
def test_oracle__and_the_hand_written_fetch_codec_understand_each_other(version: int) -> None:
    topic = {"topic": "t"} if version < 13 else {"topic_id": uuid.UUID(int=7)}
    wanted = FetchRequest.FetchTopic.FetchPartition(
        partition=3, current_leader_epoch=1, fetch_offset=5, last_fetched_epoch=2, partition_max_bytes=6
    )
    request = FetchRequest(
        max_wait_ms=1,
        min_bytes=2,
        max_bytes=3,
        isolation_level=1,
        session_id=4,
        session_epoch=5,
        topics=[FetchRequest.FetchTopic(partitions=[wanted], **topic)],
        forgotten_topics_data=[FetchRequest.ForgottenTopic(partitions=[7, 8], **topic)] if version >= 7 else [],
        rack_id="r",
    )
    name, topic_id = ("t", None) if version < 13 else (None, uuid.UUID(int=7).bytes)

    decoded = decode_fetch(version, memoryview(encoded_by_oracle(request, version)))

    assert decoded[:4] == (1, 2, 3, 1)
    assert (decoded.session_id, decoded.session_epoch) == ((4, 5) if version >= 7 else (0, -1))
    leader_epoch, last_fetched_epoch = 1 if version >= 9 else -1, 2 if version >= 12 else -1
    assert decoded.topics == [(name, topic_id, [(3, leader_epoch, 5, last_fetched_epoch, -1, 6)])]
    assert decoded.forgotten_topics == ([(name, topic_id, [7, 8])] if version >= 7 else [])
    assert decoded.rack_id == ("r" if version >= 11 else "")

    data = PartitionData(3, 6, 9, 8, 1, [b"one", b"two"], [(5, 6)], -1, (2, 3), LeaderIdAndEpoch(8, 9))
    endpoint = NodeEndpoint(8, "host", 9092, None)
    buffers = encode_fetch_response(version, [(name, topic_id, [data])], session_id=4, node_endpoints=[endpoint])
    response = FetchResponse.decode(b"".join(buffers), version=version)

    partition = response.responses[0].partitions[0]
    assert (partition.partition_index, partition.error_code, partition.high_watermark) == (3, 6, 9)
    assert (partition.last_stable_offset, partition.records) == (8, b"onetwo")
    assert (partition.aborted_transactions[0].producer_id, partition.aborted_transactions[0].first_offset) == (5, 6)
    assert version < 12 or (partition.diverging_epoch.end_offset, partition.current_leader.leader_id) == (3, 8)
    assert version < 16 or response.node_endpoints[0].host == "host"
    assert encoded_by_oracle(response, version) == b"".join(buffers)
