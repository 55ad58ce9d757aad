"""Stopping a node that something keeps: it is gone within five seconds, and what was acknowledged is there again."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

from tests.scenarios.test_compaction import until
from tests.support import machine, probe
from tests.support.node_process import NodeProcess

MAKE = Callable[..., NodeProcess]
STOP_LIMIT_S = 5.0

KEPT_BY = {
    "a task that waits and cannot be cancelled": """
async def stop(self):
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            pass
Node.stop = stop
""",
    "a task that never lets go of the loop": """
async def stop(self):
    time.sleep(60)
Node.stop = stop
""",
    "work before the signal is seen": """
ready = Node.wait
async def wait(self):
    asyncio.get_running_loop().call_later(0.2, lambda: (print("kept", flush=True), time.sleep(60)))
    await ready(self)
Node.wait = wait
""",
    "a thread that goes on": """
stopped = Node.stop
async def stop(self):
    threading.Thread(target=time.sleep, args=(60,)).start()
    await stopped(self)
Node.stop = stop
""",
}
"""Faults in the node's own code, as a node that is started with them has them."""


def test_node__stops_within_5_s_whatever_keeps_it(make_node: MAKE, tmp_path: Path) -> None:
    nodes = {}
    for number, (keeper, fault) in enumerate(KEPT_BY.items()):
        node = with_fault(make_node, tmp_path / f"fault-{number}", fault)
        node.launch()
        nodes[keeper] = node
    for node in nodes.values():
        node.wait_ready()
    for keeper, node in nodes.items():
        if keeper != "work before the signal is seen":
            with probe.connect(node.address) as wire:
                assert probe.create_topic(wire, "topic") == 0
                assert probe.produce(wire, "topic") == (0, 0)
    kept = nodes["work before the signal is seen"]
    until(lambda: "kept" in kept.log())
    began = time.monotonic()
    for node in nodes.values():
        node.signal(signal.SIGTERM)
    codes = {keeper: node.wait_exit() for keeper, node in nodes.items()}
    took_s = time.monotonic() - began
    assert took_s < STOP_LIMIT_S * machine.slowness()
    for keeper, node in nodes.items():
        code = codes[keeper]
        assert code == 1 and ("was abandoned" in node.log() or "Timeout" in node.log()), (keeper, node.log())
    for keeper, node in nodes.items():
        node.environment.clear()
        node.restart()
        if keeper != "work before the signal is seen":
            with probe.connect(node.address) as wire:
                assert probe.produce(wire, "topic") == (0, 1), keeper
        assert node.terminate() == 0


def test_node__can_be_stopped_while_it_starts(make_node: MAKE, tmp_path: Path) -> None:
    """Here in a recovery that takes its time."""
    recovery = """
async def open(*_, **__):
    print("recovering", flush=True)
    await asyncio.sleep(60)
storage.LogStorage.open = open
"""
    node = with_fault(make_node, tmp_path / "fault", recovery)
    node.launch()
    until(lambda: "recovering" in node.log())
    began = time.monotonic()
    node.signal(signal.SIGTERM)
    assert node.wait_exit() == 0, node.log()
    took_s = time.monotonic() - began
    assert took_s < STOP_LIMIT_S * machine.slowness()
    assert "Traceback" not in node.log()


def with_fault(make_node: MAKE, folder: Path, fault: str) -> NodeProcess:
    folder.mkdir()
    imports = "import asyncio, threading, time\nfrom bytemq.node import storage\nfrom bytemq.node.node import Node\n"
    (folder / "sitecustomize.py").write_text(imports + fault)
    return make_node(folder / "data", environment={"PYTHONPATH": f"{folder}:."})
