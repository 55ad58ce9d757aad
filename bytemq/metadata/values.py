"""What the values under `cluster/` mean: small frozen types, and their JSON.

Owns: the encoding. Must not: touch a store or decide anything. JSON, because these values are few, small and read by
people when something is wrong; unknown fields are ignored, so that a later version may add some.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

from bytemq.errors import Corrupt
from bytemq.types import ALL_ROLES, Role, TopicId, format_topic_id, parse_topic_id

NO_BROKER = -1
NO_SESSION = -1
THIS_REVISION = b"0"
"""The value of keys.LAST_SESSION where the id is its revision; in restored metadata the id itself is there."""

_parse = json.JSONDecoder().decode
_format = json.JSONEncoder(separators=(",", ":")).encode
"""Both made once: a broker that starts reads thousands of values."""


class Levels(NamedTuple):
    """Feature levels that a broker supports; see `features.py`."""

    lowest: int
    highest: int

    def __str__(self) -> str:
        """As Kafka writes ranges."""
        return str(self.lowest) if self.lowest == self.highest else f"{self.lowest}-{self.highest}"


UNTOLD_LEVELS = Levels(1, 2)
"""Of brokers from before they told them."""


@dataclass(frozen=True, slots=True)
class BrokerValue:
    """A live broker. Its session id, also its broker epoch, is the revision of this key."""

    zone: str | None
    endpoints: Mapping[str, tuple[str, int]]
    """Advertised host and port by listener name."""
    version: str
    incarnation: str
    """Drawn at each start: tells one's own registration, whose answer was lost, from another broker's."""
    capacity: float = 1.0
    """How much of the load it is to carry, relative to others."""
    roles: frozenset[Role] = ALL_ROLES
    levels: Levels = UNTOLD_LEVELS
    session_timeout_s: float | None = None
    """What its lease lasts; None: it is of a version that does not look for doubts in its session."""


class DoubtStage(StrEnum):
    RAISED = "raised"
    MISSED = "missed"
    """It was not taken back in time: what the broker has is wished to be others', and clients are sent there."""
    ENDING = "ending"
    """Missed, and the session ends within a moment: clients may wait there."""
    FINAL = "final"
    """It may not be taken back."""


@dataclass(frozen=True, slots=True)
class DoubtValue:
    """A session that shall end, and who says so."""

    session: int
    by: int
    stage: DoubtStage


@dataclass(frozen=True, slots=True)
class TopicValue:
    topic_id: TopicId
    partitions: int
    replication_factor: int
    """As asked for at creation; the replicas are the store's."""
    configs: Mapping[str, str]
    is_internal: bool = False


@dataclass(frozen=True, slots=True)
class OwnersValue:
    """The facts of one chunk: for each partition the owner's broker id, session id and leader epoch."""

    brokers: Sequence[int]
    sessions: Sequence[int]
    leader_epochs: Sequence[int]
    end_offsets: Mapping[int, int] = field(default_factory=dict)
    """By place in the chunk: where the log ended when an owner last released it. It never ends before that again."""


def encode_broker(value: BrokerValue) -> bytes:
    return _dump(
        {
            "zone": value.zone,
            "endpoints": {name: list(endpoint) for name, endpoint in value.endpoints.items()},
            "version": value.version,
            "incarnation": value.incarnation,
            "capacity": value.capacity,
            "roles": sorted(value.roles),
            "levels": value.levels,
            "session_timeout": value.session_timeout_s,
        }
    )


def decode_broker(data: bytes) -> BrokerValue:
    fields = _load(data)
    endpoints = {name: (str(host), int(port)) for name, (host, port) in fields["endpoints"].items()}
    capacity = float(fields.get("capacity", 1.0))
    roles = frozenset(Role(role) for role in fields.get("roles", ALL_ROLES) if role in ALL_ROLES)
    levels = Levels(*map(int, fields.get("levels", UNTOLD_LEVELS)))
    return BrokerValue(
        fields["zone"],
        endpoints,
        fields["version"],
        fields["incarnation"],
        capacity,
        roles,
        levels,
        fields.get("session_timeout"),
    )


def encode_doubt(value: DoubtValue) -> bytes:
    return _dump({"session": value.session, "by": value.by, "stage": value.stage})


def decode_doubt(data: bytes) -> DoubtValue:
    fields = _load(data)
    return DoubtValue(fields["session"], fields["by"], DoubtStage(fields["stage"]))


def encode_topic(value: TopicValue) -> bytes:
    return _dump(
        {
            "id": format_topic_id(value.topic_id),
            "partitions": value.partitions,
            "replication_factor": value.replication_factor,
            "configs": dict(value.configs),
            "internal": value.is_internal,
        }
    )


def decode_topic(data: bytes) -> TopicValue:
    fields = _load(data)
    return TopicValue(
        parse_topic_id(fields["id"]),
        fields["partitions"],
        fields["replication_factor"],
        fields["configs"],
        fields["internal"],
    )


def encode_assignments(brokers: Sequence[int]) -> bytes:
    return _dump(list(brokers))


def decode_assignments(data: bytes) -> list[int]:
    brokers = _load(data)
    if not isinstance(brokers, list):
        raise Corrupt("a chunk of assignments is a JSON array")
    return brokers


def encode_owners(value: OwnersValue) -> bytes:
    """Each distinct owner is written once and named by its index: a chunk of 256 has about 1 KiB."""
    index_of: dict[tuple[int, int], int] = {}
    indexes = [index_of.setdefault(owner, len(index_of)) for owner in zip(value.brokers, value.sessions, strict=True)]
    fields: dict[str, object] = {"owners": list(index_of), "owner": indexes, "epoch": list(value.leader_epochs)}
    if value.end_offsets:
        fields["end"] = value.end_offsets
    return _dump(fields)


def decode_owners(data: bytes) -> OwnersValue:
    fields = _load(data)
    owners = fields["owners"]
    indexes = fields["owner"]
    ends = {int(place): end for place, end in fields.get("end", {}).items()}
    return OwnersValue([owners[i][0] for i in indexes], [owners[i][1] for i in indexes], fields["epoch"], ends)


def encode_configs(configs: Mapping[str, str]) -> bytes:
    return _dump(dict(configs))


def decode_configs(data: bytes) -> dict[str, str]:
    configs: dict[str, str] = _load(data)
    return configs


def encode_number(value: int) -> bytes:
    return b"%d" % value


def decode_number(data: bytes) -> int:
    try:
        return int(data)
    except ValueError as error:
        raise Corrupt(f"metadata holds {data[:40]!r} where a number belongs") from error


def decode_last_session(data: bytes, revision: int) -> int:
    """The newest session's id, of the value of keys.LAST_SESSION that was written at `revision`."""
    return decode_number(data) or revision


def _dump(value: object) -> bytes:
    return _format(value).encode()


def _load(data: bytes) -> Any:
    try:
        return _parse(data.decode())
    except ValueError as error:
        raise Corrupt(f"metadata holds {data[:40]!r}, which is no JSON") from error
