"""What a handler sees: the broker it works for, and the request that it answers.

Owns no behaviour. node/broker.py builds the one `Broker`; connection.py builds a `RequestContext` for each request.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING

from bytemq.broker.metadata_encoding import EncodedTopics
from bytemq.broker.nearest_reader import NearestReaders
from bytemq.runtime.budget import MemoryBudget
from bytemq.runtime.clock import Clock
from bytemq.runtime.deadlines import Deadlines
from bytemq.runtime.metrics import Counter, Metrics
from bytemq.runtime.tasks import Supervisor
from bytemq.runtime.turns import Turns
from bytemq.types import Role

if TYPE_CHECKING:
    from bytemq.broker.coordinator.group_coordinators import GroupCoordinators
    from bytemq.broker.coordinator.marker_writer import MarkerWriter
    from bytemq.broker.coordinator.transaction_coordinators import TransactionCoordinators
    from bytemq.broker.fetch_sessions import FetchSessions
    from bytemq.broker.followers import Followers
    from bytemq.broker.log.partitions import PartitionTable
    from bytemq.broker.peers import Peers
    from bytemq.broker.topic_admin import TopicAdmin
    from bytemq.broker.transaction_admission import TransactionAdmission
    from bytemq.config import BrokerConfig
    from bytemq.metadata.image import ClusterImage
    from bytemq.metadata.producer_ids import ProducerIds
    from bytemq.metadata.standing import Standing
    from bytemq.metadata.store import MetadataStore

ANONYMOUS = "User:ANONYMOUS"


class Traffic:
    """Record batches in and out by topic, in bytes as they are on the wire; how long requests take."""

    __slots__ = ("_in", "_out", "bytes_in", "bytes_out", "durations", "near_answers", "near_bytes_out")

    def __init__(self, metrics: Metrics) -> None:
        self.durations = metrics.histograms(
            "bytemq_request_duration_seconds", "From a complete request to its answer, by API", "api"
        )
        self._in = metrics.counters("bytemq_topic_bytes_in_total", "Bytes of record batches received for it", "topic")
        self._out = metrics.counters("bytemq_topic_bytes_out_total", "Bytes of record batches fetched", "topic")
        self.bytes_in: dict[str, Counter] = {}
        self.bytes_out: dict[str, Counter] = {}
        self.near_bytes_out = self.near_answers = 0
        """To consumers who come here because it is their zone, and would if somebody else owned what they read."""

    def count_in(self, topic: str, size_bytes: int) -> None:
        counter = self.bytes_in.get(topic)
        if counter is None:
            counter = self.bytes_in[topic] = self._in.labels(topic)
        counter.value += size_bytes

    def count_out(self, topic: str, size_bytes: int) -> None:
        counter = self.bytes_out.get(topic)
        if counter is None:
            counter = self.bytes_out[topic] = self._out.labels(topic)
        counter.value += size_bytes

    def forget(self, topics: Iterable[str]) -> None:
        """They are deleted."""
        for topic in topics:
            for counters, family in ((self.bytes_in, self._in), (self.bytes_out, self._out)):
                if counters.pop(topic, None) is not None:
                    family.remove(topic)


@dataclass(slots=True)
class Broker:
    """The parts of one broker. Handlers keep none that may be replaced: `config` changes with dynamic configs."""

    node_id: int
    config: "BrokerConfig"
    image: "ClusterImage"
    metadata: "MetadataStore"
    topics: "TopicAdmin"
    partitions: "PartitionTable"
    groups: "GroupCoordinators"
    transactions: "TransactionCoordinators"
    admission: "TransactionAdmission"
    markers: "MarkerWriter"
    peers: "Peers"
    producer_ids: "ProducerIds"
    fetch_sessions: "FetchSessions"
    response_memory: MemoryBudget
    clock: Clock
    random: Random
    metrics: Metrics
    supervisor: Supervisor
    deadlines: Deadlines
    traffic: Traffic
    standing: "Standing"
    endpoints: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    """Where clients reach this broker, by listener name."""
    encoded_topics: EncodedTopics = field(default_factory=EncodedTopics)
    turns: Turns = field(default_factory=Turns)
    nearest_readers: NearestReaders = field(default_factory=NearestReaders)
    followers: "Followers | None" = None
    """None: partitions of others are not served."""

    @property
    def serves_readers(self) -> bool:
        """Whether consumers read here what this broker owns, unless they have a nearer one."""
        known = self.image.brokers.get(self.node_id)
        return known is None or Role.READ in known.roles

    @property
    def cluster_id(self) -> str:
        return self.image.cluster_id


@dataclass(slots=True)
class ClientInfo:
    """The other end of one connection, as far as it has said who it is."""

    connection_id: str
    """As Kafka's: "local host:port-remote host:port-sequence number"."""
    listener: str
    host: str
    port: int
    principal: str = ANONYMOUS
    software_name: str = "unknown"
    software_version: str = "unknown"
    zone: str = ""
    """Where it is by `bytemq.zone.networks`; "" where that is not known."""


class RequestContext:
    """One request as its handler sees it, without the body."""

    __slots__ = ("api_key", "api_version", "client", "client_id", "correlation_id")

    def __init__(
        self, api_key: int, api_version: int, correlation_id: int, client_id: str | None, client: ClientInfo
    ) -> None:
        self.api_key = api_key
        self.api_version = api_version
        self.correlation_id = correlation_id
        self.client_id = client_id
        self.client = client

    @property
    def listener(self) -> str:
        """Name of the listener that the request came through: answers advertise this listener's addresses."""
        return self.client.listener

    @property
    def peer(self) -> str:
        """The client's address as Kafka shows it to other clients: "/127.0.0.1"."""
        return f"/{self.client.host}"

    @property
    def principal(self) -> str:
        return self.client.principal

    @property
    def connection_id(self) -> str:
        return self.client.connection_id

    def release_frame(self) -> None:
        """What is needed of the request has been copied out of it, its fields of bytes are not looked at again: for
        requests that wait long. Harmless when repeated.
        """
