"""Incremental fetch sessions (KIP-227): what each consumer wants, so that it need not say it with every request.

Owns which partitions a session holds, in which order they are read, what the client knows of them already, and which
session goes when the cache is full. Pure: time and randomness are arguments; it reads no log and builds no response.

The order rotates: a partition that gave records goes to the end, so that a busy one cannot starve the others when a
response has not room for all.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from random import Random

from bytemq.protocol.error_codes import ErrorCode
from bytemq.protocol.fetch import FetchPartition, FetchRequest, PartitionData

INITIAL_EPOCH = 0
FINAL_EPOCH = -1
NO_SESSION = 0
_MAX_INT32 = 2**31 - 1

MAX_PARTITIONS = 1_000_000
"""Of all sessions together: a slot count alone would not bound their memory."""

Key = tuple[str | bytes, int]
"""(topic name or topic id, partition index)"""


class WantedPartition:
    """One partition that a client fetches from. Sessionless fetches use it once."""

    __slots__ = (
        "current_leader_epoch",
        "fetch_offset",
        "index",
        "last_fetched_epoch",
        "log_start_offset",
        "max_bytes",
        "name",
        "sent_high_watermark",
        "topic_id",
    )

    def __init__(self, name: str | None, topic_id: bytes | None, wanted: FetchPartition) -> None:
        self.name = name
        self.topic_id = topic_id
        self.index, self.current_leader_epoch, self.fetch_offset, self.last_fetched_epoch, _, self.max_bytes = wanted
        self.sent_high_watermark = -1
        self.log_start_offset = -1

    def update(self, wanted: FetchPartition) -> None:
        _, self.current_leader_epoch, self.fetch_offset, self.last_fetched_epoch, _, self.max_bytes = wanted

    def has_news(self, answer: PartitionData) -> bool:
        """Whether an incremental answer must mention the partition; remembers what the client then knows."""
        if answer.high_watermark < 0 and not answer.error_code:
            return False  # it is not open yet
        news = bool(answer.records) or answer.preferred_read_replica >= 0
        if answer.high_watermark != self.sent_high_watermark:
            self.sent_high_watermark = answer.high_watermark
            news = True
        if answer.log_start_offset != self.log_start_offset:
            self.log_start_offset = answer.log_start_offset
            news = True
        if answer.error_code or answer.diverging_epoch is not None:
            self.sent_high_watermark = -1  # said again each time, and its end is news, too
            news = True
        return news


class FetchSession:
    """What one consumer wants; `epoch` is the one that its next request must carry."""

    __slots__ = ("created_ms", "epoch", "id", "last_used_ms", "partitions", "uses_topic_ids")

    def __init__(self, session_id: int, uses_topic_ids: bool, now_ms: int) -> None:
        self.id = session_id
        self.epoch = next_epoch(INITIAL_EPOCH)
        self.uses_topic_ids = uses_topic_ids
        self.created_ms = now_ms
        self.last_used_ms = now_ms
        self.partitions: dict[Key, WantedPartition] = {}

    def update(self, request: FetchRequest) -> None:
        """What is wanted and forgotten by one request is forgotten, as in Kafka."""
        for name, topic_id, wanted_partitions in request.topics:
            for wanted in wanted_partitions:
                key = (_topic_key(name, topic_id), wanted.partition)
                known = self.partitions.get(key)
                if known is None:
                    self.partitions[key] = WantedPartition(name, topic_id, wanted)
                else:
                    known.update(wanted)
        for name, topic_id, indexes in request.forgotten_topics:
            for index in indexes:
                self.partitions.pop((_topic_key(name, topic_id), index), None)

    def move_to_end(self, wanted: WantedPartition) -> None:
        key = (_topic_key(wanted.name, wanted.topic_id), wanted.index)
        if self.partitions.pop(key, None) is not None:
            self.partitions[key] = wanted


class FetchContext:
    """One fetch request within its session, or without one. `error` is of the whole request; then nothing is wanted."""

    __slots__ = ("_creates", "_epoch", "_sessions", "_uses_topic_ids", "error", "session", "wanted")

    def __init__(
        self,
        sessions: "FetchSessions",
        wanted: Sequence[WantedPartition] = (),
        *,
        error: ErrorCode = ErrorCode.NONE,
        session: FetchSession | None = None,
        creates: bool = False,
        uses_topic_ids: bool = False,
    ) -> None:
        self._sessions = sessions
        self._creates = creates
        self._uses_topic_ids = uses_topic_ids
        self._epoch = session.epoch if session is not None else FINAL_EPOCH
        self.wanted = wanted
        self.error = error
        self.session = session

    def finish(
        self, answers: list[tuple[WantedPartition, PartitionData]], now_ms: int
    ) -> tuple[ErrorCode, int, list[tuple[WantedPartition, PartitionData]]]:
        """What to send of `answers`, which are in the order of `wanted`: (error, session id, answers)."""
        session = self.session
        if session is not None:
            if session.epoch != self._epoch:  # another request of the session came meanwhile
                return ErrorCode.INVALID_FETCH_SESSION_EPOCH, session.id, []
            answers = [(wanted, answer) for wanted, answer in answers if wanted.has_news(answer)]
        elif self._creates:
            session = self._sessions.create(self.wanted, self._uses_topic_ids, now_ms)
            for wanted, answer in answers:
                wanted.has_news(answer)
        if session is None:
            return self.error, NO_SESSION, answers
        for wanted, answer in answers:
            if answer.records:
                session.move_to_end(wanted)
        return ErrorCode.NONE, session.id, answers


class FetchSessions:
    """The sessions of one broker: at most `max_sessions`, with at most MAX_PARTITIONS partitions."""

    __slots__ = ("_by_id", "_random", "evictions", "max_sessions", "min_eviction_ms", "partition_count")

    def __init__(self, max_sessions: int, min_eviction_ms: int, random: Random) -> None:
        self.max_sessions = max_sessions
        self.min_eviction_ms = min_eviction_ms
        self.evictions = 0
        self.partition_count = 0
        self._random = random
        self._by_id: OrderedDict[int, FetchSession] = OrderedDict()  # the least recently used first

    def __len__(self) -> int:
        return len(self._by_id)

    def begin(self, request: FetchRequest, uses_topic_ids: bool, now_ms: int) -> FetchContext:
        """What this request wants, after its session is brought up to date."""
        epoch = request.session_epoch
        if epoch in (INITIAL_EPOCH, FINAL_EPOCH):
            if request.session_id != NO_SESSION:
                self._remove(request.session_id)
            creates = epoch == INITIAL_EPOCH
            return FetchContext(self, _all_wanted(request), creates=creates, uses_topic_ids=uses_topic_ids)
        session = self._by_id.get(request.session_id)
        if session is None:
            return FetchContext(self, error=ErrorCode.FETCH_SESSION_ID_NOT_FOUND)
        if session.epoch != epoch:
            return FetchContext(self, error=ErrorCode.INVALID_FETCH_SESSION_EPOCH)
        if session.uses_topic_ids != uses_topic_ids:
            return FetchContext(self, error=ErrorCode.FETCH_SESSION_TOPIC_ID_ERROR)
        if self.partition_count + sum(len(partitions) for _, _, partitions in request.topics) > MAX_PARTITIONS:
            self._remove(session.id)
            return FetchContext(self, error=ErrorCode.FETCH_SESSION_ID_NOT_FOUND)
        self.partition_count -= len(session.partitions)
        session.update(request)
        self.partition_count += len(session.partitions)
        if not session.partitions:
            self._remove(session.id)
            return FetchContext(self)
        session.epoch = next_epoch(session.epoch)
        session.last_used_ms = now_ms
        self._by_id.move_to_end(session.id)
        return FetchContext(self, list(session.partitions.values()), session=session)

    def create(self, wanted: Sequence[WantedPartition], uses_topic_ids: bool, now_ms: int) -> FetchSession | None:
        """A new session; None when the cache is full of sessions that deserve their place more."""
        if self.partition_count + len(wanted) > MAX_PARTITIONS:
            return None
        if len(self._by_id) >= self.max_sessions and not self._evict_for(len(wanted), now_ms):
            return None
        session_id = self._random.randint(1, _MAX_INT32)
        while session_id in self._by_id:
            session_id = self._random.randint(1, _MAX_INT32)
        session = FetchSession(session_id, uses_topic_ids, now_ms)
        session.partitions = {(_topic_key(one.name, one.topic_id), one.index): one for one in wanted}
        self._by_id[session_id] = session
        self.partition_count += len(session.partitions)
        return session

    def _remove(self, session_id: int) -> None:
        session = self._by_id.pop(session_id, None)
        if session is not None:
            self.partition_count -= len(session.partitions)

    def _evict_for(self, size: int, now_ms: int) -> bool:
        """Kafka's rule: the one unused for min_eviction_ms; else one as old, and smaller than the newcomer."""
        if not self._by_id:
            return False
        victim = next(iter(self._by_id.values()))
        if now_ms - victim.last_used_ms <= self.min_eviction_ms:
            old = (one for one in self._by_id.values() if now_ms - one.created_ms > self.min_eviction_ms)
            smallest = min(old, key=lambda one: (len(one.partitions), one.id), default=None)
            if smallest is None or size <= len(smallest.partitions):
                return False
            victim = smallest
        self._remove(victim.id)
        self.evictions += 1
        return True


