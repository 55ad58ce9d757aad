"""The command line tools of Apache Kafka 4.4.0, unmodified: each call is a Java process of its own."""

from __future__ import annotations

import subprocess

from tests.interop.conftest import Server
from tests.interop.kafka_process import INTEROP
from tests.support.java import fetch_jars

TIMEOUT_S = 90.0
TOOLS = "org.apache.kafka.tools"


class Cli:
    """Each method returns what was printed, and fails when the exit code is not as expected."""

    def __init__(self, server: Server) -> None:
        self.bootstrap = server.bootstrap
        self.class_path = fetch_jars(INTEROP / "kafka-tools")

    def run(self, tool: str, *arguments: str, standard_input: str = "", fails: bool = False) -> str:
        named = ("--bootstrap-server", self.bootstrap)
        return self.run_as_it_is(tool, *named, *arguments, standard_input=standard_input, fails=fails)

    def run_as_it_is(self, tool: str, *arguments: str, standard_input: str = "", fails: bool = False) -> str:
        """For tools that want their server told otherwise."""
        options = ["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", self.class_path]
        command = ["java", *options, tool, *arguments]
        done = subprocess.run(command, input=standard_input.encode(), capture_output=True, timeout=TIMEOUT_S)
        printed = done.stdout.decode()
        assert (done.returncode != 0) == fails, f"exit {done.returncode}: {printed}{done.stderr.decode()}"
        return printed + (done.stderr.decode() if fails else "")

    def topics(self, *arguments: str, fails: bool = False) -> str:
        return self.run(f"{TOOLS}.TopicCommand", *arguments, fails=fails)

    def groups(self, *arguments: str, fails: bool = False) -> str:
        return self.run(f"{TOOLS}.consumer.group.ConsumerGroupCommand", *arguments, fails=fails)

    def configs(self, *arguments: str, fails: bool = False) -> str:
        return self.run(f"{TOOLS}.ConfigCommand", *arguments, fails=fails)

    def produce(self, topic: str, lines: list[str], *arguments: str) -> None:
        text = "".join(line + "\n" for line in lines)
        self.run(f"{TOOLS}.ConsoleProducer", "--topic", topic, *arguments, standard_input=text)

    def consume(self, topic: str, count: int, *arguments: str) -> list[str]:
        limits = ("--max-messages", str(count), "--timeout-ms", "30000")
        return self.run(f"{TOOLS}.consumer.ConsoleConsumer", "--topic", topic, *limits, *arguments).splitlines()
