"""What a broker says of its load and its health, for the controller and for people: the value of `loads/<id>`. Pure.

Owns: the encoding, and what is worth telling anew. Rates are smoothed by whoever measures. Of a broker's partitions the
busiest are named; the others together are a rest that does not matter for who should own what.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from bytemq.errors import Corrupt
from bytemq.types import PartitionId, format_topic_id, parse_topic_id

MOST_PARTITIONS = 1000
"""Named in one report: some 40 KiB."""
TELL_AT_LEAST_S = 15.0
"""How old a report is at most, about."""
TELL_CHANGE = 0.1
"""A rate that has changed by less is not told anew."""


class Rates(NamedTuple):
    """Per second, smoothed."""

    bytes_in: float = 0.0
    bytes_out: float = 0.0
    requests: float = 0.0


IDLE = Rates()


@dataclass(frozen=True, slots=True)
class LoadReport:
    wall_ms: int
    """The broker's clock when it wrote this."""
    total: Rates
    partitions: Mapping[PartitionId, Rates] = field(default_factory=dict)
    lag_ms: float = 0.0
    """How late the event loop runs what is due: the worst of the last while."""
    commit_ms: float = 0.0
    """How long a produce waits for its acknowledgement, about."""
    wal_bytes: int = 0
    problem: str = ""
    """Why its storage refuses appends."""
    pools: Mapping[str, str] = field(default_factory=dict)
    """How each of several stores is, in words; what comes behind a colon are the reasons."""
    homes: Mapping[PartitionId, str] = field(default_factory=dict)
    """The zone from which most of what is produced to a partition comes, where there is one."""

    def differs_from(self, other: LoadReport) -> bool:
        """Whether the controller would decide otherwise, maybe."""
        if self.problem != other.problem or _without_reasons(self.pools) != _without_reasons(other.pools):
            return True
        if self.homes != other.homes or _differs(self.total, other.total):
            return True
        if max(self.lag_ms, other.lag_ms) > 100 or max(self.commit_ms, other.commit_ms) > 500:
            return True
        if self.partitions.keys() != other.partitions.keys():
            return True
        return any(_differs(rates, other.partitions[partition]) for partition, rates in self.partitions.items())


def _without_reasons(pools: Mapping[str, str]) -> dict[str, str]:
    return {name: state.partition(":")[0] for name, state in pools.items()}


def _differs(one: Rates, other: Rates) -> bool:
    return any(abs(a - b) > max(TELL_CHANGE * max(a, b), 1.0) for a, b in zip(one, other, strict=True))


def encode_load(report: LoadReport) -> bytes:
    topics: dict[str, list[list[int]]] = {}
    for partition, rates in report.partitions.items():
        topics.setdefault(format_topic_id(partition.topic_id), []).append([partition.index, *map(round, rates)])
    fields = {
        "wall_ms": report.wall_ms,
        "total": [round(rate) for rate in report.total],
        "topics": topics,
        "lag_ms": round(report.lag_ms, 1),
        "commit_ms": round(report.commit_ms, 1),
        "wal_bytes": report.wal_bytes,
        "problem": report.problem,
        "pools": dict(report.pools),
    }
    if report.homes:
        homes: dict[str, dict[str, list[int]]] = {}
        for partition, zone in report.homes.items():
            homes.setdefault(zone, {}).setdefault(format_topic_id(partition.topic_id), []).append(partition.index)
        fields["homes"] = homes
    return json.dumps(fields, separators=(",", ":")).encode()


def decode_load(data: bytes) -> LoadReport:
    try:
        fields = json.loads(data)
        partitions = {
            PartitionId(parse_topic_id(topic), index): Rates(*map(float, rates))
            for topic, entries in fields["topics"].items()
            for index, *rates in entries
        }
        return LoadReport(
            int(fields["wall_ms"]),
            Rates(*map(float, fields["total"])),
            partitions,
            float(fields["lag_ms"]),
            float(fields["commit_ms"]),
            int(fields["wal_bytes"]),
            fields["problem"],
            fields.get("pools", {}),
            {
                PartitionId(parse_topic_id(topic), index): zone
                for zone, topics in fields.get("homes", {}).items()
                for topic, indexes in topics.items()
                for index in indexes
            },
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Corrupt(f"a broker's load cannot be read: {error!r}") from error
