"""What a broker may say when it cannot know whether its session still stands (invariant 3), and what it does after."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kafka.protocol.consumer import OffsetFetchRequest

from tests.interop.differential import build
from tests.interop.wire import Wire, decode_response
from tests.support import probe
from tests.support.etcd_process import EtcdProcess
from tests.support.node_process import NodeProcess

MAKE = Callable[..., NodeProcess]
NOT_LEADER_OR_FOLLOWER = 6
NOT_COORDINATOR = 16
TTL_S = 3.0
PATIENCE_S = 60.0


@pytest.fixture
def options(etcd: EtcdProcess, tmp_path: Path) -> list[str]:
    """Of every broker of the cluster."""
    return ["--metadata", etcd.url("c"), "--storage", (tmp_path / "shared").as_uri()]


@pytest.fixture
def node(make_node: MAKE, options: list[str]) -> NodeProcess:
    return make_node(options=options).start()


def list_offset(wire: Wire) -> tuple[int, int]:
    """(error code, latest offset)"""
    fields = probe.list_offsets_fields("t")
    answer = wire.call(build(probe.ListOffsetsRequest, 6, fields)).topics[0].partitions[0]
    return answer.error_code, answer.offset


def committed_offset(wire: Wire) -> int:
    """Error code of an OffsetFetch."""
    return int(wire.call(build(OffsetFetchRequest, 6, {"group_id": "g", "topics": None})).error_code)


def received(wire: Wire, request: Any) -> Any:
    """The next answer; None: the connection was closed instead."""
    try:
        return decode_response(request.API_KEY, 6, wire.receive_frame())
    except EOFError:
        return None


def until(seen: Callable[[], bool]) -> None:
    give_up_at = time.monotonic() + PATIENCE_S
    while not seen():
        assert time.monotonic() < give_up_at
        time.sleep(0.05)


def prepare(wire: Wire) -> None:
    """A topic with a record, and a coordinator of group "g"."""
    assert probe.create_topic(wire, "t") == 0
    assert probe.produce(wire, "t") == (0, 0)
    until(lambda: probe.find_coordinator(wire, "g") == 0)
    until(lambda: committed_offset(wire) == 0)
    assert list_offset(wire) == (0, 1)


def test_broker__paused_past_its_session_answers_nothing_from_before_and_joins_anew(node: NodeProcess) -> None:
    with probe.connect(node.address) as wire, probe.connect(node.address) as other:
        prepare(wire)
        node.signal(signal.SIGSTOP)
        wire.send(build(probe.ListOffsetsRequest, 6, probe.list_offsets_fields("t")))
        other.send(build(OffsetFetchRequest, 6, {"group_id": "g", "topics": None}))
        time.sleep(TTL_S + 2)
        node.signal(signal.SIGCONT)
        listed, fetched = received(wire, probe.ListOffsetsRequest), received(other, OffsetFetchRequest)
        assert listed is None or listed.topics[0].partitions[0].error_code == NOT_LEADER_OR_FOLLOWER
        assert fetched is None or fetched.error_code == NOT_COORDINATOR
    until(lambda: "joining anew" in node.log())
    until(lambda: node.log().count(" is ready on ") == 2)
    with probe.connect(node.address) as wire:
        until(lambda: list_offset(wire) == (0, 1))
        assert probe.produce(wire, "t") == (0, 1)


def test_broker__without_etcd_stops_answering_in_time_and_goes_on_when_etcd_is_back(
    node: NodeProcess, etcd: EtcdProcess
) -> None:
    with probe.connect(node.address) as wire:
        prepare(wire)
        etcd.kill9()
        over_at = asked_at = time.monotonic() + TTL_S
        while list_offset(wire)[0] != NOT_LEADER_OR_FOLLOWER:
            assert asked_at <= over_at, "another broker may have answered something else by then"
            time.sleep(0.05)
            asked_at = time.monotonic()
        assert committed_offset(wire) == NOT_COORDINATOR
        assert probe.brokers(wire), "what needs no ownership is answered"
        etcd.start()
        until(lambda: list_offset(wire) == (0, 1) and committed_offset(wire) == 0)
    assert "joining anew" not in node.log(), "the lease outlived the outage"


def test_broker__whose_session_ends_while_it_starts_joins_anew(make_node: MAKE, options: list[str]) -> None:
    node = make_node(options=options)
    node.launch()
    while "session registered" not in node.log():
        assert node.is_running()
    node.signal(signal.SIGSTOP)
    time.sleep(TTL_S + 2)
    node.signal(signal.SIGCONT)
    until(lambda: "joining anew" in node.log())
    until(lambda: node.log().partition("joining anew")[2].count(" is ready on ") == 1)
    with probe.connect(node.address) as wire:
        assert probe.create_topic(wire, "t") == 0


def test_broker__killed_and_started_again_waits_for_its_old_session_to_end(node: NodeProcess) -> None:
    with probe.connect(node.address) as wire:
        prepare(wire)
    node.kill9()
    node.restart()
    with probe.connect(node.address) as wire:
        until(lambda: list_offset(wire) == (0, 1))


def test_broker__whose_id_another_one_has_is_refused(node: NodeProcess, make_node: MAKE, options: list[str]) -> None:
    # As the lease is short, it is soon clear that the other one lives.
    short = [*options, "--set", "broker.session.timeout.ms=2000"]
    second = make_node(node.data_dir.with_name("second"), options=short)
    second.launch()
    assert second.wait_exit(PATIENCE_S) != 0
    assert f"broker id 0 is in use by another node at {node.bootstrap.replace('127.0.0.1', 'localhost')}" in (
        second.log().replace("127.0.0.1", "localhost")
    )
    assert "--id" in second.log() and "Traceback" not in second.log()


def test_broker__claims_a_free_id_when_asked_to(node: NodeProcess, make_node: MAKE, options: list[str]) -> None:
    second = make_node(node.data_dir.with_name("second"), options=[*options, "--id", "auto"]).start()
    with probe.connect(second.address) as wire:
        until(lambda: [broker[0] for broker in probe.brokers(wire)] == [0, 1])
