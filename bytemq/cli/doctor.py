"""`bytemq doctor`: is everything there that a broker relies on? Tried out, one line for each thing.

Owns this command. It changes nothing but for an object that the self-test of the storage writes and deletes.
"""

from __future__ import annotations

import argparse
import os
import resource
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, NamedTuple

from bytemq.cli.metadata_access import METADATA_VARIABLE, TIMEOUT_S, add_metadata_option, view_of
from bytemq.cli.options import Commands, Failed, add_json_option
from bytemq.cli.output import show
from bytemq.errors import BytemqError

if TYPE_CHECKING:
    from bytemq.metadata.store import MetadataStore
    from bytemq.scheduler.cluster_view import ClusterView

OPEN_FILES = 65_536
CLOCKS_APART_S = 60.0
"""Reports are up to a quarter of a minute old."""
SLOW_METADATA_MS = 100.0
ETCD_SIZE_BYTES = 1024 * 1024 * 1024
_TRIES = 20


class Finding(NamedTuple):
    what: str
    verdict: str
    """ok, warning or failed."""
    says: str


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser(
        "doctor",
        help="try out what a broker relies on",
        description="Try out metadata, storage, clocks, limits and ports; the exit code is 1 when something failed.",
    )
    add_metadata_option(parser)
    parser.add_argument(
        "--storage", metavar="URL", default=os.environ.get("BYTEMQ_STORAGE"), help="storage (default: BYTEMQ_STORAGE)"
    )
    parser.add_argument(
        "--listen", metavar="HOST:PORT", action="append", default=[], help="an address to be free; may be repeated"
    )
    add_json_option(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    import asyncio

    findings = asyncio.run(_examine(options))
    rows = [finding._asdict() for finding in findings]
    show(rows, ("what", "verdict", "says"), as_json=options.json)
    return int(any(finding.verdict == "failed" for finding in findings))


async def _examine(options: argparse.Namespace) -> list[Finding]:
    findings = [_open_files(), *(_port(address) for address in options.listen)]
    if options.metadata:
        findings += [finding async for finding in _metadata(options.metadata)]
    else:
        findings.append(Finding("metadata", "warning", f"not looked at: no --metadata, no {METADATA_VARIABLE}"))
    if options.storage:
        findings.append(await _storage("storage", options.storage))
    else:
        findings.append(Finding("storage", "warning", "not looked at: no --storage, no BYTEMQ_STORAGE"))
    return findings


def _open_files() -> Finding:
    _, allowed = resource.getrlimit(resource.RLIMIT_NOFILE)  # a node raises its own limit to this one
    enough = allowed == resource.RLIM_INFINITY or allowed >= OPEN_FILES
    says = f"{allowed} open files" if enough else f"{allowed} open files; allow {OPEN_FILES} (ulimit -Hn, LimitNOFILE)"
    return Finding("file limit", "ok" if enough else "warning", says)


def _port(address: str) -> Finding:
    from bytemq.broker.server import Listener, bind
    from bytemq.config import InvalidConfig
    from bytemq.config.listeners import parse_endpoint

    try:
        endpoint = parse_endpoint(address)
        for _, opened in bind([Listener(endpoint.listener, endpoint.host, endpoint.port)]):
            opened.close()
    except (BytemqError, InvalidConfig) as error:
        return Finding("port", "failed", str(error))
    return Finding("port", "ok", f"{address} is free")


async def _metadata(url: str) -> AsyncIterator[Finding]:
    from bytemq.metadata.opening import open_metadata

    try:
        store = await open_metadata(url, os.environ, timeout_s=TIMEOUT_S)
    except BytemqError as error:
        yield Finding("metadata", "failed", str(error))
        return
    try:
        yield await _latency(store)
        async for finding in _members(store):
            yield finding
        view = await view_of(store)
        yield Finding("cluster", "ok", f"{view.image.cluster_id}, {len(view.image.brokers)} live brokers")
        apart = {broker: abs(time.time() - report.wall_ms / 1000) for broker, report in sorted(view.reports.items())}
        off = [f"broker {broker}: {seconds:.0f} s" for broker, seconds in apart.items() if seconds > CLOCKS_APART_S]
        yield Finding(
            "clocks", "failed" if off else "ok", "; ".join(off) or f"{len(apart)} brokers agree with this one"
        )
        async for finding in _pools(view):
            yield finding
    except (BytemqError, Failed) as error:
        yield Finding("cluster", "warning", str(error))
    finally:
        await store.close()


async def _pools(view: ClusterView) -> AsyncIterator[Finding]:
    """Each pool from here, and as brokers find all stores."""
    from bytemq.metadata.pools import PoolUse

    for name, value in sorted(view.image.pools.items()):
        if value.url and value.use is not PoolUse.REMOVED:
            yield await _storage(f"pool {name}", value.url)
    for broker, report in sorted(view.reports.items()):
        ill = [f"{pool} is {state}" for pool, state in report.pools.items() if not state.endswith("well")]
        if ill:
            yield Finding(f"pools at broker {broker}", "warning", "; ".join(ill))


async def _latency(store: MetadataStore) -> Finding:
    from bytemq.metadata import keys

    took_ms = []
    for _ in range(_TRIES):
        started = time.perf_counter()
        await store.get(keys.IDENTITY)
        took_ms.append((time.perf_counter() - started) * 1000)
    took_ms.sort()
    median_ms, worst_ms = took_ms[_TRIES // 2], took_ms[-1]
    verdict = "ok" if median_ms < SLOW_METADATA_MS else "warning"
    return Finding("metadata latency", verdict, f"median {median_ms:.1f} ms, worst {worst_ms:.1f} ms of {_TRIES} reads")


async def _members(store: MetadataStore) -> AsyncIterator[Finding]:
    from bytemq.metadata.etcd.store import EtcdStore

    if not isinstance(store, EtcdStore):
        return
    members = await store.members()
    for member in members:
        what = f"etcd {member.endpoint}"
        if member.problem:
            yield Finding(what, "warning", member.problem)
        elif member.alarms:
            yield Finding(what, "failed", f"alarm: {', '.join(member.alarms)}")
        else:
            size = f"{member.size_bytes / 1e6:.1f} MB"
            verdict = "ok" if member.size_bytes < ETCD_SIZE_BYTES else "warning"
            leads = ", leads" if member.is_leader else ""
            yield Finding(what, verdict, f"version {member.version}, {size}{leads}")
    if len(members) == 1:
        yield Finding("etcd members", "warning", "one member only is named: when it is down, so is the cluster")


async def _storage(what: str, url: str) -> Finding:
    import random

    from bytemq.runtime.clock import SystemClock
    from bytemq.storage.stores.by_url import open_store
    from bytemq.storage.stores.self_test import self_test

    clock, chance = SystemClock(), random.SystemRandom()
    try:
        store = await open_store(url, clock, chance)
        try:
            measured = await self_test(store, clock, f"doctor-{chance.getrandbits(64):016x}")
        finally:
            await store.close()
    except BytemqError as error:
        return Finding(what, "failed", str(error))
    return Finding(what, "ok", f"{url}: {measured}")
