"""Transactions on a real node, by librdkafka: the committed is read once, the aborted never, whoever dies when."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress

import pytest
from confluent_kafka import Consumer, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from kafka.protocol.admin import ListTransactionsRequest
from kafka.protocol.producer import EndTxnRequest, InitProducerIdRequest

from tests.interop.differential import build
from tests.interop.wire import Wire
from tests.support import probe
from tests.support.node_process import NodeProcess

MAKE = Callable[..., NodeProcess]
TIMEOUT_S = 60.0
PARTITIONS = 2
FAST: dict[str, object] = {"reconnect.backoff.ms": 20, "reconnect.backoff.max.ms": 100, "retry.backoff.ms": 20}
FAST |= {"metadata.recovery.strategy": "none"}
"""librdkafka 2.16 forgets its only broker when that is down, but goes on waiting for it as a group's coordinator."""
OPTIONS = ["--set", "group.initial.rebalance.delay.ms=0"]


@pytest.fixture
def node(make_node: MAKE) -> NodeProcess:
    return make_node(options=OPTIONS).start()


def create_topics(node: NodeProcess, *topics: str) -> None:
    admin = AdminClient({"bootstrap.servers": node.bootstrap})
    for created in admin.create_topics([NewTopic(topic, PARTITIONS, 1) for topic in topics]).values():
        created.result(TIMEOUT_S)


def transactional(node: NodeProcess, transactional_id: str, **settings: object) -> Producer:
    given = {"bootstrap.servers": node.bootstrap, "transactional.id": transactional_id, "linger.ms": 1}
    producer = Producer({**given, **FAST, **{name.replace("_", "."): value for name, value in settings.items()}})
    producer.init_transactions(TIMEOUT_S)
    return producer


def read(node: NodeProcess, topic: str, isolation: str = "read_committed") -> list[list[bytes]]:
    """The values in each partition, up to where a reader of this isolation gets."""
    settings = {"bootstrap.servers": node.bootstrap, "group.id": "reader", "isolation.level": isolation, **FAST}
    consumer = Consumer({**settings, "enable.partition.eof": True, "auto.offset.reset": "earliest"})
    consumer.assign([TopicPartition(topic, partition, 0) for partition in range(PARTITIONS)])
    found: list[list[bytes]] = [[] for _ in range(PARTITIONS)]
    at_end: set[int] = set()
    deadline = time.monotonic() + TIMEOUT_S
    while len(at_end) < PARTITIONS and time.monotonic() < deadline:
        for message in consumer.consume(500, timeout=0.2):
            if message.error() is None:
                found[message.partition()].append(message.value())
            else:
                at_end.add(message.partition())
    consumer.close()
    return found


def produce(producer: Producer, topic: str, *values: bytes, partition: int = 0) -> None:
    for value in values:
        producer.produce(topic, value, partition=partition)
    assert producer.flush(TIMEOUT_S) == 0


def code_of(action: Callable[[], object]) -> str:
    with pytest.raises(KafkaException) as raised:
        action()
    return str(raised.value.args[0].name())


def test_commit_and_abort__decide_what_read_committed_sees(node: NodeProcess) -> None:
    create_topics(node, "t")
    producer = transactional(node, "app")
    for number, commits in enumerate([True, False, True, False, False, True]):
        producer.begin_transaction()
        for partition in range(PARTITIONS):
            produce(producer, "t", b"%d" % number, partition=partition)
        if commits:
            producer.commit_transaction(TIMEOUT_S)
        else:
            producer.abort_transaction(TIMEOUT_S)
    for _ in range(2):
        assert read(node, "t") == [[b"0", b"2", b"5"]] * PARTITIONS
        assert read(node, "t", "read_uncommitted") == [[b"0", b"1", b"2", b"3", b"4", b"5"]] * PARTITIONS
        node.kill9()
        node.restart()


def test_open_transaction__holds_the_last_stable_offset_over_a_kill(node: NodeProcess) -> None:
    create_topics(node, "t")
    plain = Producer({"bootstrap.servers": node.bootstrap, **FAST})
    producer = transactional(node, "app")
    produce(plain, "t", b"before")
    producer.begin_transaction()
    produce(producer, "t", b"inside")
    produce(plain, "t", b"after")
    for _ in range(2):
        assert read(node, "t")[0] == [b"before"]
        assert read(node, "t", "read_uncommitted")[0] == [b"before", b"inside", b"after"]
        node.kill9()
        node.restart()
    producer.commit_transaction(TIMEOUT_S)
    assert read_when(node, "t", lambda values: len(values) == 3) == [b"before", b"inside", b"after"]


