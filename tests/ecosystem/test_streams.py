"""Kafka Streams 4.4.0 with exactly_once_v2: program and server are killed at work, and every count is exact."""

from __future__ import annotations

import os
import random
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from confluent_kafka import ConsumerGroupTopicPartitions
from confluent_kafka.admin import AdminClient

from tests.ecosystem.topics import TIMEOUT_S, Output, Pair, create_topics, produce
from tests.interop.conftest import Server, replication_factor
from tests.interop.kafka_cli import TOOLS, Cli
from tests.support.java import JavaProcess, compile_project, java_command
from tests.support.node_process import running_node

PROJECT = Path(__file__).parent / "streams"
WORDS = [f"word-{number}" for number in range(40)]


def lines(wave: int, count: int = 1_500) -> list[Pair]:
    chosen = random.Random(wave)
    return [(str(number), " ".join(chosen.choices(WORDS, k=4))) for number in range(count)]


def orders(wave: int, what: str, count: int = 600) -> list[Pair]:
    """One of each customer: the join has as many results as there are customers."""
    return [(f"customer-{wave}-{number}", f"{what}-{number}") for number in range(count)]


def reset(server: Server) -> None:
    """kafka-streams-application-reset: what the application kept is gone, and it would begin anew."""
    admin = AdminClient({"bootstrap.servers": server.bootstrap})
    inputs = [f"app-{name}" for name in ("lines", "orders", "payments")]
    kept = {"app-counts-changelog", "app-words-repartition"}
    assert kept <= admin.list_topics(timeout=TIMEOUT_S).topics.keys()
    options = ("--application-id", "app", "--input-topics", ",".join(inputs), "--force")
    Cli(server).run(f"{TOOLS}.StreamsResetter", *options)
    assert {topic for topic in admin.list_topics(timeout=TIMEOUT_S).topics if topic.startswith("app-")} == {
        *inputs,
        "app-counts",
        "app-paid",
    }
    listed = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions("app")])["app"].result(TIMEOUT_S)
    # Those of topics that were just deleted go a moment later, on whichever broker coordinates the group.
    offsets = {
        (found.topic, found.partition): found.offset for found in listed.topic_partitions if found.topic in inputs
    }
    assert offsets == {(topic, partition): 0 for topic in inputs for partition in range(3)}


@pytest.mark.interop
def test_streams__counts_and_joins_exactly_through_kills(make_server: Callable[..., Server], tmp_path: Path) -> None:
    server = make_server()

    def kill_server() -> None:
        server.kill9()
        server.restart()

    check_exact_results(server, kill_server, tmp_path)


@pytest.mark.ecosystem
def test_streams__counts_and_joins_exactly_on_three_brokers_of_which_one_dies(tmp_path: Path) -> None:
    options = ["--brokers", "3", "--set", "group.initial.rebalance.delay.ms=0"]
    with running_node(tmp_path / "data", options=options) as server:
        check_exact_results(server, lambda: os.kill(server.broker_pids()[1], signal.SIGKILL), tmp_path)


def check_exact_results(server: Server, kill_server: Callable[[], object], tmp_path: Path) -> None:
    """Three waves of input, in which the program is killed twice and `kill_server` is called once."""
    create_topics(server.bootstrap, [f"app-{name}" for name in ("lines", "orders", "payments", "counts", "paid")])
    arguments = [server.bootstrap, "app", str(tmp_path / "state"), str(replication_factor(server))]
    command = java_command(compile_project(PROJECT), "ecosystem.WordsAndOrders", *arguments)

    def start() -> JavaProcess:
        return JavaProcess(command, tmp_path / "streams.log")

    def send(wave: int) -> None:
        produce(server.bootstrap, "app-orders", orders(wave, "order"))
        produce(server.bootstrap, "app-lines", lines(wave))
        produce(server.bootstrap, "app-payments", orders(wave, "payment"))

    with Output(server.bootstrap, "app-counts", "app-paid") as output:

        def has_moved(more: int) -> None:
            """Some results of a wave are committed, and most are to come."""
            wanted = output.count("app-counts") + more
            output.read_until(lambda: output.count("app-counts") >= wanted)

        with start() as program:
            send(1)
            has_moved(500)
            program.kill9()
        send(2)
        with start() as program:
            has_moved(4_000)
            kill_server()
            send(3)
            has_moved(2_000)
            program.kill9()
        with start() as program:
            words = Counter(word for wave in (1, 2, 3) for _, line in lines(wave) for word in line.split())
            customers = [key for wave in (1, 2, 3) for key, _ in orders(wave, "order")]
            output.read_until(
                lambda: output.count("app-counts") >= words.total() and output.count("app-paid") >= len(customers),
                quiet_s=3.0,
            )
            program.terminate()
        reset(server)
        counts: dict[str, list[int]] = {}
        for word, count in output.records["app-counts"]:
            counts.setdefault(word, []).append(int(count))
        # Each number once and in order: nothing was counted twice, left out, or counted from a lost state.
        assert counts == {word: list(range(1, total + 1)) for word, total in words.items()}
        assert sorted(output.records["app-paid"]) == sorted(
            (customer, "order-{0}+payment-{0}".format(customer.rsplit("-", 1)[1])) for customer in customers
        )
