"""A start on what cannot be right is refused with a sentence that says what to do, and nothing is left of it: no
session, no open port, nothing in the storage, nothing in metadata that are new.
"""

from __future__ import annotations

import http.server
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import grpc

from bytemq.metadata.etcd import messages_pb2 as messages
from bytemq.metadata.loads import IDLE, LoadReport, encode_load
from tests.scenarios.cluster.cluster import PATIENCE_S
from tests.support.etcd_process import EtcdProcess, etcd_tool
from tests.support.node_process import NodeProcess, free_port
from tests.support.s3_server import S3Server

MAKE = Callable[..., NodeProcess]


class Refused(NamedTuple):
    options: Sequence[str]
    says: str
    environment: Mapping[str, str] = {}


def check_refused(make_node: MAKE, folder: Path, cases: Mapping[str, Refused]) -> None:
    """All started side by side."""
    nodes = {}
    for name, case in cases.items():
        nodes[name] = make_node(folder / name, options=case.options, environment=case.environment)
        nodes[name].launch()
    for name, node in nodes.items():
        code = node.wait_exit(PATIENCE_S)
        log = node.log()
        assert code == 1 and cases[name].says in log and "Traceback" not in log, f"{name}: {code}\n{log}"
        assert " is ready on " not in log
        with socket.socket() as probe:
            probe.bind(node.address)


def test_config__that_contradicts_itself_is_refused(make_node: MAKE, tmp_path: Path) -> None:
    check_refused(
        make_node,
        tmp_path,
        {
            "metadata-alone": Refused(["--metadata", "etcd://127.0.0.1:1/c"], "name the store by --storage"),
            "roles-of-one": Refused(["--roles", "read"], "leave out --roles, or name the cluster's metadata"),
            "two-ids": Refused(["--id", "1", "--set", "broker.id=2"], "must be set to the same value"),
            "port-twice": Refused(["--listen", "B://127.0.0.1:9092", "--listen", "C://127.0.0.1:9092"], "port"),
            "not-listened": Refused(["--advertise", "ELSE://127.0.0.1:9092"], "advertised.listeners"),
            "no-such-listener": Refused(["--set", "inter.broker.listener.name=NONE"], "inter.broker.listener.name"),
            "not-a-url": Refused(["--storage", "bucket/prefix"], "write file:///FOLDER or s3://BUCKET/PREFIX"),
            "no-prefix": Refused(
                ["--metadata", "etcd://127.0.0.1:1", "--storage", f"file://{tmp_path}/s"], "ends with a prefix"
            ),
        },
    )


@contextmanager
def another_etcd(version: str) -> Iterator[str]:
    """What answers as an etcd of that version would."""

    def status(request: messages.StatusRequest, context: grpc.ServicerContext) -> messages.StatusResponse:
        return messages.StatusResponse(version=version)

    method = grpc.unary_unary_rpc_method_handler(
        status, messages.StatusRequest.FromString, messages.StatusResponse.SerializeToString
    )
    with grpc_server({"Status": method}) as port:
        yield f"etcd://127.0.0.1:{port}/c"


