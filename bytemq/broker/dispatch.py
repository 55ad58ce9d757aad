"""From a request's bytes to its handler, and from whatever the handler did back to bytes.

Owns the table of APIs, the choice of version, and the one place where exceptions become Kafka error codes. A handler
module, `broker/handlers/<name>.py`, exports one of

    async def handle(broker: Broker, context: RequestContext, request: XRequest) -> XResponse
    def handle(broker, context, request) -> XResponse          # where nothing is ever waited for: costs no task
    def begin(broker: Broker, exchange: Exchange) -> None      # decodes and answers by itself, through callbacks

and, where error_responses.py, which finds the places for an error code by the schema, would not do what Kafka does,

    def error_response(request: XRequest, version: int, code: ErrorCode, message: str | None) -> XResponse

Handlers raise KafkaError or a BytemqError for a failure of the whole request; failures of one topic or partition are
values in the response. Modules are imported on first use.
"""

from bytemq.protocol.api_keys import ApiKey

HANDLERS: dict[ApiKey, str] = {
    ApiKey.PRODUCE: "produce",
    ApiKey.FETCH: "fetch",
    ApiKey.LIST_OFFSETS: "list_offsets",
    ApiKey.METADATA: "metadata",
    ApiKey.API_VERSIONS: "api_versions",
    ApiKey.OFFSET_FOR_LEADER_EPOCH: "offset_for_leader_epoch",
    ApiKey.DESCRIBE_CLUSTER: "describe_cluster",
    ApiKey.DESCRIBE_TOPIC_PARTITIONS: "describe_topic_partitions",
    ApiKey.GET_TELEMETRY_SUBSCRIPTIONS: "get_telemetry_subscriptions",
    ApiKey.PUSH_TELEMETRY: "push_telemetry",
    # configs
    # topics and the cluster
    # groups
}
"""What is served. A handler's owner adds one line; ApiVersions advertises exactly these."""
