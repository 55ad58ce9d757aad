"""The Java client of Apache Kafka 4.4.0, unmodified, in a Java program of its own (tests/interop/java)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.interop.client_program import check_round_trip, run
from tests.interop.conftest import Server, broker_count
from tests.interop.kafka_process import INTEROP
from tests.interop.sample import samples
from tests.support.java import compile_project, java_command

pytestmark = pytest.mark.interop


@pytest.fixture(scope="module")
def program() -> list[str]:
    return java_command(compile_project(INTEROP / "java"), "interop.Client", heap_mib=256)


@pytest.mark.parametrize(
    ("compression", "protocol"),
    [*((codec, "classic") for codec in ("none", "gzip", "snappy", "lz4", "zstd")), ("none", "consumer")],
)
def test_java_client__round_trip_and_admin(
    server: Server, unique_name: Callable[[str], str], program: list[str], compression: str, protocol: str
) -> None:
    records = samples(900)
    arguments = [server.bootstrap, unique_name("java"), unique_name("java-group"), compression, protocol]
    checks = check_round_trip(run([*program, *arguments], records), records)
    assert checks == {
        "created": [3, 1, "86400000000"],
        "created again": "TopicExistsException",
        "partitions": 3,
        "found by id": 1,
        "listed": True,
        "offset earliest": 0,
        "offset latest": 300,
        "offset maximum timestamp": 299,
        "offset at a time": 100,
        "offset earliest local": 0,
        "delete records": 10,
        "offset after deletion": 10,
        "fewer partitions": "InvalidPartitionsException",
        "altered": "2000000",
        "restored": "1048588",
        "bad value": "InvalidConfigurationException",
        "broker default": "2",
        "group": ["Empty", 0],
        "group listed": True,
        "group offset": [3, "note"],
        "offsets left": [1, 2],
        "producers": 1,
        "nodes": broker_count(server),
        "log dirs": True,
        "features": True,
        "reassignments": 0,
        "group gone": "GroupIdNotFoundException",
        "topic gone": "UnknownTopicOrPartitionException",
    }
