"""Incremental fetch sessions (KIP-227), in Kafka's order of events."""

from random import Random

import pytest

from bytemq.broker import fetch_sessions
from bytemq.broker.fetch_sessions import FetchContext, FetchSessions, WantedPartition, group_by_topic, next_epoch
from bytemq.protocol.error_codes import ErrorCode
from bytemq.protocol.fetch import FetchPartition, FetchRequest, PartitionData

MINUTE_MS = 60_000


def request(session_id: int, epoch: int, *indexes: int, forget: tuple[int, ...] = (), topic: str = "t") -> FetchRequest:
    wanted = [FetchPartition(index, -1, 0, -1, -1, 1000) for index in indexes]
    forgotten = [(topic, None, list(forget))] if forget else []
    topics = [(topic, None, wanted)] if wanted else []
    return FetchRequest(0, 1, 1000, 0, topics, session_id, epoch, forgotten)  # type: ignore[arg-type]


def sessions(max_sessions: int = 10) -> FetchSessions:
    return FetchSessions(max_sessions, 2 * MINUTE_MS, Random(1))


def answers(context: FetchContext, **records: bytes) -> list[tuple[WantedPartition, PartitionData]]:
    """One answer for each wanted partition; `p3=b"..."` gives partition 3 records."""
    return [
        (one, PartitionData(one.index, 0, 5, 5, 0, [records[f"p{one.index}"]] if f"p{one.index}" in records else ()))
        for one in context.wanted
    ]


def open_session(cache: FetchSessions, *indexes: int, now_ms: int = 0) -> int:
    context = cache.begin(request(0, 0, *indexes), False, now_ms)
    _, session_id, _ = context.finish(answers(context), now_ms)
    return session_id


def test_session__is_made_by_epoch_zero_and_answers_everything() -> None:
    cache = sessions()
    context = cache.begin(request(0, 0, 1, 2), False, 0)
    error, session_id, sent = context.finish(answers(context), 0)
    assert (error, len(sent), len(cache)) == (ErrorCode.NONE, 2, 1)
    assert session_id > 0


def test_session__says_only_what_is_new() -> None:
    cache = sessions()
    session_id = open_session(cache, 1, 2, 3)
    context = cache.begin(request(session_id, 1), False, 0)
    assert [one.index for one in context.wanted] == [1, 2, 3]
    _, same_id, sent = context.finish(answers(context, p2=b"records"), 0)
    assert same_id == session_id
    assert [one.index for one, _ in sent] == [2]


def test_session__repeats_errors_and_says_when_they_end() -> None:
    cache = sessions()
    session_id = open_session(cache, 1)
    for epoch in (1, 2):
        context = cache.begin(request(session_id, epoch), False, 0)
        _, _, sent = context.finish([(context.wanted[0], PartitionData(1, ErrorCode.NOT_LEADER_OR_FOLLOWER))], 0)
        assert len(sent) == 1
    context = cache.begin(request(session_id, 3), False, 0)
    assert len(context.finish(answers(context), 0)[2]) == 1
    context = cache.begin(request(session_id, 4), False, 0)
    assert not context.finish(answers(context), 0)[2]


def test_session__does_not_mention_what_is_not_known_of_a_partition_that_is_being_opened() -> None:
    """It was told once, left and came again: that nothing is known now is no news; what is known then may be."""
    cache = sessions()
    session_id = open_session(cache, 1)
    for epoch, high_watermark, mentioned in ((1, -1, []), (2, 5, []), (3, -1, []), (4, 6, [6])):
        context = cache.begin(request(session_id, epoch), False, 0)
        log_start_offset = 0 if high_watermark >= 0 else -1
        answer = PartitionData(1, 0, high_watermark, high_watermark, log_start_offset)
        _, _, sent = context.finish([(context.wanted[0], answer)], 0)
        assert [one.high_watermark for _, one in sent] == mentioned


def test_session__says_when_a_divergence_ends() -> None:
    cache = sessions()
    session_id = open_session(cache, 1)
    context = cache.begin(request(session_id, 1), False, 0)
    diverging = PartitionData(1, 0, 5, 5, 0, diverging_epoch=(1, 2))
    assert len(context.finish([(context.wanted[0], diverging)], 0)[2]) == 1
    context = cache.begin(request(session_id, 2), False, 0)
    assert len(context.finish(answers(context), 0)[2]) == 1


def test_session__moves_partitions_with_records_to_the_end() -> None:
    cache = sessions()
    session_id = open_session(cache, 1, 2, 3)
    context = cache.begin(request(session_id, 1), False, 0)
    context.finish(answers(context, p1=b"records"), 0)
    assert [one.index for one in cache.begin(request(session_id, 2), False, 0).wanted] == [2, 3, 1]


def test_session__adds_changes_and_forgets_partitions() -> None:
    cache = sessions()
    session_id = open_session(cache, 1, 2)
    context = cache.begin(request(session_id, 1, 3, forget=(1,)), False, 0)
    assert [one.index for one in context.wanted] == [2, 3]


