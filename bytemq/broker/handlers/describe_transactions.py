"""DescribeTransactions v0 (KIP-664): what this broker coordinates of the given transactional ids."""

from __future__ import annotations

from bytemq.broker.context import Broker, RequestContext
from bytemq.broker.sliced_response import encode_in_turns
from bytemq.protocol.error_codes import KafkaError
from bytemq.protocol.messages.describe_transactions import (
    DescribeTransactionsRequest,
    DescribeTransactionsResponse,
    TransactionState,
)

SLICE_IDS = 200


async def handle(broker: Broker, context: RequestContext, request: DescribeTransactionsRequest) -> bytes:
    """The encoded response."""
    states = (_describe(broker, transactional_id) for transactional_id in request.transactional_ids)
    return await encode_in_turns(broker.turns, DescribeTransactionsResponse, context.api_version, states, SLICE_IDS)


def _describe(broker: Broker, transactional_id: str) -> TransactionState:
    try:
        machine = broker.transactions.shard_of(transactional_id).serving_machine()
        return machine.describing.describe(transactional_id)
    except KafkaError as error:
        return TransactionState(error_code=error.code, transactional_id=transactional_id)
