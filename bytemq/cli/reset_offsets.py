"""`bytemq group reset-offsets`: where a group shall go on reading. Kafka's scenarios; shows, and changes only with
--execute.
"""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from bytemq.cli.group_offsets import add_group_names, committed_offsets, described, group_names, listed_offsets
from bytemq.cli.options import Commands, Failed, add_json_option, add_server_options
from bytemq.cli.output import show

if TYPE_CHECKING:
    from confluent_kafka.admin import AdminClient

Partition = tuple[str, int]

_DESCRIPTION = """\
Set the committed offsets of a group that has no running members. One of the scenarios says where to; without
--execute the new offsets are only shown. New offsets stay between the first and the last offset of a partition.
"""
_EXAMPLES = """\
examples:
  bytemq group reset-offsets my-group --topic clicks --to-earliest
  bytemq group reset-offsets my-group --topic clicks:0,2 --to-offset 100 --execute
  bytemq group reset-offsets my-group --all-topics --shift-by -10 --execute
  bytemq group reset-offsets my-group --topic clicks --to-datetime 2026-01-31T00:00:00.000 --execute   (UTC)
  bytemq group reset-offsets my-group --topic clicks --by-duration PT1H --execute                      (an hour ago)
"""
_REFUSED_STATES = ("STABLE", "PREPARING_REBALANCING", "COMPLETING_REBALANCING", "ASSIGNING", "RECONCILING")


class Bounds(NamedTuple):
    """What is in a partition, and what the group has committed there."""

    earliest: int
    latest: int
    current: int | None


