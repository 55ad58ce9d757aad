"""From a request's bytes to its handler, and from whatever the handler did back to bytes.

Owns the table of APIs, the choice of version, and the one place where exceptions become Kafka error codes. A handler
module, `broker/handlers/<name>.py`, exports one of

    async def handle(broker: Broker, context: RequestContext, request: XRequest) -> XResponse
    def handle(broker, context, request) -> XResponse          # where nothing is ever waited for: costs no task
    def begin(broker: Broker, exchange: Exchange) -> None      # decodes and answers by itself, through callbacks

(a response that is bytes, or a list of parts, is taken as encoded already)

and, where error_responses.py, which finds the places for an error code by the schema, would not do what Kafka does,

    def error_response(request: XRequest, version: int, code: ErrorCode, message: str | None) -> XResponse

Handlers raise KafkaError or a BytemqError for a failure of the whole request; failures of one topic or partition are
values in the response. Modules are imported on first use.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from importlib import import_module
from types import CoroutineType, ModuleType
from typing import Any

from bytemq.broker.context import Broker, RequestContext
from bytemq.broker.error_responses import error_response
from bytemq.broker.exchange import Exchange
from bytemq.broker.limits import LARGE_REQUEST_BYTES
from bytemq.errors import BytemqError, Corrupt, Fenced, Invalid, NotFound, Unavailable
from bytemq.protocol.api_keys import ApiKey
from bytemq.protocol.api_versions import API_VERSIONS
from bytemq.protocol.codec import decode, encode
from bytemq.protocol.error_codes import ErrorCode, KafkaError
from bytemq.protocol.messages.api_versions import ApiVersion, ApiVersionsResponse
from bytemq.protocol.primitives import MalformedMessage
from bytemq.protocol.schema import Message
from bytemq.runtime.clock import Clock
from bytemq.runtime.logging import LogGate, get_logger
from bytemq.runtime.metrics import Histogram

log = get_logger("broker.dispatch")

HANDLERS: dict[ApiKey, str] = {
    ApiKey.PRODUCE: "produce",
    ApiKey.FETCH: "fetch",
    ApiKey.LIST_OFFSETS: "list_offsets",
    ApiKey.METADATA: "metadata",
    ApiKey.API_VERSIONS: "api_versions",
    ApiKey.OFFSET_FOR_LEADER_EPOCH: "offset_for_leader_epoch",
    ApiKey.DESCRIBE_CLUSTER: "describe_cluster",
    ApiKey.DESCRIBE_QUORUM: "describe_quorum",
    ApiKey.DESCRIBE_TOPIC_PARTITIONS: "describe_topic_partitions",
    ApiKey.UPDATE_FEATURES: "update_features",
    ApiKey.GET_TELEMETRY_SUBSCRIPTIONS: "get_telemetry_subscriptions",
    ApiKey.PUSH_TELEMETRY: "push_telemetry",
    # configs
    ApiKey.DESCRIBE_CONFIGS: "describe_configs",
    ApiKey.ALTER_CONFIGS: "alter_configs",
    ApiKey.INCREMENTAL_ALTER_CONFIGS: "incremental_alter_configs",
    ApiKey.LIST_CONFIG_RESOURCES: "list_config_resources",
    ApiKey.CREATE_TOPICS: "create_topics",
    ApiKey.DELETE_TOPICS: "delete_topics",
    ApiKey.CREATE_PARTITIONS: "create_partitions",
    ApiKey.DELETE_RECORDS: "delete_records",
    ApiKey.DESCRIBE_LOG_DIRS: "describe_log_dirs",
    ApiKey.ALTER_REPLICA_LOG_DIRS: "alter_replica_log_dirs",
    ApiKey.DESCRIBE_PRODUCERS: "describe_producers",
    ApiKey.INIT_PRODUCER_ID: "init_producer_id",
    ApiKey.ELECT_LEADERS: "elect_leaders",
    ApiKey.ALTER_PARTITION_REASSIGNMENTS: "alter_partition_reassignments",
    ApiKey.LIST_PARTITION_REASSIGNMENTS: "list_partition_reassignments",
    # transactions
    ApiKey.ADD_PARTITIONS_TO_TXN: "add_partitions_to_txn",
    ApiKey.ADD_OFFSETS_TO_TXN: "add_offsets_to_txn",
    ApiKey.END_TXN: "end_txn",
    ApiKey.WRITE_TXN_MARKERS: "write_txn_markers",
    ApiKey.TXN_OFFSET_COMMIT: "txn_offset_commit",
    ApiKey.DESCRIBE_TRANSACTIONS: "describe_transactions",
    ApiKey.LIST_TRANSACTIONS: "list_transactions",
    # groups
    ApiKey.FIND_COORDINATOR: "find_coordinator",
    ApiKey.JOIN_GROUP: "join_group",
    ApiKey.SYNC_GROUP: "sync_group",
    ApiKey.HEARTBEAT: "heartbeat",
    ApiKey.LEAVE_GROUP: "leave_group",
    ApiKey.OFFSET_COMMIT: "offset_commit",
    ApiKey.OFFSET_FETCH: "offset_fetch",
    ApiKey.OFFSET_DELETE: "offset_delete",
    ApiKey.LIST_GROUPS: "list_groups",
    ApiKey.DESCRIBE_GROUPS: "describe_groups",
    ApiKey.DELETE_GROUPS: "delete_groups",
    ApiKey.CONSUMER_GROUP_HEARTBEAT: "consumer_group_heartbeat",
    ApiKey.CONSUMER_GROUP_DESCRIBE: "consumer_group_describe",
}
"""What is served. A handler's owner adds one line; ApiVersions advertises exactly these."""

