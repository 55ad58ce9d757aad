"""What Apache Kafka 4.4.0 said, kept in `kafka_4_4_answers/`, and the judgement of what a server says now."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.interop.differential import differences
from tests.interop.documented_differences import Difference

ANSWERS = Path(__file__).with_name("kafka_4_4_answers")


def recorded(name: str) -> dict[str, Any]:
    answers: dict[str, Any] = json.loads((ANSWERS / f"{name}.json").read_text())
    return answers


def record(name: str, answers: Mapping[str, Any]) -> None:
    ANSWERS.mkdir(exist_ok=True)
    lines = [f"{json.dumps(label)}: {json.dumps(answer, ensure_ascii=False)}" for label, answer in answers.items()]
    (ANSWERS / f"{name}.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


def judge(
    config: pytest.Config, name: str, said: Mapping[str, Any], listed: Mapping[tuple[str, str], Difference]
) -> None:
    """Fails where `said` is neither what Kafka said nor exactly a listed difference. Kafka itself is allowed none; with
    `--record` what it says is kept.
    """
    answers = json.loads(json.dumps(said))  # keys become text, as in the recording
    against_kafka = config.getoption("--server") == "kafka"
    if against_kafka and config.getoption("--record"):
        record(name, answers)
    expected = recorded(name)
    assert list(answers) == list(expected)
    problems = []
    for label, answer in answers.items():
        found = differences(expected[label], answer)
        documented = listed.get((name, label))
        allowed = documented.lines if documented and not against_kafka else []
        if found != allowed:
            problems.append("\n    ".join([f"{label}: (Kafka -> this server)", *(found or ["differs no more"])]))
    assert not problems, "\n".join(problems)