@contextmanager
def grpc_server(methods: Mapping[str, grpc.RpcMethodHandler]) -> Iterator[int]:
    from concurrent.futures import ThreadPoolExecutor

    server = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("etcdserverpb.Maintenance", methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port
    finally:
        server.stop(None)


@contextmanager
def web_server() -> Iterator[int]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


def test_etcd__that_cannot_be_right_is_refused(
    make_node: MAKE, make_etcd: Callable[..., EtcdProcess], tmp_path: Path
) -> None:
    guarded = make_etcd()
    for words in (["user", "add", "root:secret"], ["user", "grant-role", "root", "root"], ["auth", "enable"]):
        etcd_tool("etcdctl", "--endpoints", guarded.endpoint, *words)
    with ExitStack() as servers:
        old, new = (servers.enter_context(another_etcd(version)) for version in ("3.3.27", "4.0.0"))
        empty = servers.enter_context(grpc_server({}))
        web = servers.enter_context(web_server())
        nobody = free_port()
        storage = ["--storage", f"file://{tmp_path}/storage"]

        def at(url: str, *more: str) -> list[str]:
            return ["--metadata", url, *storage, *more]

        check_refused(
            make_node,
            tmp_path,
            {
                "nobody": Refused(at(f"etcd://127.0.0.1:{nobody}/c"), "Start etcd, or correct the address"),
                "too-old": Refused(at(old), "has version 3.3.27; this version of bytemq works with etcd 3.4"),
                "too-new": Refused(at(new), "has version 4.0.0; this version of bytemq works with etcd 3.4"),
                "other-service": Refused(at(f"etcd://127.0.0.1:{empty}/c"), "does not speak etcd's API version 3"),
                "web-server": Refused(at(f"etcd://127.0.0.1:{web}/c"), "Start etcd, or correct the address"),
                "encrypted": Refused(at(f"etcds://{guarded.endpoint}/c"), "Start etcd, or correct the address"),
                "password": Refused(at(f"etcd://root:wrong@{guarded.endpoint}/c"), "does not let in user 'root'"),
                "anonymous": Refused(at(guarded.url("c")), "by ETCDCTL_USER and ETCDCTL_PASSWORD"),
                "no-file": Refused(at(f"{guarded.url('c')}?ca=/nowhere/ca.pem"), "cannot read /nowhere/ca.pem"),
            },
        )
    assert not (tmp_path / "storage").exists()


def keys_below(prefix: str, etcd: EtcdProcess) -> list[str]:
    return etcd_tool("etcdctl", "--endpoints", etcd.endpoint, "get", "--prefix", "--keys-only", prefix).split()


def test_storage__that_cannot_be_right_is_refused(make_node: MAKE, etcd: EtcdProcess, tmp_path: Path) -> None:
    s3 = S3Server("seaweedfs", tmp_path / "s3").start()
    try:
        own = s3.environment

        def at(url: str, prefix: str) -> list[str]:
            return ["--metadata", etcd.url(prefix), "--storage", url]

        wrong = {**own, "AWS_SECRET_ACCESS_KEY": "wrong"}
        nobody = {**own, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{free_port()}"}
        bare = {**own, "AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_EC2_METADATA_DISABLED": "true"}
        check_refused(
            make_node,
            tmp_path,
            {
                "bucket": Refused(at("s3://Not_A_Bucket/p", "a"), "Not_A_Bucket", own),
                "credentials": Refused(at("s3://bucket/p", "b"), "the store refuses these credentials", wrong),
                "no-credentials": Refused(at("s3://bucket/p", "c"), "set AWS_ACCESS_KEY_ID", bare),
                "nobody": Refused(at("s3://bucket/p", "d"), "cannot be used now", nobody),
                "no-folder": Refused(at("file:///proc/nowhere", "e"), "/proc/nowhere"),
                "scheme": Refused(at("gopher://bucket/p", "f"), "gopher"),
            },
        )
    finally:
        s3.close()
    assert keys_below("", etcd) == [], "not even a cluster's id"


def test_cluster__that_a_broker_does_not_belong_to_refuses_it(
    make_node: MAKE, etcd: EtcdProcess, tmp_path: Path
) -> None:
    url, storage = etcd.url("c"), f"file://{tmp_path}/storage"
    first = make_node(tmp_path / "first", options=["--metadata", url, "--storage", storage]).start(PATIENCE_S)
    hour_ago = LoadReport(int((time.time() - 3600) * 1000), IDLE)
    for key, value in (("slow/loads/9", encode_load(hour_ago).decode()), ("newer/cluster/feature-level", "99")):
        etcd_tool("etcdctl", "--endpoints", etcd.endpoint, "put", key, value)
    elsewhere = f"file://{tmp_path}/elsewhere"
    check_refused(
        make_node,
        tmp_path,
        {
            "same-id": Refused(["--metadata", url, "--storage", storage], "broker id 0 is in use by another node at"),
            "one-etcd-prefix": Refused(
                ["--metadata", url, "--storage", elsewhere, "--id", "1"], "or metadata of their own: another prefix"
            ),
            "one-storage-prefix": Refused(
                ["--metadata", etcd.url("d"), "--storage", storage], "Choose another bucket or prefix"
            ),
            "clock": Refused(
                ["--metadata", etcd.url("slow"), "--storage", f"file://{tmp_path}/slow", "--id", "1"],
                "ahead of that of broker 9. Set the one that is wrong",
            ),
            "newer": Refused(
                ["--metadata", etcd.url("newer"), "--storage", f"file://{tmp_path}/records"],
                "written by a newer version of bytemq (feature level 99",
            ),
        },
    )
    assert first.is_running()
    assert keys_below("d/", etcd) == []
    assert not any((tmp_path / "elsewhere").rglob("*")) and not any((tmp_path / "records").rglob("*"))
