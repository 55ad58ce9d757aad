"""What one Fetch has read so far, until it is sent.

Owns: the records and errors that go into one answer, and their count. Must not: decide when they are enough.
"""

from __future__ import annotations

from collections.abc import Sequence

from bytemq.broker.context import Broker
from bytemq.broker.exchange import Exchange
from bytemq.broker.fetch_sessions import FetchContext, WantedPartition, group_by_topic
from bytemq.broker.log.followed_partition import FollowedPartition
from bytemq.broker.log.results import Fetched
from bytemq.broker.partition_lookup import HINTED_ERRORS, Readable, current_leader, node_endpoints
from bytemq.metadata.values import NO_BROKER
from bytemq.protocol.error_codes import ErrorCode
from bytemq.protocol.fetch import LEADER_HINTS_FROM, PartitionData, as_partition_data, encode_fetch_response
from bytemq.protocol.leader_hints import NodeEndpoint
from bytemq.types import PartitionId, TopicId


class FetchAnswer:
    """Partitions in the order in which they are added."""

    __slots__ = ("_answers", "_broker", "_exchange", "_says_all", "_sizes", "_stays", "must_be_sent", "total_bytes")

    def __init__(self, broker: Broker, exchange: Exchange, *, says_all: bool, stays: bool) -> None:
        """`says_all`: each request of the client's says all that it wants, here, as far as it knows. `stays`: whom it
        is for would read here whoever owned the partitions, which is none of their load then.
        """
        self._broker = broker
        self._exchange = exchange
        self._says_all = says_all
        self._stays = stays
        self._answers: list[tuple[WantedPartition, PartitionData]] = []
        self._sizes: list[tuple[Readable, int]] = []  # of what the answers hold
        self.total_bytes = 0
        self.must_be_sent = False
        """It tells something that the client need not wait for."""

    def forget(self) -> None:
        """What was read so far is not what is answered."""
        self._answers, self._sizes = [], []
        self.total_bytes = 0

    def add(self, wanted: WantedPartition, partition: Readable, fetched: Fetched, *, is_last: bool) -> None:
        """`is_last`: nothing that comes later is waited for."""
        if fetched.error is not ErrorCode.NONE:
            self.refuse(wanted, PartitionData(wanted.index, fetched.error))
            return
        _, buffers, size_bytes, high_watermark, last_stable_offset, log_start_offset, aborted = fetched
        if is_last and wanted.fetch_offset > high_watermark:  # it did not come to be known here in time
            self.refuse(wanted, PartitionData(wanted.index, ErrorCode.OFFSET_NOT_AVAILABLE))
            return
        self.total_bytes += size_bytes
        watermarks = (high_watermark, last_stable_offset, log_start_offset)
        answer = as_partition_data((wanted.index, 0, *watermarks, buffers, aborted, -1, None, None))
        self._answers.append((wanted, answer))
        if size_bytes:
            self._sizes.append((partition, size_bytes))

    def add_unknown(self, wanted: WantedPartition) -> None:
        """Nothing is known of the partition yet: neither an error nor a watermark."""
        self._answers.append((wanted, PartitionData(wanted.index, ErrorCode.NONE, aborted_transactions=())))

    def refuse(self, wanted: WantedPartition, answer: PartitionData) -> None:
        """No records of this partition, but an error, or where to read it."""
        if answer.error_code in HINTED_ERRORS and self._exchange.api_version >= LEADER_HINTS_FROM:
            leader = current_leader(self._broker, wanted.name, wanted.topic_id, wanted.index)
            told = self._told(wanted) if answer.error_code == ErrorCode.NOT_LEADER_OR_FOLLOWER else None
            if told is not None and leader is not None and leader.leader_id not in (NO_BROKER, self._broker.node_id):
                if self._exchange.client.connection_id in told:
                    self.add_unknown(wanted)
                    return
                answer = PartitionData(wanted.index, ErrorCode.NONE, aborted_transactions=())
            answer = answer._replace(current_leader=leader)
        self.must_be_sent = True
        self._answers.append((wanted, answer))

    def _told(self, wanted: WantedPartition) -> set[str] | None:
        """Who knows where a partition went that was here a moment ago, if this client may be told without an error."""
        if not self._says_all or wanted.topic_id is None:
            return None
        return self._broker.partitions.departed.told(PartitionId(TopicId(wanted.topic_id), wanted.index))

    def send(self, context: FetchContext) -> None:
        exchange, broker = self._exchange, self._broker
        traffic, stays = broker.traffic, self._stays
        counters = traffic.bytes_out
        for partition, size_bytes in self._sizes:
            if partition.topic in counters:
                counters[partition.topic].value += size_bytes
            else:
                traffic.count_out(partition.topic, size_bytes)
            if stays or type(partition) is FollowedPartition:
                traffic.near_bytes_out += size_bytes
                traffic.near_answers += 1
            else:
                partition.traffic.bytes_out += size_bytes
                partition.traffic.requests += 1
        error, session_id, answers = context.finish(self._answers, broker.clock.wall_ms())
        endpoints: Sequence[NodeEndpoint] = ()
        if self.must_be_sent and exchange.api_version >= LEADER_HINTS_FROM:
            endpoints = node_endpoints(broker, exchange.listener, [answer.current_leader for _, answer in answers])
            self._remember_who_was_told()
        exchange.respond(
            *encode_fetch_response(
                exchange.api_version,
                group_by_topic(answers),
                error_code=error,
                session_id=session_id,
                node_endpoints=endpoints,
            )
        )

    def _remember_who_was_told(self) -> None:
        for wanted, answer in self._answers:
            if answer.current_leader is not None and not answer.error_code:
                told = self._told(wanted)
                if told is not None:
                    told.add(self._exchange.client.connection_id)
