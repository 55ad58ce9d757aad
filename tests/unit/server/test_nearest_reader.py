"""Fetch by zone: where the owner sends a consumer, and what a broker answers that does not own the partition."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from bytemq.broker.followers import Followers
from bytemq.broker.load_reporter import LoadReporter
from bytemq.errors import Unavailable
from bytemq.metadata.image import BrokerImage, ImageChange
from bytemq.metadata.loads import IDLE
from bytemq.protocol.error_codes import ErrorCode
from bytemq.protocol.records.batch import RecordBatch, parse_header
from bytemq.protocol.records.builder import Record, build_batch
from bytemq.storage.following.followed_logs import Follower
from bytemq.storage.log_files import RecoveredLog
from bytemq.storage.reading import Read
from bytemq.storage.wal.format import BATCH_ENTRY_BYTES
from bytemq.types import ALL_ROLES, PartitionId, Role
from tests.unit.server.harness import NODE_ID, Client, Cluster, eventually, make_cluster, produce, serving
from tests.unit.server.test_fetch import fetch, offsets, request

OTHER = NODE_ID + 1


class FakeFiles:
    """A log in memory, as far as readers need it."""

    def __init__(self) -> None:
        self.batches: list[RecordBatch] = []
        self.recovered: RecoveredLog | None = None
        self.partition = None
        self.failure: Exception | None = None

    @property
    def size_bytes(self) -> int:
        return sum(batch.size_bytes for batch in self.batches)

    def bytes_between(self, offset: int, end_offset: int, enough_bytes: int) -> int:
        return sum(batch.size_bytes for batch in self.batches if offset <= batch.base_offset < end_offset)

    def read_cached(self, offset: int, max_bytes: int, end_offset: int, *, at_least_one: bool = True) -> Read | None:
        if self.failure is not None:
            raise self.failure
        found = [batch for batch in self.batches if offset <= batch.base_offset < end_offset]
        size = sum(batch.size_bytes for batch in found)
        return Read([batch.view for batch in found], size, offset, found[-1].last_offset + 1 if found else offset)


class FakeFollowedLogs:
    """What a storage tells of logs that others own; `commit` makes one of them grow."""

    def __init__(self) -> None:
        self.files: dict[PartitionId, FakeFiles] = {}
        self.followers: dict[PartitionId, Follower] = {}
        self.doubted: list[PartitionId] = []
        self.read: set[PartitionId] = set()
        """By those who want them as they grow."""
        self.failure: Exception | None = None

    async def follow(self, partition: PartitionId, follower: Follower, *, is_read: bool = True) -> None:
        if is_read:
            self.read.add(partition)
        if self.failure is not None:
            raise self.failure
        files = self.files.setdefault(partition, FakeFiles())
        files.recovered = RecoveredLog(0, len(files.batches), [], None, list(files.batches))
        self.followers[partition] = follower
        follower.begun(files)  # type: ignore[arg-type]

    def unfollow(self, partition: PartitionId) -> None:
        self.followers.pop(partition, None)

    def read_from_now_on(self, partition: PartitionId) -> None:
        self.read.add(partition)

    def doubt(self, partition: PartitionId) -> None:
        self.doubted.append(partition)

    def commit(self, partition: PartitionId, epoch: int = 0) -> None:
        files = self.files.setdefault(partition, FakeFiles())
        made = parse_header(memoryview(build_batch([Record(None, b"v")], timestamp_ms=1)))
        made.place(len(files.batches), epoch)
        files.batches.append(made)
        if partition in self.followers:
            entry = bytes(made.view[:61]).ljust(BATCH_ENTRY_BYTES, b"\0")
            self.followers[partition].committed(entry, len(files.batches))


def two_zones(owner: int, roles: frozenset[Role] = ALL_ROLES) -> tuple[Cluster, FakeFollowedLogs]:
    """This broker is in zone a, the other one in zone b; `roles` are the owner's."""
    cluster = make_cluster()
    for broker_id, zone in ((NODE_ID, "a"), (OTHER, "b")):
        own = roles if broker_id == owner else ALL_ROLES
        cluster.image.brokers[broker_id] = BrokerImage(broker_id, zone, {"PLAINTEXT": (zone, 9092)}, 1, 1.0, own)
    logs = FakeFollowedLogs()
    broker = cluster.broker
    broker.followers = Followers(
        logs,  # type: ignore[arg-type]
        lambda: cluster.image,
        NODE_ID,
        broker.standing,
        broker.clock,
        broker.supervisor,
    )
    return cluster, logs


async def answer(client: Client, *, version: int = 12, offset: int = 0, **options: Any) -> Any:
    response = await fetch(client, request(partitions=((0, offset),), **options), version)
    return response.responses[0].partitions[0]


