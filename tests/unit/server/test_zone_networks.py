"""The zone of a client by its address, and what is told of it to the controller."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bytemq.broker.limits import ServerLimits
from bytemq.broker.load_reporter import HOME_BYTES_S, ZoneShares
from bytemq.broker.zone_networks import NO_NETWORKS, ZoneNetworks
from bytemq.errors import Invalid
from bytemq.metadata.loads import IDLE, LoadReport, Rates, decode_load, encode_load
from bytemq.types import PartitionId
from tests.support.metadata import topic_id
from tests.unit.server.harness import batch, make_cluster, produce, produce_request, serving


def test_zone__is_that_of_the_smallest_network_with_the_address() -> None:
    networks = ZoneNetworks(["a=10.0.0.0/8", "b = 10.1.0.0/16", "a=fd00::/8", "c=10.1.2.3"])
    addresses = ["10.2.0.1", "10.1.2.4", "10.1.2.3", "fd12::1", "::ffff:10.1.0.9", "fe80::1%eth0", "192.168.0.1", ""]
    assert [networks.zone_of(address) for address in addresses] == ["a", "b", "c", "a", "b", "", "", ""]
    assert NO_NETWORKS.zone_of("10.0.0.1") == ""


@pytest.mark.parametrize("entry", ["a", "=10.0.0.0/8", "a=10.0.0.1/8", "a=somewhere"])
def test_zone__networks_that_are_none_are_refused(entry: str) -> None:
    with pytest.raises(Invalid, match=r"bytemq\.zone\.networks"):
        ZoneNetworks([entry])


async def test_produce__is_counted_for_the_zone_that_it_comes_from_on_either_way() -> None:
    cluster = make_cluster()
    await cluster.add_topic("t")
    async with serving(cluster) as running:
        for zone in ("", "a"):
            running.server.limits = limits(running.server.limits, zone)
            client = await running.connect()
            assert (await produce(client, "t", b"v")).error_code == 0
            client.send(produce_request("t", [(0, batch(b"v")), (0, batch(b"w"))]), 9)
            await client.receive()
    traffic = (await cluster.broker.partitions.open("t", 0)).traffic
    assert traffic.by_zone == {"a": traffic.bytes_in / 2}


def limits(known: ServerLimits, zone: str) -> ServerLimits:
    return replace(known, zone_networks=ZoneNetworks([f"{zone}=127.0.0.0/8"] if zone else []))


def home_of(counted: list[dict[str, int]], bytes_in: float) -> str:
    shares, home = ZoneShares(), ""
    for by_zone in counted:
        shares.measure(by_zone, 1.0, 1.0)
        home = shares.home(bytes_in)
    return home


def test_home__is_the_zone_that_produces_most_of_it() -> None:
    much = int(HOME_BYTES_S)
    assert home_of([{"a": 0, "b": 0}, {"a": 8 * much, "b": 2 * much}], 10 * much) == "a"
    assert home_of([{"a": 0, "b": 0}, {"a": 6 * much, "b": 4 * much}], 10 * much) == ""
    assert home_of([{"a": 0}, {"a": 6 * much}], 10 * much) == "", "most of it comes from who knows where"
    assert home_of([{"a": 0}, {"a": much // 2}], much / 2) == "", "it is not worth it"
    assert home_of([{"a": 0}, {"a": 8 * much}, {"a": 14 * much}], 10 * much) == "a", "it is so until it is half"
    assert home_of([{"a": 0, "b": 0}, {"a": 8 * much, "b": 0}, {"a": 8 * much, "b": 9 * much}], 10 * much) == "b"


def test_homes__are_told_to_the_controller() -> None:
    one, other = PartitionId(topic_id(1), 3), PartitionId(topic_id(2), 0)
    report = LoadReport(1, IDLE, {one: Rates(5.0), other: Rates(6.0)}, homes={one: "a", other: "b"})
    assert decode_load(encode_load(report)) == report
    assert report.differs_from(replace(report, homes={one: "b", other: "b"}))
    assert decode_load(encode_load(replace(report, homes={}))).homes == {}