def test_session__forgets_what_the_same_request_wants() -> None:
    cache = sessions()
    session_id = open_session(cache, 1, 2)
    context = cache.begin(request(session_id, 1, 1, 3, forget=(1,)), False, 0)
    assert [one.index for one in context.wanted] == [2, 3]
    assert cache.partition_count == 2


def test_session__may_begin_with_nothing() -> None:
    cache = sessions()
    session_id = open_session(cache)
    assert session_id > 0
    assert [one.index for one in cache.begin(request(session_id, 1, 4), False, 0).wanted] == [4]


def test_session__ends_when_nothing_is_left() -> None:
    cache = sessions()
    session_id = open_session(cache, 1)
    context = cache.begin(request(session_id, 1, forget=(1,)), False, 0)
    assert context.finish([], 0) == (ErrorCode.NONE, 0, [])
    assert not len(cache)


@pytest.mark.parametrize(
    ("session_offset", "epoch", "topic_ids", "error"),
    [
        (1, 1, False, ErrorCode.FETCH_SESSION_ID_NOT_FOUND),
        (0, 2, False, ErrorCode.INVALID_FETCH_SESSION_EPOCH),
        (0, -7, False, ErrorCode.INVALID_FETCH_SESSION_EPOCH),
        (0, 1, True, ErrorCode.FETCH_SESSION_TOPIC_ID_ERROR),
    ],
)
def test_session__refuses_what_does_not_fit(session_offset: int, epoch: int, topic_ids: bool, error: ErrorCode) -> None:
    cache = sessions()
    session_id = open_session(cache, 1)
    assert cache.begin(request(session_id + session_offset, epoch), topic_ids, 0).error is error


def test_session__a_second_request_meanwhile_makes_the_first_fail() -> None:
    cache = sessions()
    session_id = open_session(cache, 1)
    first = cache.begin(request(session_id, 1), False, 0)
    cache.begin(request(session_id, 2), False, 0)
    assert first.finish(answers(first), 0)[0] is ErrorCode.INVALID_FETCH_SESSION_EPOCH


def test_session__a_full_request_replaces_the_session_it_names() -> None:
    cache = sessions()
    old = open_session(cache, 1)
    context = cache.begin(request(old, 0, 1), False, 0)
    _, new, _ = context.finish(answers(context), 0)
    assert new not in (0, old)
    assert len(cache) == 1
    assert cache.begin(request(new, -1, 1), False, 0).finish([], 0)[1] == 0
    assert not len(cache)


def test_cache__evicts_the_unused_then_the_smaller_and_else_none() -> None:
    cache = sessions(max_sessions=2)
    first, second = open_session(cache, 1, 2), open_session(cache, 1)
    assert open_session(cache, 1, 2, 3, now_ms=MINUTE_MS) == 0, "both are young"
    cache.begin(request(first, 1), False, 3 * MINUTE_MS)
    third = open_session(cache, 1, now_ms=3 * MINUTE_MS)
    assert third, "the second was not used for more than two minutes"
    assert cache.begin(request(second, 1), False, 0).error is ErrorCode.FETCH_SESSION_ID_NOT_FOUND
    assert open_session(cache, 1, 2, now_ms=3 * MINUTE_MS) == 0, "the first is used, and as large"
    assert open_session(cache, 1, 2, 3, now_ms=3 * MINUTE_MS), "larger than the first, which is old"
    assert cache.evictions == 2
    assert len(cache) == 2


def test_cache__bounds_the_partitions_of_all_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch_sessions, "MAX_PARTITIONS", 5)
    cache = sessions()
    first, second = open_session(cache, 1, 2), open_session(cache, 1, 2)
    assert cache.partition_count == 4
    assert open_session(cache, 1, 2) == 0, "two more are too many: that fetch goes without a session"
    grown = cache.begin(request(first, 1, 3, 4), False, 0)
    assert grown.error is ErrorCode.FETCH_SESSION_ID_NOT_FOUND
    assert cache.partition_count == 2
    cache.begin(request(second, 1, 3, forget=(1,)), False, 0)
    assert cache.partition_count == 2
    cache.begin(request(second, -1), False, 0)
    assert (len(cache), cache.partition_count) == (0, 0)


def test_cache__of_no_slots_makes_every_fetch_sessionless() -> None:
    assert open_session(sessions(max_sessions=0), 1) == 0


def test_epochs__wrap_around_to_one() -> None:
    assert next_epoch(0) == 1
    assert next_epoch(2**31 - 1) == 1


def test_group_by_topic__keeps_the_order() -> None:
    wanted = [
        WantedPartition(name, None, FetchPartition(index, -1, 0, -1, -1, 1))
        for name, index in (("a", 1), ("a", 2), ("b", 1), ("a", 0))
    ]
    grouped = group_by_topic((one, PartitionData(one.index, 0)) for one in wanted)
    assert [(name, [answer.partition_index for answer in ones]) for name, _, ones in grouped] == [
        ("a", [1, 2]),
        ("b", [1]),
        ("a", [0]),
    ]
