"""`bytemq topic`: create, list, describe, alter and delete topics."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from bytemq.cli.options import Commands, Failed, add_json_option, add_server_options, assignments, whole_number
from bytemq.cli.output import show, show_json

if TYPE_CHECKING:
    from confluent_kafka.admin import AdminClient

_EXAMPLES = """\
examples:
  bytemq topic create clicks --partitions 3 --config retention.ms=86400000
  bytemq topic list
  bytemq topic describe clicks
  bytemq topic alter clicks --partitions 6 --config cleanup.policy=compact --delete-config retention.ms
  bytemq topic delete clicks
"""

_PARTITIONS = whole_number(1, 100_000)
"""What the client library lets through."""


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser(
        "topic", help="create, list, describe, alter, delete topics", description="Topics.", epilog=_EXAMPLES
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    create = _add_action(actions, "create", run_create, "create topics", names="+")
    create.add_argument(
        "--partitions", type=_PARTITIONS, metavar="N", help="number of partitions (default: num.partitions)"
    )
    create.add_argument(
        "--replication-factor",
        type=whole_number(1, 32767),
        metavar="N",
        help="accepted for Kafka's sake; storage keeps the copies",
    )
    _add_config_option(create)
    create.add_argument("--if-not-exists", action="store_true", help="no failure for topics that are there")
    listing = _add_action(actions, "list", run_list, "list topics", names=None)
    listing.add_argument("--exclude-internal", action="store_true", help="leave out __consumer_offsets and the like")
    add_json_option(listing)
    add_json_option(_add_action(actions, "describe", run_describe, "show partitions and configs", names="*"))
    alter = _add_action(actions, "alter", run_alter, "add partitions, change configs", names="+")
    alter.add_argument("--partitions", type=_PARTITIONS, metavar="N", help="the new, higher number of partitions")
    _add_config_option(alter)
    alter.add_argument(
        "--delete-config", metavar="NAME", action="append", default=[], help="back to the default; may be repeated"
    )
    delete = _add_action(actions, "delete", run_delete, "delete topics and their data", names="+")
    delete.add_argument("--if-exists", action="store_true", help="no failure for topics that are not there")


def _add_action(actions: Commands, name: str, run: Any, text: str, names: str | None) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(name, help=text, description=text.capitalize() + ".")
    if names is not None:
        parser.add_argument("names", metavar="TOPIC", nargs="*", help="name of a topic")
        parser.add_argument("--topic", metavar="TOPIC", action="append", default=[], help="as Kafka's tools name it")
    add_server_options(parser)
    parser.set_defaults(run=run, parser=parser, at_least_one=names == "+")
    return parser


def _add_config_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", metavar="NAME=VALUE", action="append", default=[], help="a topic config; may be repeated"
    )


def _names(options: argparse.Namespace) -> list[str]:
    names = list(dict.fromkeys([*options.names, *options.topic]))
    if options.at_least_one and not names:
        options.parser.error("name at least one topic")
    return names


def run_create(options: argparse.Namespace) -> None:
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import NewTopic

    from bytemq.cli.client import TIMEOUT_S, admin_client, failure, raise_all

    names = _names(options)
    configs = assignments(options.config)
    client = admin_client(options)
    wanted = [
        NewTopic(
            name,
            num_partitions=options.partitions or -1,
            replication_factor=options.replication_factor or -1,
            config=configs,
        )
        for name in names
    ]
    failures = []
    for name, future in client.create_topics(wanted, operation_timeout=TIMEOUT_S).items():
        try:
            future.result()
        except KafkaException as error:
            if error.args[0].name() == "TOPIC_ALREADY_EXISTS" and options.if_not_exists:
                print(f"Topic {name} exists.")
            else:
                failures.append(str(failure(error)))
        else:
            print(f"Created topic {name}.")
    raise_all(failures)


def run_list(options: argparse.Namespace) -> None:
    from bytemq.cli.client import admin_client, require_topics

    client = admin_client(options)
    names = sorted(_all_topics(client))
    topics = require_topics(client, names)
    shown = [name for name in names if not (options.exclude_internal and name.startswith("__"))]
    rows = [{"topic": name, "partitions": len(topics[name].partitions)} for name in shown]
    show(rows, ("topic", "partitions"), as_json=options.json)


def _all_topics(client: AdminClient) -> list[str]:
    from confluent_kafka import KafkaException

    from bytemq.cli.client import TIMEOUT_S, failure

    try:
        return list(client.list_topics(timeout=TIMEOUT_S).topics)
    except KafkaException as error:
        raise failure(error) from None


def run_describe(options: argparse.Namespace) -> None:
    from confluent_kafka import TopicCollection

    from bytemq.cli.client import admin_client, require_topics, results

    client = admin_client(options)
    names = _names(options) or sorted(_all_topics(client))
    require_topics(client, names)
    if not names:
        show([], ("topic",), as_json=options.json)
        return
    topics = results(client.describe_topics(TopicCollection(names)))
    described = [_described(topics[name], _set_configs(client, name)) for name in names]
    if options.json:
        show_json(described)
        return
    for at, topic in enumerate(described):
        if at:
            print()
        print(f"Topic {topic['topic']}  id {topic['id']}  partitions {len(topic['partitions'])}")
        for name, value in topic["configs"].items():
            print(f"  {name}={value}")
        show(topic["partitions"], ("partition", "leader", "replicas", "isr"), as_json=False)


def _described(topic: Any, configs: dict[str, str]) -> dict[str, Any]:
    partitions = [
        {
            "partition": partition.id,
            "leader": partition.leader.id if partition.leader is not None else None,
            "replicas": [node.id for node in partition.replicas],
            "isr": [node.id for node in partition.isr],
        }
        for partition in sorted(topic.partitions, key=lambda partition: partition.id)
    ]
    topic_id = str(topic.topic_id).rstrip("=").replace("+", "-").replace("/", "_")  # as Kafka writes it
    return {"topic": topic.name, "id": topic_id, "configs": configs, "partitions": partitions}


def _set_configs(client: AdminClient, name: str) -> dict[str, str]:
    """The configs that the topic itself sets."""
    from confluent_kafka.admin import ConfigResource, ConfigSource, ResourceType

    from bytemq.cli.client import results

    resource = ConfigResource(ResourceType.TOPIC, name)
    entries = results(client.describe_configs([resource]))[resource]
    own = ConfigSource.DYNAMIC_TOPIC_CONFIG.value
    return {entry.name: entry.value for entry in entries.values() if entry.source == own}


def run_alter(options: argparse.Namespace) -> None:
    from confluent_kafka.admin import NewPartitions

    from bytemq.cli.client import TIMEOUT_S, admin_client, require_topics, results

    names = _names(options)
    configs = assignments(options.config)
    if options.partitions is None and not configs and not options.delete_config:
        raise Failed("nothing to alter: give --partitions, --config or --delete-config")
    client = admin_client(options)
    require_topics(client, names)
    if options.partitions is not None:
        grown = [NewPartitions(name, options.partitions) for name in names]
        results(client.create_partitions(grown, operation_timeout=TIMEOUT_S))
    if configs or options.delete_config:
        _alter_configs(client, names, configs, options.delete_config)
    for name in names:
        print(f"Altered topic {name}.")


def _alter_configs(client: AdminClient, names: list[str], configs: dict[str, str], deleted: list[str]) -> None:
    from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

    from bytemq.cli.client import results

    resources = []
    for name in names:
        entries = [
            ConfigEntry(key, value, incremental_operation=AlterConfigOpType.SET) for key, value in configs.items()
        ]
        entries += [ConfigEntry(key, None, incremental_operation=AlterConfigOpType.DELETE) for key in deleted]
        resources.append(ConfigResource(ResourceType.TOPIC, name, incremental_configs=entries))
    results(client.incremental_alter_configs(resources))


def run_delete(options: argparse.Namespace) -> None:
    from confluent_kafka import KafkaException

    from bytemq.cli.client import TIMEOUT_S, admin_client, failure, raise_all

    names = _names(options)
    client = admin_client(options)
    failures = []
    for name, future in client.delete_topics(names, operation_timeout=TIMEOUT_S).items():
        try:
            future.result()
        except KafkaException as error:
            if error.args[0].name() != "UNKNOWN_TOPIC_OR_PART":
                failures.append(f"{name}: {failure(error)}")
            elif options.if_exists:
                print(f"There is no topic {name}.")
            else:
                failures.append(f"there is no topic {name}; `bytemq topic list` shows what there is")
        else:
            print(f"Deleted topic {name}.")
    raise_all(failures)
