"""kcat as Debian ships it, on an old librdkafka (2.0.2 in Debian 12): content, order, committed offsets."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable

import pytest

from tests.interop.conftest import Server, broker_count
from tests.support.java import require_tool

pytestmark = pytest.mark.interop
NAME = Callable[[str], str]
TIMEOUT_S = 60.0
LINES = [f"{number % 10}:record {number} größe" for number in range(2_000)]


def kcat(server: Server, *arguments: str, standard_input: str = "") -> str:
    program = require_tool("kcat", "apt-get install kcat")
    command = [program, "-b", server.bootstrap, *arguments]
    done = subprocess.run(command, input=standard_input.encode(), capture_output=True, timeout=TIMEOUT_S)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


@pytest.mark.parametrize("compression", ["none", "gzip", "snappy", "lz4", "zstd"])
def test_kcat__round_trip_keeps_content_and_order(server: Server, unique_name: NAME, compression: str) -> None:
    topic = unique_name(f"kcat-{compression}")
    kcat(server, "-P", "-t", topic, "-K:", "-z", compression, "-p", "0", standard_input="\n".join(LINES) + "\n")
    printed = kcat(
        server, "-C", "-t", topic, "-o", "beginning", "-e", "-q", "-f", "%o %k:%s\n", "-X", "check.crcs=true"
    )
    assert printed.splitlines() == [f"{offset} {line}" for offset, line in enumerate(LINES)]


def test_kcat__metadata_shows_the_topic(server: Server, unique_name: NAME) -> None:
    topic = unique_name("kcat-metadata")
    kcat(server, "-P", "-t", topic, standard_input="one\n")
    described = json.loads(kcat(server, "-L", "-J", "-t", topic))
    brokers = [broker["name"] for broker in described["brokers"]]
    assert server.bootstrap in brokers and len(brokers) == broker_count(server)
    [listed] = described["topics"]
    assert listed["topic"] == topic and [partition["partition"] for partition in listed["partitions"]] == [0]


def test_kcat__group_resumes_at_committed_offsets(server: Server, unique_name: NAME) -> None:
    topic, group = unique_name("kcat-group"), unique_name("group")

    def read(count: int) -> list[str]:
        arguments = ("-G", group, "-c", str(count), "-q", "-X", "auto.offset.reset=earliest", "-f", "%o %s\n", topic)
        return kcat(server, *arguments).splitlines()

    kcat(server, "-P", "-t", topic, standard_input="a\nb\nc\n")
    assert read(3) == ["0 a", "1 b", "2 c"]
    kcat(server, "-P", "-t", topic, standard_input="d\ne\n")
    assert read(2) == ["3 d", "4 e"]


def test_kcat__offset_by_timestamp(server: Server, unique_name: NAME) -> None:
    topic = unique_name("kcat-time")
    kcat(server, "-P", "-t", topic, standard_input="a\nb\n")
    assert kcat(server, "-Q", "-t", f"{topic}:0:-1").split() == [topic, "[0]", "offset", "2"]
    assert kcat(server, "-Q", "-t", f"{topic}:0:1").split() == [topic, "[0]", "offset", "0"]
