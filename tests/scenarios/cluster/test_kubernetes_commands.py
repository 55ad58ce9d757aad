"""What deploy/kubernetes has its containers run is run here as it stands, under the environment that Kubernetes would
give them: the broker, its probes, what empties it before its end, and what lets it take part again.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.scenarios.cluster.cluster import PATIENCE_S, bytemq, until
from tests.support.etcd_process import EtcdProcess
from tests.support.node_process import free_port

MANIFEST = (Path(__file__).parents[3] / "deploy" / "kubernetes" / "bytemq.yaml").read_text()
WORDS = {"BROKER_ID", "POD", "NAMESPACE", "ZONE"}
"""What the manifest takes from the pod's fields."""


def one_line(name: str) -> str:
    """The command of the init container or of the hook of this name: `["sh", "-c", COMMAND]`."""
    found = re.search(rf'{name}.*?command: \["sh", "-c", "([^"]*)"\]', MANIFEST, re.DOTALL)
    assert found is not None, name
    return found[1]


def of_the_broker() -> str:
    """The folded block: its lines are one."""
    found = re.search(r"command:\n\s+- sh\n\s+- -c\n\s+- >-\n((?:\s{14}.*\n)+)", MANIFEST)
    assert found is not None
    return " ".join(line.strip() for line in found[1].splitlines())


def probes() -> list[str]:
    return re.findall(r"Probe: \{httpGet: \{path: (/\w+), port: http\}", MANIFEST)


class Pod:
    def __init__(self, folder: Path, etcd: EtcdProcess, number: int, zone: str) -> None:
        self.kafka, self.http = free_port(), free_port()
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("BYTEMQ_")},
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "BYTEMQ_METADATA": etcd.url("bytemq"),
            "BYTEMQ_STORAGE": f"file://{folder / 'records'}",
            "BYTEMQ_LISTENERS": f"PLAINTEXT://127.0.0.1:{self.kafka}",
            "BYTEMQ_DATA_DIR": str(folder / f"scratch-{number}"),
            "BYTEMQ_HTTP_LISTEN": f"127.0.0.1:{self.http}",
            "BROKER_ID": str(number),
            "POD": f"bytemq-{number}",
            "NAMESPACE": "default",
            "ZONE": zone,
        }
        self._log = folder / f"pod-{number}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def run(self, command: str) -> None:
        subprocess.run(["sh", "-c", command], env=self.environment, check=True, timeout=PATIENCE_S)

    def start(self) -> None:
        with self._log.open("ab") as log:
            command = ["sh", "-c", of_the_broker()]
            self._process = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log)

    def answers(self, path: str) -> bool:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{self.http}{path}", timeout=5).close()
        except OSError:
            assert self._process is not None and self._process.poll() is None, self._log.read_text()
            return False
        return True

    def stop(self) -> int:
        """As the kubelet does: the hook, then SIGTERM, which the shell has made way for."""
        assert self._process is not None
        self.run(one_line("preStop"))
        self._process.terminate()
        return self._process.wait(PATIENCE_S)

    def close(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()


@pytest.fixture
def pods(tmp_path: Path, etcd: EtcdProcess) -> Iterator[list[Pod]]:
    """The second one is on a node without a zone's label, or below Kubernetes 1.35."""
    made = [Pod(tmp_path, etcd, number, zone) for number, zone in ((0, "a"), (1, ""))]
    yield made
    for pod in made:
        pod.close()


def test_commands__of_the_manifest_start_drain_and_undrain_a_broker(pods: list[Pod], etcd: EtcdProcess) -> None:
    metadata = ("--metadata", etcd.url("bytemq"))
    assert set(re.findall(r"\$(\w+)", of_the_broker() + one_line("undrain") + one_line("preStop"))) <= WORDS
    assert probes() == ["/ready", "/ready", "/health"]
    for pod in pods:
        pod.run(one_line("undrain"))  # there is no cluster yet
        pod.start()
    for pod in pods:
        for path in probes():
            until(lambda pod=pod, path=path: pod.answers(path), f"{path} answers")
    rows = bytemq("cluster", "brokers", "--json", *metadata)
    assert '"bytemq-0.bytemq-brokers.default.svc:9092"' in rows and '"zone": "a"' in rows and '"zone": null' in rows
    assert pods[1].stop() == 0
    assert '"stopped, drained"' in bytemq("cluster", "brokers", "--json", *metadata)
    pods[1].run(one_line("undrain"))
    pods[1].start()
    until(lambda: pods[1].answers("/ready"), "it is back")
    assert "drained" not in bytemq("cluster", "brokers", "--json", *metadata)
