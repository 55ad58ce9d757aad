"""Runs one server until it is told to stop: what a suite that starts its own brokers starts instead.

    python -m tests.suites.serve --server bytemq --port 9092 --set num.partitions=4

Prints one line when it is ready. Data is in a temporary folder that goes with it.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tests.interop.kafka_process import KafkaProcess
from tests.support.node_process import NodeProcess, free_port

Server = NodeProcess | KafkaProcess
SERVERS = ("bytemq", "kafka")
RACK = "broker.rack"


def make_server(kind: str, folder: Path, port: int | None, settings: Mapping[str, str]) -> Server:
    """A server with settings under Kafka's names, not started yet."""
    if kind == "kafka":
        return KafkaProcess(folder, port=port, settings=settings)
    folder.mkdir(parents=True, exist_ok=True)
    options = [part for name, value in settings.items() if name != RACK for part in ("--set", f"{name}={value}")]
    if RACK in settings:
        options += ["--zone", settings[RACK]]
    port = port or free_port()
    # As Kafka's own configuration in most of these suites, which one test of kafka-python asks for.
    options += ["--advertise", f"127.0.0.1:{port}"]
    return NodeProcess(folder / "data", port=port, options=options)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--server", choices=SERVERS, default="bytemq")
    parser.add_argument("--port", type=int)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    arguments = parser.parse_args()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    folder = Path(tempfile.mkdtemp(prefix="suite-"))
    settings = dict(each.split("=", 1) for each in arguments.set)
    server = make_server(arguments.server, folder, arguments.port, settings)
    try:
        server.start()
        print(f"ready on {server.bootstrap}", flush=True)
        signal.sigwait({signal.SIGINT, signal.SIGTERM})
    finally:
        server.close()
        shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
