"""What `bytemq group` and `bytemq group reset-offsets` share: naming groups, and asking for their offsets."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from bytemq.cli.options import Failed

if TYPE_CHECKING:
    from confluent_kafka.admin import AdminClient


def add_group_names(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", metavar="GROUP", nargs="*", help="id of a group")
    parser.add_argument("--group", metavar="GROUP", action="append", default=[], help="as Kafka's tools name it")
    parser.set_defaults(parser=parser)


def group_names(options: argparse.Namespace) -> list[str]:
    """The groups named either way; ends the program with exit code 2 when there is none."""
    names = list(dict.fromkeys([*options.names, *options.group]))
    if not names:
        options.parser.error("name a group")
    return names


def described(client: AdminClient, name: str) -> Any:
    """State and members of an existing group. Raises Failed."""
    from bytemq.cli.client import result

    description = result(client.describe_consumer_groups([name])[name])
    if description.state.name == "DEAD":
        raise Failed(f"there is no group {name}; `bytemq group list` shows what there is")
    return description


def committed_offsets(client: AdminClient, name: str) -> dict[tuple[str, int], int]:
    """What the group has committed, by topic and partition."""
    from confluent_kafka import ConsumerGroupTopicPartitions

    from bytemq.cli.client import result

    listed = result(client.list_consumer_group_offsets([ConsumerGroupTopicPartitions(name)])[name])
    return {(at.topic, at.partition): at.offset for at in listed.topic_partitions if at.offset >= 0}


def listed_offsets(client: AdminClient, spec: Any, partitions: list[tuple[str, int]]) -> dict[tuple[str, int], int]:
    """ListOffsets for many partitions; one that no longer exists is left out."""
    from confluent_kafka import KafkaException, TopicPartition

    found = {}
    requests = client.list_offsets({TopicPartition(topic, partition): spec for topic, partition in partitions})
    for at, future in requests.items():
        try:
            found[at.topic, at.partition] = future.result().offset
        except KafkaException:
            continue
    return found
