"""ListTransactions v0-2 (KIP-664): the transactional ids that this broker coordinates.

- Filters by state name, case and all, and by producer id; names that are no state come back as such.
- v1+ by how long the transaction has been open (KIP-994); v2+ by a regular expression over the whole id (KIP-1152), in
  RE2's syntax: INVALID_REGULAR_EXPRESSION. However many ids there are, others are served meanwhile.
"""

from __future__ import annotations

from bytemq.broker.context import Broker, RequestContext
from bytemq.broker.coordinator.transaction.states import BY_LABEL
from bytemq.broker.expressions import SLICE_STEPS, Expression, compile_expression
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.protocol.messages.list_transactions import (
    ListTransactionsRequest,
    ListTransactionsResponse,
    TransactionState,
)
from bytemq.runtime.turns import Turns


async def handle(broker: Broker, context: RequestContext, request: ListTransactionsRequest) -> ListTransactionsResponse:
    states = [BY_LABEL[name] for name in request.state_filters if name in BY_LABEL]
    unknown = list(dict.fromkeys(name for name in request.state_filters if name not in BY_LABEL))
    expression = _compiled(request.transactional_id_pattern)
    found: list[TransactionState] = []
    for shard in broker.transactions.shards():
        try:
            machine = shard.serving_machine()
        except KafkaError as error:
            if error.code is ErrorCode.NOT_COORDINATOR:
                continue  # it has just moved away: another broker lists it
            raise
        found += machine.describing.listing(
            set(states) if request.state_filters else None,
            set(request.producer_id_filters) or None,
            request.duration_filter,
        )
    if expression is not None:
        found = await _matching(broker.turns, expression, found)
    return ListTransactionsResponse(unknown_state_filters=unknown, transaction_states=found)


def _compiled(pattern: str | None) -> Expression | None:
    if not pattern:
        return None
    try:
        return compile_expression(pattern)
    except ValueError as error:
        raise KafkaError(ErrorCode.INVALID_REGULAR_EXPRESSION, str(error)) from error


async def _matching(turns: Turns, expression: Expression, found: list[TransactionState]) -> list[TransactionState]:
    matched = []
    steps = 0
    for transaction in found:
        try:
            if expression.matches(transaction.transactional_id):
                matched.append(transaction)
        except ValueError as error:
            raise KafkaError(ErrorCode.INVALID_REGULAR_EXPRESSION, str(error)) from error
        steps += expression.steps(transaction.transactional_id)
        if steps >= SLICE_STEPS:
            steps = 0
            await turns.next()
    return matched
