"""Stands in for Docker's Python client in aiokafka's own suite: where the suite runs a container with Kafka, our server
starts on the port that the container would have been given.

Only what the suite's conftest.py uses. The commands that it runs inside the container (Kafka's scripts for ACLs, SCRAM
users, quotas; Kerberos) say that they failed: what needs them fails, and is named in docs/compatibility.md.
"""

import os
import re
import subprocess
import tempfile

from suite_server import SuiteServer

# The suite asks for these paths inside its container.
_CERTIFICATES = "/ssl_cert"


def from_env():
    return Client()


class Client:
    def __init__(self):
        self.images = _Images()
        self.containers = _Containers()

    def close(self):
        pass


class _Images:
    def pull(self, image):
        pass


class _Containers:
    def run(self, image, environment=None, volumes=None, **others):
        if environment is None or "ADVERTISED_PORT" not in environment:
            return _Container(volumes or {}, None)
        settings = {
            "num.partitions": str(environment.get("NUM_PARTITIONS", 2)),
            "group.initial.rebalance.delay.ms": "0",
            "group.min.session.timeout.ms": "1000",
        }
        return _Container(volumes or {}, SuiteServer(environment["ADVERTISED_PORT"], settings))


class _Container:
    def __init__(self, volumes, server):
        self._certificates = next((path for path, to in volumes.items() if to["bind"] == _CERTIFICATES), None)
        self._server = server

    def exec_run(self, command, **others):
        """The exit code and what was printed; the generation of certificates is run here, nothing else is."""
        if self._certificates is None or "/gen-ssl-certs.sh" not in command:
            return 1, b"not available here"
        with open("gen-ssl-certs.sh") as script, tempfile.NamedTemporaryFile("w", suffix=".sh") as here:
            here.write(re.sub(r"/ssl_cert\b", str(self._certificates), script.read()))
            here.flush()
            done = subprocess.run(["bash", here.name], capture_output=True, cwd=self._certificates, check=False)
        return done.returncode, done.stdout + done.stderr

    def stop(self):
        if self._server is not None:
            self._server.stop()


class models:  # noqa: N801 - the suite annotates with docker.models.containers.Container
    class containers:  # noqa: N801
        Container = _Container


if __name__ == "__main__":
    raise SystemExit(f"a plugin of {os.path.dirname(__file__)}, not a program")
