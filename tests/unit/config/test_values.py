"""Values of configs against the answers that Apache Kafka 4.4.0's own ConfigDef gave (data/kafka_answers.json)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bytemq.config.definitions import (
    broker_definitions,
    client_metrics_definitions,
    group_definitions,
    topic_definitions,
)
from bytemq.config.values import ConfigType, InvalidConfig, duration_ms, java_double, parse_type, to_text

ANSWERS: dict[str, dict[str, dict[str, Any]]] = json.loads(
    (Path(__file__).parent / "data" / "kafka_answers.json").read_text()
)
SCOPES = {
    "broker": broker_definitions(),
    "topic": topic_definitions(),
    "group": group_definitions(),
    "client_metrics": client_metrics_definitions(),
}


@pytest.mark.parametrize("config", ANSWERS)
def test_parse__answers_as_kafka_does(config: str) -> None:
    scope, name = config.split()
    for text, expected in ANSWERS[config].items():
        try:
            answer = {"text": to_text(SCOPES[scope][name].parse(text))}
        except InvalidConfig as error:
            answer = {"error": str(error)}
        assert answer == expected, text


def test_answers__hold_both_kinds() -> None:
    """The file above would prove nothing if it held only successes, or only failures."""
    kinds = [next(iter(answer)) for answers in ANSWERS.values() for answer in answers.values()]
    assert min(kinds.count("text"), kinds.count("error")) > 200


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.5, "0.5"),
        (1.0, "1.0"),
        (1e7, "1.0E7"),
        (2147483647.0, "2.147483647E9"),
        (1e-4, "1.0E-4"),
        (-0.00012, "-1.2E-4"),
    ],
)
def test_java_double__writes_as_java(value: float, text: str) -> None:
    assert java_double(value) == text


def test_parse_type__long_digits_cost_nothing() -> None:
    with pytest.raises(InvalidConfig):
        parse_type("retention.ms", "9" * 1_000_000, ConfigType.LONG)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("PT1H", 3_600_000),
        ("P1DT2H3M4.5S", 93_784_500),
        ("-PT1S", -1000),
        ("PT-0.5S", -500),
        ("P", None),
        ("PT", None),
        ("1h", None),
    ],
)
def test_duration__as_java_reads_it(text: str, expected: int | None) -> None:
    assert duration_ms(text) == expected
