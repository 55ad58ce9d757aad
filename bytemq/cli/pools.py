"""`bytemq cluster pools` and `bytemq cluster pool`: the stores of a cluster, and emptying one.

Owns these commands. They read and write the metadata directly; only `add` asks the new store, too.
"""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING, Any

from bytemq.cli.metadata_access import add_action, goes_on_when_interrupted, view_of, with_store
from bytemq.cli.options import Commands, Failed, add_json_option, seconds
from bytemq.cli.output import show

if TYPE_CHECKING:
    from bytemq.metadata.pools import PoolUse
    from bytemq.metadata.store import MetadataStore
    from bytemq.scheduler.cluster_view import ClusterView
    from bytemq.storage.pools.contents import PoolContents

WATCH_S = 1.0
COLUMNS = ("pool", "use", "url", "brokers", "segments", "mib", "wals", "snapshots", "tables")
_EXAMPLES = """\
examples:
  bytemq cluster pool add second 's3://other-bucket/records?profile=second'
  bytemq cluster pools                      which there are, how brokers find them, what is in them
  bytemq cluster pool drain second          nothing new goes there; returns when nothing is there that is needed
  bytemq cluster pool undrain second
  bytemq cluster pool remove second         nobody looks after it any more
"""


def add_actions(actions: Commands) -> None:
    add_json_option(add_action(actions, "pools", run_pools, "the stores of the cluster: state and contents"))
    pool = actions.add_parser(
        "pool", help="add a store to the cluster, drain one", description="Pools of a cluster.", epilog=_EXAMPLES
    )
    changes = pool.add_subparsers(title="actions", metavar="ACTION", required=True)
    add = add_action(changes, "add", run_add, "let records go to another store, too, when the first is sick")
    add.add_argument("name", metavar="NAME", help="what it is called: a-z, 0-9 and '-'")
    add.add_argument("url", metavar="URL", help="as for --storage; ?profile=, endpoint=, region= say where S3 is")
    drain = add_action(changes, "drain", run_drain, "write nothing new there, and what is there elsewhere")
    drain.add_argument("name", metavar="NAME", help="a pool, or primary: all but the tables leave it")
    drain.add_argument("--timeout", type=seconds, default=3600.0, metavar="S", help="how long to wait (default: 3600)")
    undrain = add_action(changes, "undrain", run_undrain, "let a pool take part again")
    undrain.add_argument("name", metavar="NAME", help="a pool, or primary")
    remove = add_action(changes, "remove", run_remove, "have nobody look after a pool that is drained and empty")
    remove.add_argument("name", metavar="NAME", help="a pool")


def run_pools(options: argparse.Namespace) -> int | None:
    from bytemq.storage.pools.contents import contents

    async def work(store: MetadataStore) -> None:
        rows = pool_rows(await view_of(store), await contents(store))
        show(rows, COLUMNS, as_json=options.json)

    return with_store(options, work)


def pool_rows(view: ClusterView, found: dict[str, PoolContents]) -> list[dict[str, Any]]:
    from bytemq.metadata.pools import PoolValue
    from bytemq.storage.pools.contents import PoolContents
    from bytemq.storage.pools.names import SHOWN_PRIMARY, pool_shown_as

    pools = {SHOWN_PRIMARY: PoolValue(""), **view.image.pools}
    rows = []
    for name, value in sorted(pools.items(), key=lambda pool: (pool[0] != SHOWN_PRIMARY, pool[0])):
        of_pool = found.get(pool_shown_as(name), PoolContents())
        rows.append(
            {
                "pool": name,
                "use": value.use.value,
                "url": value.url or "--storage",
                "brokers": _as_brokers_find_it(view, name),
                "segments": of_pool.segments,
                "mib": round(of_pool.segment_bytes / (1 << 20), 1),
                "wals": of_pool.session_logs,
                "snapshots": of_pool.snapshots,
                "tables": of_pool.tables,
            }
        )
    return rows


def _as_brokers_find_it(view: ClusterView, name: str) -> str:
    states = {
        broker: report.pools[name].removeprefix("drained, ")
        for broker, report in sorted(view.reports.items())
        if name in report.pools
    }
    ill = [f"broker {broker}: {state}" for broker, state in states.items() if state != "well"]
    well = len(states) - len(ill)
    return "; ".join([*([f"well at {well} of {len(states)}"] if states else []), *ill])


def run_add(options: argparse.Namespace) -> int | None:
    from random import SystemRandom

    from bytemq.runtime.clock import SystemClock
    from bytemq.storage.pools.changes import add_pool

    async def work(store: MetadataStore) -> None:
        took = await add_pool(store, options.name, options.url, SystemClock(), SystemRandom())
        print(f"Pool {options.name} is part of the cluster ({took}). Each broker opens it now: `bytemq cluster pools`.")

    return with_store(options, work)


def run_drain(options: argparse.Namespace) -> int | None:
    import asyncio

    from bytemq.metadata.pools import PoolUse
    from bytemq.storage.pools.changes import set_use
    from bytemq.storage.pools.contents import PoolContents, contents
    from bytemq.storage.pools.names import pool_shown_as

    pool = pool_shown_as(options.name)

    async def work(store: MetadataStore) -> None:
        await set_use(store, options.name, PoolUse.DRAINED)
        give_up_at = time.monotonic() + options.timeout
        said = ""
        with goes_on_when_interrupted(f"Pool {options.name}", f"pool undrain {options.name}"):
            while not (left := (await contents(store)).get(pool, PoolContents())).is_empty:
                if str(left) != said:
                    said = str(left)
                    print(f"left in {options.name}: {said}", flush=True)
                if time.monotonic() > give_up_at:
                    raise Failed(
                        f"{options.name} is being drained and not empty yet: `bytemq cluster pools` shows how far"
                    )
                await asyncio.sleep(WATCH_S)
        stays = f"; {left.tables} Parquet files stay" if left.tables else ""
        print(f"Nothing of a log is in {options.name} any more{stays}. What was there goes after its time of grace.")

    return with_store(options, work)


def run_undrain(options: argparse.Namespace) -> int | None:
    from bytemq.metadata.pools import PoolUse

    return _set_use(options, PoolUse.IN_USE, "takes part again")


def run_remove(options: argparse.Namespace) -> int | None:
    from bytemq.metadata.pools import PoolUse

    return _set_use(options, PoolUse.REMOVED, "is looked after by nobody any more; its name stays taken")


def _set_use(options: argparse.Namespace, use: PoolUse, says: str) -> int | None:
    from bytemq.storage.pools.changes import set_use

    async def work(store: MetadataStore) -> None:
        await set_use(store, options.name, use)
        print(f"Pool {options.name} {says}.")

    return with_store(options, work)
