"""Kafka's error codes as clients see them."""

from __future__ import annotations

import kafka.errors
import pytest

from bytemq.protocol.error_codes import ErrorCode, KafkaError


def test_error_code__is_an_int_with_text_and_advice() -> None:
    assert ErrorCode(6) is ErrorCode.NOT_LEADER_OR_FOLLOWER == 6
    assert ErrorCode.NOT_LEADER_OR_FOLLOWER.retriable
    assert not ErrorCode.TOPIC_ALREADY_EXISTS.retriable
    assert ErrorCode.TOPIC_ALREADY_EXISTS.message == "Topic with this name already exists."


def test_error_codes__are_dense_and_complete() -> None:
    assert sorted(ErrorCode) == list(range(-1, len(ErrorCode) - 1))


def test_error_codes__agree_with_kafka_python() -> None:
    known = {code: error for code, error in kafka.errors.kafka_errors.items() if code is not None}
    other_names = {code for code, error in known.items() if error.message != ErrorCode(code).name}
    other_advice = {code for code, error in known.items() if error.retriable != ErrorCode(code).retriable}

    assert len(known) > 120
    assert other_names == {-1, 0, 6, 10, 17, 39}  # it keeps names from before Kafka renamed them
    assert other_advice == {2}  # CORRUPT_MESSAGE: the Java client does retry


def test_kafka_error__has_kafkas_text_unless_given_another() -> None:
    assert KafkaError(ErrorCode.INVALID_TOPIC_EXCEPTION).message == ErrorCode.INVALID_TOPIC_EXCEPTION.message
    with pytest.raises(KafkaError, match="INVALID_TOPIC_EXCEPTION: no such name"):
        raise KafkaError(ErrorCode.INVALID_TOPIC_EXCEPTION, "no such name")
