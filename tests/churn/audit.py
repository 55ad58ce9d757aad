"""What `bytemq verify` finds of a cluster.

Owns: what of its findings is counted as what. Must not: look at the store in a way of its own.
"""

from __future__ import annotations

import json
import time
from typing import NamedTuple

from tests.scenarios.cluster.at_rest import verified
from tests.scenarios.cluster.cluster import Cluster


class Audit(NamedTuple):
    problems: list[str]
    """Missing, damaged, contradicting; with `outlast_s` also what running brokers keep that nothing refers to."""
    unreferenced: list[str]
    """Of ended sessions."""
    took_s: float

    def __str__(self) -> str:
        return (
            f"verify took {self.took_s:.0f} s: {len(self.problems)} problems, {len(self.unreferenced)} unreferenced "
            f"objects of ended sessions"
        )


def audit(cluster: Cluster, outlast_s: int | None = None) -> Audit:
    began = time.monotonic()
    done = verified(cluster, "--json", *(() if outlast_s is None else ("--outlast", str(outlast_s))))
    found = [json.loads(line) for line in done.stdout.splitlines()]
    problems = [f"{one['name']}: {one['problem']}" for one in found if not one["is_leftover"]]
    if done.returncode != bool(problems):
        problems.append(f"verify ended with {done.returncode}: {done.stderr[-2000:]}")
    return Audit(problems, [one["name"] for one in found if one["is_leftover"]], time.monotonic() - began)
