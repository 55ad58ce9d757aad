from __future__ import annotations

from bytemq.metadata import keys, values
from bytemq.metadata.claims import CHUNKS_PER_TRANSACTION, Ending, claims, releases
from bytemq.metadata.store import MAX_TXN_OPERATIONS, Compare, Event, check_limits
from bytemq.metadata.values import DoubtStage, DoubtValue
from bytemq.runtime.steps import STEP_ITEMS
from bytemq.types import PartitionId
from tests.support.metadata import image_of, topic_id, topic_puts

T1 = topic_id(1)


def test_claims__take_what_is_assigned_and_owned_by_no_live_session() -> None:
    facts = values.OwnersValue([0, 1, 0, -1], [7, 1001, 1000, -1], [5, 5, 5, -1])
    image = image_of([0, 1], topic_puts("t", T1, [0, 0, 0, 0], facts))
    (claim,) = claims(image, 0, 1000, [T1])
    owners = values.decode_owners(claim.puts[0].value)
    assert list(owners.brokers) == [0, 1, 0, 0], "partition 1 has an owner that lives"
    assert list(owners.sessions) == [1000, 1001, 1000, 1000]
    assert list(owners.leader_epochs) == [6, 5, 5, 0], "every change of owner is a new leader epoch"


def test_claims__leave_what_is_assigned_to_others() -> None:
    image = image_of([0, 1], topic_puts("t", T1, [1, 1]))
    assert list(claims(image, 0, 1000, [T1])) == []


def test_claims__hold_only_for_the_session_the_facts_and_the_wishes_that_were_seen() -> None:
    facts = values.OwnersValue([-1], [-1], [3])
    image = image_of([0], topic_puts("t", T1, [0], facts))
    (claim,) = claims(image, 0, 1000, [T1])
    assert set(claim.compares) == {
        (keys.broker(0), 1000),
        (keys.assignments(T1, 0), 1),
        (keys.owners(T1, 0), 1),
    }


def test_claims__of_a_topic_without_facts_expect_that_there_are_none() -> None:
    (claim,) = claims(image_of([0], topic_puts("t", T1, [0])), 0, 1000, [T1])
    assert (keys.owners(T1, 0), 0) in claim.compares


def test_claims__of_many_topics_stay_within_the_limits_of_a_transaction() -> None:
    ids = [topic_id(i) for i in range(1, 200)]
    puts = [put for i, id_ in enumerate(ids) for put in topic_puts(f"t{i}", id_, [0])]
    made = list(claims(image_of([0], puts), 0, 1000, ids))
    assert [len(claim.puts) for claim in made] == [60, 60, 60, 19]
    for claim in made:
        check_limits(claim.compares, claim.puts, [])
    assert 2 * CHUNKS_PER_TRANSACTION + 1 <= MAX_TXN_OPERATIONS


def test_claims__of_a_thousand_partitions_are_one_transaction_of_a_few_kilobytes() -> None:
    (claim,) = claims(image_of([0], topic_puts("t", T1, [0] * 1000)), 0, 1000, [T1])
    assert len(claim.puts) == 4
    assert sum(len(put.value) for put in claim.puts) < 10 * 1024


def test_releases__hand_over_what_is_this_sessions_and_say_where_it_ends() -> None:
    facts = values.OwnersValue([0, 1, 0, 0], [1000, 1001, 1000, 1000], [5, 6, 7, 8], {2: 40, 3: 9})
    image = image_of([0, 1], topic_puts("t", T1, [1, 1, 1, 0], facts))
    ended = {PartitionId(T1, 0): Ending(5, 12), PartitionId(T1, 1): Ending(6, 99), PartitionId(T1, 2): Ending(7, -1)}
    (release,) = releases(image, 0, 1000, ended)
    assert values.decode_owners(release.puts[0].value) == values.OwnersValue(
        [1, 1, 1, 0], [1001, 1001, 1001, 1000], [6, 6, 8, 8], {0: 12, 2: 40, 3: 9}
    )
    assert set(release.compares) == {(keys.broker(0), 1000), (keys.owners(T1, 0), 1)}


