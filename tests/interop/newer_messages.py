"""Messages that kafka-python does not know yet, as its codecs read them from Kafka's own definitions."""

from __future__ import annotations

from kafka.protocol.api_message import ApiMessage

DEFINITIONS = "tests.interop.definitions"


class ConsumerGroupHeartbeatRequest(ApiMessage, load_json=DEFINITIONS): ...


class ConsumerGroupHeartbeatResponse(ApiMessage, load_json=DEFINITIONS): ...


class ConsumerGroupDescribeRequest(ApiMessage, load_json=DEFINITIONS): ...


class ConsumerGroupDescribeResponse(ApiMessage, load_json=DEFINITIONS): ...


class TxnOffsetCommitRequest(ApiMessage, load_json=DEFINITIONS):
    """Up to version 6, which names topics by their ids."""


class TxnOffsetCommitResponse(ApiMessage, load_json=DEFINITIONS): ...
