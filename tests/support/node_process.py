"""A bytemq node as a user starts it: its own process, a data directory, a listener. Owns that process and its log file.

Tests that use it see what a user sees: the command line, the ready line, the exit code, the socket. Nothing here
imports bytemq.
"""

from __future__ import annotations

import fcntl
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

READY_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 60.0
"""For whatever a process does: a busy machine is no finding. What must be quick is measured by who asks for it."""
POLL_S = 0.005
BYTEMQ = (sys.executable, "-m", "bytemq")
"""The program of this checkout."""


_ports_lock = open(Path(tempfile.gettempdir()) / "bytemq-tests-ports", "a+b")  # noqa: SIM115  # open until the process ends
_taken_ports: set[int] = set()


class NodeFailed(AssertionError):
    """The process ended or stayed silent where a running node was expected; carries the end of its log."""


def free_port() -> int:
    """A TCP port that nothing listens on, and that is this process's until it ends: a node keeps it over restarts, as
    clients expect, and a test may say that nobody is there.

    It is below the ports that systems give to outgoing connections, so that none of these takes it meanwhile. Tests
    that run side by side lock the byte of its number in one file, so that none of them is given it.
    """
    while True:
        port = random.SystemRandom().randrange(12_000, 32_000)
        if port in _taken_ports:  # whose lock would be given to this process again
            continue
        with suppress(OSError), socket.socket() as probe:
            fcntl.lockf(_ports_lock, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
            probe.bind(("127.0.0.1", port))
            _taken_ports.add(port)
            return port


def command_of(pid: int) -> list[str]:
    """Nothing of one that has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except (FileNotFoundError, ProcessLookupError):  # the second one where it ends between opening and reading
        return []


class NodeProcess:
    """`bytemq start` on `data_dir`. The port stays the same over restarts."""

    def __init__(
        self,
        data_dir: Path,
        *,
        port: int | None = None,
        listen: Sequence[str] | None = None,
        options: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        log_path: Path | None = None,
        wrapper: Sequence[str] = (),
        program: Sequence[str] = BYTEMQ,
    ) -> None:
        self.data_dir = data_dir
        self.port = port or free_port()
        self.listen = list(listen) if listen is not None else [f"127.0.0.1:{self.port}"]
        self.options = list(options)
        self.environment = dict(environment or {})
        self.log_path = log_path or data_dir.with_name(data_dir.name + ".log")
        self.wrapper = list(wrapper)  # e.g. a shell that sets a limit and then execs its arguments
        self.program = list(program)
        """What runs `bytemq`; a start after it was changed runs another one on the same data."""
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    @property
    def bootstrap(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def address(self) -> tuple[str, int]:
        return ("127.0.0.1", self.port)

    @property
    def pid(self) -> int:
        return self._running().pid

    def broker_pids(self) -> dict[int, int]:
        """Process ids by broker id of what was started with --brokers."""
        found = {}
        for pid in self.children():
            arguments = command_of(pid)
            if "--id" in arguments:  # not of one that was just forked, or has ended
                found[int(arguments[arguments.index("--id") + 1])] = pid
        return found

    def children(self) -> list[int]:
        """Ids of the processes that it has started and not waited for."""
        return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]

    @property
    def command(self) -> list[str]:
        listeners = [part for listener in self.listen for part in ("--listen", listener)]
        return [
            *self.wrapper,
            *self.program,
            "start",
            "--data",
            str(self.data_dir),
            *listeners,
            "--set",
            "bytemq.http.listen=127.0.0.1:0",
            *self.options,
        ]

    def launch(self) -> None:
        """Starts the process and returns at once."""
        if self._process is not None and self._process.poll() is None:
            raise NodeFailed("the node is already running")
        with self.log_path.open("ab") as log:
            self._log_start = log.tell()
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **self.environment},
            )

    def start(self, timeout_s: float = READY_TIMEOUT_S) -> NodeProcess:
        """Starts the process and waits for its ready line."""
        self.launch()
        self.wait_ready(timeout_s)
        return self

    def wait_ready(self, timeout_s: float = READY_TIMEOUT_S) -> str:
        """The ready line of this run."""
        deadline = time.monotonic() + timeout_s
        while True:
            ended = self._running().poll() is not None
            for line in self.log().splitlines():
                if " is ready on " in line:
                    return line
            if ended:
                raise NodeFailed(
                    f"the node exited with {self._running().returncode} before it was ready:\n{self.log()}"
                )
            if time.monotonic() > deadline:
                raise NodeFailed(f"no ready line within {timeout_s} s:\n{self.log()}")
            time.sleep(POLL_S)

    def log(self) -> str:
        """What the current run has printed so far, on both streams."""
        with self.log_path.open("rb") as log:
            log.seek(self._log_start)
            return log.read().decode(errors="replace")

    def metric(self, name: str, label: str = "") -> float:
        """The sum of a metric's series that have the label, as a scrape finds them."""
        with urllib.request.urlopen(f"http://{self.http_address}/metrics", timeout=STOP_TIMEOUT_S) as response:
            lines = response.read().decode().splitlines()
        return sum(float(line.split()[-1]) for line in lines if re.match(rf"{name}[ {{]", line) and label in line)

    @property
    def http_address(self) -> str:
        address = re.search(r"http listener started.*host=(\S+) port=(\d+)", self.log())
        if address is None:
            raise NodeFailed("the node does not tell where it answers HTTP")
        return f"{address[1]}:{address[2]}"

    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        self._running().send_signal(number)

    def wait_exit(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """The exit code; fails (and kills) when the process outlives the time."""
        try:
            return self._running().wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill9()
            raise NodeFailed(f"the node did not exit within {timeout_s} s:\n{self.log()[-4000:]}") from None

    def kill9(self) -> None:
        """Ends the process with no chance to clean up, as the kernel's out-of-memory killer does."""
        self._running().kill()
        self._running().wait()

    def terminate(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """A clean stop; returns the exit code."""
        self.signal(signal.SIGTERM)
        return self.wait_exit(timeout_s)

    def restart(self) -> NodeProcess:
        """Starts again on the same data and port; the old process must have ended."""
        return self.start()

    def close(self) -> None:
        if self.is_running():
            self.kill9()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise NodeFailed("the node was never started")
        return self._process


@contextmanager
def running_node(data_dir: Path, **arguments: object) -> Iterator[NodeProcess]:
    """A started node that is gone at the end of the block."""
    node = NodeProcess(data_dir, **arguments)  # type: ignore[arg-type]
    try:
        yield node.start()
    finally:
        node.close()
