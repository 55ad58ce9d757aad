"""Runs public client test suites against a server, and says what passed and what failed.

    python -m tests.suites --sources DIR [--server bytemq|kafka] [--only TEST ...] [SUITE ...]

DIR has a checkout of each suite's repository at the commit that catalogue.py names; `--list` says which. What the
Python suites need besides is installed by pip into virtual environments beside the checkouts. librdkafka's program is
built by make, and needs compilers for C and C++ and the headers of zlib, OpenSSL and RapidJSON. Java and Maven are
needed for Kafka's scripts.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.suites.catalogue import SUITES, Run, Suite
from tests.suites.serve import SERVERS


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suites", nargs="*", metavar="SUITE", help="all of them if none is named")
    parser.add_argument("--sources", type=Path, default=Path(".suites"), metavar="DIR")
    parser.add_argument("--server", choices=SERVERS, default="bytemq")
    parser.add_argument("--only", nargs="+", default=[], metavar="TEST", help="in the suite's own terms")
    parser.add_argument("--list", action="store_true", help="what there is, and where it comes from")
    arguments = parser.parse_args()
    if arguments.list:
        for suite in SUITES:
            print(f"{suite.name}: {suite.repository} at {suite.commit}")
        return 0
    known = {suite.name: suite for suite in SUITES}
    unknown = set(arguments.suites) - known.keys()
    if unknown:
        parser.error(f"no such suite: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    chosen = [known[name] for name in arguments.suites] or list(SUITES)
    failures = 0
    for suite in chosen:
        failures += run(suite, arguments.sources.resolve(), arguments.server, arguments.only)
    return 1 if failures else 0


def run(suite: Suite, sources: Path, kind: str, only: list[str]) -> int:
    """One suite; the number of its failures."""
    checkout = sources / suite.repository.rpartition("/")[2]
    if not checkout.is_dir():
        print(f"{suite.name}: clone {suite.repository} into {checkout}, and check out {suite.commit}")
        return 1
    work = Path(tempfile.mkdtemp(prefix=f"{suite.name}-"))
    began = time.monotonic()
    results = suite.run(Run(kind, checkout, work, _python(suite, sources), only))
    minutes = (time.monotonic() - began) / 60
    subtests = f", {results.subtests_passed} sub-tests" if results.subtests_passed else ""
    print(
        f"{suite.name} against {kind}: {results.passed} passed{subtests}, {len(results.failed)} failed, "
        f"{len(results.skipped)} skipped in {minutes:.1f} min; its output is {work / 'output.log'}"
    )
    for name in results.failed:
        print(f"  failed: {name}")
    return len(results.failed)


def _python(suite: Suite, sources: Path) -> Path:
    """The interpreter of the suite's virtual environment, made on the first run."""
    if not suite.requirements:
        return Path(sys.executable)
    environment = sources / f"venv-{suite.name}"
    python = environment / "bin" / "python"
    done = environment / ".installed"
    wanted = "\n".join(suite.requirements)
    if not done.exists() or done.read_text() != wanted:
        subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *suite.requirements], check=True)
        done.write_text(wanted)
    return python


if __name__ == "__main__":
    sys.exit(main())