def read_when(node: NodeProcess, topic: str, is_there: Callable[[list[bytes]], bool]) -> list[bytes]:
    """Markers follow the answer to the client."""
    deadline = time.monotonic() + TIMEOUT_S
    while not is_there(values := read(node, topic)[0]) and time.monotonic() < deadline:
        pass
    return values


def test_second_producer__fences_the_first_and_aborts_its_transaction(node: NodeProcess) -> None:
    create_topics(node, "t")
    first = transactional(node, "app")
    first.begin_transaction()
    produce(first, "t", b"of the first")
    second = transactional(node, "app")
    assert code_of(lambda: first.commit_transaction(TIMEOUT_S)) == "_FENCED"
    second.begin_transaction()
    produce(second, "t", b"of the second")
    second.commit_transaction(TIMEOUT_S)
    assert read_when(node, "t", bool) == [b"of the second"]


def test_time_out__aborts_and_fences(node: NodeProcess) -> None:
    create_topics(node, "t")
    plain = Producer({"bootstrap.servers": node.bootstrap, **FAST})
    timeout_s = 2.0
    slow = transactional(node, "slow", transaction_timeout_ms=int(timeout_s * 1000))
    began = time.monotonic()
    slow.begin_transaction()
    produce(slow, "t", b"too slow")
    produce(plain, "t", b"waits")
    early = read(node, "t")[0]
    assert early == [] or time.monotonic() - began > timeout_s
    assert read_when(node, "t", bool) == [b"waits"]
    assert code_of(lambda: slow.commit_transaction(TIMEOUT_S)) == "_FENCED"


def test_offsets__of_a_transaction_count_when_it_commits(node: NodeProcess) -> None:
    create_topics(node, "t", "out")
    consumer = Consumer({"bootstrap.servers": node.bootstrap, "group.id": "g", **FAST})
    producer = transactional(node, "app")
    partition = TopicPartition("t", 0, 7)
    for commits, expected in ((False, -1001), (True, 7)):
        producer.begin_transaction()
        produce(producer, "out", b"x")
        producer.send_offsets_to_transaction([partition], consumer.consumer_group_metadata(), TIMEOUT_S)
        node.kill9()
        node.restart()
        (producer.commit_transaction if commits else producer.abort_transaction)(TIMEOUT_S)
        (committed,) = consumer.committed([TopicPartition("t", 0)], TIMEOUT_S)
        assert committed.offset == expected
    consumer.close()
    assert read_when(node, "out", bool) == [b"x"]


@contextmanager
def killing(node: NodeProcess, seed: int, *, every_s: tuple[float, float]) -> Iterator[list[int]]:
    """Kills and restarts the node at moments of chance until the block is left; the list counts them."""
    dice, over, kills = random.Random(seed), threading.Event(), [0]

    def run() -> None:
        while not over.wait(dice.uniform(*every_s)):
            node.kill9()
            node.restart()
            kills[0] += 1

    killer = threading.Thread(target=run)
    killer.start()
    try:
        yield kills
    finally:
        over.set()
        killer.join()


class Transformer:
    """Moves records from one topic to another, exactly once: a transaction for each poll. After an error that a
    transaction cannot survive it begins anew, as a process would that was started again.
    """

    def __init__(self, node: NodeProcess) -> None:
        self._node = node
        self._open()

    def _open(self) -> None:
        while True:
            try:
                self.producer = transactional(self._node, "mover")
                break
            except KafkaException:
                continue
        settings = {"bootstrap.servers": self._node.bootstrap, "group.id": "mover", "enable.auto.commit": False}
        settings |= {"isolation.level": "read_committed", "auto.offset.reset": "earliest", "session.timeout.ms": 6_000}
        self.consumer = Consumer({**settings, **FAST})
        self.consumer.subscribe(["in"])

    def step(self, messages: list[Message], *, abort: bool) -> None:
        try:
            self._move(messages, abort=abort)
        except KafkaException as error:
            if error.args[0].txn_requires_abort():
                with suppress(KafkaException):  # the next incarnation aborts what is left open
                    self.producer.abort_transaction(TIMEOUT_S)
            self.consumer.close()
            self._open()

    def _move(self, messages: list[Message], *, abort: bool) -> None:
        self.producer.begin_transaction()
        offsets: dict[int, int] = {}
        for message in messages:
            value = b"aborted" if abort else message.value()
            self.producer.produce("out", value, partition=message.partition())
            offsets[message.partition()] = message.offset() + 1
        positions = [TopicPartition("in", partition, offset) for partition, offset in offsets.items()]
        self.producer.send_offsets_to_transaction(positions, self.consumer.consumer_group_metadata(), TIMEOUT_S)
        if abort:
            self.producer.flush(TIMEOUT_S)
            self.producer.abort_transaction(TIMEOUT_S)
            raise_to_begin_anew()
        self.producer.commit_transaction(TIMEOUT_S)


