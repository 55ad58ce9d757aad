"""What the server's tests share: a real server with real partitions over storage in memory, a client of raw frames."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from random import Random
from struct import pack, unpack
from types import SimpleNamespace
from typing import Any

from bytemq.broker.context import Broker, Traffic
from bytemq.broker.fetch_sessions import FetchSessions
from bytemq.broker.limits import ServerLimits
from bytemq.broker.log.partitions import PartitionTable
from bytemq.broker.log.services import LogServices
from bytemq.broker.server import Listener, Server
from bytemq.config import BrokerConfig
from bytemq.metadata.image import BrokerImage, ClusterImage, PartitionImage, TopicImage
from bytemq.metadata.standing import Standing
from bytemq.metadata.topic_names import INTERNAL_TOPICS
from bytemq.protocol.api_versions import API_VERSIONS
from bytemq.protocol.codec import decode, encode
from bytemq.protocol.messages.produce import (
    PartitionProduceData,
    ProduceRequest,
    ProduceResponse,
    TopicProduceData,
)
from bytemq.protocol.records.builder import Record, build_batch
from bytemq.protocol.schema import Message
from bytemq.runtime.budget import MemoryBudget
from bytemq.runtime.clock import Clock, SystemClock
from bytemq.runtime.deadlines import Deadlines
from bytemq.runtime.metrics import Metrics
from bytemq.runtime.tasks import Supervisor
from bytemq.types import PartitionId, TopicId
from tests.support.fake_log_storage import FakeLogStorage

NODE_ID = 0


class AdjustableClock(SystemClock):
    """The system's clock, set ahead by the test."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead_s


class Storage(FakeLogStorage):
    """Appends become durable in the next turn of the loop, unless `held`."""

    held = False

    def append(self, *args: Any, **options: Any) -> None:
        super().append(*args, **options)
        asyncio.get_running_loop().call_soon(self._settle_unless_held)

    def _settle_unless_held(self) -> None:
        if not self.held:
            self.settle()


class FakeTopics:
    """Creates topics at once, in the image and in the table."""

    def __init__(self, cluster: "Cluster") -> None:
        self._cluster = cluster

    async def auto_create(self, name: str) -> TopicImage:
        return await self._cluster.add_topic(name, 1)


@dataclass
class Cluster:
    """One broker's parts, put together as bytemq/node does."""

    broker: Broker
    storage: Storage
    image: ClusterImage
    config: BrokerConfig

    async def add_topic(self, name: str, partitions: int = 1, *, owner: int = NODE_ID, epoch: int = 0) -> TopicImage:
        topic_id = TopicId(name.encode().ljust(16, b"-")[:16])
        images = tuple(PartitionImage(owner, epoch, 1, owner) for _ in range(partitions))
        topic = TopicImage(name, topic_id, images, {}, 3, name in INTERNAL_TOPICS)
        self.image.topics[name] = self.image.topics_by_id[topic_id] = topic
        if owner == NODE_ID:
            for index in range(partitions):
                pid = PartitionId(topic_id, index)
                await self.broker.partitions.own(pid, name, epoch, self.config.topic_config({}))
        return topic

    async def move(self, name: str, index: int, broker_id: int) -> None:
        """Wished to be elsewhere, and given up here."""
        topic = self.image.topics[name]
        partitions = list(topic.partitions)
        partitions[index] = partitions[index]._replace(assigned=broker_id)
        self.image.topics[name] = self.image.topics_by_id[topic.topic_id] = replace(topic, partitions=tuple(partitions))
        await self.broker.partitions.release(PartitionId(topic.topic_id, index))


def make_cluster(clock: Clock | None = None, **configs: str) -> Cluster:
    """Config names with underscores, as Kafka's with dots."""
    clock = clock or SystemClock()
    config = BrokerConfig({name.replace("_", "."): value for name, value in configs.items()})
    storage = Storage()
    metrics = Metrics()
    image = ClusterImage()
    image.cluster_id = "test-cluster"
    image.controller_id = NODE_ID
    image.brokers[NODE_ID] = BrokerImage(NODE_ID, "a", {"PLAINTEXT": ("inside", 9092), "OUTSIDE": ("outside", 9093)}, 1)
    services = LogServices(storage, clock, ThreadPoolExecutor(1))  # type: ignore[arg-type]
    random = Random(7)
    standing = Standing(clock.monotonic)
    broker = Broker(
        node_id=NODE_ID,
        config=config,
        image=image,
        metadata=SimpleNamespace(),
        topics=SimpleNamespace(),  # type: ignore[arg-type]
        partitions=PartitionTable(services, standing),
        groups=SimpleNamespace(),  # type: ignore[arg-type]
        transactions=SimpleNamespace(),  # type: ignore[arg-type]
        admission=SimpleNamespace(),  # type: ignore[arg-type]
        markers=SimpleNamespace(),  # type: ignore[arg-type]
        peers=SimpleNamespace(),  # type: ignore[arg-type]
        producer_ids=SimpleNamespace(),  # type: ignore[arg-type]
        fetch_sessions=FetchSessions(config.max_incremental_fetch_session_cache_slots, 120_000, random),
        response_memory=MemoryBudget(config.bytemq_response_memory_bytes),
        clock=clock,
        random=random,
        metrics=metrics,
        supervisor=Supervisor(clock, _fatal),
        deadlines=Deadlines(clock),
        traffic=Traffic(metrics),
        standing=standing,
        endpoints=image.brokers[NODE_ID].endpoints,
    )
    cluster = Cluster(broker, storage, image, config)
    broker.topics = FakeTopics(cluster)  # type: ignore[assignment]
    return cluster


