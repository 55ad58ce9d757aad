"""CreateTopics v2-7: creates topics, each by itself: one that is refused does not hold up the others.

A topic that is named twice in the request is not created (INVALID_REQUEST, once). An expired deadline creates nothing
(REQUEST_TIMED_OUT). Any replication factor is accepted: the replicas are the store's. From v5 the answer has the
topic's configs (KIP-525), from v7 its id. It comes when the partitions are served here, so that no client has to retry.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from itertools import chain

from bytemq.broker.context import Broker, RequestContext
from bytemq.broker.handlers.describe_configs import topic_entries
from bytemq.broker.sliced_response import encode_in_turns
from bytemq.broker.topic_admin import TopicOutcome
from bytemq.metadata.topics import TopicSpec
from bytemq.protocol.error_codes import ErrorCode
from bytemq.protocol.messages.create_topics import (
    CreatableTopic,
    CreatableTopicConfigs,
    CreatableTopicResult,
    CreateTopicsRequest,
    CreateTopicsResponse,
)

CONFIGS_SINCE_VERSION = 5
SLICE_TOPICS = 50
"""Told of at a time: each with some thirty configs."""


async def handle(broker: Broker, context: RequestContext, request: CreateTopicsRequest) -> bytes:
    """The encoded response."""
    named = Counter(topic.name for topic in request.topics)
    refused: list[CreatableTopicResult] = []
    specs: list[TopicSpec] = []
    for topic in {topic.name: topic for topic in request.topics}.values():
        nulls = [config.name for config in topic.configs if config.value is None]
        if named[topic.name] > 1:
            refused.append(_refused(topic.name, ErrorCode.INVALID_REQUEST, "Duplicate topic name."))
        elif request.timeout_ms <= 0:
            refused.append(_refused(topic.name, ErrorCode.REQUEST_TIMED_OUT, None))
        elif nulls:
            why = f"Null value not supported for topic configs: {','.join(nulls)}"
            refused.append(_refused(topic.name, ErrorCode.INVALID_CONFIG, why))
        else:
            specs.append(_spec(topic))
    outcomes = await broker.topics.create(specs, validate_only=request.validate_only, timeout_ms=request.timeout_ms)
    version = context.api_version
    describe = _Configs(broker) if version >= CONFIGS_SINCE_VERSION else None
    created = (_result(spec, outcome, describe) for spec, outcome in zip(specs, outcomes, strict=True))
    return await encode_in_turns(broker.turns, CreateTopicsResponse, version, chain(refused, created), SLICE_TOPICS)


def _spec(topic: CreatableTopic) -> TopicSpec:
    return TopicSpec(
        topic.name,
        topic.num_partitions,
        topic.replication_factor,
        [(assignment.partition_index, assignment.broker_ids) for assignment in topic.assignments],
        {config.name: config.value for config in topic.configs if config.value is not None},
    )


class _Configs:
    """What topics' configs are, of all that are named alike once: thousands of topics mostly have the same."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._known: dict[tuple[tuple[str, str], ...], list[CreatableTopicConfigs]] = {}

    def of(self, overrides: Mapping[str, str]) -> list[CreatableTopicConfigs]:
        """Overrides are repeated letter by letter, as Kafka's controller does."""
        key = tuple(sorted(overrides.items()))
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = [
                CreatableTopicConfigs(
                    name=entry.name,
                    value=overrides.get(entry.name, entry.value),
                    read_only=entry.read_only,
                    config_source=entry.config_source,
                    is_sensitive=entry.is_sensitive,
                )
                for entry in topic_entries(self._broker, overrides)
            ]
        return known


def _result(spec: TopicSpec, outcome: TopicOutcome, describe: _Configs | None) -> CreatableTopicResult:
    """What was only validated has an id as well, as in Kafka: one that no topic will have."""
    if outcome.topic is None:
        return _refused(spec.name, outcome.error, outcome.message)
    return CreatableTopicResult(
        name=spec.name,
        topic_id=outcome.topic.topic_id,
        error_message=None,
        num_partitions=outcome.topic.partitions,
        replication_factor=outcome.topic.replication_factor,
        configs=[] if describe is None else describe.of(spec.configs),
    )


def _refused(name: str, code: ErrorCode, message: str | None) -> CreatableTopicResult:
    return CreatableTopicResult(name=name, error_code=code, error_message=message or code.message)
