"""`bytemq log-level`: show or change what a running node writes to its log."""

from __future__ import annotations

import argparse

from bytemq.cli.options import Commands, Failed, add_json_option, add_server_options
from bytemq.cli.output import show

LEVELS = ("DEBUG", "INFO", "WARN", "ERROR")
_BROKER_LOGGER = 8
_SET = 0

_DESCRIPTION = """\
Show the levels of a running node's loggers, or set one. A level set so holds until the node stops;
the setting bytemq.log.level is for good.
"""
_EXAMPLES = """\
examples:
  bytemq log-level
  bytemq log-level debug
  bytemq log-level debug --logger broker.server
"""


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser(
        "log-level", help="show or change a running node's log level", description=_DESCRIPTION, epilog=_EXAMPLES
    )
    parser.add_argument("level", metavar="LEVEL", nargs="?", type=str.upper, choices=LEVELS, help=", ".join(LEVELS))
    parser.add_argument("--logger", metavar="NAME", default="root", help="one part of the node (default: all of it)")
    parser.add_argument("--id", metavar="N", help="the node, where the address leads to several")
    add_server_options(parser)
    add_json_option(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    node_id = options.id or _only_node(options)
    if options.level is not None:
        _set_level(options, node_id)
    show(_levels(options, node_id), ("logger", "level"), as_json=options.json)


def _only_node(options: argparse.Namespace) -> str:
    from bytemq.cli.wire import ask
    from bytemq.protocol.api_keys import ApiKey
    from bytemq.protocol.messages.describe_cluster import DescribeClusterRequest, DescribeClusterResponse

    answer = ask(options, ApiKey.DESCRIBE_CLUSTER, 0, DescribeClusterRequest(), DescribeClusterResponse)
    if len(answer.brokers) != 1:
        known = ", ".join(str(broker.broker_id) for broker in answer.brokers)
        raise Failed(f"say which node with --id; there are {known}")
    return str(answer.brokers[0].broker_id)


def _set_level(options: argparse.Namespace, node_id: str) -> None:
    from bytemq.cli.wire import ask
    from bytemq.protocol.api_keys import ApiKey
    from bytemq.protocol.messages.incremental_alter_configs import (
        AlterableConfig,
        AlterConfigsResource,
        IncrementalAlterConfigsRequest,
        IncrementalAlterConfigsResponse,
    )

    change = AlterableConfig(name=options.logger, config_operation=_SET, value=options.level)
    resource = AlterConfigsResource(resource_type=_BROKER_LOGGER, resource_name=node_id, configs=[change])
    request = IncrementalAlterConfigsRequest(resources=[resource])
    answer = ask(options, ApiKey.INCREMENTAL_ALTER_CONFIGS, 1, request, IncrementalAlterConfigsResponse)
    failed = answer.responses[0]
    if failed.error_code:
        raise Failed(failed.error_message or f"the node answered error {failed.error_code}")


def _levels(options: argparse.Namespace, node_id: str) -> list[dict[str, object]]:
    from bytemq.cli.wire import ask
    from bytemq.protocol.api_keys import ApiKey
    from bytemq.protocol.messages.describe_configs import (
        DescribeConfigsRequest,
        DescribeConfigsResource,
        DescribeConfigsResponse,
    )

    resource = DescribeConfigsResource(resource_type=_BROKER_LOGGER, resource_name=node_id)
    request = DescribeConfigsRequest(resources=[resource])
    result = ask(options, ApiKey.DESCRIBE_CONFIGS, 4, request, DescribeConfigsResponse).results[0]
    if result.error_code:
        raise Failed(result.error_message or f"the node answered error {result.error_code}")
    return [{"logger": entry.name, "level": entry.value} for entry in result.configs]