def _fatal(name: str, error: BaseException) -> None:
    raise AssertionError(f"{name} crashed") from error


class Client:
    """Writes frames and reads frames; knows nothing of sessions or metadata."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.correlation_id = 0

    def send(self, request: Message, version: int, *, client_id: str | None = "test") -> int:
        """Returns the correlation id."""
        return self.send_raw(type(request).API_KEY or 0, version, bytes(encode(request, version)), client_id=client_id)

    def send_raw(self, api_key: int, version: int, body: bytes, *, client_id: str | None = "test") -> int:
        self.correlation_id += 1
        self.writer.write(frame(api_key, version, self.correlation_id, body, client_id))
        return self.correlation_id

    async def receive(self) -> tuple[int, bytes]:
        """(correlation id, what follows it)."""
        (size,) = unpack(">i", await self.reader.readexactly(4))
        payload = await self.reader.readexactly(size)
        return unpack(">i", payload[:4])[0], payload[4:]

    async def ask(self, request: Message, version: int, response_class: type[Any]) -> Any:
        correlation_id = self.send(request, version)
        answered, payload = await self.receive()
        assert answered == correlation_id
        return decode_response(response_class, version, payload)

    async def closed(self) -> bool:
        """Waits until the server has closed the connection; False if it sends something instead."""
        try:
            return not await self.reader.read(1)
        except ConnectionError:
            return True

    async def close(self) -> None:
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except ConnectionError:
            return


def frame(api_key: int, version: int, correlation_id: int, body: bytes, client_id: str | None = "test") -> bytes:
    name = pack(">h", -1) if client_id is None else pack(">h", len(client_id)) + client_id.encode()
    versions = API_VERSIONS.get(api_key)
    tags = b"\0" if versions is not None and versions.is_flexible(version) else b""
    payload = pack(">hhi", api_key, version, correlation_id) + name + tags + body
    return pack(">i", len(payload)) + payload


def decode_response(response_class: type[Any], version: int, payload: bytes) -> Any:
    api_key = response_class.API_KEY
    if api_key != 18 and API_VERSIONS[api_key].is_flexible(version):
        assert payload[0] == 0
        payload = payload[1:]
    return decode(response_class, version, memoryview(payload))


@asynccontextmanager
async def serving(
    cluster: Cluster, limits: ServerLimits | None = None, listener: str = "PLAINTEXT"
) -> AsyncIterator["Serving"]:
    """A started server; everything is closed at the end. The same cluster may be served again."""
    cluster.broker.metrics = Metrics()
    cluster.broker.supervisor = Supervisor(cluster.broker.clock, _fatal)
    server = Server(cluster.broker, limits or ServerLimits())
    bound = await server.start([Listener(listener, "127.0.0.1", 0)])
    running = Serving(server, bound[listener])
    try:
        yield running
    finally:
        for client in running.clients:
            await client.close()
        await server.stop(0.2)
        await cluster.broker.supervisor.close()


class Serving:
    def __init__(self, server: Server, address: tuple[str, int]) -> None:
        self.server = server
        self.address = address
        self.clients: list[Client] = []

    async def connect(self) -> Client:
        client = Client(*await asyncio.open_connection(*self.address))
        self.clients.append(client)
        return client


def batch(*values: bytes, **options: Any) -> bytes:
    now_ms = SystemClock().wall_ms()
    return bytes(build_batch([Record(None, value) for value in values], timestamp_ms=now_ms, **options))


def produce_request(
    topic: str, payloads: Sequence[tuple[int, bytes | None]], *, acks: int = -1, timeout_ms: int = 30_000
) -> ProduceRequest:
    partitions = [PartitionProduceData(index=index, records=records) for index, records in payloads]
    topics = [TopicProduceData(name=topic, partition_data=partitions)]
    return ProduceRequest(acks=acks, timeout_ms=timeout_ms, topic_data=topics)


async def produce(client: Client, topic: str, *values: bytes, partition: int = 0) -> Any:
    """The partition's response; for storage that settles by itself."""
    request = produce_request(topic, [(partition, batch(*values))])
    response = await client.ask(request, 9, ProduceResponse)
    return response.responses[0].partition_responses[0]


async def eventually(condition: Any) -> None:
    """Lets the loop run until the condition holds; what the kernel has a part in takes its time on a busy machine."""
    patient_until = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < patient_until, "it never came true"
        await asyncio.sleep(0)
