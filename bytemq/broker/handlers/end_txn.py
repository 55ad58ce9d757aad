"""EndTxn v0-5: commit or abort. Answered when the decision is durable; the markers follow (KIP-98).

- v2+ PRODUCER_FENCED, INVALID_PRODUCER_EPOCH before.
- v5 is transaction version 2 (KIP-890): the answer has the epoch, or the id, that the producer goes on with.
"""

from __future__ import annotations

from bytemq.broker.context import Broker, RequestContext
from bytemq.broker.coordinator.transaction.answers import answered
from bytemq.broker.coordinator.transaction.transaction import EPOCH_BUMP_VERSION
from bytemq.protocol.error_codes import KafkaError
from bytemq.protocol.messages.end_txn import EndTxnRequest, EndTxnResponse

_FENCED_VERSION = 2
_BUMPING_VERSION = 5


async def handle(broker: Broker, context: RequestContext, request: EndTxnRequest) -> EndTxnResponse:
    client_version = EPOCH_BUMP_VERSION if context.api_version >= _BUMPING_VERSION else 0
    try:
        return await broker.transactions.write(
            request.transactional_id, lambda machine, new_id: machine.ending.end(request, client_version, new_id)
        )
    except KafkaError as error:
        return EndTxnResponse(error_code=answered(error.code, context.api_version, _FENCED_VERSION))
