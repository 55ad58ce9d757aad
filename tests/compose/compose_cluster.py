"""The cluster of deploy/compose.yaml, started and hurt by container.

Owns: its life under a project name of its own. Must not: know what the brokers do.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from testcontainers.compose import DockerCompose

from tests.scenarios.cluster.cluster import Reachable

ROOT = Path(__file__).parents[2]
PORTS = (9092, 9093, 9094)


class ComposeCluster(Reachable):
    def __init__(self, *more_files: Path) -> None:
        files = ["deploy/compose.yaml", *map(str, more_files)]
        self._compose = DockerCompose(str(ROOT), files, build=True, wait=True)

    @property
    def bootstrap(self) -> str:
        return ",".join(f"localhost:{port}" for port in PORTS)

    def start(self) -> None:
        """Builds what is not built, and returns when every service is healthy."""
        self._compose.start()

    def close(self) -> None:
        self._compose.stop(down=True)

    def kill(self, service: str) -> None:
        """kill -9; the engine does not start it again by itself then."""
        self._run("kill", service)

    def up(self, service: str) -> None:
        """Returns when it is healthy."""
        self._run("up", "--detach", "--wait", "--no-deps", service)

    def bytemq(self, *arguments: str) -> str:
        """Of `bytemq ARGUMENTS` within the container network."""
        found, errors, code = self._compose.exec_in_container(["bytemq", *arguments], "broker-1")
        assert code == 0, errors
        return found

    def etcd_leader(self) -> str:
        """The service whose member leads."""
        for service in ("etcd-1", "etcd-2", "etcd-3"):
            status = ["etcdctl", "endpoint", "status", "--write-out", "fields"]
            found, _, _ = self._compose.exec_in_container(status, service)
            fields = dict(line.split(" : ", 1) for line in found.splitlines() if " : " in line)
            if fields['"MemberID"'] == fields['"Leader"']:
                return service
        raise AssertionError("no member of etcd leads")

    def _run(self, *arguments: str) -> None:
        subprocess.run([*self._compose.compose_command_property, *arguments], cwd=ROOT, check=True, capture_output=True)
