"""InitProducerId v0-6: a producer id and epoch for an idempotent or a transactional producer.

- An id without an epoch, or the reverse, is refused before anything else (INVALID_REQUEST). Without a transactional id
  a fresh producer id with epoch 0 is given, whatever id the client had, as Kafka does.
- v3+ a producer may say which id and epoch it has (KIP-360); v4+ PRODUCER_FENCED, INVALID_PRODUCER_EPOCH before.
- v6 two-phase commit (KIP-939): TRANSACTIONAL_ID_AUTHORIZATION_FAILED unless transaction.two.phase.commit.enable is
  set; to keep a prepared transaction is UNSUPPORTED_VERSION, as in Kafka.
"""

from __future__ import annotations

from bytemq.broker.context import Broker, RequestContext
from bytemq.broker.coordinator.transaction.answers import answered
from bytemq.broker.coordinator.transaction.initialising import checked_timeout_ms
from bytemq.broker.coordinator.transaction_coordinators import transaction_settings
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.protocol.messages.init_producer_id import InitProducerIdRequest, InitProducerIdResponse

NONE = -1
_FENCED_VERSION = 4


async def handle(broker: Broker, context: RequestContext, request: InitProducerIdRequest) -> InitProducerIdResponse:
    if (request.producer_id == NONE) != (request.producer_epoch == NONE):
        return _refused(ErrorCode.INVALID_REQUEST)
    if request.transactional_id is None:
        return InitProducerIdResponse(producer_id=await broker.producer_ids.allocate(), producer_epoch=0)
    try:
        checked_timeout_ms(request, transaction_settings(broker.config))
        return await broker.transactions.write(
            request.transactional_id, lambda machine, new_id: machine.initialising.initialise(request, new_id)
        )
    except KafkaError as error:
        return _refused(answered(error.code, context.api_version, _FENCED_VERSION))


def error_response(
    request: InitProducerIdRequest, version: int, code: ErrorCode, message: str | None
) -> InitProducerIdResponse:
    """Neither an id nor an epoch."""
    return _refused(code)


def _refused(code: ErrorCode) -> InitProducerIdResponse:
    return InitProducerIdResponse(error_code=code, producer_id=NONE, producer_epoch=NONE)
