"""A cluster as people look at it: rows about brokers and partitions, made from metadata alone. Pure.

Owns: what is shown and in which words. Must not: read metadata or print.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from bytemq.metadata import features
from bytemq.metadata.image import ClusterImage, PartitionImage
from bytemq.metadata.loads import IDLE, TELL_AT_LEAST_S, LoadReport, Rates
from bytemq.metadata.moves import RecordedMove
from bytemq.metadata.values import NO_BROKER
from bytemq.runtime.steps import finished
from bytemq.scheduler.balance import Balancer
from bytemq.scheduler.board import Limits, Move
from bytemq.scheduler.planner import broker_states, late_owners, placed_partitions
from bytemq.types import ALL_ROLES, PartitionId


class ClusterView(NamedTuple):
    """Everything read at about the same time."""

    image: ClusterImage
    reports: Mapping[int, LoadReport]
    moves: Sequence[RecordedMove]

    @property
    def rates(self) -> dict[PartitionId, Rates]:
        return {one: rates for report in self.reports.values() for one, rates in report.partitions.items()}

    @property
    def homes(self) -> dict[PartitionId, str]:
        return {one: zone for report in self.reports.values() for one, zone in report.homes.items()}


def status(view: ClusterView, now_ms: int) -> dict[str, Any]:
    """One number or word about each thing that matters."""
    image = view.image
    partitions = [partition for topic in image.topics.values() for partition in topic.partitions]
    return {
        "cluster": image.cluster_id,
        "feature_level": image.feature_level,
        "feature_level_supported": features.highest_of([broker.levels for broker in image.brokers.values()]),
        "brokers": len(image.brokers),
        "zones": len({broker.zone for broker in image.brokers.values()}),
        "controller": None if image.controller_id == NO_BROKER else image.controller_id,
        "drained": sorted(image.drained),
        "topics": len(image.topics),
        "partitions": len(partitions),
        "without_owner": sum(partition.owner == NO_BROKER for partition in partitions),
        "moving": len(finished(late_owners(image))),
        "bytes_in_per_s": round(sum(report.total.bytes_in for report in view.reports.values())),
        "bytes_out_per_s": round(sum(report.total.bytes_out for report in view.reports.values())),
        "load_max_over_mean": _max_over_mean(view),
        "clocks_apart_s": _clocks_apart_s(view, now_ms),
        "last_move": None if not view.moves else _sentence(view.moves[-1]),
    }


BROKER_COLUMNS = (
    "broker",
    "zone",
    "roles",
    "address",
    "session",
    "state",
    "levels",
    "partitions",
    "bytes_in_per_s",
    "bytes_out_per_s",
    "requests_per_s",
    "load",
    "lag_ms",
    "produce_ms",
    "wal_bytes",
)


def brokers(view: ClusterView) -> list[dict[str, Any]]:
    """Keys are those of BROKER_COLUMNS. Drained brokers that do not live are told as well."""
    image = view.image
    owned = Counter(partition.owner for topic in image.topics.values() for partition in topic.partitions)
    mean = _mean_load(view)
    rows = []
    for broker_id in sorted(image.brokers.keys() | image.drained):
        broker = image.brokers.get(broker_id)
        if broker is None:
            rows.append({"broker": broker_id, "state": "stopped, drained"})
            continue
        report = view.reports.get(broker_id)
        total = IDLE if report is None else report.total
        rows.append(
            {
                "broker": broker_id,
                "zone": broker.zone,
                "roles": "all" if broker.roles == ALL_ROLES else ",".join(sorted(broker.roles)),
                "address": ",".join(f"{host}:{port}" for host, port in broker.endpoints.values()),
                "session": broker.epoch,
                "state": _state(view, broker_id, report),
                "levels": str(broker.levels),
                "partitions": owned[broker_id],
                "bytes_in_per_s": round(total.bytes_in),
                "bytes_out_per_s": round(total.bytes_out),
                "requests_per_s": round(total.requests),
                "load": round((total.bytes_in + total.bytes_out) / mean, 2) if mean else None,
                "lag_ms": None if report is None else report.lag_ms,
                "produce_ms": None if report is None else report.commit_ms,
                "wal_bytes": None if report is None else report.wal_bytes,
            }
        )
    return rows


PARTITION_COLUMNS = ("topic", "partition", "owner", "epoch", "state", "bytes_in_per_s", "bytes_out_per_s")


def partitions(view: ClusterView, names: Sequence[str], *, why: bool) -> list[dict[str, Any]]:
    """Keys are those of PARTITION_COLUMNS, and "why" where that is asked for."""
    rates = view.rates
    last = {(move.topic, move.partition): move for move in view.moves}
    rows = []
    for name in sorted(names or view.image.topics):
        topic = view.image.topics[name]
        for index, partition in enumerate(topic.partitions):
            rate = rates.get(PartitionId(topic.topic_id, index), IDLE)
            row = {
                "topic": name,
                "partition": index,
                "owner": None if partition.owner == NO_BROKER else partition.owner,
                "epoch": partition.leader_epoch,
                "state": _partition_state(view.image, partition),
                "bytes_in_per_s": round(rate.bytes_in),
                "bytes_out_per_s": round(rate.bytes_out),
            }
            if why:
                move = last.get((name, index))
                row["why"] = "placed when it was created" if move is None else _sentence(move)
            rows.append(row)
    return rows


def proposed_moves(view: ClusterView) -> list[Move]:
    """What the controller would do now if the load stayed as it is."""
    balancer = Balancer(Limits(patience=1))
    placed = finished(placed_partitions(view.image, view.rates, view.homes))
    return balancer.plan(0.0, placed, broker_states(view.image, {}))


def is_empty(image: ClusterImage, broker_id: int) -> bool:
    """Whether the broker owns nothing and nothing is on its way to it."""
    return not any(
        partition.owner == broker_id or (partition.assigned == broker_id and broker_id in image.brokers)
        for topic in image.topics.values()
        for partition in topic.partitions
    )


def _state(view: ClusterView, broker_id: int, report: LoadReport | None) -> str:
    if broker_id in view.image.drained:
        return "drained" if is_empty(view.image, broker_id) else "draining"
    if report is not None and report.problem:
        return f"cannot write: {report.problem}"
    return "controller" if broker_id == view.image.controller_id else "live"


def _partition_state(image: ClusterImage, partition: PartitionImage) -> str:
    if partition.owner == NO_BROKER:
        return f"waits for broker {partition.assigned}" if partition.assigned in image.brokers else "nobody to own it"
    if partition.owner != partition.assigned and partition.assigned in image.brokers:
        return f"moving to {partition.assigned}"
    return "owned"


def _sentence(move: RecordedMove) -> str:
    source = "" if move.source == NO_BROKER else f"from broker {move.source} "
    return f"{move.topic}-{move.partition} {source}to broker {move.target}: {move.reason}"


def _mean_load(view: ClusterView) -> float:
    loads = [sum(report.total[:2]) for report in view.reports.values()]
    return sum(loads) / len(loads) if loads else 0.0


def _max_over_mean(view: ClusterView) -> float | None:
    mean = _mean_load(view)
    return round(max(sum(report.total[:2]) for report in view.reports.values()) / mean, 2) if mean else None


def _clocks_apart_s(view: ClusterView, now_ms: int) -> float | None:
    """How far the brokers' clocks are from ours, at least; a report may be as old as they get."""
    ages = [(now_ms - report.wall_ms) / 1000 for report in view.reports.values()]
    return round(max(max(age - TELL_AT_LEAST_S, -age, 0.0) for age in ages), 1) if ages else None
