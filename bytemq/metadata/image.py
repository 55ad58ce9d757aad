"""What a broker knows of its cluster: topics, owners, brokers and configs, built from the keys under `cluster/`.

Owns: the image and how events change it. Must not: do I/O, wait, or decide anything.

The image is one mutable object that every part of a node holds, changed only between two steps of the event loop by its
follower. What hangs off it (`TopicImage`, `BrokerImage`, config maps) is immutable and replaced as a whole, so that a
handler may keep a topic over an await and compare it by identity. Copying ten thousand topics for each change would
make creating them quadratic. `revision` grows with each change; whoever derives something caches it under that number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import chain, repeat
from operator import attrgetter
from types import MappingProxyType
from typing import NamedTuple

from bytemq.errors import Corrupt
from bytemq.metadata import keys, values
from bytemq.metadata.pools import PoolValue, decode_pool
from bytemq.metadata.store import Event, KeyValue
from bytemq.metadata.topic_names import unify_collision_characters
from bytemq.types import ALL_ROLES, Role, TopicId, parse_topic_id

DRAINED = "bytemq.drained"
"""The dynamic config of a broker that shall own nothing."""
NO_CONFIGS: Mapping[str, str] = MappingProxyType({})


class PartitionImage(NamedTuple):
    owner: int
    """Broker whose live session owns the partition; -1: nobody does just now."""
    leader_epoch: int
    """Of the last owner; -1: it never had one."""
    session: int
    """Session that the last owner held, alive or not; -1: it never had one."""
    assigned: int
    """Broker that the planner wishes to own it; -1: not planned yet."""
    end_offset: int = -1
    """Where the log ended when an owner last released it; -1: none ever did."""


NO_PARTITION = PartitionImage(values.NO_BROKER, -1, values.NO_SESSION, values.NO_BROKER)
NO_OWNERS = values.OwnersValue([], [], [])
_assigned = attrgetter("assigned")


@dataclass(frozen=True, slots=True, eq=False)
class TopicImage:
    name: str
    topic_id: TopicId
    partitions: tuple[PartitionImage, ...]
    configs: Mapping[str, str]
    replication_factor: int
    is_internal: bool


@dataclass(frozen=True, slots=True, eq=False)
class BrokerImage:
    id: int
    zone: str | None
    endpoints: Mapping[str, tuple[str, int]]
    """Advertised host and port by listener name."""
    epoch: int
    """The broker's session id."""
    capacity: float = 1.0
    """How much of the load it is to carry, relative to others."""
    roles: frozenset[Role] = ALL_ROLES
    levels: values.Levels = values.UNTOLD_LEVELS
    """Feature levels that it supports."""
    session_timeout_s: float | None = None
    """As in its value."""

    @property
    def rack(self) -> str | None:
        return self.zone


@dataclass(slots=True)
class ImageChange:
    """What a list of events touched: for listeners that keep something derived."""

    topics: set[TopicId] = field(default_factory=set)
    """Created, changed in any way, or deleted (then no longer in the image)."""
    deleted: set[str] = field(default_factory=set)
    """Names of the deleted ones. Others may have these names by now."""
    brokers: bool = False
    prepared: bool = False
    pools: bool = False
    doubts: bool = False
    configs: set[tuple[str, str]] = field(default_factory=set)
    """(kind, name) as in `keys.config`; a topic's configs count as a change of the topic."""


@dataclass(slots=True)
class _TopicParts:
    """The keys of one topic as they are stored; they may arrive in any order."""

    name: str | None = None
    value: values.TopicValue | None = None
    assignments: dict[int, list[int]] = field(default_factory=dict)
    owners: dict[int, values.OwnersValue] = field(default_factory=dict)
    chunks: dict[int, tuple[PartitionImage, ...]] = field(default_factory=dict)
    """Built partitions by chunk, of a topic that is in the image."""
    stale: set[int] = field(default_factory=set)
    """Chunks to build, or to build again: their keys have changed."""


