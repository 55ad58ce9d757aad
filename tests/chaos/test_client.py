"""What chaos does about calls of librdkafka that do not come back."""

from __future__ import annotations

import threading

import pytest
from confluent_kafka import KafkaError, KafkaException

from tests.chaos.client import bounded

PATIENCE_S = 20.0


def test_a_call_in_time_says_what_it_has_to_say() -> None:
    assert bounded(lambda: 7, PATIENCE_S) == 7

    def fail() -> None:
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT))

    with pytest.raises(KafkaException) as raised:
        bounded(fail, PATIENCE_S)
    assert raised.value.args[0].code() == KafkaError._TIMED_OUT


def test_a_call_that_does_not_come_back_is_left_alone() -> None:
    goes_on, came_back = threading.Event(), threading.Event()

    def call() -> None:
        goes_on.wait(PATIENCE_S)
        came_back.set()

    with pytest.raises(TimeoutError):
        bounded(call, 0.05)
    assert not came_back.is_set()
    goes_on.set()
    assert came_back.wait(PATIENCE_S)
