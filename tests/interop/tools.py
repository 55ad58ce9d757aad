"""Says which programs the interop tests need, which are here, and how to get the others: `python -m
tests.interop.tools`.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from typing import NamedTuple


class Tool(NamedTuple):
    name: str
    version_arguments: list[str]
    what_for: str
    how: str


TOOLS = [
    Tool(
        "java",
        ["-version"],
        "Apache Kafka, its command line and the Java client",
        "apt-get install default-jdk-headless",
    ),
    Tool("javac", ["-version"], "the Java client program", "apt-get install default-jdk-headless"),
    Tool("mvn", ["-v"], "fetching Kafka's jars", "apt-get install maven"),
    Tool(
        "go",
        ["version"],
        "the franz-go client, and MinIO, the other S3 server",
        "Go 1.26 or newer: apt-get install golang, or a release of the Go project",
    ),
    Tool("node", ["--version"], "the kafkajs client", "Node.js 20 or newer: apt-get install nodejs npm"),
    Tool("npm", ["--version"], "fetching kafkajs", "apt-get install npm"),
    Tool("kcat", ["-V"], "kcat itself", "apt-get install kcat"),
]


def describe(tool: Tool) -> str | None:
    """A line with its version, or None when it is not here."""
    path = shutil.which(tool.name)
    if path is None:
        return None
    done = subprocess.run([path, *tool.version_arguments], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    lines = (done.stdout + done.stderr).splitlines()
    return next((line for line in lines if any(character.isdigit() for character in line)), "?")


def main() -> int:
    missing = 0
    for tool in TOOLS:
        version = describe(tool)
        if version is None:
            missing += 1
            print(f"{tool.name:6} MISSING, needed for {tool.what_for}: {tool.how}")
        else:
            print(f"{tool.name:6} {version}")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
