"""What Kafka 4.4.0 answers, we answer: about two thousand corner cases over raw TCP, against answers recorded from a
real Kafka.

`--server kafka` checks the recording against a live Kafka, `--server kafka --record` makes it anew. The cases are in
`differential_*.py`; where we differ on purpose is in `documented_differences.py`.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.interop.conftest import Server, make_server
from tests.interop.differential import differences, hasty, registry, run_case
from tests.interop.documented_differences import DIFFERENCES

OTHER_AREAS = (
    "admin",
    "cleaning",
    "consumer_groups",
    "fetch",
    "frames",
    "groups",
    "migration",
    "produce",
    "record_rules",
)
TRANSACTIONAL_AREAS = ("transactions", "transactional_writes", "transactional_offsets", "endings")
for area in (*OTHER_AREAS, *TRANSACTIONAL_AREAS):
    importlib.import_module(f"tests.interop.differential_{area}")

pytestmark = pytest.mark.one_broker
ANSWERS = Path(__file__).with_name("kafka_4_4_answers")


HASTY = {
    "group.initial.rebalance.delay.ms": "0",
    "log.cleaner.backoff.ms": "300",
    "log.retention.check.interval.ms": "300",
    "transaction.remove.expired.transaction.cleanup.interval.ms": "500",
    "transactional.id.expiration.ms": "10000",
}


@pytest.fixture(scope="module")
def hasty_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that cleans and expires soon."""
    started = make_server(request, tmp_path_factory, "hasty", HASTY)
    try:
        yield started.start()
    finally:
        started.close()


def recorded(name: str) -> dict[str, Any]:
    answers: dict[str, Any] = json.loads((ANSWERS / f"{name}.json").read_text())
    return answers


def record(name: str, answers: dict[str, Any]) -> None:
    ANSWERS.mkdir(exist_ok=True)
    lines = [f"{json.dumps(label)}: {json.dumps(answer, ensure_ascii=False)}" for label, answer in answers.items()]
    (ANSWERS / f"{name}.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


@pytest.mark.parametrize("name", sorted(registry.keys() - hasty))
def test_differential__answers_what_kafka_answers(server: Server, request: pytest.FixtureRequest, name: str) -> None:
    compare(server, request, name)


@pytest.mark.interop  # too long for every run
@pytest.mark.parametrize("name", sorted(hasty))
def test_differential__does_in_the_background_what_kafka_does(
    hasty_server: Server, request: pytest.FixtureRequest, name: str
) -> None:
    compare(hasty_server, request, name)


def compare(server: Server, request: pytest.FixtureRequest, name: str) -> None:
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
