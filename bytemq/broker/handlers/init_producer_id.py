"""InitProducerId v0-6: a producer id for an idempotent producer.

An id without an epoch, or the reverse, is refused before anything else (INVALID_REQUEST). Without a transactional id a
fresh producer id with epoch 0 is given, whatever id the client had, as Kafka does.

With a transactional id the request is checked as Kafka checks it: an empty one is INVALID_REQUEST, a timeout that is
not within 1 ms and transaction.max.timeout.ms INVALID_TRANSACTION_TIMEOUT. Then it is refused: there is no transaction
coordinator yet. Among Kafka's answers TRANSACTIONAL_ID_AUTHORIZATION_FAILED is the one that every client takes as
final, at once; COORDINATOR_NOT_AVAILABLE would have them ask again for a minute and then report a time-out.
"""

from __future__ import annotations

from bytemq.broker.context import Broker, RequestContext
from bytemq.protocol.error_codes import ErrorCode
from bytemq.protocol.messages.init_producer_id import InitProducerIdRequest, InitProducerIdResponse

NONE = -1


async def handle(broker: Broker, context: RequestContext, request: InitProducerIdRequest) -> InitProducerIdResponse:
    if (request.producer_id == NONE) != (request.producer_epoch == NONE):
        return _refused(ErrorCode.INVALID_REQUEST)
    if request.transactional_id is None:
        return InitProducerIdResponse(producer_id=await broker.producer_ids.allocate(), producer_epoch=0)
    if not request.transactional_id:
        return _refused(ErrorCode.INVALID_REQUEST)
    if not 0 < request.transaction_timeout_ms <= broker.config.transaction_max_timeout_ms:
        return _refused(ErrorCode.INVALID_TRANSACTION_TIMEOUT)
    return _refused(ErrorCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED)


def _refused(code: ErrorCode) -> InitProducerIdResponse:
    return InitProducerIdResponse(error_code=code, producer_id=NONE, producer_epoch=NONE)
