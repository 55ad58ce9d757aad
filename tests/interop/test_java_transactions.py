"""Transactions by the Java client of Apache Kafka 4.4.0, unmodified (transaction version 2)."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable

import pytest

from tests.interop.conftest import Server
from tests.interop.kafka_process import INTEROP
from tests.support.java import compile_project, java_command

pytestmark = pytest.mark.interop
TIMEOUT_S = 180.0


def test_java_client__transactions(server: Server, unique_name: Callable[[str], str]) -> None:
    program = java_command(compile_project(INTEROP / "java"), "interop.Transactions", heap_mib=256)
    done = subprocess.run([*program, server.bootstrap, unique_name("txn")], capture_output=True, timeout=TIMEOUT_S)
    assert done.returncode == 0, done.stderr.decode()[-4000:] + done.stdout.decode()[-2000:]
    lines = [json.loads(line) for line in done.stdout.decode().splitlines() if line.startswith("{")]
    assert {line["name"]: line["got"] for line in lines} == {
        "committed records": 900,
        "described": "CompleteAbort",
        "listed": 1,
        "moved": 900,
        "left to read": True,
        "fenced": "ProducerFencedException",
        "after fencing": 901,
        "open": "Ongoing",
        "timed out": "CompleteAbort",
        "too late": "InvalidTxnStateException",
        "after the time-out": 901,
        "still open": 0,
        "after the abort by hand": 901,
    }
