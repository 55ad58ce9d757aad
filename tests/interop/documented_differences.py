"""Where bytemq answers otherwise than Apache Kafka 4.4.0 on purpose: exactly these places, exactly so, each with its
reason.

Keyed by case and label; the lines are `path: what Kafka said -> what we say`, as `differential.differences` writes
them. A line that no longer holds fails the test as much as one that is not listed.
"""

from __future__ import annotations

from typing import NamedTuple


class Difference(NamedTuple):
    why: str
    lines: list[str]


DIFFERENCES: dict[tuple[str, str], Difference] = {}