def raise_to_begin_anew() -> None:
    """An aborted poll is read again from the committed offsets by a new consumer."""
    from confluent_kafka import KafkaError

    raise KafkaException(KafkaError(KafkaError._STATE))


@pytest.mark.parametrize("seed", [1, 2])
def test_exactly_once__through_kills(make_node: MAKE, seed: int) -> None:
    node = make_node(options=OPTIONS).start()
    create_topics(node, "in", "out")
    count = 600
    source = Producer({"bootstrap.servers": node.bootstrap, "enable.idempotence": True, **FAST})
    for number in range(count):
        source.produce("in", b"%d" % number, partition=number % PARTITIONS)
    assert source.flush(TIMEOUT_S) == 0
    expected = [[b"%d" % number for number in range(partition, count, PARTITIONS)] for partition in range(PARTITIONS)]
    mover, dice = Transformer(node), random.Random(seed)
    deadline = time.monotonic() + 4 * TIMEOUT_S

    def move_while(unfinished: Callable[[], bool]) -> None:
        while time.monotonic() < deadline and unfinished():
            messages = [each for each in mover.consumer.consume(20, timeout=0.5) if each.error() is None]
            if messages:
                mover.step(messages, abort=dice.random() < 0.1)

    with killing(node, seed, every_s=(0.3, 1.5)) as kills:
        move_while(lambda: kills[0] < 6)
    # Without kills: on a slow machine, nodes that live for a second would never let it finish.
    move_while(lambda: position(mover) < count)
    mover.consumer.close()
    assert kills[0] >= 6
    assert read(node, "out") == expected


def position(mover: Transformer) -> int:
    """How many records the group has behind it, by its committed offsets."""
    partitions = [TopicPartition("in", partition) for partition in range(PARTITIONS)]
    try:
        return sum(max(each.offset, 0) for each in mover.consumer.committed(partitions, TIMEOUT_S))
    except KafkaException:
        return 0


def test_expiration__forgets_ids_at_rest_and_tells_their_producers(make_node: MAKE) -> None:
    settings = {
        "transactional.id.expiration.ms": "1500",
        "transaction.remove.expired.transaction.cleanup.interval.ms": "200",
        "transaction.state.log.num.partitions": "1",
    }
    options = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    node = make_node(options=[*OPTIONS, *options]).start()
    transactional(node, "app")  # makes the internal topic
    with closing(probe.connect(node.address)) as wire:
        identity = {"transactional_id": "idle", "transaction_timeout_ms": 60_000}
        deadline = time.monotonic() + TIMEOUT_S
        while (born := wire.call(build(InitProducerIdRequest, 4, identity))).error_code and time.monotonic() < deadline:
            time.sleep(0.02)
        assert born.error_code == 0
        while "idle" in listed(wire) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert "idle" not in listed(wire)
        who = {"transactional_id": "idle", "producer_id": born.producer_id, "producer_epoch": born.producer_epoch}
        ended = wire.call(build(EndTxnRequest, 4, {**who, "committed": True}))
        assert ended.error_code == 49  # INVALID_PRODUCER_ID_MAPPING
    node.kill9()
    node.restart()
    with closing(probe.connect(node.address)) as wire:
        assert "idle" not in listed(wire)


def listed(wire: Wire) -> list[str]:
    answer = wire.call(build(ListTransactionsRequest, 0, {"state_filters": [], "producer_id_filters": []}))
    return [state.transactional_id for state in answer.transaction_states]