@pytest.mark.parametrize(
    ("rack", "version", "roles", "sent_to"),
    [
        ("b", 11, ALL_ROLES, OTHER),
        ("b", 12, ALL_ROLES, OTHER),
        ("a", 12, ALL_ROLES, -1),
        ("c", 12, ALL_ROLES, -1),
        ("", 12, ALL_ROLES, -1),
        ("", 12, ALL_ROLES - {Role.READ}, OTHER),
        ("a", 12, ALL_ROLES - {Role.READ}, OTHER),
    ],
)
async def test_owner__sends_on_who_has_a_nearer_reader(
    rack: str, version: int, roles: frozenset[Role], sent_to: int
) -> None:
    cluster, _ = two_zones(NODE_ID, roles)
    async with serving(cluster) as running:
        client = await running.connect()
        await cluster.add_topic("events")
        await produce(client, "events", b"x")
        found = await answer(client, version=version, rack_id=rack)
        assert (found.error_code, found.preferred_read_replica) == (0, sent_to)
        assert bool(found.records) is (sent_to == -1)
        assert found.high_watermark == 1


async def test_owner__keeps_nothing_of_racks_that_clients_make_up() -> None:
    """Each may have 32 KiB, and a client as many as it likes."""
    cluster, _ = two_zones(NODE_ID, ALL_ROLES)
    async with serving(cluster) as running:
        client = await running.connect()
        await cluster.add_topic("events")
        await produce(client, "events", b"x")
        for number in range(10):
            assert (await answer(client, rack_id=f"{number}" * 30_000)).records
        kept = cluster.broker.nearest_readers._kept
        assert not any(len(rack) > 1 for _, _, rack in kept)


@pytest.mark.parametrize(
    ("rack", "beside", "moves_along"),
    [
        ("a", None, False),
        ("c", None, True),
        ("", None, True),
        ("a", ALL_ROLES, True),
        ("a", ALL_ROLES - {Role.READ}, False),
    ],
)
async def test_load__of_readers_in_the_brokers_zone_is_no_load_of_partitions(
    rack: str, beside: frozenset[Role] | None, moves_along: bool
) -> None:
    """They read here whoever owns what they read: to move it would help nobody. Readers of elsewhere go along; and so
    do those of the zone, to another broker `beside` this one that serves readers.
    """
    cluster, _ = two_zones(NODE_ID, ALL_ROLES)
    if beside is not None:
        cluster.image.brokers[OTHER + 1] = BrokerImage(OTHER + 1, "a", {"PLAINTEXT": ("a", 9092)}, 1, 1.0, beside)
    async with serving(cluster) as running:
        client = await running.connect()
        topic = await cluster.add_topic("events")
        await produce(client, "events", b"x")
        reporter = LoadReporter(cluster.broker, 1, 0)
        await reporter._measure(1.0)
        assert (await answer(client, rack_id=rack)).records
        await reporter._measure(1.0)
        report = reporter._report()
        of_partition = report.partitions.get(PartitionId(topic.topic_id, 0), IDLE)
        assert (of_partition.bytes_out > 0, of_partition.requests > 0) == (moves_along, moves_along)
        assert report.total.bytes_out > 0 and report.total.requests > 0


async def test_owner__does_not_send_on_who_does_not_know_of_it_or_is_out_of_range() -> None:
    cluster, _ = two_zones(NODE_ID, ALL_ROLES - {Role.READ})
    async with serving(cluster) as running:
        client = await running.connect()
        await cluster.add_topic("events")
        await produce(client, "events", b"x")
        assert (await answer(client, version=10)).records
        beyond = await answer(client, rack_id="b", offset=2)
        assert (beyond.error_code, beyond.preferred_read_replica) == (ErrorCode.OFFSET_OUT_OF_RANGE, -1)


async def followed(cluster: Cluster, logs: FakeFollowedLogs, batches: int) -> PartitionId:
    topic = await cluster.add_topic("events", owner=OTHER, epoch=3)
    pid = PartitionId(topic.topic_id, 0)
    for _ in range(batches):
        logs.commit(pid)
    return pid


async def test_reader__serves_what_is_committed_and_waits_for_more() -> None:
    cluster, logs = two_zones(OTHER)
    async with serving(cluster) as running:
        client = await running.connect()
        pid = await followed(cluster, logs, 2)
        response = await fetch(client, request(rack_id="a"))
        assert offsets(response) == [[0, 1]]
        waiting = asyncio.ensure_future(
            fetch(client, request(partitions=((0, 2),), rack_id="a", max_wait_ms=60_000, min_bytes=1))
        )
        await asyncio.sleep(0.05)
        assert not waiting.done()
        logs.commit(pid)
        assert offsets(await asyncio.wait_for(waiting, 30)) == [[2]]


