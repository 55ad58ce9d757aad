"""etcd is wiped, or put back to an older state: no broker goes on with it, and an export puts it right."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from tests.scenarios.cluster.cluster import LONG_SESSIONS, bytemq
from tests.support import probe
from tests.support.etcd_process import EtcdProcess
from tests.support.node_process import NodeProcess

MAKE = Callable[..., NodeProcess]
PATIENCE_S = 60.0


def wipe(etcd: EtcdProcess) -> None:
    etcd.kill9()
    shutil.rmtree(etcd.folder / "data")
    etcd.start()


def test_cluster__whose_etcd_was_wiped_refuses_to_start_until_its_metadata_are_restored(
    make_node: MAKE, etcd: EtcdProcess, tmp_path: Path
) -> None:
    url, saved = etcd.url("c"), str(tmp_path / "saved.jsonl")
    storage = f"file://{tmp_path / 'shared'}"
    node = make_node(options=["--metadata", url, "--storage", storage, *LONG_SESSIONS]).start()
    with probe.connect(node.address) as wire:
        assert probe.create_topic(wire, "t", 3) == 0
        assert [probe.produce(wire, "t", index=1) for _ in range(5)] == [(0, offset) for offset in range(5)]
        assert "Exported" in bytemq("metadata", "export", saved, "--metadata", url)
        assert [probe.produce(wire, "t", index=1) for _ in range(5)] == [(0, offset) for offset in range(5, 10)]
        wipe(etcd)
        assert node.wait_exit(PATIENCE_S) != 0
        assert "older state" in node.log() or "is the storage of cluster" in node.log(), node.log()
    node.launch()
    assert node.wait_exit(PATIENCE_S) != 0
    assert "is the storage of cluster" in node.log() and "Traceback" not in node.log()
    assert f"run `bytemq metadata restore --storage {storage}`" in node.log()
    restore = ("metadata", "restore", saved, "--metadata", url)
    for loss in ((), ("--accept-loss",)):
        assert "what was acknowledged since" in bytemq(*restore, *loss, code=1)
    assert "Restored" in bytemq(*restore, "--storage", storage)
    assert "already" in bytemq(*restore, "--storage", storage, code=1)
    node.start(PATIENCE_S)
    with probe.connect(node.address) as wire:
        assert probe.produce(wire, "t", index=1) == (0, 10)
        error, batches = probe.fetch(wire, "t", 0, index=1)
        assert error == 0 and len(batches) == 11


def test_broker__on_another_storage_than_its_cluster_is_refused(
    make_node: MAKE, etcd: EtcdProcess, tmp_path: Path
) -> None:
    url = etcd.url("c")
    node = make_node(options=["--metadata", url, "--storage", f"file://{tmp_path / 'one'}", *LONG_SESSIONS]).start()
    with probe.connect(node.address) as wire:
        assert probe.create_topic(wire, "t") == 0
        assert probe.produce(wire, "t") == (0, 0)
    options = ["--metadata", url, "--storage", f"file://{tmp_path / 'other'}", "--id", "1"]
    other = make_node(tmp_path / "second", options=options)
    other.launch()
    assert other.wait_exit(PATIENCE_S) != 0
    assert "was never used by a cluster" in other.log() and "Traceback" not in other.log()


def test_doctor__tells_what_is_well_and_what_is_not(node: NodeProcess, etcd: EtcdProcess, tmp_path: Path) -> None:
    storage = f"file://{tmp_path / 'shared'}"
    taken = f"127.0.0.1:{node.port}"
    text = bytemq(*("doctor", "--metadata", etcd.url("c"), "--storage", storage, "--listen", taken, "--json"), code=1)
    found = {row["what"]: row for row in json.loads(text)}
    assert found["port"]["verdict"] == "failed" and str(node.port) in found["port"]["says"]
    assert found[f"etcd {etcd.endpoint}"]["verdict"] == "ok"
    assert found["metadata latency"]["verdict"] in ("ok", "warning")
    assert found["storage"]["verdict"] == "ok"
    assert found["cluster"]["verdict"] == "warning", "nothing was started at this prefix"
    text = bytemq("doctor", "--metadata", "etcd://127.0.0.1:9/c", "--storage", "nonsense", "--json", code=1)
    verdicts = {row["what"]: row["verdict"] for row in json.loads(text)}
    assert verdicts["metadata"] == verdicts["storage"] == "failed"