ANSWERS_OF_OWNERS = frozenset(
    {
        ApiKey.FETCH,
        ApiKey.LIST_OFFSETS,
        ApiKey.OFFSET_FOR_LEADER_EPOCH,
        ApiKey.DESCRIBE_PRODUCERS,
        ApiKey.ADD_PARTITIONS_TO_TXN,
        ApiKey.DESCRIBE_TRANSACTIONS,
        ApiKey.LIST_TRANSACTIONS,
        ApiKey.JOIN_GROUP,
        ApiKey.SYNC_GROUP,
        ApiKey.HEARTBEAT,
        ApiKey.OFFSET_FETCH,
        ApiKey.LIST_GROUPS,
        ApiKey.DESCRIBE_GROUPS,
        ApiKey.CONSUMER_GROUP_HEARTBEAT,
        ApiKey.CONSUMER_GROUP_DESCRIBE,
    }
)
"""Answers that may tell what only the owner knows, without a write that would find out whether we still are. They are
given while our session certainly stands, looked at when they are sent off: what began in time may have waited long.
"""


class Handler:
    """One served API: its versions, its messages and its module, imported when the first request comes."""

    __slots__ = (
        "_begin",
        "_duration",
        "_handle",
        "_log_crash",
        "_module",
        "_monotonic",
        "_of_owner",
        "api_key",
        "name",
        "request_class",
        "response_class",
        "versions",
    )

    def __init__(
        self, api_key: ApiKey, name: str, duration: Histogram, clock: Clock, log_crash: Callable[[str, Exception], None]
    ) -> None:
        self.api_key = api_key
        self.name = name
        self.versions = API_VERSIONS[api_key]
        self._duration = duration
        self._monotonic = clock.monotonic
        self._of_owner = api_key in ANSWERS_OF_OWNERS
        self._log_crash = log_crash
        self._module: ModuleType | None = None
        self._begin: Callable[[Broker, Exchange], None] | None = None
        self._handle: Callable[[Broker, RequestContext, Any], Any]
        self.request_class: type[Message]
        self.response_class: type[Message]

    def load(self) -> None:
        """Imports the module. Takes milliseconds the first time."""
        module = import_module(f"bytemq.broker.handlers.{self.name}")
        self._begin = getattr(module, "begin", None)
        if self._begin is None:
            messages = import_module(f"bytemq.protocol.messages.{self.name}")
            camel_case = "".join(word.capitalize() for word in self.name.split("_"))
            self.request_class = getattr(messages, camel_case + "Request")
            self.response_class = getattr(messages, camel_case + "Response")
            self._handle = module.handle
        self._module = module

    @property
    def loaded(self) -> bool:
        return self._module is not None

    def run(self, broker: Broker, exchange: Exchange) -> "Pending | None":
        """Works on a request; what it returns must be awaited for the response. Raises what the handler raises."""
        if self._module is None:
            self.load()
        exchange.timing = (self._duration, self._monotonic, self._monotonic())
        if self._of_owner and broker.standing.holds():  # else all look-ups say that we own nothing, which is an answer
            exchange.standing = broker.standing
        if self._begin is not None:
            self._begin(broker, exchange)
            return None
        request = decode(self.request_class, exchange.api_version, exchange.body)
        try:
            result = self._handle(broker, exchange, request)
        except Exception as error:
            self.fail(exchange, request, error)
            return None
        if isinstance(result, CoroutineType):
            return self._await(exchange, request, result)
        self._respond(exchange, result)
        return None

    def _respond(self, exchange: Exchange, result: Any) -> None:
        if isinstance(result, list):
            exchange.respond(*result)
        else:
            exchange.respond(result if isinstance(result, bytes) else encode(result, exchange.api_version))

    async def _await(self, exchange: Exchange, request: Message, work: "Pending") -> None:
        try:
            self._respond(exchange, await work)
        except Exception as error:
            self.fail(exchange, request, error)

    def fail(self, exchange: Exchange, request: Message, error: Exception) -> None:
        """Answers with the error that `error` stands for."""
        code, message = to_error_code(error)
        if code is ErrorCode.UNKNOWN_SERVER_ERROR:
            self._log_crash(self.name, error)
        build = getattr(self._module, "error_response", None)
        if build is not None:
            response = build(request, exchange.api_version, code, message)
        else:
            response = error_response(self.response_class, request, exchange.api_version, code, message)
        exchange.respond(encode(response, exchange.api_version))