async def test_reader__never_calls_an_offset_out_of_range_that_it_does_not_know_yet() -> None:
    cluster, logs = two_zones(OTHER)
    async with serving(cluster) as running:
        client = await running.connect()
        pid = await followed(cluster, logs, 1)
        for epoch in (-1, 0, 3):
            found = await answer(client, offset=5, rack_id="a", max_wait_ms=50, min_bytes=1)
            assert found.error_code == ErrorCode.OFFSET_NOT_AVAILABLE, epoch
        waiting = asyncio.ensure_future(
            fetch(client, request(partitions=((0, 3),), rack_id="a", max_wait_ms=60_000, min_bytes=1))
        )
        await asyncio.sleep(0.05)
        for _ in range(3):
            logs.commit(pid)
        assert offsets(await asyncio.wait_for(waiting, 30)) == [[3]]
        assert (await answer(client, offset=-1, rack_id="a")).error_code == ErrorCode.OFFSET_OUT_OF_RANGE


async def test_reader__is_no_leader_to_others() -> None:
    cluster, logs = two_zones(OTHER)
    async with serving(cluster) as running:
        client = await running.connect()
        await followed(cluster, logs, 1)
        refused = ErrorCode.NOT_LEADER_OR_FOLLOWER
        assert (await answer(client)).error_code == refused  # no rack: it comes by mistake
        assert (await answer(client, version=10)).error_code == refused
        cluster.image.brokers[NODE_ID] = BrokerImage(
            NODE_ID, "a", {"PLAINTEXT": ("a", 9092)}, 1, 1.0, ALL_ROLES - {Role.READ}
        )
        assert (await answer(client, rack_id="a")).error_code == refused
        assert not logs.followers


async def test_reader__knows_the_leader_epoch() -> None:
    cluster, logs = two_zones(OTHER)
    async with serving(cluster) as running:
        client = await running.connect()
        await followed(cluster, logs, 1)
        for epoch, error in (
            (2, ErrorCode.FENCED_LEADER_EPOCH),
            (3, ErrorCode.NONE),
            (4, ErrorCode.UNKNOWN_LEADER_EPOCH),
        ):
            asked = request(rack_id="a")
            asked.topics[0].partitions[0].current_leader_epoch = epoch
            assert (await fetch(client, asked)).responses[0].partitions[0].error_code == error


async def test_reader__says_nothing_when_its_session_may_have_ended() -> None:
    cluster, logs = two_zones(OTHER)
    async with serving(cluster) as running:
        client = await running.connect()
        await followed(cluster, logs, 1)
        assert (await answer(client, rack_id="a")).error_code == 0
        cluster.broker.standing.end()
        assert (await answer(client, rack_id="a")).error_code == ErrorCode.NOT_LEADER_OR_FOLLOWER


async def test_reader__sends_clients_back_when_it_cannot_read() -> None:
    cluster, logs = two_zones(OTHER)
    async with serving(cluster) as running:
        client = await running.connect()
        pid = await followed(cluster, logs, 1)
        logs.failure = Unavailable("no store")
        assert (await answer(client, rack_id="a")).error_code == ErrorCode.OFFSET_NOT_AVAILABLE
        logs.failure = None
        assert (await answer(client, rack_id="a")).error_code == 0
        logs.files[pid].failure = Unavailable("gone")
        assert (await answer(client, rack_id="a")).error_code == ErrorCode.OFFSET_NOT_AVAILABLE
        assert logs.doubted == [pid]


async def test_reader__says_once_in_a_while_that_it_cannot_look_something_up(caplog: pytest.LogCaptureFixture) -> None:
    cluster, logs = two_zones(OTHER)
    async with serving(cluster) as running:
        client = await running.connect()
        await followed(cluster, logs, 1)
        logs.failure = Unavailable("no store")
        for _ in range(5):
            assert (await answer(client, rack_id="a")).error_code == ErrorCode.OFFSET_NOT_AVAILABLE
    assert caplog.text.count("cannot be served to readers") == 1


async def test_reader__lets_go_of_what_is_ours_now() -> None:
    cluster, logs = two_zones(OTHER)
    async with serving(cluster) as running:
        client = await running.connect()
        pid = await followed(cluster, logs, 1)
        assert (await answer(client, rack_id="a")).error_code == 0
        waiting = asyncio.ensure_future(answer(client, offset=1, rack_id="a", max_wait_ms=60_000, min_bytes=1))
        await eventually(lambda: pid in logs.followers)
        await cluster.add_topic("events", owner=NODE_ID, epoch=4)
        assert cluster.broker.followers is not None
        cluster.broker.followers.on_image_change(ImageChange({pid.topic_id}))
        assert not logs.followers
        await asyncio.wait_for(waiting, 30)
