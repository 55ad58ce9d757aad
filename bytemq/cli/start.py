"""`bytemq start`: a node in this process, until it is told to stop.

Owns its options and how they become configs; `serve` runs the node.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from bytemq.cli.options import BOOTSTRAP_VARIABLE, Commands, Failed, whole_number

if TYPE_CHECKING:
    from bytemq.config import BrokerConfig

_DESCRIPTION = """\
Start a node: broker, embedded metadata and local storage in one process. Any Kafka client can use it.

Settings have Kafka's names. They are taken from the file given with --config (server.properties syntax), then from
the environment (BYTEMQ_LOG_RETENTION_MS for log.retention.ms), then from these options; the later wins.
"""
_EXAMPLES = """\
examples:
  bytemq start
  bytemq start --data /var/lib/bytemq --set num.partitions=6 --set log.retention.hours=24
  bytemq start --listen 0.0.0.0:9092 --advertise broker.example.org:9092
  bytemq start --listen INSIDE://0.0.0.0:9092 --advertise INSIDE://kafka:9092 \\
               --listen OUTSIDE://0.0.0.0:19092 --advertise OUTSIDE://localhost:19092
  bytemq start --storage s3://bucket/prefix
  bytemq start --brokers 4                          four processes: a machine with many cores
  bytemq start --config server.properties
"""


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser("start", help="start a node", description=_DESCRIPTION, epilog=_EXAMPLES)
    parser.add_argument("--data", metavar="DIR", help="folder of the node's files (default: ./data)")
    parser.add_argument(
        "--listen",
        metavar="[NAME://]HOST:PORT",
        action="append",
        default=[],
        help="where to listen; several times with different names (default: 127.0.0.1:9092)",
    )
    parser.add_argument(
        "--advertise",
        metavar="[NAME://]HOST:PORT",
        action="append",
        default=[],
        help="what clients of the listener of this name are told to connect to (default: where it listens)",
    )
    parser.add_argument(
        "--metadata",
        metavar="URL",
        help="metadata of a cluster: etcd://HOST:PORT[,HOST:PORT]/PREFIX (default: this node's own, in --data)",
    )
    parser.add_argument(
        "--storage",
        metavar="URL",
        help="where records are kept: s3://BUCKET/PREFIX, or file:///FOLDER on a shared mount (default: in --data)",
    )
    parser.add_argument(
        "--scratch",
        metavar="DIR",
        help="folder for what may be lost at any time, in place of --data where storage and metadata are elsewhere",
    )
    parser.add_argument("--id", metavar="N", help="node id, 0 or more, or auto: a free one (default: 0)")
    parser.add_argument(
        "--brokers",
        type=whole_number(1, 1000),
        metavar="N",
        help="so many broker processes on this machine, with ids and ports from the first one's on, behind a "
        "supervisor whose metadata `bytemq cluster` reaches at unix:///DATA/metadata.sock (default: one, without it)",
    )
    parser.add_argument(
        "--roles",
        metavar="ROLE[,ROLE]",
        help="what this broker does for its cluster: write, read, coordinate, control (default: all)",
    )
    parser.add_argument("--zone", metavar="Z", help="availability zone, which clients see as rack")
    parser.add_argument(
        "--durability",
        choices=("fsync", "page-cache"),
        help="what an acknowledgement means: the record is on the device (default), or in the kernel as in Kafka",
    )
    parser.add_argument("--config", metavar="FILE", help="settings in the syntax of Kafka's server.properties")
    parser.add_argument(
        "--set", metavar="NAME=VALUE", action="append", default=[], help="one setting under Kafka's name"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    from bytemq.runtime import garbage_collection

    garbage_collection.calm()  # what is imported now stays
    from bytemq.cli.serve import serve
    from bytemq.config.sources import unknown_variables
    from bytemq.runtime.logging import configure

    config = node_config(options)
    configure(level=config.bytemq_log_level, log_format="json" if config.bytemq_log_format == "json" else "logfmt")
    for name in config.unknown:
        print(f"bytemq: the setting {name} is not known and has no effect", file=sys.stderr)
    for name in unknown_variables(os.environ, (BOOTSTRAP_VARIABLE,)):
        print(f"bytemq: no setting is known for the environment's {name}", file=sys.stderr)
    if options.brokers is not None:
        return _run_many(options, config)
    return serve(config)


def _run_many(options: argparse.Namespace, config: BrokerConfig) -> int:
    from bytemq.cli.brokers import Plan, run_brokers

    if config.bytemq_metadata or config.bytemq_node_id_auto:
        raise Failed(
            "--brokers N is for brokers that share the metadata of this machine; start each one by itself instead"
        )
    shared: list[str] = []
    for name in ("zone", "durability", "config"):
        if getattr(options, name) is not None:
            shared += [f"--{name}", getattr(options, name)]
    for setting in options.set:
        shared += ["--set", setting]
    return run_brokers(
        Plan(
            options.brokers,
            config.node_id,
            [str(endpoint) for endpoint in config.endpoints],
            [str(endpoint) for endpoint in config.advertised_endpoints] if config.advertised_listeners else [],
            config.bytemq_http_listen,
            Path(config.data_dir),
            config.bytemq_storage,
            shared,
        )
    )


def node_config(options: argparse.Namespace) -> BrokerConfig:
    """File, environment and options put together and checked. Raises InvalidConfig."""
    from bytemq.config import BrokerConfig
    from bytemq.config.broker_rules import check_broker_config
    from bytemq.config.sources import configs_of_environment, configs_of_flags, read_config_file

    static: dict[str, str] = {}
    if options.config:
        static.update(read_config_file(Path(options.config)))
    static.update(configs_of_environment(os.environ))
    static.update(configs_of_flags(options.set))
    static.update(_configs_of_options(options))
    config = BrokerConfig(static)
    check_broker_config(config)
    return config.without_node_id() if config.bytemq_node_id_auto else config


def _configs_of_options(options: argparse.Namespace) -> dict[str, str]:
    from bytemq.config.listeners import parse_endpoint

    given = {
        "bytemq.data.dir": options.data,
        "bytemq.metadata": options.metadata,
        "bytemq.storage": options.storage,
        "bytemq.scratch.dir": options.scratch,
        "node.id": None if options.id == "auto" else options.id,
        "bytemq.node.id.auto": "true" if options.id == "auto" else None,
        "broker.rack": options.zone or None,  # a label that is not there, where it comes from one
        "bytemq.roles": options.roles,
        "bytemq.durability": options.durability,
    }
    for name, addresses in (("listeners", options.listen), ("advertised.listeners", options.advertise)):
        if addresses:
            given[name] = ",".join(str(parse_endpoint(address, setting=name)) for address in addresses)
    return {name: value for name, value in given.items() if value is not None}
