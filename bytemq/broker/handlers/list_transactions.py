"""ListTransactions v0-2 (KIP-664): the transactional ids that this broker coordinates.

- Filters by state name, case and all, and by producer id; names that are no state come back as such.
- v1+ by how long the transaction has been open (KIP-994); v2+ by a regular expression over the whole id (KIP-1152), in
  RE2's syntax, which takes linear time whatever it is given: INVALID_REGULAR_EXPRESSION.
"""

from __future__ import annotations

from collections.abc import Callable

import re2

from bytemq.broker.context import Broker, RequestContext
from bytemq.broker.coordinator.transaction.states import BY_LABEL
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.protocol.messages.list_transactions import (
    ListTransactionsRequest,
    ListTransactionsResponse,
    TransactionState,
)


def handle(broker: Broker, context: RequestContext, request: ListTransactionsRequest) -> ListTransactionsResponse:
    states = [BY_LABEL[name] for name in request.state_filters if name in BY_LABEL]
    unknown = list(dict.fromkeys(name for name in request.state_filters if name not in BY_LABEL))
    matches = _matcher(request.transactional_id_pattern)
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
            matches,
        )
    return ListTransactionsResponse(unknown_state_filters=unknown, transaction_states=found)


def _matcher(pattern: str | None) -> Callable[[str], bool] | None:
    """Raises KafkaError INVALID_REGULAR_EXPRESSION."""
    if not pattern:
        return None
    options = re2.Options()
    options.log_errors = False
    try:
        compiled = re2.compile(pattern, options)
    except re2.error as error:
        raise KafkaError(ErrorCode.INVALID_REGULAR_EXPRESSION, str(error)) from error
    return lambda text: compiled.fullmatch(text) is not None