def test_releases__free_what_nobody_else_who_lives_shall_have() -> None:
    """The wish has gone back to the owner, or to a broker that has died, since the partition was closed."""
    facts = values.OwnersValue([0, 0], [1000, 1000], [5, 6])
    image = image_of([0], topic_puts("t", T1, [0, 7], facts))
    (release,) = releases(image, 0, 1000, {PartitionId(T1, 0): Ending(5, 12), PartitionId(T1, 1): Ending(6, 3)})
    assert values.decode_owners(release.puts[0].value) == values.OwnersValue([-1, -1], [-1, -1], [5, 6], {0: 12, 1: 3})


def test_releases__hand_over_nothing_to_a_broker_that_is_missed() -> None:
    facts = values.OwnersValue([0], [1000], [5])
    image = image_of([0, 1], topic_puts("t", T1, [1], facts))
    doubt = values.encode_doubt(DoubtValue(image.brokers[1].epoch, 2, DoubtStage.MISSED))
    image.apply([Event(keys.doubt(1), doubt, image.revision + 1)])
    (release,) = releases(image, 0, 1000, {PartitionId(T1, 0): Ending(5, 12)})
    assert values.decode_owners(release.puts[0].value) == values.OwnersValue([-1], [-1], [5], {0: 12})


def test_releases__of_a_session_that_ended_change_nothing() -> None:
    facts = values.OwnersValue([0], [999], [5])
    image = image_of([0], topic_puts("t", T1, [1], facts))
    assert list(releases(image, 0, 1000, {PartitionId(T1, 0): Ending(5, 1)})) == []


def test_releases__of_an_ownership_that_another_one_has_followed_change_nothing() -> None:
    """It was handed over, and is this session's again, before anybody looked at the facts."""
    facts = values.OwnersValue([0], [1000], [7])
    image = image_of([0, 1], topic_puts("t", T1, [1], facts))
    assert list(releases(image, 0, 1000, {PartitionId(T1, 0): Ending(5, 12)})) == []


def test_releases__of_a_thousand_partitions_are_one_transaction_of_a_few_kilobytes() -> None:
    puts = topic_puts("t", T1, [1] * 1000)
    image = image_of([0, 1], puts)
    (claim,) = claims(image, 1, 1001, [T1])
    image.apply(Event(put.key, put.value, 2) for put in claim.puts)
    (release,) = releases(image, 1, 1001, {PartitionId(T1, index): Ending(0, 1_000_000) for index in range(1000)})
    assert len(release.puts) == 4
    assert sum(len(put.value) for put in release.puts) < 24 * 1024
    (single,) = releases(image, 1, 1001, {PartitionId(T1, 7): Ending(0, 1_000_000)})
    assert sum(len(put.value) for put in single.puts) < 3 * 1024


def test_claims__of_many_partitions_are_made_in_steps_each_from_what_the_image_shows_then() -> None:
    chunks = 3 * STEP_ITEMS // keys.CHUNK_PARTITIONS
    image = image_of([0, 1], topic_puts("t", T1, [0] * chunks * keys.CHUNK_PARTITIONS))
    made = claims(image, 0, 1000, [T1])
    assert next(made) is None
    last = keys.owners(T1, chunks - 1)
    image.apply([Event(last, values.encode_owners(values.OwnersValue([1], [1001], [4])), 7)])
    (change,) = [change for change in made if change is not None]
    assert change.compares[-1] == Compare(last, 7)
    assert values.decode_owners(change.puts[-1].value).brokers[:2] == [1, 0]


def test_claims__end_where_the_topic_is_deleted_meanwhile() -> None:
    puts = topic_puts("t", T1, [0] * 3 * STEP_ITEMS)
    image = image_of([0], puts)
    made = claims(image, 0, 1000, [T1])
    assert next(made) is None
    image.apply([Event(put.key, None, 7) for put in puts])
    assert len(list(made)) == 1, "what was made before, which the store refuses"
