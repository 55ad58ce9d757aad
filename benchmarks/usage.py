"""What a process has used, from /proc: CPU of all its threads, bytes and calls of file I/O, memory."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import NamedTuple

SETTLE_STEP_S = 0.7
SETTLE_LIMIT_S = 20.0
QUIET_BYTES = 256 * 1024
"""What a node at rest may write in a step: leases, heartbeats of a controller."""


class Usage(NamedTuple):
    cpu_s: float
    """User and system time of all threads."""
    written_bytes: int
    file_calls: int
    """Reads and writes of files; those of sockets by send and recv do not count."""
    page_faults: int
    """Fresh pages given to the process: what its allocations cost."""

    def since(self, before: Usage) -> Usage:
        return Usage._make(now - then for now, then in zip(self, before, strict=True))


def usage(pid: int) -> Usage:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    io = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
    cpu_s = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return Usage(cpu_s, int(io["write_bytes"]), int(io["syscr"]) + int(io["syscw"]), int(fields[7]))


def children(pid: int) -> list[int]:
    """Of a broker: its workers."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def resident_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def peak_resident_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024 / 1e6


def settle(pid: int) -> None:
    """Waits until what a workload left to be written behind is written, so that it counts where it belongs."""
    deadline = time.monotonic() + SETTLE_LIMIT_S
    before = usage(pid).written_bytes
    while time.monotonic() < deadline:
        time.sleep(SETTLE_STEP_S)
        now = usage(pid).written_bytes
        if now - before <= QUIET_BYTES:
            return
        before = now
