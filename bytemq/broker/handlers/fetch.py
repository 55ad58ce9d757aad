"""Fetch v4-18: reads record batches, waits for more when there are too few (long poll), within sessions (KIP-227).

- The first partition that has records gives a whole batch even if that exceeds every limit; later ones keep to what is
  left of max_bytes and give whole batches only. fetch.max.bytes and the memory that is free bound the whole answer.
- The answer comes at once when it has min_bytes, or an error, or nothing is wanted, or max_wait_ms is 0; else when
  enough was committed or max_wait_ms is over.
- Negative limits and unknown isolation levels: INVALID_REQUEST (Kafka: UNKNOWN_SERVER_ERROR). A replica id that is not
  this broker's: NOT_LEADER_OR_FOLLOWER. cluster_id is ignored, as in Kafka.
- v11+: a consumer that gives its rack is sent to a broker there, if Metadata names one as a replica (KIP-392); that one
  serves what is committed. Above what it knows it waits, then answers OFFSET_NOT_AVAILABLE.
- v9+: the client's leader epoch is checked. v12+: a last fetched epoch that ends before the offset asked for gives
  diverging_epoch. v13+: topics by id, UNKNOWN_TOPIC_ID. v16+: the current leader with NOT_LEADER_OR_FOLLOWER; without a
  session, and of a partition that was here a moment ago, the leader alone, once, before that error (Kafka: the error).
"""

from bytemq.broker.context import Broker
from bytemq.broker.exchange import Exchange
from bytemq.broker.fetching.pending_fetch import PendingFetch
from bytemq.protocol.error_codes import ErrorCode
from bytemq.protocol.fetch import (
    SESSIONS_FROM,
    TOPIC_IDS_FROM,
    FetchRequest,
    PartitionData,
    decode_fetch,
    encode_fetch_response,
)

ISOLATION_LEVELS = (0, 1)


def begin(broker: Broker, exchange: Exchange) -> None:
    """Answers now what can be answered now; else PendingFetch does it later."""
    version = exchange.api_version
    request = decode_fetch(version, exchange.body)
    if not _is_valid(request):
        _refuse(exchange, request, ErrorCode.INVALID_REQUEST)
        return
    context = broker.fetch_sessions.begin(request, version >= TOPIC_IDS_FROM, broker.clock.wall_ms())
    if context.error is not ErrorCode.NONE:
        exchange.respond(*encode_fetch_response(version, (), error_code=context.error))
        return
    exchange.release_frame()  # everything was copied out of it: a long poll need not hold it
    PendingFetch(broker, exchange, request, context).start()


def _is_valid(request: FetchRequest) -> bool:
    if request.max_wait_ms < 0 or request.min_bytes < 0 or request.max_bytes < 0:
        return False
    if request.isolation_level not in ISOLATION_LEVELS:
        return False
    for _, _, partitions in request.topics:
        for one in partitions:
            if one.partition_max_bytes < 0:
                return False
    return True


def _refuse(exchange: Exchange, request: FetchRequest, code: ErrorCode) -> None:
    """An error of the whole request; where the version has no place for it, of each partition."""
    version = exchange.api_version
    if version >= SESSIONS_FROM:
        exchange.respond(*encode_fetch_response(version, (), error_code=code))
        return
    topics = [
        (name, topic_id, [PartitionData(one.partition, code) for one in partitions])
        for name, topic_id, partitions in request.topics
    ]
    exchange.respond(*encode_fetch_response(version, topics))
