"""The load generators load.c and tail.c: built once into .bench/, run as programs of their own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
BENCH = ROOT / ".bench"
"""Everything that benchmarks leave behind: programs, data, history."""

Address = tuple[str, int]
Result = dict[str, Any]


class LoadFailed(Exception):
    """A load generator saw what must not happen: a refused request, a lost answer, missing records."""


class Offsets(NamedTuple):
    """Where in a Fetch request its offset is, and which offsets are asked for in turn."""

    place: int
    step: int
    wrap: int


NO_OFFSETS = Offsets(-1, 0, 0)


def load(
    address: Address,
    frames: Sequence[bytes],
    *,
    connections: int,
    window: int,
    seconds: float,
    warmup_s: float,
    limit_bytes: int = 0,
    rate: float = 0.0,
    offsets: Offsets = NO_OFFSETS,
) -> Result:
    """Sends the frames over and over; see load.c. Raises LoadFailed."""
    numbers = [connections, window, seconds, warmup_s, limit_bytes, rate, *offsets]
    return _run("load", address, numbers, frames)


def tail(
    address: Address,
    produce_frames: Sequence[bytes],
    fetch_frame: bytes,
    *,
    producers: int,
    window: int,
    consumers: int,
    seconds: float,
    warmup_s: float,
    rate: float,
    records_per_batch: int,
) -> Result:
    """Producers and consumers together; see tail.c. Raises LoadFailed."""
    numbers = [producers, window, consumers, seconds, warmup_s, rate, records_per_batch]
    return _run("tail", address, numbers, [*produce_frames, fetch_frame])


def _run(name: str, address: Address, numbers: Sequence[float], frames: Sequence[bytes]) -> Result:
    command = [str(built(name)), address[0], str(address[1]), *map(str, numbers)]
    done = subprocess.run(command, input=b"".join(frames), capture_output=True, check=False)
    if done.returncode:
        raise LoadFailed(f"{name}: {done.stderr.decode().strip()}")
    result: Result = json.loads(done.stdout)
    return result


def built(name: str) -> Path:
    """One of the C programs here, compiled if it was changed."""
    source, program = ROOT / "benchmarks" / f"{name}.c", BENCH / name
    newest = max(source.stat().st_mtime, source.with_name("common.h").stat().st_mtime)
    if not program.exists() or program.stat().st_mtime < newest:
        compiler = shutil.which("cc") or shutil.which("gcc")
        if compiler is None:
            sys.exit("bench: the load generators need a C compiler: apt-get install gcc libc6-dev")
        BENCH.mkdir(exist_ok=True)
        subprocess.run([compiler, "-O2", "-o", str(program), str(source)], check=True)
    return program
