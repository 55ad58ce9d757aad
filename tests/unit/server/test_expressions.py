"""Regular expressions of clients: RE2's, of a bounded size, and matched for a few milliseconds at a time."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from bytemq.broker.context import ClientInfo, RequestContext
from bytemq.broker.expressions import MAX_EXPRESSION_BYTES, compile_expression
from bytemq.broker.handlers import list_transactions
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.protocol.messages.list_transactions import ListTransactionsRequest, TransactionState
from tests.support.turns import CountedTurns

SLOW = "|".join(f"[ab]*a[ab]{{{count}}}" for count in range(100, 240, 3))


@pytest.mark.parametrize(
    "text", ["(", "a{1001}", "(?=a)", r"(a)\1", "a" * (MAX_EXPRESSION_BYTES + 1), "(a{1000}){1000}"]
)
def test_expression__that_re2_does_not_take_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        compile_expression(text)


def test_expression__matches_texts_as_a_whole() -> None:
    expression = compile_expression("a+")
    assert expression.matches("aa")
    assert not expression.matches("aab")


def test_expression__is_not_tried_on_what_would_take_seconds() -> None:
    with pytest.raises(ValueError, match="too complex"):
        compile_expression(SLOW).matches("ab" * 10_000)


def time_to_match(text: str) -> float:
    """Seconds of this thread, at best."""
    expression, took = compile_expression(text), []
    for _ in range(5):
        began = time.thread_time()
        for number in range(20):
            expression.matches(f"a topic's name as long as many are {number}")
        took.append(time.thread_time() - began)
    return min(took)


def test_expression__takes_no_longer_for_its_groups() -> None:
    grouped, plain = (f"{opens}{opens}[a-z0-9 ']*))*" * 300 for opens in ("(", "(?:"))
    assert time_to_match(grouped) < 10 * time_to_match(plain)


async def listed(pattern: str, ids: list[str]) -> tuple[list[str], int]:
    """The ids that match, and how often others had their turn meanwhile."""
    rows = [TransactionState(each, 1, "Empty") for each in ids]
    machine = SimpleNamespace(describing=SimpleNamespace(listing=lambda *_: rows))
    shards = [SimpleNamespace(serving_machine=lambda: machine)]
    turns = CountedTurns()
    broker: Any = SimpleNamespace(transactions=SimpleNamespace(shards=lambda: shards), turns=turns)
    context = RequestContext(66, 2, 1, "test", ClientInfo("c", "PLAINTEXT", "127.0.0.1", 1))
    request = ListTransactionsRequest(duration_filter=-1, transactional_id_pattern=pattern)
    response = await list_transactions.handle(broker, context, request)
    return [each.transactional_id for each in response.transaction_states], turns.taken


async def test_list_transactions__lists_what_matches() -> None:
    assert await listed("a.*", ["ab", "b", "a"]) == (["ab", "a"], 0)


async def test_list_transactions__gives_others_their_turn_while_it_matches() -> None:
    matched, turns = await listed(SLOW, ["ab" * 50] * 20)
    assert matched == []
    assert turns == 20
    assert (await listed("x.*", [f"id-{number}" for number in range(100_000)]))[1] > 5


async def test_list_transactions__refuses_what_would_take_seconds() -> None:
    for pattern in ("(", SLOW):
        with pytest.raises(KafkaError) as refused:
            await listed(pattern, ["ab" * 16_000])
        assert refused.value.code is ErrorCode.INVALID_REGULAR_EXPRESSION
