"""What Kafka 4.4.0 answers, we answer: about two thousand corner cases over raw TCP, against answers recorded from a
real Kafka.

`--server kafka` checks the recording against a live Kafka, `--server kafka --record` makes it anew. The cases are in
`differential_*.py`; where we differ on purpose is in `documented_differences.py`.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

from tests.interop.conftest import Server
from tests.interop.differential import differences, registry, run_case
from tests.interop.documented_differences import DIFFERENCES

TRANSACTIONAL_AREAS = ("transactions", "transactional_writes", "transactional_offsets")
for area in ("admin", "consumer_groups", "fetch", "frames", "groups", "produce", "record_rules", *TRANSACTIONAL_AREAS):
    importlib.import_module(f"tests.interop.differential_{area}")

ANSWERS = Path(__file__).with_name("kafka_4_4_answers")


def recorded(name: str) -> dict[str, Any]:
    answers: dict[str, Any] = json.loads((ANSWERS / f"{name}.json").read_text())
    return answers


def record(name: str, answers: dict[str, Any]) -> None:
    ANSWERS.mkdir(exist_ok=True)
    lines = [f"{json.dumps(label)}: {json.dumps(answer, ensure_ascii=False)}" for label, answer in answers.items()]
    (ANSWERS / f"{name}.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


@pytest.mark.parametrize("name", sorted(registry))
def test_differential__answers_what_kafka_answers(server: Server, request: pytest.FixtureRequest, name: str) -> None:
    answers = json.loads(json.dumps(run_case(name, server.address)))  # keys become text, as in the recording
    against_kafka = request.config.getoption("--server") == "kafka"
    if against_kafka and request.config.getoption("--record"):
        record(name, answers)
    expected = recorded(name)
    assert list(answers) == list(expected)
    problems = []
    for label, answer in answers.items():
        found = differences(expected[label], answer)
        listed = DIFFERENCES.get((name, label))
        allowed = listed.lines if listed and not against_kafka else []
        if found != allowed:
            problems.append("\n    ".join([f"{label}: (Kafka -> this server)", *(found or ["differs no more"])]))
    assert not problems, "\n".join(problems)


def test_differential__documented_differences_name_real_cases() -> None:
    for name, label in DIFFERENCES:
        assert label in recorded(name)
