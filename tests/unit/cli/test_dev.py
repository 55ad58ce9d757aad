"""`bytemq dev cluster` where it cannot start: it says so at once, before etcd and the S3 server take their time."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from bytemq.cli.main import main
from bytemq.metadata.data_lock import DataLock


def test_dev_cluster__names_the_port_that_is_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["dev", "cluster", "--brokers", "1", "--port", str(port), "--data", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert f"port {port} of a broker cannot be had: Address already in use; choose others with --port" in said
    assert not DataLock.is_held(tmp_path)


def test_dev_cluster__says_that_its_folder_is_in_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lock = DataLock.acquire(tmp_path)
    assert main(["dev", "cluster", "--data", str(tmp_path)]) == 1
    lock.release()
    assert "is in use by another node" in capsys.readouterr().err
