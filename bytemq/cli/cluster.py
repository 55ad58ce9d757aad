"""`bytemq cluster`: who owns what and why, load, moves; emptying a broker for maintenance.

Owns these commands. They read and write the metadata store directly, so they work when brokers do not.
"""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING

from bytemq.cli import pools
from bytemq.cli.metadata_access import add_action, goes_on_when_interrupted, image_of, view_of, with_store
from bytemq.cli.options import Commands, Failed, add_json_option, seconds
from bytemq.cli.output import counted, show, show_json

if TYPE_CHECKING:
    from bytemq.metadata.store import MetadataStore

WATCH_S = 0.2

_EXAMPLES = """\
examples:
  export BYTEMQ_METADATA=etcd://127.0.0.1:2379/my-cluster
  bytemq cluster status
  bytemq cluster brokers
  bytemq cluster partitions clicks --why    who owns what, and why
  bytemq cluster drain 2                    moves everything off broker 2; then stop, upgrade, start it, and
  bytemq cluster undrain 2
  bytemq cluster upgrade                    once every broker runs the new version: new formats may be written
  bytemq cluster pools                      its stores, how they are and what is in them
  bytemq cluster balance --dry-run          what the controller would move now
"""


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser(
        "cluster",
        help="brokers, owners, stores, load and moves of a cluster; drain a broker or a store",
        description="A cluster, as its metadata tell it.",
        epilog=_EXAMPLES,
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    add_json_option(add_action(actions, "status", run_status, "the cluster at a glance"))
    add_json_option(add_action(actions, "brokers", run_brokers, "brokers, their state and load"))
    partitions = add_action(actions, "partitions", run_partitions, "who owns what")
    partitions.add_argument("names", metavar="TOPIC", nargs="*", help="name of a topic (default: all)")
    partitions.add_argument("--why", action="store_true", help="the controller's last reason for each")
    add_json_option(partitions)
    drain = add_action(actions, "drain", run_drain, "move everything off a broker, and nothing onto it")
    drain.add_argument("broker", type=int, metavar="BROKER", help="broker id")
    drain.add_argument("--timeout", type=seconds, default=60.0, metavar="S", help="how long to wait (default: 60)")
    undrain = add_action(actions, "undrain", run_undrain, "let a broker take part again")
    undrain.add_argument("broker", type=int, metavar="BROKER", help="broker id")
    upgrade = add_action(actions, "upgrade", run_upgrade, "raise the feature level once every broker is upgraded")
    upgrade.add_argument("--level", type=int, metavar="N", help="which one (default: the highest that all support)")
    upgrade.add_argument("--dry-run", action="store_true", help="only tell whether that could be done")
    pools.add_actions(actions)
    balance = add_action(actions, "balance", run_balance, "what the controller would move to even out the load")
    balance.add_argument("--dry-run", action="store_true", required=True, help="only tell: the controller does it")
    add_json_option(balance)


def run_status(options: argparse.Namespace) -> int | None:
    from bytemq.scheduler.cluster_view import status

    async def work(store: MetadataStore) -> None:
        found = status(await view_of(store), time.time_ns() // 1_000_000)
        if options.json:
            show_json(found)
        else:
            show([{"what": name.replace("_", " "), "is": _word(value)} for name, value in found.items()],
                 ("what", "is"), as_json=False)  # fmt: skip

    return with_store(options, work)


def run_brokers(options: argparse.Namespace) -> int | None:
    from bytemq.scheduler.cluster_view import BROKER_COLUMNS, brokers

    async def work(store: MetadataStore) -> None:
        show(brokers(await view_of(store)), BROKER_COLUMNS, as_json=options.json)

    return with_store(options, work)


def run_partitions(options: argparse.Namespace) -> int | None:
    from bytemq.scheduler.cluster_view import PARTITION_COLUMNS, partitions

    async def work(store: MetadataStore) -> None:
        view = await view_of(store)
        unknown = [name for name in options.names if name not in view.image.topics]
        if unknown:
            raise Failed(f"there is no topic {unknown[0]}")
        columns = (*PARTITION_COLUMNS, "why") if options.why else PARTITION_COLUMNS
        show(partitions(view, options.names, why=options.why), columns, as_json=options.json)

    return with_store(options, work)


def run_drain(options: argparse.Namespace) -> int | None:
    import asyncio

    from bytemq.scheduler.cluster_view import is_empty

    async def work(store: MetadataStore) -> int | None:
        image = await image_of(store)
        if options.broker not in image.brokers:
            raise Failed(f"there is no live broker {options.broker}")
        if image.brokers.keys() <= image.drained | {options.broker}:
            raise Failed("no other broker is left that could take over; undrain one first")
        await _set_drained(store, options.broker, drained=True)
        give_up_at = time.monotonic() + options.timeout
        with goes_on_when_interrupted(f"Broker {options.broker}", f"undrain {options.broker}"):
            while not is_empty(await image_of(store), options.broker):
                if time.monotonic() > give_up_at:
                    raise Failed(
                        f"broker {options.broker} is being drained but still owns partitions; "
                        "`bytemq cluster partitions` shows which"
                    )
                await asyncio.sleep(WATCH_S)
        print(f"Broker {options.broker} owns nothing any more and may be stopped.")
        return None

    return with_store(options, work)


def run_undrain(options: argparse.Namespace) -> int | None:
    async def work(store: MetadataStore) -> None:
        await image_of(store)
        await _set_drained(store, options.broker, drained=False)
        print(f"Broker {options.broker} takes part again.")

    return with_store(options, work)


def run_upgrade(options: argparse.Namespace) -> int | None:
    from bytemq.metadata import features
    from bytemq.protocol.error_codes import KafkaError

    async def work(store: MetadataStore) -> None:
        before = (await image_of(store)).feature_level
        try:
            level = await features.change_level(store, options.level, validate_only=options.dry_run)
        except KafkaError as error:
            raise Failed(error.message) from error
        if level == before:
            print(f"The feature level is {level}, which is all that the brokers support.")
        elif options.dry_run:
            print(f"The feature level is {before} and could be {level}.")
        else:
            print(f"The feature level is {level} now. Versions that do not know it are refused at start.")

    return with_store(options, work)


def run_balance(options: argparse.Namespace) -> int | None:
    from bytemq.scheduler.cluster_view import proposed_moves

    async def work(store: MetadataStore) -> None:
        view = await view_of(store)
        topics = view.image.topics_by_id
        moves = proposed_moves(view)
        rows = [
            {
                "topic": topics[move.partition.topic_id].name,
                "partition": move.partition.index,
                "from": move.source,
                "to": move.target,
                "why": move.reason,
            }
            for move in moves
        ]
        if rows or options.json:
            show(rows, ("topic", "partition", "from", "to", "why"), as_json=options.json)
        if not options.json:
            print(f"{counted(len(rows), 'partition')} would move." if rows else "The load is even enough.")

    return with_store(options, work)


async def _set_drained(store: MetadataStore, broker_id: int, *, drained: bool) -> None:
    """A dynamic config of the broker: any of Kafka's tools could set it as well."""
    from bytemq.metadata import keys, values
    from bytemq.metadata.image import DRAINED
    from bytemq.metadata.store import Compare, Put

    key = keys.config("broker", str(broker_id))
    while True:
        current = await store.get(key)
        configs = {} if current is None else dict(values.decode_configs(current.value))
        if (configs.get(DRAINED) == "true") == drained:
            return
        if drained:
            configs[DRAINED] = "true"
        else:
            del configs[DRAINED]
        unchanged = [Compare(key, 0 if current is None else current.revision)]
        if configs:
            written = await store.txn(unchanged, [Put(key, values.encode_configs(configs))])
        else:
            written = await store.txn(unchanged, [], [key])
        if written.succeeded:
            return


def _word(value: object) -> object:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else value