def next_epoch(epoch: int) -> int:
    """Epochs count up from 1 and wrap around to 1: 0 and -1 mean something else."""
    return 1 if epoch == _MAX_INT32 else epoch + 1


def _all_wanted(request: FetchRequest) -> list[WantedPartition]:
    """Each partition once; of one that is named twice the last wish counts, as in Kafka."""
    wanted: dict[Key, WantedPartition] = {}
    for name, topic_id, partitions in request.topics:
        key = _topic_key(name, topic_id)
        for partition in partitions:
            wanted[key, partition[0]] = WantedPartition(name, topic_id, partition)
    return list(wanted.values())


def _topic_key(name: str | None, topic_id: bytes | None) -> str | bytes:
    if name is not None:
        return name
    assert topic_id is not None
    return topic_id


def group_by_topic(
    answers: Iterable[tuple[WantedPartition, PartitionData]],
) -> list[tuple[str | None, bytes | None, list[PartitionData]]]:
    """The form of a response: neighbours of one topic together, the order kept."""
    topics: list[tuple[str | None, bytes | None, list[PartitionData]]] = []
    for wanted, answer in answers:
        if not topics or topics[-1][0] != wanted.name or topics[-1][1] != wanted.topic_id:
            topics.append((wanted.name, wanted.topic_id, []))
        topics[-1][2].append(answer)
    return topics