class ClusterImage:
    """Topics, brokers and configs at one revision. Lookups are plain dictionaries: `topics.get(name)`."""

    def __init__(self) -> None:
        self.revision = 0
        self.cluster_id = ""
        self.feature_level = 0
        """The one that is finalised, see `features.py`; 0: not known."""
        self.topics: dict[str, TopicImage] = {}
        self.topics_by_id: dict[TopicId, TopicImage] = {}
        self.brokers: dict[int, BrokerImage] = {}
        self.assigned_counts: Counter[int] = Counter()
        """Partitions by the broker that the planner wishes to own them, alive or not."""
        self.prepared: dict[int, int] = {}
        """By broker: the wishes up to this revision it has seen, and is prepared for what they bring it."""
        self.doubts: dict[int, values.DoubtValue] = {}
        """By broker; of its session now or of an earlier one."""
        self.controller_id = values.NO_BROKER
        self.configs: dict[tuple[str, str], Mapping[str, str]] = {}
        self.pools: dict[str, PoolValue] = {}
        """What is said of stores; of the primary nothing, as a rule."""
        self._collisions: dict[str, set[str]] = {}
        self._key_revisions: dict[str, int] = {}
        self._sessions: dict[int, int] = {}
        """By live broker, as the chunks were built with."""
        self._parts: dict[TopicId, _TopicParts] = {}
        self._id_by_name: dict[str, TopicId] = {}

    def collision(self, unified_name: str) -> str | None:
        """A topic whose name is this once '.' is written as '_' (the first by name)."""
        return min(self._collisions.get(unified_name, ()), default=None)

    @property
    def broker_default_configs(self) -> Mapping[str, str]:
        """Dynamic configs of all brokers."""
        return self.configs.get(("broker", ""), NO_CONFIGS)

    def broker_configs(self, broker_id: int) -> Mapping[str, str]:
        """Dynamic configs of this broker alone."""
        return self.configs.get(("broker", str(broker_id)), NO_CONFIGS)

    def leader_of(self, partition: PartitionImage) -> tuple[int, int]:
        """Where its clients should go, and the leader epoch there: its owner. While it has none, or one that is missed,
        the live broker that is to be it, at the epoch that it is going to have: who comes too early waits there, a
        moment. -1: nobody.
        """
        owner = partition.owner
        is_away = owner == values.NO_BROKER or self.is_missed(owner)
        if is_away and owner != partition.assigned and partition.assigned in self.brokers:
            return partition.assigned, partition.leader_epoch + 1
        return owner, partition.leader_epoch

    def comes_soon(self, partition: PartitionImage, broker_id: int) -> bool:
        """Whether the broker is about to serve the partition, as is wished: worth waiting for. The session of an owner
        that is missed may take longer to end.
        """
        owner = partition.owner
        is_free_soon = not self.is_missed(owner) or self.doubt_in(owner) is values.DoubtStage.ENDING
        return partition.assigned == broker_id and is_free_soon

    def doubt_in(self, broker_id: int) -> values.DoubtStage | None:
        """In the session that the broker has now."""
        doubt, broker = self.doubts.get(broker_id), self.brokers.get(broker_id)
        return None if doubt is None or broker is None or doubt.session != broker.epoch else doubt.stage

    def is_missed(self, broker_id: int) -> bool:
        """Whether the broker lives on paper only, as far as others can tell."""
        return bool(self.doubts) and self.doubt_in(broker_id) in (values.DoubtStage.MISSED, values.DoubtStage.ENDING)

    @property
    def drained(self) -> set[int]:
        """Brokers that shall own nothing, alive or not."""
        return {
            int(name)
            for (kind, name), configs in self.configs.items()
            if kind == "broker" and name.isdecimal() and configs.get(DRAINED) == "true"
        }

    def group_configs(self, group_id: str) -> Mapping[str, str]:
        return self.configs.get(("group", group_id), NO_CONFIGS)

    def config_names(self, kind: str) -> list[str]:
        """Names of this kind that have dynamic configs, sorted."""
        return sorted(name for of, name in self.configs if of == kind)

    def key_revision(self, key: str) -> int:
        """For compares: the revision of a key under `cluster/`, 0 when it does not exist."""
        return self._key_revisions.get(key, 0)

    def events_from_listing(self, entries: Iterable[KeyValue], revision: int) -> list[Event]:
        """The events that take this image to a listing of everything under `cluster/` at `revision`."""
        seen: set[str] = set()
        events: list[Event] = []
        for key, value, changed_at in entries:
            seen.add(key)
            if self._key_revisions.get(key) != changed_at:
                events.append(Event(key, value, changed_at))
        events.extend(Event(key, None, revision) for key in self._key_revisions if key not in seen)
        return events

    def apply(self, events: Iterable[Event], revision: int | None = None) -> ImageChange:
        """Changes the image in place; afterwards it is at `revision`, or at that of the last event.

        Raises `Corrupt` when a value cannot be read; the image is then not to be used any more.
        """
        change = ImageChange()
        for event in events:
            if event.value is None:
                self._key_revisions.pop(event.key, None)
            else:
                self._key_revisions[event.key] = event.revision
            try:
                self._apply_one(event, change)
            except (ValueError, KeyError, TypeError, IndexError) as error:
                raise Corrupt(f"metadata key {event.key} holds what this version cannot read: {error!r}") from error
            self.revision = max(self.revision, event.revision)
        if revision is not None:
            self.revision = max(self.revision, revision)
        if change.brokers:
            self._take_changed_sessions()
            change.topics.update(self._parts)
        for topic_id in change.topics:
            self._rebuild(topic_id, change)
        return change

    def _apply_one(self, event: Event, change: ImageChange) -> None:
        key, value, revision = event
        if key.startswith(keys.TOPICS):
            self._apply_topic(key[len(keys.TOPICS) :], value, change)
        elif key.startswith(keys.ASSIGNMENTS):
            topic_id, chunk = _parse_chunk(key[len(keys.ASSIGNMENTS) :])
            parts = self._touch(topic_id, chunk, change)
            if value is None:
                parts.assignments.pop(chunk, None)
            else:
                parts.assignments[chunk] = values.decode_assignments(value)
        elif key.startswith(keys.OWNERS):
            topic_id, chunk = _parse_chunk(key[len(keys.OWNERS) :])
            parts = self._touch(topic_id, chunk, change)
            if value is None:
                parts.owners.pop(chunk, None)
            else:
                parts.owners[chunk] = values.decode_owners(value)
        elif key.startswith(keys.BROKERS):
            self._apply_broker(int(key[len(keys.BROKERS) :]), value, revision)
            change.brokers = True
        elif key.startswith(keys.PREPARED):
            broker_id = int(key[len(keys.PREPARED) :])
            if value is None:
                self.prepared.pop(broker_id, None)
            else:
                self.prepared[broker_id] = values.decode_number(value)
            change.prepared = True
        elif key.startswith(keys.DOUBTS):
            broker_id = int(key[len(keys.DOUBTS) :])
            if value is None:
                self.doubts.pop(broker_id, None)
            else:
                self.doubts[broker_id] = values.decode_doubt(value)
            change.doubts = True
        elif key.startswith(keys.CONFIGS):
            kind, _, name = key[len(keys.CONFIGS) :].partition("/")
            self._apply_configs((kind, name), value)
            change.configs.add((kind, name))
        elif key.startswith(keys.POOLS):
            self._apply_pool(key[len(keys.POOLS) :], value)
            change.pools = True
        elif key == keys.IDENTITY and value is not None:
            self.cluster_id = value.decode()
        elif key == keys.FEATURE_LEVEL and value is not None:
            self.feature_level = values.decode_number(value)
        elif key == keys.CONTROLLER:
            self.controller_id = values.NO_BROKER if value is None else values.decode_number(value)

    def _apply_topic(self, name: str, value: bytes | None, change: ImageChange) -> None:
        decoded = None if value is None else values.decode_topic(value)
        previous = self._id_by_name.pop(name, None)
        if previous is not None and (decoded is None or decoded.topic_id != previous):
            parts = self._parts[previous]
            parts.name = parts.value = None
            change.topics.add(previous)
        if decoded is None:
            return
        parts = self._parts.setdefault(decoded.topic_id, _TopicParts())
        if parts.value is None or parts.value.partitions != decoded.partitions:
            parts.stale.update(parts.chunks, range(keys.chunk_count(decoded.partitions)))
        parts.name, parts.value = name, decoded
        self._id_by_name[name] = decoded.topic_id
        change.topics.add(decoded.topic_id)

    def _apply_broker(self, broker_id: int, value: bytes | None, revision: int) -> None:
        if value is None:
            self.brokers.pop(broker_id, None)
            return
        decoded = values.decode_broker(value)
        self.brokers[broker_id] = BrokerImage(
            broker_id,
            decoded.zone,
            decoded.endpoints,
            revision,
            decoded.capacity,
            decoded.roles,
            decoded.levels,
            decoded.session_timeout_s,
        )

    def _apply_configs(self, resource: tuple[str, str], value: bytes | None) -> None:
        if value is None:
            self.configs.pop(resource, None)
        else:
            self.configs[resource] = values.decode_configs(value)

    def _apply_pool(self, name: str, value: bytes | None) -> None:
        if value is None:
            self.pools.pop(name, None)
        else:
            self.pools[name] = decode_pool(value)

    def _touch(self, topic_id: TopicId, chunk: int, change: ImageChange) -> _TopicParts:
        parts = self._parts.setdefault(topic_id, _TopicParts())
        parts.stale.add(chunk)
        change.topics.add(topic_id)
        return parts

    def _take_changed_sessions(self) -> None:
        """Which owners are alive has changed. All chunks name each of a few brokers: so only what is theirs is built
        anew.
        """
        sessions = {broker.id: broker.epoch for broker in self.brokers.values()}
        changed = {broker_id for broker_id, _ in sessions.items() ^ self._sessions.items()}
        self._sessions = sessions
        for parts in self._parts.values():
            for chunk in parts.chunks.keys() - parts.stale:
                owners = parts.owners.get(chunk, NO_OWNERS)
                if changed.isdisjoint(owners.brokers):
                    continue
                built = [*parts.chunks[chunk]]
                for place, (broker, partition) in enumerate(zip(owners.brokers, built, strict=False)):
                    if broker in changed:
                        owner = broker if sessions.get(broker) == partition.session else values.NO_BROKER
                        built[place] = PartitionImage(owner, *partition[1:])
                parts.chunks[chunk] = tuple(built)

    def _rebuild(self, topic_id: TopicId, change: ImageChange) -> None:
        old = self.topics_by_id.pop(topic_id, None)
        if old is not None and self.topics.get(old.name) is old:
            del self.topics[old.name]
            self._forget_collision(old.name)
        parts = self._parts[topic_id]
        if parts.name is None or parts.value is None:
            for chunk in list(parts.chunks):
                self._replace_chunk(parts, chunk, ())
            if old is not None:
                change.deleted.add(old.name)
            if not parts.assignments and not parts.owners:
                del self._parts[topic_id]
            return
        count = keys.chunk_count(parts.value.partitions)
        for chunk in parts.stale:
            built = self._build_chunk(parts, chunk, parts.value.partitions) if chunk < count else ()
            self._replace_chunk(parts, chunk, built)
        parts.stale.clear()
        partitions = chain.from_iterable(parts.chunks[chunk] for chunk in range(count))
        topic = TopicImage(
            parts.name,
            topic_id,
            tuple(partitions),
            parts.value.configs,
            parts.value.replication_factor,
            parts.value.is_internal,
        )
        self.topics[topic.name] = self.topics_by_id[topic_id] = topic
        self._collisions.setdefault(unify_collision_characters(topic.name), set()).add(topic.name)

    def _forget_collision(self, name: str) -> None:
        unified = unify_collision_characters(name)
        names = self._collisions[unified]
        names.discard(name)
        if not names:
            del self._collisions[unified]

    def _replace_chunk(self, parts: _TopicParts, chunk: int, built: tuple[PartitionImage, ...]) -> None:
        self.assigned_counts.subtract(Counter(map(_assigned, parts.chunks.pop(chunk, ()))))
        self.assigned_counts.update(map(_assigned, built))
        if built:
            parts.chunks[chunk] = built

    def _build_chunk(self, parts: _TopicParts, chunk: int, partitions: int) -> tuple[PartitionImage, ...]:
        first = chunk * keys.CHUNK_PARTITIONS
        count = min(keys.CHUNK_PARTITIONS, partitions - first)
        wishes = parts.assignments.get(chunk, [])[:count]
        wishes += [values.NO_BROKER] * (count - len(wishes))
        owners = parts.owners.get(chunk, NO_OWNERS)
        live = map(self._sessions.get, owners.brokers, repeat(values.NO_SESSION))
        owner = [
            broker if session == current else values.NO_BROKER
            for broker, session, current in zip(owners.brokers, owners.sessions, live, strict=True)
        ]
        ends = map(owners.end_offsets.get, range(count), repeat(-1)) if owners.end_offsets else repeat(-1)
        built = tuple(map(PartitionImage, owner, owners.leader_epochs, owners.sessions, wishes, ends))
        unowned = [PartitionImage(*NO_PARTITION[:3], wish) for wish in wishes[len(built) :]]
        return (*built, *unowned)


def _parse_chunk(rest: str) -> tuple[TopicId, int]:
    topic_id, _, chunk = rest.partition("/")
    return parse_topic_id(topic_id), int(chunk)