def add_parser(actions: Commands) -> None:
    parser = actions.add_parser(
        "reset-offsets", help="set committed offsets", description=_DESCRIPTION, epilog=_EXAMPLES
    )
    add_group_names(parser)
    parser.add_argument(
        "--topic",
        metavar="TOPIC[:P,P...]",
        action="append",
        default=[],
        help="a topic, or some partitions of it; may be repeated",
    )
    parser.add_argument("--all-topics", action="store_true", help="every topic that the group has offsets of")
    scenario = parser.add_mutually_exclusive_group(required=True)
    scenario.add_argument("--to-earliest", action="store_true", help="to the first record")
    scenario.add_argument("--to-latest", action="store_true", help="to the end")
    scenario.add_argument("--to-current", action="store_true", help="to what is committed now")
    scenario.add_argument("--to-offset", type=int, metavar="N", help="to this offset")
    scenario.add_argument("--shift-by", type=int, metavar="N", help="forward, or back if negative, by so many records")
    scenario.add_argument("--to-datetime", metavar="TIME", help="to the first record from 'YYYY-MM-DDTHH:mm:SS.sss' on")
    scenario.add_argument("--by-duration", metavar="DURATION", help="back to so long ago, as 'PnDTnHnMnS'")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--dry-run", action="store_true", help="only show the new offsets (the default)")
    mode.add_argument("--execute", action="store_true", help="set them")
    add_server_options(parser)
    add_json_option(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    from bytemq.cli.client import admin_client

    names = group_names(options)
    if bool(options.topic) == options.all_topics:
        options.parser.error("say which topics: either --topic TOPIC or --all-topics")
    timestamp_ms = wanted_timestamp_ms(options)
    client = admin_client(options)
    rows = []
    for name in names:
        state = described_or_new(client, name) if not options.all_topics else described(client, name).state.name
        if options.execute and state in _REFUSED_STATES:
            raise Failed(
                f"offsets of group {name} can only be reset while it has no members, and now it is "
                f"{state.lower()}: stop its consumers first"
            )
        new = _new_offsets(client, name, options, timestamp_ms)
        if options.execute:
            _commit(client, name, new)
        rows += [
            {"group": name, "topic": topic, "partition": partition, "new_offset": offset}
            for (topic, partition), offset in sorted(new.items())
        ]
    show(rows, ("group", "topic", "partition", "new_offset"), as_json=options.json)
    if not options.execute:
        print("Nothing is changed yet; add --execute to set these offsets.", file=sys.stderr)


def described_or_new(client: AdminClient, name: str) -> str:
    """State of the group; a group that does not exist gets its first offsets by being reset."""
    try:
        state: str = described(client, name).state.name
    except Failed:
        return "DEAD"
    return state


def wanted_timestamp_ms(options: argparse.Namespace, now: datetime | None = None) -> int | None:
    """The time that --to-datetime or --by-duration names; None for other scenarios. Raises Failed."""
    if options.to_datetime is not None:
        try:
            moment = datetime.fromisoformat(options.to_datetime)
        except ValueError:
            raise Failed(f"{options.to_datetime!r} is no time: write it like 2026-01-31T12:00:00.000") from None
        moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
        return int(moment.timestamp() * 1000)
    if options.by_duration is not None:
        from bytemq.config.values import duration_ms

        ago_ms = duration_ms(options.by_duration)
        if ago_ms is None:
            raise Failed(f"{options.by_duration!r} is no duration: write it like PT1H or P1DT12H")
        return int((now or datetime.now(UTC)).timestamp() * 1000) - ago_ms
    return None


def _new_offsets(
    client: AdminClient, name: str, options: argparse.Namespace, timestamp_ms: int | None
) -> dict[Partition, int]:
    from confluent_kafka.admin import OffsetSpec

    committed = committed_offsets(client, name)
    partitions = sorted(committed) if options.all_topics else _named_partitions(client, options.topic)
    if not partitions:
        raise Failed(f"group {name} has no committed offsets")
    earliest = listed_offsets(client, OffsetSpec.earliest(), partitions)
    latest = listed_offsets(client, OffsetSpec.latest(), partitions)
    by_time: dict[Partition, int] = {}
    if timestamp_ms is not None:
        by_time = listed_offsets(client, OffsetSpec.for_timestamp(timestamp_ms), partitions)
    new = {}
    for at in partitions:
        if at not in earliest or at not in latest:
            raise Failed(f"the offsets of partition {at[0]}:{at[1]} cannot be read; does it exist?")
        bounds = Bounds(earliest[at], latest[at], committed.get(at))
        offset = new_offset(options, bounds, by_time.get(at, -1))
        if offset is None:
            raise Failed(f"group {name} has committed nothing for {at[0]}:{at[1]}, so there is nothing to go by")
        new[at] = offset
    return new


def new_offset(options: argparse.Namespace, bounds: Bounds, found_by_time: int) -> int | None:
    """Where the scenario leads in one partition; None when it needs a committed offset and there is none.

    `found_by_time` is the offset of the first record at or after the wanted time, -1 if there is none.
    """
    if options.to_earliest:
        return bounds.earliest
    if options.to_latest:
        return bounds.latest
    if options.to_datetime is not None or options.by_duration is not None:
        return found_by_time if found_by_time >= 0 else bounds.latest
    if options.to_offset is not None:
        return min(max(int(options.to_offset), bounds.earliest), bounds.latest)
    if options.to_current:
        return bounds.latest if bounds.current is None else bounds.current
    if bounds.current is None:
        return None
    return min(max(bounds.current + int(options.shift_by), bounds.earliest), bounds.latest)


def _named_partitions(client: AdminClient, texts: list[str]) -> list[Partition]:
    from bytemq.cli.client import require_topics

    wanted = [text.partition(":") for text in texts]
    topics = require_topics(client, [name for name, _, _ in wanted])
    found: dict[Partition, None] = {}
    for name, _, numbers in wanted:
        existing = sorted(topics[name].partitions)
        chosen = [int(part) if part.strip().isdigit() else -1 for part in numbers.split(",")] if numbers else existing
        for partition in chosen:
            if partition not in topics[name].partitions:
                raise Failed(f"there is no partition {name}:{numbers}; topic {name} has 0 to {len(existing) - 1}")
            found[name, partition] = None
    return list(found)


def _commit(client: AdminClient, name: str, offsets: dict[Partition, int]) -> None:
    from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition

    from bytemq.cli.client import result

    places = [TopicPartition(topic, partition, offset) for (topic, partition), offset in offsets.items()]
    request = [ConsumerGroupTopicPartitions(name, places)]
    answer: Any = result(client.alter_consumer_group_offsets(request)[name])
    failed = [place for place in answer.topic_partitions if place.error is not None]
    if failed:
        raise Failed(f"offset of {failed[0].topic}:{failed[0].partition} was not set: {failed[0].error.str()}")
