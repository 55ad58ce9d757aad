"""Finding the partition that a request names, or what to tell a client that came to the wrong broker (KIP-951).

Owns the look-up among our own partitions and in the cluster image. Addresses are those of the listener that the client
came through.
"""

from collections.abc import Iterable
from typing import NamedTuple

from bytemq.broker.context import Broker
from bytemq.broker.followers import Beginning
from bytemq.broker.log.arrivals import Arrival
from bytemq.broker.log.followed_partition import FollowedPartition
from bytemq.broker.log.partition import Partition
from bytemq.broker.log.partitions import Entry
from bytemq.broker.nearest_reader import serves_readers
from bytemq.metadata.image import TopicImage
from bytemq.metadata.values import NO_BROKER
from bytemq.protocol.error_codes import ErrorCode
from bytemq.protocol.leader_hints import LeaderIdAndEpoch, NodeEndpoint
from bytemq.types import ZERO_TOPIC_ID, Role, TopicId

HINTED_ERRORS = frozenset({ErrorCode.NOT_LEADER_OR_FOLLOWER, ErrorCode.FENCED_LEADER_EPOCH})
"""Errors that come with the current leader."""


def current_leader(broker: Broker, name: str | None, topic_id: bytes | None, index: int) -> LeaderIdAndEpoch | None:
    """None for what the cluster image does not have.

    While a partition is between two owners the next one is told, at the epoch that it is going to have: a client that
    goes there waits for the claim, and not for metadata in which nobody leads.
    """
    topic = find_topic(broker, name, topic_id)
    if topic is None or not 0 <= index < len(topic.partitions):
        return None
    partition = topic.partitions[index]
    is_leaving = partition.owner == broker.node_id and partition.assigned != broker.node_id
    if is_leaving and partition.assigned in broker.image.brokers:
        return LeaderIdAndEpoch(partition.assigned, partition.leader_epoch + 1)
    return LeaderIdAndEpoch(*broker.image.leader_of(partition))


def node_endpoints(broker: Broker, listener: str, leaders: Iterable[LeaderIdAndEpoch | None]) -> list[NodeEndpoint]:
    """The addresses of these leaders, each once, for clients of that listener."""
    endpoints: dict[int, NodeEndpoint] = {}
    for leader in leaders:
        if leader is None or leader.leader_id in endpoints:
            continue
        node = broker.image.brokers.get(leader.leader_id)
        if node is not None and listener in node.endpoints:
            host, port = node.endpoints[listener]
            endpoints[node.id] = NodeEndpoint(node.id, host, port, node.rack)
    return list(endpoints.values())


def locate(broker: Broker, name: str | None, topic_id: bytes | None, index: int) -> Entry | Arrival | ErrorCode:
    """The partition if it is ours, open or to be opened, or about to be ours; else the error for whoever wants to read
    or write it.
    """
    if name is not None:
        entry = broker.partitions.get(name, index)
    else:
        entry = broker.partitions.get_by_id(topic_id or ZERO_TOPIC_ID, index)
    if entry is not None:
        return entry
    topic = find_topic(broker, name, topic_id)
    if topic is None:
        return ErrorCode.UNKNOWN_TOPIC_OR_PARTITION if name is not None else ErrorCode.UNKNOWN_TOPIC_ID
    if not 0 <= index < len(topic.partitions):
        return ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    if broker.image.comes_soon(topic.partitions[index], broker.node_id):
        return broker.partitions.expected(topic.topic_id, index) or ErrorCode.NOT_LEADER_OR_FOLLOWER
    return ErrorCode.NOT_LEADER_OR_FOLLOWER


class Reader(NamedTuple):
    """Who fetches."""

    rack: str
    """Empty where it has said none, or one that no broker is in: what clients make up is not kept anywhere."""
    may_be_sent_on: bool
    """A consumer whose version of Fetch knows of preferred replicas (KIP-392)."""


Readable = Partition | FollowedPartition


def reader_of(broker: Broker, rack: str, *, may_be_sent_on: bool) -> Reader:
    """`rack`: as the client says."""
    is_known = any(one.zone == rack for one in broker.image.brokers.values())
    return Reader(rack if is_known else "", may_be_sent_on)


def locate_to_read(
    broker: Broker, reader: Reader, name: str | None, topic_id: bytes | None, index: int
) -> Entry | Arrival | FollowedPartition | Beginning | ErrorCode:
    """As `locate`, and also what others own, for consumers that read it here."""
    found = locate(broker, name, topic_id, index)
    is_of_others = found is ErrorCode.NOT_LEADER_OR_FOLLOWER or isinstance(found, Arrival)
    if not is_of_others or broker.followers is None or not reader.may_be_sent_on:
        return found
    topic = find_topic(broker, name, topic_id)
    if topic is None or not serves_readers(broker.image, topic, index, broker.node_id, reader.rack):
        return found
    return broker.followers.get(topic, index) or found


def reads_from_owner(broker: Broker, reader: Reader) -> bool:
    """Whether whoever owns a partition answers this reader, whatever others there are."""
    return not reader.may_be_sent_on or (not reader.rack and broker.serves_readers)


def stays(broker: Broker, reader: Reader) -> bool:
    """Whether this reader comes here for the zone, and not for who owns what it reads: where the zone has other brokers
    that serve readers, it follows the owner among them.
    """
    brokers = broker.image.brokers
    own = brokers.get(broker.node_id)
    if not reader.may_be_sent_on or not reader.rack or own is None or own.zone != reader.rack:
        return False
    return not any(
        other.zone == reader.rack and other is not own and Role.READ in other.roles for other in brokers.values()
    )


def preferred_reader(broker: Broker, reader: Reader, partition: Partition) -> int:
    """Where a consumer of a partition of ours should read instead; -1: here."""
    if reads_from_owner(broker, reader):
        return NO_BROKER
    topic = broker.image.topics_by_id.get(partition.pid.topic_id)
    if topic is None:
        return NO_BROKER
    chosen = broker.nearest_readers.choose(broker.image, topic, partition.pid.index, reader.rack)
    return NO_BROKER if chosen == broker.node_id else chosen


def find_topic(broker: Broker, name: str | None, topic_id: bytes | None) -> TopicImage | None:
    """By name where there is one, else by id."""
    if name is not None:
        return broker.image.topics.get(name)
    return broker.image.topics_by_id.get(TopicId(topic_id)) if topic_id is not None else None
