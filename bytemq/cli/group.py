"""`bytemq group`: list, describe, reset and delete consumer groups."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from bytemq.cli import reset_offsets
from bytemq.cli.group_offsets import add_group_names, committed_offsets, described, group_names, listed_offsets
from bytemq.cli.options import Commands, Failed, add_json_option, add_server_options
from bytemq.cli.output import show

if TYPE_CHECKING:
    from confluent_kafka.admin import AdminClient

_EXAMPLES = """\
examples:
  bytemq group list
  bytemq group describe my-group
  bytemq group describe my-group --members
  bytemq group reset-offsets my-group --topic clicks --to-earliest              shows what would change
  bytemq group reset-offsets my-group --topic clicks --to-earliest --execute
  bytemq group delete my-group
"""
_OFFSET_COLUMNS = (
    "group",
    "topic",
    "partition",
    "current_offset",
    "log_end_offset",
    "lag",
    "consumer_id",
    "host",
    "client_id",
)

_NOT_DELETED = {
    "GROUP_ID_NOT_FOUND": "there is no group {}; `bytemq group list` shows what there is",
    "NON_EMPTY_GROUP": "group {} has members: stop its consumers first",
}


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser(
        "group", help="list, describe, reset, delete consumer groups", description="Consumer groups.", epilog=_EXAMPLES
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="list groups", description="List groups.")
    add_server_options(listing)
    add_json_option(listing)
    listing.set_defaults(run=run_list)
    describe = actions.add_parser(
        "describe",
        help="offsets and lag, or members",
        description="Show the committed offsets of groups and how far they lag behind, or their members.",
    )
    add_group_names(describe)
    describe.add_argument("--members", action="store_true", help="members and what is assigned to them")
    add_server_options(describe)
    add_json_option(describe)
    describe.set_defaults(run=run_describe)
    reset_offsets.add_parser(actions)
    delete = actions.add_parser("delete", help="delete groups", description="Delete groups without members.")
    add_group_names(delete)
    add_server_options(delete)
    delete.set_defaults(run=run_delete)


def run_list(options: argparse.Namespace) -> None:
    from bytemq.cli.client import admin_client, result

    client = admin_client(options)  # in a variable: its calls are cancelled when it is collected
    listed = result(client.list_consumer_groups())
    rows = [
        {
            "group": group.group_id,
            "state": group.state.name.lower(),
            "type": group.type.name.lower(),
            "is_simple": group.is_simple_consumer_group,
        }
        for group in sorted(listed.valid, key=lambda group: str(group.group_id))
    ]
    if listed.errors and not rows:
        raise Failed(f"groups cannot be listed: {listed.errors[0]}")
    show(rows, ("group", "state", "type"), as_json=options.json)


def run_describe(options: argparse.Namespace) -> None:
    from bytemq.cli.client import admin_client

    names = group_names(options)
    client = admin_client(options)
    rows: list[dict[str, Any]] = []
    for name in names:
        description = described(client, name)
        found = _member_rows(description) if options.members else _offset_rows(client, name, description)
        if not found:
            what = "members" if options.members else "committed offsets and no members"
            print(f"Group {name} has no {what}.", file=sys.stderr)
        rows += found
    if options.members:
        columns: tuple[str, ...] = ("group", "consumer_id", "instance_id", "host", "client_id", "assignment")
    else:
        columns = _OFFSET_COLUMNS
    show(rows, columns, as_json=options.json)


def _offset_rows(client: AdminClient, name: str, description: Any) -> list[dict[str, Any]]:
    from confluent_kafka.admin import OffsetSpec

    committed = committed_offsets(client, name)
    owners = {
        (at.topic, at.partition): member
        for member in description.members
        for at in (member.assignment.topic_partitions if member.assignment is not None else ())
    }
    partitions = sorted(committed.keys() | owners.keys())
    ends = listed_offsets(client, OffsetSpec.latest(), partitions) if partitions else {}
    rows = []
    for at in partitions:
        current, end, owner = committed.get(at), ends.get(at), owners.get(at)
        rows.append(
            {
                "group": name,
                "topic": at[0],
                "partition": at[1],
                "current_offset": current,
                "log_end_offset": end,
                "lag": None if current is None or end is None else max(end - current, 0),
                "consumer_id": owner.member_id if owner else None,
                "host": owner.host if owner else None,
                "client_id": owner.client_id if owner else None,
            }
        )
    return rows


def _member_rows(description: Any) -> list[dict[str, Any]]:
    return [
        {
            "group": description.group_id,
            "consumer_id": member.member_id,
            "instance_id": member.group_instance_id,
            "host": member.host,
            "client_id": member.client_id,
            "assignment": [f"{at.topic}:{at.partition}" for at in member.assignment.topic_partitions],
        }
        for member in sorted(description.members, key=lambda member: str(member.member_id))
    ]


def run_delete(options: argparse.Namespace) -> None:
    from confluent_kafka import KafkaException

    from bytemq.cli.client import admin_client, failure, raise_all

    names = group_names(options)
    client = admin_client(options)
    failures = []
    for name, future in client.delete_consumer_groups(names).items():
        try:
            future.result()
        except KafkaException as error:
            failures.append(_NOT_DELETED.get(error.args[0].name(), f"{{}}: {failure(error)}").format(name))
        else:
            print(f"Deleted group {name}.")
    raise_all(failures)