Pending = Coroutine[Any, Any, Any]

_CODES: tuple[tuple[type[BytemqError], ErrorCode], ...] = (
    (Unavailable, ErrorCode.REQUEST_TIMED_OUT),
    (Fenced, ErrorCode.NOT_LEADER_OR_FOLLOWER),
    (Corrupt, ErrorCode.KAFKA_STORAGE_ERROR),
    (NotFound, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
    (Invalid, ErrorCode.INVALID_REQUEST),
)


def to_error_code(error: Exception) -> tuple[ErrorCode, str | None]:
    """The code and text that tell a client about `error`; UNKNOWN_SERVER_ERROR for what nobody foresaw."""
    if isinstance(error, KafkaError):
        return error.code, error.message
    for kind, code in _CODES:
        if isinstance(error, kind):
            return code, str(error)
    return ErrorCode.UNKNOWN_SERVER_ERROR, None


class Dispatcher:
    """Gives each request to its handler."""

    def __init__(self, broker: Broker, handlers: Mapping[ApiKey, str] = HANDLERS) -> None:
        self._broker = broker
        durations = broker.traffic.durations
        self._handlers = {
            int(key): Handler(key, name, durations.labels(key.name), broker.clock, self.log_crash)
            for key, name in handlers.items()
        }
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._crash_gate = LogGate(broker.clock.monotonic)

    def dispatch(self, exchange: Exchange) -> None:
        """Starts to work on a request. The exchange is answered, or hung up, now or later."""
        handler = self._handlers.get(exchange.api_key)
        if handler is None:
            exchange.hang_up(f"API key {exchange.api_key} is not served")
            return
        if not handler.versions.includes(exchange.api_version):
            if exchange.api_key == ApiKey.API_VERSIONS:
                answer_unknown_version(exchange)
            else:
                exchange.hang_up(f"{handler.api_key.name} has no version {exchange.api_version}")
            return
        if len(exchange.body) > LARGE_REQUEST_BYTES and exchange.api_key != ApiKey.PRODUCE:
            self._broker.turns.call(partial(self._run, handler, exchange))  # to decode it alone takes milliseconds
        else:
            self._run(handler, exchange)

    def _run(self, handler: Handler, exchange: Exchange) -> None:
        if exchange.abandoned:
            exchange.release_frame()
            return
        try:
            pending = handler.run(self._broker, exchange)
        except MalformedMessage as error:
            exchange.hang_up(f"malformed {handler.api_key.name} request: {error}")
        except Exception as error:
            # A handler that answers by itself, or an answer that cannot be encoded: nothing sensible can be sent.
            self.log_crash(handler.name, error)
            exchange.hang_up("internal error")
        else:
            if pending is not None:
                task = self._loop.create_task(self._finish(handler, exchange, pending))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _finish(self, handler: Handler, exchange: Exchange, pending: Pending) -> None:
        try:
            await pending
        except Exception as error:
            self.log_crash(handler.name, error)
            exchange.hang_up("internal error")

    def log_crash(self, api: str, error: Exception) -> None:
        """The traceback belongs in our log, once: a client may repeat what caused it."""
        kept_back = self._crash_gate.allow((api, type(error)))
        if kept_back is not None:
            log.error("request failed unexpectedly", api=api, error=error, not_logged_since=kept_back)

    async def warm(self) -> None:
        """Imports all handlers that no client has asked for yet, one a loop turn, so that no request waits for it."""
        for handler in self._handlers.values():
            if not handler.loaded:
                handler.load()
                await self._broker.clock.sleep(0)

    async def close(self) -> None:
        """Cancels the requests still being worked on."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)


def answer_unknown_version(exchange: Exchange) -> None:
    """KIP-511: a client from the future learns in the oldest form which versions of ApiVersions we do speak."""
    versions = API_VERSIONS[ApiKey.API_VERSIONS]
    known = ApiVersion(api_key=int(ApiKey.API_VERSIONS), min_version=versions.lowest, max_version=versions.highest)
    response = ApiVersionsResponse(error_code=int(ErrorCode.UNSUPPORTED_VERSION), api_keys=[known])
    exchange.respond(encode(response, 0))
