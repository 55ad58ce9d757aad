"""Files, environment, flags and addresses: how text becomes configs."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bytemq.config import BrokerConfig, Endpoint, InvalidConfig
from bytemq.config.listeners import parse_endpoint, parse_listeners
from bytemq.config.own import OWN_BROKER_SETTINGS
from bytemq.config.properties import parse_properties
from bytemq.config.sources import (
    configs_of_environment,
    configs_of_flags,
    environment_name,
    read_config_file,
    unknown_variables,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a=1\nb:2\nc 3\n", {"a": "1", "b": "2", "c": "3"}),
        ("  a  =  1 2  ", {"a": "1 2  "}),
        ("# a=1\n! b=2\n\n \t\nc=3", {"c": "3"}),
        ("a=1,\\\n   2,\\\r\n\t3", {"a": "1,2,3"}),
        ("a=x\\\\\nb=2", {"a": "x\\", "b": "2"}),
        ("a\\=b\\:c\\ d=1", {"a=b:c d": "1"}),
        ("a=\\u0041\\t\\n\\z", {"a": "A\t\nz"}),
        ("a", {"a": ""}),
        ("a==b", {"a": "=b"}),
        ("a=1\na=2", {"a": "2"}),
        ("a=1\\", {"a": "1"}),
        ("a=1\\\n# no comment", {"a": "1# no comment"}),
        ("a=file:/x#y", {"a": "file:/x#y"}),
        ("=b", {"": "b"}),
    ],
)
def test_parse_properties__reads_javas_syntax(text: str, expected: dict[str, str]) -> None:
    assert parse_properties(text) == expected


def test_parse_properties__refuses_half_an_escape() -> None:
    with pytest.raises(InvalidConfig, match=r"Malformed \\uxxxx encoding"):
        parse_properties("a=\\u12")


@given(st.text(max_size=80))
def test_parse_properties__takes_any_text(text: str) -> None:
    try:
        parse_properties(text)
    except InvalidConfig as error:
        assert "uxxxx" in str(error)


def test_read_config_file__a_file_of_kafkas_is_enough(tmp_path: Path) -> None:
    path = tmp_path / "server.properties"
    path.write_text(
        "process.roles=broker,controller\nnode.id=1\ncontroller.quorum.bootstrap.servers=localhost:9093\n"
        "listeners=PLAINTEXT://:9092,CONTROLLER://:9093\nadvertised.listeners=PLAINTEXT://localhost:9092\n"
        "controller.listener.names=CONTROLLER\nlog.dirs=/tmp/kraft-combined-logs\nnum.partitions=3\n"
        "listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SSL:SSL\n"
    )
    config = BrokerConfig(read_config_file(path))
    assert (config.node_id, config.num_partitions, config.data_dir) == (1, 3, "/tmp/kraft-combined-logs")
    assert config.endpoints == (Endpoint("PLAINTEXT", "", 9092),)
    assert config.advertised_endpoints == (Endpoint("PLAINTEXT", "localhost", 9092),)


def test_read_config_file__says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match=r"Cannot read the config file .*: No such file"):
        read_config_file(tmp_path / "none")
    binary = tmp_path / "binary"
    binary.write_bytes(b"a=\xff\xfe")
    with pytest.raises(InvalidConfig, match="not UTF-8"):
        read_config_file(binary)


def test_environment__has_a_variable_for_every_setting() -> None:
    environment = {
        "BYTEMQ_LOG_RETENTION_MS": "5",
        "BYTEMQ_DATA_DIR": "/d",
        "BYTEMQ_WAL_FILE_BYTES": "9",
        "BYTEMQ_OTHER": "x",
    }
    assert configs_of_environment(environment) == {
        "log.retention.ms": "5",
        "bytemq.data.dir": "/d",
        "wal.file.bytes": "9",
    }
    assert unknown_variables({**environment, "PATH": "/", "BYTEMQ_MINE": "x"}, ["BYTEMQ_MINE"]) == ["BYTEMQ_OTHER"]
    misspelled = {"BYTEMQ_LOG_RETENTION_MSS": "1"}
    assert unknown_variables(misspelled) == ["BYTEMQ_LOG_RETENTION_MSS; did you mean BYTEMQ_LOG_RETENTION_MS?"]
    names = [environment_name(setting.name) for setting in OWN_BROKER_SETTINGS]
    assert len(set(names)) == len(names)


def test_flags__are_checked_by_name() -> None:
    assert configs_of_flags(["log.retention.ms=a=b", "num.partitions="]) == {
        "log.retention.ms": "a=b",
        "num.partitions": "",
    }
    with pytest.raises(InvalidConfig, match=r"did you mean log.retention.ms"):
        configs_of_flags(["log.retention.m=5"])
    with pytest.raises(InvalidConfig, match="NAME=VALUE"):
        configs_of_flags(["log.retention.ms"])


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("127.0.0.1:9092", Endpoint("PLAINTEXT", "127.0.0.1", 9092)),
        ("inside://host.example:1", Endpoint("INSIDE", "host.example", 1)),
        ("PLAINTEXT://:0", Endpoint("PLAINTEXT", "", 0)),
        ("A-B_1://[::1]:9092", Endpoint("A-B_1", "::1", 9092)),
    ],
)
def test_endpoint__reads_and_writes(text: str, endpoint: Endpoint) -> None:
    assert parse_endpoint(text) == endpoint
    assert parse_endpoint(str(endpoint)) == endpoint


@pytest.mark.parametrize(
    "text", ["", "host", "host:", "host:x", "host:-1", "host:65536", "::1:9092", "a://b://c:1", "host:99999999999"]
)
def test_endpoint__refuses_what_is_none(text: str) -> None:
    with pytest.raises(InvalidConfig):
        parse_endpoint(text)


def test_listeners__must_differ() -> None:
    with pytest.raises(InvalidConfig, match="different name"):
        parse_listeners(["A://h:1", "a://h:2"])
    with pytest.raises(InvalidConfig, match="different port"):
        parse_listeners(["A://h:1", "B://h:1"])
    assert len(parse_listeners(["A://h:0", "B://h:0"])) == 2
    with pytest.raises(InvalidConfig, match="nonroutable meta-address"):
        parse_listeners(["A://0.0.0.0:1"], setting="advertised.listeners")


def test_listeners__encrypted_ones_are_refused_not_served_in_the_clear() -> None:
    with pytest.raises(InvalidConfig, match="only PLAINTEXT is served"):
        _ = BrokerConfig({"listeners": "SSL://h:1"}).endpoints
