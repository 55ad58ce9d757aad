"""What a Fetch finds for each of its partitions: something to read or to wait for, or an answer without records.

Owns: the checks of Fetch on each partition (leader epochs, KIP-320; preferred replicas, KIP-392). Must not: read, or
wait.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bytemq.broker.context import Broker
from bytemq.broker.fetch_sessions import WantedPartition
from bytemq.broker.followers import Beginning
from bytemq.broker.log.arrivals import Arrival
from bytemq.broker.log.followed_partition import FollowedPartition
from bytemq.broker.log.partition import Partition
from bytemq.broker.log.partitions import Entry, Opening
from bytemq.broker.log.waiters import Awaited
from bytemq.broker.partition_lookup import (
    Readable,
    locate_to_read,
    preferred_reader,
    reader_of,
    reads_from_owner,
    stays,
)
from bytemq.protocol.error_codes import ErrorCode
from bytemq.protocol.fetch import PREFERRED_REPLICA_FROM, FetchRequest, PartitionData

Found = Readable | PartitionData | None
"""None: it is being opened, and nothing is known of it yet."""
Unopened = Opening | Arrival | Beginning


class FetchLookup:
    """Of one request. Nothing that was found is kept: partitions come and go between two looks."""

    __slots__ = ("_broker", "_is_plain", "_openings", "_reader", "_refuses_all", "_unbegun")

    def __init__(self, broker: Broker, request: FetchRequest, api_version: int) -> None:
        self._broker = broker
        self._refuses_all = request.replica_id >= 0  # no broker is a replica of another, nor of itself
        may_be_sent_on = api_version >= PREFERRED_REPLICA_FROM
        self._reader = reader = reader_of(broker, request.rack_id, may_be_sent_on=may_be_sent_on)
        self._is_plain = not self._refuses_all and reads_from_owner(broker, reader)
        self._openings: dict[WantedPartition, ErrorCode | None] = {}
        """Those that this fetch waits for, and those that could not be opened."""
        self._unbegun: ErrorCode | None = ErrorCode.NOT_LEADER_OR_FOLLOWER
        """What is answered of one that is neither: it has come back since this fetch has looked for them."""

    @property
    def reader_stays(self) -> bool:
        return stays(self._broker, self._reader)

    def all(self, wanted: Sequence[WantedPartition]) -> tuple[list[Found], list[tuple[WantedPartition, Unopened]]]:
        """For each partition what can be read, or what is answered; and those that would have to be opened."""
        found: list[Found] = []
        unopened: list[tuple[WantedPartition, Unopened]] = []
        table, is_plain = self._broker.partitions, self._is_plain
        entries: Mapping[int, Entry] = {}
        name: str | None = None
        topic_id: bytes | None = None
        for one in wanted:
            if one.name != name or one.topic_id != topic_id:
                name, topic_id = one.name, one.topic_id
                entries = table.of_topic(name, topic_id)
            entry = entries.get(one.index)
            if (
                is_plain
                and type(entry) is Partition
                and one.last_fetched_epoch < 0
                and (one.current_leader_epoch < 0 or one.current_leader_epoch == entry.leader_epoch)
            ):
                found.append(entry)
                continue
            located = self._locate(one)
            if isinstance(located, Awaited):
                unopened.append((one, located))
            found.append(self._checked(one, located))
        return found, unopened

    def one(self, wanted: WantedPartition) -> Found:
        """The partition, or the answer where there is none to read."""
        return self._checked(wanted, self._locate(wanted))

    def unopened(self, wanted: WantedPartition) -> Unopened | None:
        """What has to be waited for before the partition can be read."""
        located = self._locate(wanted)
        return located if isinstance(located, Awaited) else None

    def begins_to_open(self) -> None:
        """One after the other: as long as that goes on there is nothing to be said of those that are not open."""
        self._unbegun = None

    def has_begun_to_open(self) -> None:
        self._unbegun = ErrorCode.NOT_LEADER_OR_FOLLOWER

    def begun_to_open(self, wanted: WantedPartition) -> None:
        """As long as it is not open there is nothing to be said of it."""
        self._openings[wanted] = None

    def opened(self, wanted: WantedPartition, outcome: Readable | ErrorCode) -> None:
        """An error is answered as long as the partition is not there."""
        if isinstance(outcome, ErrorCode):
            self._openings[wanted] = outcome
        else:
            del self._openings[wanted]

    def _locate(self, wanted: WantedPartition) -> Readable | Unopened | ErrorCode:
        return locate_to_read(self._broker, self._reader, wanted.name, wanted.topic_id, wanted.index)

    def _checked(self, wanted: WantedPartition, found: Readable | Unopened | ErrorCode) -> Found:
        if self._refuses_all:
            return PartitionData(wanted.index, ErrorCode.NOT_LEADER_OR_FOLLOWER)
        if isinstance(found, Awaited):
            error = self._openings.get(wanted, self._unbegun)
            return None if error is None else PartitionData(wanted.index, error)
        if isinstance(found, ErrorCode):
            return PartitionData(wanted.index, found, aborted_transactions=())
        if wanted.current_leader_epoch >= 0:
            error = found.check_leader_epoch(wanted.current_leader_epoch)
            if error is not ErrorCode.NONE:
                return PartitionData(wanted.index, error)
        if isinstance(found, FollowedPartition):
            if wanted.fetch_offset > found.high_watermark:
                return found  # what its epoch is will be known when that is
        elif found.log_start_offset <= wanted.fetch_offset <= found.high_watermark:
            preferred = preferred_reader(self._broker, self._reader, found)
            if preferred >= 0:
                return _without_records(found, wanted)._replace(preferred_read_replica=preferred)  # KIP-392
        if wanted.last_fetched_epoch >= 0:
            return _diverging(found, wanted) or found
        return found


def _without_records(found: Readable, wanted: WantedPartition) -> PartitionData:
    return PartitionData(
        wanted.index, ErrorCode.NONE, found.high_watermark, found.last_stable_offset, found.log_start_offset
    )


def _diverging(partition: Readable, wanted: WantedPartition) -> PartitionData | None:
    """KIP-320, KIP-595: the answer to a client whose last epoch ends below the offset that it asks for."""
    end = partition.offset_for_leader_epoch(wanted.last_fetched_epoch, -1)
    if end.error is not ErrorCode.NONE:
        return PartitionData(wanted.index, end.error)
    if end.leader_epoch < 0 or end.end_offset < 0:
        return PartitionData(wanted.index, ErrorCode.OFFSET_OUT_OF_RANGE)
    if end.leader_epoch >= wanted.last_fetched_epoch and end.end_offset >= wanted.fetch_offset:
        return None
    return _without_records(partition, wanted)._replace(diverging_epoch=(end.leader_epoch, end.end_offset))
