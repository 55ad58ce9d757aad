"""What Kafka 4.4.0 answers, we answer: about two thousand corner cases over raw TCP, against answers recorded from a
real Kafka.

`--server kafka` checks the recording against a live Kafka, `--server kafka --record` makes it anew. The cases are in
`differential_*.py`; where we differ on purpose is in `documented_differences.py`.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from tests.interop.conftest import Server, make_server
from tests.interop.differential import hasty, registry, run_case
from tests.interop.differential_migration_policy import BY_POLICY
from tests.interop.documented_differences import DIFFERENCES
from tests.interop.recordings import judge, recorded

OTHER_AREAS = (
    "admin",
    "cleaning",
    "consumer_groups",
    "fetch",
    "frames",
    "groups",
    "migration",
    "migration_policy",
    "produce",
    "record_rules",
    "shapes",
)
TRANSACTIONAL_AREAS = ("transactions", "transactional_writes", "transactional_offsets", "endings")
for area in (*OTHER_AREAS, *TRANSACTIONAL_AREAS):
    importlib.import_module(f"tests.interop.differential_{area}")

OF_ONE_BROKER = {
    "cluster",
    "consumer_group_described",
    "create_partitions",
    "describe_quorum",
    "describe_topic_partitions",
    "fetch_limits",
    "fetch_sessions",
    "fetch_sessions_by_id",
    "fetch_sessions_that_forget",
    "find_coordinator",
    "group_life",
    "list_config_resources",
    "list_groups",
    "log_dirs",
    "metadata",
    "offsets_of_a_simple_group",
    "produce_several_partitions",
    "reassignments_and_elections",
    "shapes_of_altered_configs",
    "shapes_of_coordinators",
    "shapes_of_created_topics",
    "shapes_of_deleted_topics",
    "shapes_of_described_configs",
    "shapes_of_elections",
    "shapes_of_log_dirs",
    "shapes_of_log_requests",
    "shapes_of_metadata",
    "shapes_of_more_partitions",
    "shapes_of_offsets",
    "shapes_of_reassignments",
    "shapes_of_several_altered_configs",
    "shapes_of_topic_partitions",
    "strange_flexible_frames",
    "strange_frames",
    "transaction_add_partitions_from_brokers",
    "transaction_find_coordinator",
    "transaction_list",
}
"""Cases that look at which brokers there are, at what belongs to several of them in one request, or at requests that
name nobody.
"""

MANY_WRITES = {"epochs_used_up_by_beginning", "epochs_used_up_by_ending"}
"""Cases that write all epochs of a producer, one after another."""

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


def cases(names: Iterable[str]) -> list[Any]:
    of_one, many_writes = pytest.mark.one_broker, pytest.mark.many_writes
    marks = {**dict.fromkeys(OF_ONE_BROKER, of_one), **dict.fromkeys(MANY_WRITES, many_writes)}
    return [pytest.param(name, marks=marks.get(name, ())) for name in sorted(names)]


@pytest.mark.parametrize("name", cases(registry.keys() - hasty - BY_POLICY.keys()))
def test_differential__answers_what_kafka_answers(server: Server, request: pytest.FixtureRequest, name: str) -> None:
    compare(server, request, name)


@pytest.mark.interop  # too long for every run
@pytest.mark.parametrize("name", cases(hasty))
def test_differential__does_in_the_background_what_kafka_does(
    hasty_server: Server, request: pytest.FixtureRequest, name: str
) -> None:
    compare(hasty_server, request, name)


@pytest.mark.interop  # starts a server each
@pytest.mark.parametrize("name", sorted(BY_POLICY))
def test_differential__migrates_as_far_as_the_policy_says(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, name: str
) -> None:
    settings = {"group.initial.rebalance.delay.ms": "0", "group.consumer.migration.policy": BY_POLICY[name]}
    server = make_server(request, tmp_path_factory, name, settings)
    try:
        compare(server.start(), request, name)
    finally:
        server.close()


def compare(server: Server, request: pytest.FixtureRequest, name: str) -> None:
    judge(request.config, name, run_case(name, server.address), DIFFERENCES)


def test_differential__documented_differences_name_real_cases() -> None:
    for name, label in DIFFERENCES:
        assert label in recorded(name)
