"""Kafka's command line tools, unmodified, in one Java process that calls their main methods one after another: many
calls in the time of one start. Those that do their work in a shutdown hook of the virtual machine are not among them.

Owns that process.
"""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Sequence
from typing import NamedTuple

from tests.interop.kafka_process import INTEROP
from tests.support.java import compile_project, java_command

TIMEOUT_S = 90.0
PACKAGE = "org.apache.kafka.tools"
TOOLS = {
    "kafka-topics": "TopicCommand",
    "kafka-configs": "ConfigCommand",
    "kafka-consumer-groups": "consumer.group.ConsumerGroupCommand",
    "kafka-groups": "GroupsCommand",
    "kafka-transactions": "TransactionsCommand",
    "kafka-get-offsets": "GetOffsetShell",
    "kafka-delete-records": "DeleteRecordsCommand",
    "kafka-log-dirs": "LogDirsCommand",
    "kafka-features": "FeatureCommand",
    "kafka-console-producer": "ConsoleProducer",
    "kafka-console-consumer": "consumer.ConsoleConsumer",
}


class Printed(NamedTuple):
    exit_code: int
    out: str
    err: str


class KafkaShell:
    def __init__(self) -> None:
        command = java_command(compile_project(INTEROP / "kafka-tools"), "interop.ToolShell", heap_mib=256)
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()

    def call(self, tool: str, arguments: Sequence[str], standard_input: str = "") -> Printed:
        """A tool that does not end in time takes the process with it, and fails the test."""
        call = {"main": f"{PACKAGE}.{TOOLS[tool]}", "arguments": list(arguments), "input": standard_input}
        assert self._process.stdin is not None and self._process.stdout is not None
        limit = threading.Timer(TIMEOUT_S, self._process.kill)
        limit.start()
        try:
            self._process.stdin.write(json.dumps(call) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        finally:
            limit.cancel()
        assert answer, f"{tool} {' '.join(arguments)} did not end within {TIMEOUT_S} s"
        said = json.loads(answer)
        return Printed(said["exit"], said["out"], said["err"])
