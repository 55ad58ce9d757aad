from __future__ import annotations

import pytest

from bytemq.broker.limits import ServerLimits
from bytemq.broker.server import Listener
from bytemq.config import BrokerConfig, InvalidConfig
from bytemq.node import settings
from bytemq.storage.objects.roll_forward import MOST_IN_FLIGHT
from bytemq.storage.settings import StorageConfig


def test_storage_config__takes_each_setting_that_a_config_names() -> None:
    config = BrokerConfig({"wal.file.bytes": "1048576", "storage.segment.bytes": "123456"})
    storage = settings.storage_config(config)
    assert (storage.wal_file_bytes, storage.segment_bytes) == (1048576, 123456)
    assert settings.storage_config(BrokerConfig()) == StorageConfig(), "both sides have the same defaults"


def test_storage_config__flushes_into_a_folder_wait_less_unless_somebody_says_how_long() -> None:
    def interval_ms(**given: str) -> int:
        return settings.storage_config(
            BrokerConfig({name.replace("_", "."): value for name, value in given.items()})
        ).wal_flush_interval_ms

    assert interval_ms(bytemq_storage="s3://bucket/x") == StorageConfig().wal_flush_interval_ms
    assert interval_ms(bytemq_storage="file:///mnt/x") == settings.FLUSH_INTERVAL_OF_FILES_MS
    assert interval_ms(bytemq_storage="file:///mnt/x", wal_flush_interval_ms="100") == 100


def test_storage_config__no_more_flushes_are_in_flight_than_other_brokers_and_a_restore_reckon_with() -> None:
    """More would look like a storage that is ahead of its metadata, and no broker would start."""
    most = str(MOST_IN_FLIGHT)
    assert settings.storage_config(BrokerConfig({"wal.flush.in.flight": most})).wal_flush_in_flight == MOST_IN_FLIGHT
    with pytest.raises(InvalidConfig, match="Value must be no more than"):
        BrokerConfig({"wal.flush.in.flight": str(MOST_IN_FLIGHT + 1)})


def test_catalog_credentials__are_both_there_or_none() -> None:
    key, secret = {"bytemq.iceberg.access.key.id": "reader"}, {"bytemq.iceberg.secret.access.key": "s"}
    assert settings.catalog_credentials(BrokerConfig()) == {}
    given = settings.catalog_credentials(BrokerConfig(key | secret))
    assert given == {"s3.access-key-id": "reader", "s3.secret-access-key": "s"}
    for half in (key, secret):
        with pytest.raises(InvalidConfig, match="belong together"):
            settings.catalog_credentials(BrokerConfig(half))


def test_server_limits__kafkas_socket_defaults_hold_only_where_somebody_set_them() -> None:
    unset = settings.server_limits(BrokerConfig())
    assert unset.socket_send_buffer_bytes == ServerLimits().socket_send_buffer_bytes
    given = settings.server_limits(
        BrokerConfig(
            {"socket.send.buffer.bytes": "4096", "max.connections.per.ip.overrides": "10.0.0.1:5,::1:7, :x,junk"}
        )
    )
    assert given.socket_send_buffer_bytes == 4096
    assert (given.per_ip("10.0.0.1"), given.per_ip("::1"), given.per_ip("other")) == (5, 7, 2**31 - 1)


def test_listeners__each_has_its_own_advertised_address() -> None:
    config = BrokerConfig(
        {
            "listeners": "INSIDE://0.0.0.0:0,OUTSIDE://127.0.0.1:0,ANY://0.0.0.0:0",
            "advertised.listeners": "INSIDE://kafka:9092",
        }
    )
    assert settings.listeners(config)[1] == Listener("OUTSIDE", "127.0.0.1", 0)
    bound = {"INSIDE": ("0.0.0.0", 1001), "OUTSIDE": ("127.0.0.1", 1002), "ANY": ("0.0.0.0", 1003)}
    assert settings.advertised(config, bound, "my-host") == {
        "INSIDE": ("kafka", 9092),
        "OUTSIDE": ("127.0.0.1", 1002),
        "ANY": ("my-host", 1003),
    }


def test_http_address__may_be_switched_off() -> None:
    assert settings.http_address(BrokerConfig({"bytemq.http.listen": "127.0.0.1:0"})) == ("127.0.0.1", 0)
    assert settings.http_address(BrokerConfig({"bytemq.http.listen": ""})) is None
    with pytest.raises(InvalidConfig):
        settings.http_address(BrokerConfig({"bytemq.http.listen": "nonsense"}))
