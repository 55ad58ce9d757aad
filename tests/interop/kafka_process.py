"""Apache Kafka 4.4.0 as the reference: one combined KRaft node in its own process, with the shape of NodeProcess.

Owns the format step and the process. Also a program:

    python -m tests.interop.kafka_process [PORT]      fetches, starts and runs until interrupted
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support.java import fetch_jars
from tests.support.node_process import POLL_S, NodeFailed, free_port

INTEROP = Path(__file__).resolve().parent
CLUSTER_ID = "Qwuf4v4ZQCeick0wsS9S6w"
READY_TIMEOUT_S = 180.0


class KafkaProcess:
    """One Kafka node with default settings, but for what a single node needs to serve internal topics."""

    def __init__(
        self,
        folder: Path,
        *,
        port: int | None = None,
        settings: Mapping[str, str] | None = None,
        java_options: Sequence[str] = ("-Xmx512m",),
    ) -> None:
        self.folder = folder
        self.port = port or free_port()
        self.log_path = folder / "kafka.log"
        self.java_options = list(java_options)
        self._class_path = fetch_jars(INTEROP / "kafka")
        self._process: subprocess.Popen[bytes] | None = None
        self._write_properties(dict(settings or {}))

    @property
    def bootstrap(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def address(self) -> tuple[str, int]:
        return ("127.0.0.1", self.port)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def _write_properties(self, settings: dict[str, str]) -> None:
        controller = free_port()
        properties = {
            "process.roles": "broker,controller",
            "node.id": "0",
            "controller.quorum.bootstrap.servers": f"127.0.0.1:{controller}",
            "listeners": f"PLAINTEXT://127.0.0.1:{self.port},CONTROLLER://127.0.0.1:{controller}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{self.port}",
            "controller.listener.names": "CONTROLLER",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "log.dirs": str(self.folder / "data"),
            "offsets.topic.replication.factor": "1",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "share.coordinator.state.topic.replication.factor": "1",
            "share.coordinator.state.topic.min.isr": "1",
            **settings,
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        self._properties = self.folder / "server.properties"
        self._properties.write_text("".join(f"{key}={value}\n" for key, value in properties.items()))

    def start(self) -> KafkaProcess:
        java = ["java", *self.java_options, "-cp", self._class_path]
        with self.log_path.open("ab") as log:
            if not (self.folder / "data" / "meta.properties").exists():
                tool = [*java, "kafka.tools.StorageTool", "format", "--standalone"]
                subprocess.run(
                    [*tool, "-t", CLUSTER_ID, "-c", str(self._properties)], check=True, stdout=log, stderr=log
                )
            self._process = subprocess.Popen(
                [*java, "kafka.Kafka", str(self._properties)], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self._wait_ready()
        return self

    def _wait_ready(self) -> None:
        """Ready once it answers Metadata with itself as a broker: without a logging backend Kafka prints no ready
        line.
        """
        from tests.interop.wire import metadata_broker_count

        deadline = time.monotonic() + READY_TIMEOUT_S
        while time.monotonic() < deadline:
            assert self._process is not None
            if self._process.poll() is not None:
                raise NodeFailed(f"Kafka exited with {self._process.returncode}:\n{self.log_path.read_text()[-4000:]}")
            try:
                if metadata_broker_count(self.address) > 0:
                    return
            except (OSError, EOFError):
                pass
            time.sleep(POLL_S)
        raise NodeFailed(f"Kafka was not ready within {READY_TIMEOUT_S} s")

    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def kill9(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def terminate(self, timeout_s: float = 30.0) -> int:
        assert self._process is not None
        self._process.terminate()
        return self._process.wait(timeout_s)

    def restart(self) -> KafkaProcess:
        return self.start()

    def close(self) -> None:
        if self.is_running():
            self.kill9()


def main() -> int:
    port = int(sys.argv[1]) if len(sys.argv) > 1 else None
    folder = Path(tempfile.mkdtemp(prefix="kafka-"))
    server = KafkaProcess(folder, port=port).start()
    print(f"Apache Kafka 4.4.0 on {server.bootstrap}, data in {folder}", flush=True)
    try:
        signal.sigwait({signal.SIGINT, signal.SIGTERM})
    finally:
        server.close()
        shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
