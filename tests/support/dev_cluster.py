"""`bytemq dev cluster` as a user starts it: etcd, an S3 server and brokers, with one command. Owns that process."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

READY_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 60.0
COMMAND_TIMEOUT_S = 120.0


class DevCluster:
    """The process and what it has said. `settings` are Kafka's, of all brokers."""

    def __init__(
        self, folder: Path, settings: Mapping[str, str] | None = None, *, brokers: int = 3, zones: int = 3
    ) -> None:
        self.folder = folder
        self.brokers = brokers
        self.zones = zones
        self.data_dir = folder / "data"
        self._settings = dict(settings or {})
        self._output = folder / "output"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> DevCluster:
        command = [sys.executable, "-m", "bytemq", "dev", "cluster", "--port", "0", "--data", str(self.data_dir)]
        command += ["--brokers", str(self.brokers), "--zones", str(self.zones)]
        command += [part for item in self._settings.items() for part in ("--set", "=".join(item))]
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + READY_TIMEOUT_S
        while "is ready after" not in self.said:
            assert self.is_running() and time.monotonic() < deadline, self.said
            time.sleep(0.05)
        return self

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "it was never started"
        return self._process

    @property
    def said(self) -> str:
        return self._output.read_text()

    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def close(self) -> None:
        if self.is_running():
            self.process.terminate()  # a SIGINT is ignored by what a shell has put in the background
            self.process.wait(STOP_TIMEOUT_S)

    @property
    def bootstrap(self) -> str:
        """The first broker: from it a client learns of the others."""
        return self._variable("BYTEMQ_BOOTSTRAP_SERVER")

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.bootstrap.split(":")
        return host, int(port)

    def _variable(self, name: str) -> str:
        found = re.search(rf"{name}=(\S+)", self.said)
        assert found is not None, self.said
        return found[1]

    def processes(self) -> list[int]:
        """Those of the brokers, in order of their ids."""
        return [int(pid) for pid in re.findall(r"127\.0\.0\.1:\d+ +(\d+) ", self.said)]

    def bytemq(self, *arguments: str) -> str:
        """What the command prints."""
        named = {name: self._variable(name) for name in ("BYTEMQ_METADATA", "BYTEMQ_BOOTSTRAP_SERVER")}
        command = [sys.executable, "-m", "bytemq", *arguments]
        done = subprocess.run(
            command, capture_output=True, text=True, env={**os.environ, **named}, timeout=COMMAND_TIMEOUT_S
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def cluster(self, *arguments: str) -> Any:
        return json.loads(self.bytemq("cluster", *arguments, "--json"))
