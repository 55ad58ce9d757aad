"""Runs a fuzz target: briefly and always the same in pytest, for hours from the command line.

A target is a function that takes bytes and raises when the code under test misbehaves, and some inputs to begin with.
`python -m tests.fuzz.<target> --seconds N` uses atheris, which is led by coverage, where it is installed, and otherwise
the mutations below. An input that fails is kept as a file, and given as an argument it is run alone.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

Target = Callable[[bytes], None]

MAX_INPUT_BYTES = 4096
KEPT = Path("build/fuzz")
"""Where inputs that failed are kept, and what atheris has learnt."""

_TELLING = (0x00, 0x01, 0x02, 0x7F, 0x80, 0x81, 0xFE, 0xFF)


class FuzzFailure(AssertionError):
    """The target failed. Its cause is the error; `data` is the input."""

    def __init__(self, data: bytes) -> None:
        super().__init__(f"input {data.hex()}")
        self.data = data


def mutate(data: bytes, others: Sequence[bytes], random: Random) -> bytes:
    """A few random changes: bytes that tend to tell something, cuts, repetitions, parts of other inputs."""
    mutated = bytearray(data)
    for _ in range(random.choice((1, 1, 1, 2, 4, 8))):
        position = random.randrange(len(mutated) + 1)
        end = min(len(mutated), position + random.choice((1, 2, 4, 8, 30)))
        match random.randrange(6):
            case 0:
                mutated[position : position + 1] = bytes([random.choice(_TELLING)])
            case 1:
                mutated[position:end] = random.randbytes(end - position)
            case 2:
                del mutated[position:end]
            case 3:
                mutated[position:position] = mutated[position:end] * random.choice((1, 2, 20))
            case 4:
                mutated[position:end] = bytes([random.choice((0x00, 0xFF))]) * (end - position)
            case 5:
                other = random.choice(others)
                mutated[position:] = other[random.randrange(len(other) + 1) :]
    return bytes(mutated[:MAX_INPUT_BYTES])


def run(
    target: Target, seeds: Sequence[bytes], *, seed: int, rounds: int | None = None, seconds: float | None = None
) -> int:
    """Runs mutations until `rounds` or `seconds` are over; how many there were. Raises FuzzFailure."""
    random = Random(seed)
    deadline = None if seconds is None else time.monotonic() + seconds
    done = 0
    while (rounds is None or done < rounds) and (deadline is None or time.monotonic() < deadline):
        data = mutate(random.choice(seeds), seeds, random)
        try:
            target(data)
        except Exception as error:
            raise FuzzFailure(data) from error
        done += 1
    return done


def main(name: str, target: Target, seeds: Sequence[bytes]) -> None:
    """The command line of a target."""
    parser = argparse.ArgumentParser(prog=f"python -m tests.fuzz.{name}")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--plain", action="store_true", help="random mutations, even where atheris is installed")
    parser.add_argument("inputs", nargs="*", type=Path, help="run these inputs only")
    arguments = parser.parse_args()
    if arguments.inputs:
        for path in arguments.inputs:
            target(path.read_bytes())
    elif arguments.plain or not _run_atheris(name, target, seeds, arguments.seconds):
        _run_plainly(name, target, seeds, arguments.seed, arguments.seconds)


def _run_plainly(name: str, target: Target, seeds: Sequence[bytes], seed: int, seconds: float) -> None:
    print(f"{name}: random mutations for {seconds:g} s, seed {seed}")
    try:
        print(f"{name}: {run(target, seeds, seed=seed, seconds=seconds)} inputs, no failure")
    except FuzzFailure as failure:
        KEPT.mkdir(parents=True, exist_ok=True)
        path = KEPT / f"{name}-failure-{hashlib.sha256(failure.data).hexdigest()[:12]}"
        path.write_bytes(failure.data)
        print(f"{name}: failed, input kept in {path}")
        raise


def _run_atheris(name: str, target: Target, seeds: Sequence[bytes], seconds: float) -> bool:
    """False when atheris is missing; otherwise it ends the process itself."""
    try:
        import atheris
    except ImportError:
        return False
    corpus = KEPT / name
    corpus.mkdir(parents=True, exist_ok=True)
    for data in seeds:
        (corpus / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
    atheris.instrument_all()
    options = [
        f"-max_total_time={int(seconds)}",
        f"-max_len={MAX_INPUT_BYTES}",
        f"-artifact_prefix={KEPT}/{name}-failure-",
    ]
    atheris.Setup([sys.argv[0], *options, str(corpus)], target)
    atheris.Fuzz()
    return True
